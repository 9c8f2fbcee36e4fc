"""Recorded notes: seven instruments, a dozen notes each, to test networks on that have only heard synthesisers.

They come with the library (OGG, at most 4 s each, with a SHA-256), so that the test needs no internet. Their source is
the npm packages ``tonejs-instrument-*-mp3`` of N. Brosowsky's tonejs-instruments, whose samples are CC BY 3.0; here they
are cut, faded and encoded again. No network learns from them or is chosen by them. Beside them lie two pieces of music.
Chapters 9 and 10 use all of it; ``tools/recorded_notes.py`` in the repository made the files.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from .._files import sha256
from ..constants import CLIP_SAMPLES, SAMPLE_RATE
from ..data.recordings import normalise_level
from ..data.spectrogram import log_mel
from ..errors import AudioError
from ..music.instruments import instrument_index

FOLDER = Path(__file__).parent / "recorded"
ABOUT = {"licence": "CC BY 3.0", "by": "N. Brosowsky and others, tonejs-instruments"}
ODE = "ode.ogg"  # Beethoven's Ode to Joy, played with the recorded notes
CHORALE, BWV = "chorale.mid", 269  # by Bach, for four of our instruments
LEAD_IN = 0.25  # seconds of silence before the note


class RecordedNote(NamedTuple):
    """One note: instrument index, MIDI pitch, source, sound as a clip float32 (220_500,), spectrogram (128, 431) in dB."""

    instrument: int
    pitch: int
    source: str
    audio: np.ndarray
    mel: np.ndarray


@functools.cache
def recorded_notes() -> tuple[RecordedNote, ...]:
    """All recorded notes as clips: a quarter of a second of silence, then the note, as loud as the clips of a dataset.

    Raises
    ------
    AudioError
        If a file is missing, damaged or altered.
    """
    return tuple(_read(row) for row in note_rows())


def note_rows() -> list[dict]:
    """What ``notes.json`` says about each note: ``file``, ``instrument``, ``pitch``, ``source`` and ``sha256``."""
    return json.loads((FOLDER / "notes.json").read_text())["notes"]


def source_packages() -> list[str]:
    """Names of the npm packages that the notes come from."""
    return sorted({row["source"].split()[0] for row in note_rows()})


def _read(row: dict) -> RecordedNote:
    path = FOLDER / row["file"]
    if not path.is_file() or sha256(path) != row["sha256"]:
        raise AudioError(f"the recorded note {path} is missing or altered: restore it, or install instr_lib again")
    audio, _ = soundfile.read(path, dtype="float32")
    clip = np.zeros(CLIP_SAMPLES, np.float32)
    start = int(LEAD_IN * SAMPLE_RATE)
    clip[start : start + len(audio)] = audio
    clip = normalise_level(path.name, clip)
    return RecordedNote(instrument_index(row["instrument"]), row["pitch"], row["source"], clip, log_mel(clip))
