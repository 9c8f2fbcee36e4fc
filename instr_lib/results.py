"""Results that take long to compute, cached row by row as JSON with the settings they belong to.

The published ones are in ``book/results/`` and are shown by the pages. A file is written after each row, whole or not
at all, so that an interrupted computation resumes where it was. Chapters 7 to 9 and appendix A use it:

>>> row = results.CachedRows("book/results/attribution_scores.json", {"clips": 170, "seed": 0})
>>> pairs = row("pairs", describe_pairs)  # computed the first time, read from then on
>>> scores = row("compact, CRP", grade, "compact", "CRP")  # calls grade("compact", "CRP")
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from tqdm.auto import tqdm

from ._files import write_text
from .errors import ResultsError

_PACKAGES = ("torch", "captum", "numpy")  # whose versions are stored


class CachedRows:
    """The rows of one file: called with a name, it gives that row, after computing and writing it if the file lacks it.

    Parameters
    ----------
    path : path of a JSON file
        Made with the first row, if it does not exist.
    settings : mapping of plain numbers, text, lists and mappings
        What the rows depend on.
    """

    def __init__(self, path: str | os.PathLike, settings: Mapping):
        self.path = Path(path)
        self.settings: dict = json.loads(_json(dict(settings), self.path))

    def __call__(self, name: str, compute: Callable[..., Mapping], *arguments) -> dict:
        """One row, as JSON holds it: intervals as lists of three, NaN as None, numbers to five digits.

        Parameters
        ----------
        name : str
        compute : function of ``arguments``
            Gives a mapping of numbers, text, lists and mappings; it is called only if the file lacks the row.

        Raises
        ------
        ResultsError
            If the file is damaged, holds rows of other settings, or JSON cannot hold the row.
        """
        content = self._content()
        if name not in content["rows"]:
            start = time.monotonic()
            row = _plain(compute(*arguments))
            seconds = round(time.monotonic() - start, 1)
            content = self._content()  # again: computing one row may have cached others
            content["rows"][name] = row
            content.setdefault("seconds", {})[name] = seconds
            content["environment"] = _environment()
            write_text(self.path, _json(content, self.path))
        return content["rows"][name]

    def _content(self) -> dict:
        if not self.path.exists():
            return {"settings": self.settings, "rows": {}}
        content = read(self.path)
        stored = content["settings"]
        if stored != self.settings:
            names = {**self.settings, **stored}
            changed = [name for name in names if self.settings.get(name) != stored.get(name)]
            raise ResultsError(
                f"{self.path} was computed with other {', '.join(changed)}: delete it, or choose another file"
            )
        return content


def cached_rows(
    path: str | os.PathLike, settings: Mapping, work: Mapping[str, Callable[[], Mapping]], progress: bool = True
) -> dict[str, dict]:
    """Several rows of a file, each as :class:`CachedRows` gives it, with a progress bar.

    Parameters
    ----------
    path, settings : as for :class:`CachedRows`
    work : by name of the row, a function that computes it
    progress : bool, show a progress bar
    """
    row = CachedRows(path, settings)
    return {name: row(name, work[name]) for name in tqdm(work, row.path.stem, disable=not progress)}


def read(path: str | os.PathLike) -> dict:
    """All that a file of :class:`CachedRows` holds: ``settings``, ``rows``, the ``seconds`` of each, ``environment``.

    Raises
    ------
    ResultsError
        If the file is missing or damaged.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
        content["settings"], content["rows"].items()
    except OSError as error:
        raise ResultsError(
            f"{path} cannot be read ({error.strerror}): restore it, or build the book in profile full"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ResultsError(f"{path} is damaged: restore it, or delete it and build the book in profile full") from None
    return content


def _environment() -> dict[str, str]:
    """What the rows were computed with."""
    python = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    return {name: metadata.version(name) for name in _PACKAGES} | python


def _plain(value):
    """Intervals as lists of three, NaN and infinity as None and text, numbers to five digits."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return float(f"{value:.5g}") if math.isfinite(value) else ("-inf" if value < 0 else "inf")
    return value


def _json(content, path: Path) -> str:
    try:
        return json.dumps(content, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ResultsError(f"{path} cannot hold this ({error}): give plain numbers, text, lists and mappings") from None
