"""Recordings: read a file of sound or MIDI, check it, and cut it into windows of 5 s.

Conventions: sound is float32 mono at 44 100 Hz; a window is one clip, 5 s, and begins where the one before ends. Chapter 10
uses all of it, and so does ``python -m instr_lib explain``.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from ..constants import CLIP_SAMPLES, SAMPLE_RATE
from ..errors import AudioError
from ..music.midi import MIDI_MAGIC, midi_events, read_midi
from ..music.synth import Synth
from ._audio_files import is_cut, is_video

MAX_MINUTES = 10
MAX_MB = 100
RATES = (4000, 384_000)  # Hz: below nothing is left of an instrument, above it is not a recording
LEVEL = -26.0  # dB relative to full scale: the median root mean square of the clips that networks learn from
_PEAK = 0.999  # a sample is at full scale from this absolute value on
_CLIPPED = 0.01  # share of samples in flat peaks above which a recording is refused


class Recording(NamedTuple):
    """Sound of any length with the name of its file.

    Attributes
    ----------
    name : str
    audio : float32 (samples,), mono, 44 100 Hz; its loudest window is at ``LEVEL``
    """

    name: str
    audio: np.ndarray

    def windows(self) -> np.ndarray:
        """Cut into clips, float32 (n, 220_500); the last one is padded with silence."""
        count = max(1, math.ceil(len(self.audio) / CLIP_SAMPLES))
        return np.pad(self.audio, (0, count * CLIP_SAMPLES - len(self.audio))).reshape(count, CLIP_SAMPLES)


def load_recording(path: str | os.PathLike, name: str | None = None) -> Recording:
    """Read a recording (WAV, FLAC, OGG, MP3 and whatever else libsndfile reads), or a MIDI file, which FluidSynth plays.

    Parameters
    ----------
    path : path
        Of at most ``MAX_MINUTES`` and ``MAX_MB``; mono or stereo, of any usual sample rate.
    name : str, optional
        What to call it, instead of the file's name.

    Raises
    ------
    AudioError
        If it is missing, not sound, too long, too large, silent, clipped, cut short or damaged.
    ScoreError, SynthError
        If it is a damaged MIDI file, or FluidSynth is missing.
    """
    path = Path(path)
    name = name or path.name or str(path)
    head = _first_bytes(path, name)
    if head.startswith(MIDI_MAGIC):
        midi = read_midi(path, name)
        _check_length(name, midi.length)
        audio = Synth().render_events(midi_events(midi), midi.length + 1)
    else:
        audio = resample(*_decode(path, name))
    return Recording(name, normalise_level(name, audio))


def _first_bytes(path: Path, name: str) -> bytes:
    """The first 12 bytes of a file, if it may be a recording."""
    if path.is_dir():
        raise AudioError(f"{name} is a folder: name a file in it")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError as error:
        raise AudioError(f"{name} cannot be read ({error.strerror}): check the path") from None
    if not size:
        raise AudioError(f"{name} is empty (0 bytes): record or export it again")
    if size > MAX_MB * 1e6:
        raise AudioError(f"{name} has {size / 1e6:.0f} MB, more than {MAX_MB}: cut it, or save it as FLAC, OGG or MP3")
    if is_video(head):
        raise AudioError(f"{name} is a video or contains one: save its sound as WAV, FLAC, OGG or MP3")
    return head


def resample(audio: np.ndarray, rate: int) -> np.ndarray:
    """Mono sound (samples,) at any rate in Hz to float32 at 44 100 Hz, as ``librosa.resample`` does it by default.

    The method is that of the SoX resampler (libsoxr, quality HQ).
    """
    if rate == SAMPLE_RATE:
        return audio
    samples = math.ceil(len(audio) * (SAMPLE_RATE / rate))
    resampled = soxr.resample(audio, rate, SAMPLE_RATE, quality="HQ")[:samples]
    return np.pad(resampled, (0, samples - len(resampled))).astype(np.float32, copy=False)


def _check_length(name: str, seconds: float):
    if seconds > 60 * MAX_MINUTES:
        raise AudioError(f"{name} lasts {seconds / 60:.1f} minutes, more than {MAX_MINUTES}: cut it into pieces")


def _decode(path: Path, name: str) -> tuple[np.ndarray, int]:
    """Mono float32 (samples,) and its rate in Hz, if the file is in order."""
    info = _checked_info(path, name)
    cut = f"{name} ends in the middle: copy or export it again"
    if is_cut(path.read_bytes(), info.format):
        raise AudioError(cut)
    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError):
        raise AudioError(f"{name} is damaged, or ends in the middle: copy or export it again") from None
    if len(audio) < info.frames and info.format != "MP3":  # of an MP3 the length is an estimate
        raise AudioError(cut)
    if not np.isfinite(audio).all():
        raise AudioError(f"{name} contains NaN or infinity: repair the recording or export it again")
    top = np.abs(audio) >= _PEAK
    flat = top[1:-1] & top[:-2] & top[2:]  # three in a row: a single peak may touch full scale
    if flat.mean() > _CLIPPED:
        raise AudioError(
            f"{name} is clipped ({flat.mean():.0%} of its samples are stuck at full scale): record it again, more quietly"
        )
    return audio.mean(1), rate


def _checked_info(path: Path, name: str):
    """What libsndfile says about a file before it is decoded, if rate, channels and length are within bounds."""
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        raise AudioError(f"{name} is not sound that can be read: save it as WAV, FLAC, OGG or MP3") from None
    if not RATES[0] <= info.samplerate <= RATES[1]:
        raise AudioError(
            f"{name} has {info.samplerate} samples a second, and {RATES[0]} to {RATES[1]} are supported: resample it"
        )
    if info.channels > 2:
        raise AudioError(f"{name} has {info.channels} channels: mix it down to mono or stereo")
    if info.frames == 0:
        raise AudioError(f"{name} lasts 0 s: record or export it again")
    _check_length(name, info.frames / info.samplerate)
    return info


def normalise_level(name: str, audio: np.ndarray) -> np.ndarray:
    """Sound (samples,) scaled so that its loudest window is as loud as the clips that networks learn from.

    Raises AudioError, which calls it ``name``, if it is silent.
    """
    starts = range(0, len(audio), CLIP_SAMPLES)
    loudest = max((float((audio[s : s + CLIP_SAMPLES] ** 2).sum(dtype=float)) for s in starts), default=0.0)
    rms = math.sqrt(loudest / min(CLIP_SAMPLES, max(len(audio), 1)))
    if rms < 1e-5:
        raise AudioError(f"{name} is silent: check the microphone, or choose another file")
    return (audio * (10 ** (LEVEL / 20) / rms)).astype(np.float32)
