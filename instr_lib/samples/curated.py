"""Fifteen clips to look at closely: each instrument alone, and three mixtures.

They travel with the library as MIDI files and as sound (FLAC, without loss at 16 bits), so that the
chapters on explanations work on machines without a soundfont. ``python -m instr_lib.curated`` renders
them again.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from ..constants import SAMPLE_RATE
from ..data.spectrogram import check_audio, log_mel
from ..errors import AudioError
from ..music.instruments import INSTRUMENTS
from ..music.score import Score, random_score
from ..music.synth import Synth
from .original_report import EXAMPLES

FOLDER = Path(__file__).parent / "curated"
# Beside the report's two mixtures, one that is hard for a person: three that can bow or blow alike.
MIXTURES = (*EXAMPLES[1:], ("String Ensemble 1", "Violin", "Soprano Sax"))


class CuratedClip(NamedTuple):
    """A clip with its name, score, sound float32 (220_500,) and log-mel spectrogram (128, 431) in dB."""

    name: str
    score: Score
    audio: np.ndarray
    mel: np.ndarray


@functools.cache
def curated_clips() -> tuple[CuratedClip, ...]:
    """The curated set, read from the files that ship with the library.

    Raises
    ------
    AudioError, ScoreError
        If a file is missing or damaged.
    """
    return tuple(_read(stem) for stem in _stems())


def _stems() -> list[tuple[str, tuple[str, ...]]]:
    """(file name without ending, instruments) of each clip, in order."""
    sets = [(i.name,) for i in INSTRUMENTS] + list(MIXTURES)
    return [(f"{n:02d}-{'+'.join(names).lower().replace(' ', '-')}", names) for n, names in enumerate(sets, 1)]


def _read(stem: tuple[str, tuple[str, ...]]) -> CuratedClip:
    file, names = stem
    try:
        audio, rate = soundfile.read(FOLDER / f"{file}.flac", dtype="float32")
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"the curated clip {FOLDER / file}.flac cannot be read ({error}): restore it") from None
    audio = check_audio(audio, rate)
    return CuratedClip(" + ".join(names), Score.from_midi(FOLDER / f"{file}.mid"), audio, log_mel(audio))


def build():
    """Draw and render the set anew into the library's folder."""
    FOLDER.mkdir(exist_ok=True)
    synth = Synth()
    for number, (file, names) in enumerate(_stems()):
        score = random_score(np.random.default_rng([2206, 3208, number]), instruments=names)
        score.to_midi().save(FOLDER / f"{file}.mid")
        soundfile.write(FOLDER / f"{file}.flac", synth.render(score), SAMPLE_RATE, subtype="PCM_16")


if __name__ == "__main__":
    build()
