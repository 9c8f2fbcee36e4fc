"""Results that took long to compute: kept as JSON with the settings they belong to, row by row, and read by the pages.

The published ones are in ``results/``. A file is written after each row, whole or not at all, so that a computation that
was interrupted goes on where it was.
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


def cached_rows(
    path: str | os.PathLike, settings: Mapping, work: Mapping[str, Callable[[], Mapping]], progress: bool = True
) -> dict[str, dict]:
    """Rows of a file, after those that it lacks have been computed and written.

    Parameters
    ----------
    path : path of a JSON file, made if it does not exist
    settings : what the rows depend on: plain numbers, text, lists, mappings
    work : by name of the row, a function that computes it, as plain as the settings; NaN is kept as None
    progress : bool, show a progress bar

    Raises
    ------
    ResultsError
        If the file is damaged, holds rows of other settings, or JSON cannot hold a row.
    """
    path = Path(path)
    settings = json.loads(_json(dict(settings), path))
    content = read(path) if path.exists() else {"settings": settings, "rows": {}}
    if content["settings"] != settings:
        names = {**settings, **content["settings"]}
        other = [name for name in names if settings.get(name) != content["settings"].get(name)]
        raise ResultsError(f"{path} was computed with other {', '.join(other)}: delete it, or choose another file")
    for name in tqdm([name for name in work if name not in content["rows"]], path.stem, disable=not progress):
        start = time.monotonic()
        content["rows"][name] = _plain(work[name]())
        content.setdefault("seconds", {})[name] = round(time.monotonic() - start, 1)
        content["environment"] = {n: metadata.version(n) for n in ("torch", "captum", "numpy")} | {
            "python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"
        }  # fmt: skip
        write_text(path, _json(content, path))
    return {name: content["rows"][name] for name in work}


def read(path: str | os.PathLike) -> dict:
    """What :func:`cached_rows` has written: ``settings``, ``rows``, the ``seconds`` that each took, and ``environment``.

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
        raise ResultsError(f"{path} cannot be read ({error.strerror}): restore it, or build profile full") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ResultsError(f"{path} is damaged: restore it, or delete it and build profile full") from None
    return content


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
        raise ResultsError(f"{path} cannot hold this ({error}): give plain numbers") from None
