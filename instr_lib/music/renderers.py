"""Renderers: how the score of a clip becomes the sound of a dataset.

:func:`instr_lib.generate` takes any object with the two methods of :class:`Renderer` that can be pickled. The plain one
plays every score with one soundfont (chapters 1 to 8), :class:`instr_lib.DomainRandomisation` in many ways (chapter 9).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from .score import Score
from .soundfonts import check_soundfont, find_soundfont, soundfont_sha256
from .synth import cached_synth


class Renderer(Protocol):
    """What :func:`instr_lib.generate` asks of a renderer. It is pickled and sent to the workers."""

    def settings(self) -> dict:
        """All that the sound depends on, as plain numbers and text by name, for the manifest of the dataset.

        One of the names is ``soundfont``, with the ``name`` and ``sha256`` of what is played. Workers call it too, and
        stop if it gives something else there.
        """

    def render(self, score: Score, address: tuple[int, int, int]) -> np.ndarray:
        """The mix of one clip, float32 (220_500,): a function of its arguments only.

        ``address`` is the clip's seed, number of the split, and index: the only source of randomness.
        """


class SoundfontRenderer:
    """Plays each score as it is written, dry, with one soundfont.

    Parameters
    ----------
    soundfont : path, optional
        By default as for :class:`instr_lib.Synth`.

    Raises
    ------
    SoundfontError
        If the soundfont is missing or damaged.
    """

    def __init__(self, soundfont: str | os.PathLike | None = None):
        self.soundfont: Path = check_soundfont(find_soundfont() if soundfont is None else soundfont)

    def settings(self) -> dict:
        """Name and hash of the soundfont."""
        return {"soundfont": {"name": self.soundfont.name, "sha256": soundfont_sha256(self.soundfont)}}

    def render(self, score: Score, address: tuple[int, int, int]) -> np.ndarray:
        """The mix, float32 (220_500,), whatever the address."""
        return cached_synth(self.soundfont).render(score)
