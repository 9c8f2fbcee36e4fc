"""A recording of your own: read it, cut it into windows of 5 s, and ask a network window by window.

Conventions: sound is float32 mono at 44 100 Hz; a window is one clip, 5 s, and begins where the one before ends. Chapter 10
uses all of it, and so does ``python -m instr_lib explain``.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np
import soundfile

from ..constants import CLIP_SAMPLES, SAMPLE_RATE
from ..errors import AudioError, ScoreError
from ..music.score import MIDI_MAGIC, midi_events, read_midi
from ..music.synth import Synth

MAX_MINUTES = 10
MAX_MB = 100
RATES = (4000, 384_000)  # Hz: less holds no instrument, more is no recording
LEVEL = -26.0  # dB below full scale: the median root mean square of the clips that networks learn from
_PEAK = 0.999  # a sample from here on is at full scale
_CLIPPED = 0.01  # share of samples in flat tops from which on a recording is spoilt
_VIDEO = {4: (b"ftyp",), 0: (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"FLV"), 8: (b"AVI ",)}


class Recording(NamedTuple):
    """Sound of any length with the name of the file that it came from.

    Attributes
    ----------
    name : str
    audio : float32 (samples,), mono, 44 100 Hz, at the level of ``LEVEL`` in its loudest window
    """

    name: str
    audio: np.ndarray

    def windows(self) -> np.ndarray:
        """Cut into clips, float32 (n, 220_500); the last one is filled up with silence."""
        count = max(1, math.ceil(len(self.audio) / CLIP_SAMPLES))
        return np.pad(self.audio, (0, count * CLIP_SAMPLES - len(self.audio))).reshape(count, CLIP_SAMPLES)


def load_recording(path: str | os.PathLike, name: str | None = None) -> Recording:
    """A recording (WAV, FLAC, OGG, MP3 and what else libsndfile reads) or a MIDI file, which is played by FluidSynth.

    Parameters
    ----------
    path : path
        Of at most ``MAX_MINUTES`` and ``MAX_MB``; mono or stereo, of any usual sample rate.
    name : str, optional
        What to call it, instead of the file's name.

    Raises
    ------
    AudioError
        If it is not there, not sound, too long, too large, silent, clipped, cut short or otherwise spoilt.
    ScoreError, SynthError
        If it is a damaged MIDI file, or FluidSynth is missing.
    """
    path = Path(path)
    name = name or path.name or str(path)
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
    if any(head[at:].startswith(magic) for at, magics in _VIDEO.items() for magic in magics):
        raise AudioError(f"{name} is a video or holds one: save its sound as WAV, FLAC, OGG or MP3")
    if head.startswith(MIDI_MAGIC):
        midi = read_midi(path, name)
        if midi.type == 2:
            raise ScoreError(f"{name} is of MIDI type 2 (independent tracks): export it as type 0 or 1")
        _check_length(name, midi.length)
        return Recording(name, normalise_level(name, Synth().render_events(midi_events(midi), midi.length + 1)))
    audio, rate = _decode(path, name)
    if rate != SAMPLE_RATE:
        audio = librosa.resample(audio, orig_sr=rate, target_sr=SAMPLE_RATE)
    return Recording(name, normalise_level(name, audio))


def _check_length(name: str, seconds: float):
    if seconds > 60 * MAX_MINUTES:
        raise AudioError(f"{name} lasts {seconds / 60:.1f} minutes, more than {MAX_MINUTES}: cut it into pieces")


def _decode(path: Path, name: str) -> tuple[np.ndarray, int]:
    """Mono float32 (samples,) and its rate, if all is well with the file."""
    try:
        about = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        raise AudioError(f"{name} is not sound that can be read: save it as WAV, FLAC, OGG or MP3") from None
    if not RATES[0] <= about.samplerate <= RATES[1]:
        raise AudioError(
            f"{name} has {about.samplerate} samples a second, and from {RATES[0]} to {RATES[1]} can be heard: resample it"
        )
    if about.channels > 2:
        raise AudioError(f"{name} has {about.channels} channels: mix it down to mono or stereo")
    if about.frames == 0:
        raise AudioError(f"{name} lasts 0 s: record or export it again")
    _check_length(name, about.frames / about.samplerate)
    cut = f"{name} ends in the middle: copy or export it again"
    if _is_cut(path.read_bytes(), about.format):
        raise AudioError(cut)
    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError):
        raise AudioError(f"{name} is damaged, or ends in the middle: copy or export it again") from None
    if len(audio) < about.frames and about.format != "MP3":  # of an MP3 the length is an estimate
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


def normalise_level(name: str, audio: np.ndarray) -> np.ndarray:
    """As loud as the clips that networks learn from, in its loudest window."""
    starts = range(0, len(audio), CLIP_SAMPLES)
    loudest = max((float((audio[s : s + CLIP_SAMPLES] ** 2).sum(dtype=float)) for s in starts), default=0.0)
    rms = math.sqrt(loudest / min(CLIP_SAMPLES, max(len(audio), 1)))
    if rms < 1e-5:
        raise AudioError(f"{name} is silent: check the microphone, or choose another file")
    return (audio * (10 ** (LEVEL / 20) / rms)).astype(np.float32)


def _is_cut(data: bytes, kind: str) -> bool:
    """Whether a file ends before it says that it does. libsndfile is silent about it."""
    if kind in ("WAV", "WAVEX") and data[:4] == b"RIFF":
        return (
            struct.unpack("<I", data[4:8])[0] not in (0, 0xFFFFFFFF)
            and len(data) + 1 < struct.unpack("<I", data[4:8])[0] + 8
        )
    if kind == "OGG":  # the last page says so, and is whole
        page = data.rfind(b"OggS")
        segments = data[page + 27 : page + 27 + data[page + 26]] if len(data) > page + 26 else b""
        whole = len(data) >= page + 27 + len(segments) + sum(segments) and len(segments) == data[page + 26]
        return not whole or not data[page + 5] & 4
    if kind == "MP3":
        return _mp3_is_cut(data)
    return False


# ISO 11172-3 and 13818-3, layer III: kilobits a second by index, and samples a second by version and index.
_KBIT = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}


def _mp3_is_cut(data: bytes) -> bool:
    """Whether the last frame runs beyond the end, or there are fewer than the first one announces."""
    place, frames, announced = 0, 0, None
    if data[:3] == b"ID3":
        place = 10 + sum((byte & 127) << (7 * (3 - n)) for n, byte in enumerate(data[6:10]))
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] >= 0xE0:
        version, bits, rate = data[place + 1] >> 3 & 3, data[place + 2] >> 4, data[place + 2] >> 2 & 3
        if version == 1 or data[place + 1] >> 1 & 3 != 1 or bits in (0, 15) or rate == 3:
            return False  # not a layer III stream that we can follow
        kbit = _KBIT[3 if version == 3 else 2][bits]
        length = (144 if version == 3 else 72) * 1000 * kbit // _MP3_RATES[version][rate] + (data[place + 2] >> 1 & 1)
        if not frames:
            tag = max(data.find(b"Xing", place, place + 200), data.find(b"Info", place, place + 200))
            if tag > 0 and data[tag + 7] & 1:
                announced = struct.unpack(">I", data[tag + 8 : tag + 12])[0]
        place, frames = place + length, frames + 1
    return place > len(data) or (announced is not None and frames < announced)
