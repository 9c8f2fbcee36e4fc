"""Fifteen clips to look at closely: each instrument alone, and three mixtures.

They come with the library as MIDI files and as sound (FLAC, lossless at 16 bits), so that the chapters on
explanations (5 to 8) work on machines without a soundfont. ``tools/curated_clips.py`` in the repository renders them.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from ..data.spectrogram import check_audio, log_mel
from ..errors import AudioError
from ..music.instruments import INSTRUMENTS
from ..music.score import Score
from .original_report import EXAMPLES

FOLDER = Path(__file__).parent / "curated"
# The report's two mixtures, and one that is hard for a person: three instruments with similar long notes.
MIXTURES = (*EXAMPLES[1:], ("String Ensemble 1", "Violin", "Soprano Sax"))


class CuratedClip(NamedTuple):
    """A clip with its name, score, sound float32 (220_500,) and log-mel spectrogram (128, 431) in dB."""

    name: str
    score: Score
    audio: np.ndarray
    mel: np.ndarray


@functools.cache
def curated_clips() -> tuple[CuratedClip, ...]:
    """The curated clips, read from the files that come with the library.

    Raises
    ------
    AudioError, ScoreError
        If a file is missing or damaged.
    """
    return tuple(read_clip(file, names) for file, names in clip_files().items())


def clip_files() -> dict[str, tuple[str, ...]]:
    """Names of the instruments of each clip, by the name of its two files without their endings, in order."""
    groups = [(instrument.name,) for instrument in INSTRUMENTS] + list(MIXTURES)
    return {f"{n:02d}-{'+'.join(names).lower().replace(' ', '-')}": names for n, names in enumerate(groups, 1)}


def read_clip(file: str, names: tuple[str, ...]) -> CuratedClip:
    """One clip from its two files. Raises AudioError or ScoreError if one is missing or damaged."""
    try:
        audio, rate = soundfile.read(FOLDER / f"{file}.flac", dtype="float32")
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(
            f"the curated clip {FOLDER / file}.flac cannot be read ({error}): restore it, or install instr_lib again"
        ) from None
    audio = check_audio(audio, rate)
    return CuratedClip(" + ".join(names), Score.from_midi(FOLDER / f"{file}.mid"), audio, log_mel(audio))
