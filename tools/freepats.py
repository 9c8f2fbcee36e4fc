"""Freepats as a soundfont: the GUS patches of Debian's package ``freepats`` as an SF2 file that FluidSynth reads.

``make soundfonts`` runs it. It takes only the programs that the book uses. Formats: Gravis UltraSound patch files
(Advanced Gravis, UltraSound SDK 2.22, 1994) and SoundFont 2.04 (E-mu Systems, 2006). Tremolo and vibrato of the patches
are skipped.
"""

from __future__ import annotations

import os
import struct
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from instr_lib._files import atomic_path
from instr_lib.errors import SoundfontError

FOLDER = Path("/usr/share/midi/freepats/Tone_000")  # where Debian has them
# Patch by General MIDI program, or the nearest where Freepats has none. Its soprano sax is an English horn, so the alto
# sax replaces it.
PATCHES = {
    0: "000_Acoustic_Grand_Piano", 1: "001_Acoustic_Brite_Piano", 8: "008_Celesta", 16: "016_Hammond_Organ",
    17: "016_Hammond_Organ", 18: "016_Hammond_Organ", 19: "019_Church_Organ", 24: "024_Nylon_Guitar",
    32: "032_Acoustic_Bass", 40: "040_Violin", 43: "032_Acoustic_Bass", 48: "048_String_Ensemble_1_Marcato",
    49: "048_String_Ensemble_1_Marcato", 56: "056_Trumpet", 59: "059_Muted_Trumpet", 64: "065_Alto_Sax",
    65: "065_Alto_Sax", 66: "066_Tenor_Sax", 67: "067_Baritone_Sax", 72: "072_Piccolo", 80: "080_Square_Wave",
    88: "088_New_Age", 110: "040_Violin",
}  # fmt: skip

_HEADER, _INSTRUMENT, _LAYER, _WAVE = 129, 63, 47, struct.Struct("<7sBIIIHIIIhB6s6s6sBhH36x")
_SIXTEEN_BITS, _UNSIGNED, _LOOP, _PING_PONG, _REVERSED, _SUSTAIN, _ENVELOPE = (1 << bit for bit in range(7))
_STEPS = 44_100 / 16  # of the envelope's 8-bit levels that the sound card's fastest ramp of 1 makes in a second
_DB = 6.02 / 16  # of one 8-bit level: the upper four bits are an exponent of 2


class Wave(NamedTuple):
    """One recording of a patch: int16 samples, its loop as (start, end) in samples or None, and how it is played."""

    samples: np.ndarray
    loop: tuple[int, int] | None
    rate: int  # Hz
    top: float  # MIDI pitch up to which it is played
    root: float  # MIDI pitch at which it was recorded
    envelope: dict[str, int]  # SF2 generators


def read_patch(path: str | os.PathLike) -> list[Wave]:
    """The recordings of a .pat file, lowest first.

    Raises
    ------
    SoundfontError
        If the file is missing, of another kind or cut short.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SoundfontError(f"the patch {path} cannot be read ({error.strerror}): install the package freepats") from None
    if not data.startswith(b"GF1PATCH110\0"):
        raise SoundfontError(f"{path} is not a GUS patch: install the package freepats again")
    waves, at = [], _HEADER + _INSTRUMENT + _LAYER
    try:
        for _ in range(data[at - _LAYER + 6]):
            wave, at = _read_wave(data, at)
            waves.append(wave)
    except (struct.error, ValueError, IndexError):
        raise SoundfontError(f"{path} is cut short: install the package freepats again") from None
    return sorted(waves, key=lambda wave: wave.top)


def _read_wave(data: bytes, at: int) -> tuple[Wave, int]:
    (_, _, size, start, end, rate, _, top, root, _, _, ramps, levels, _, mode, _, _) = _WAVE.unpack_from(data, at)
    at += _WAVE.size
    wide = 2 if mode & _SIXTEEN_BITS else 1
    raw = np.frombuffer(data, "<i2" if wide == 2 else "i1", size // wide, at).astype(np.int16)
    if mode & _UNSIGNED:
        raw = raw ^ np.int16(-32768 if wide == 2 else -128)
    samples = raw if wide == 2 else raw * 256
    start, end = start // wide, min(end // wide, len(samples))
    if mode & _REVERSED:
        samples, start, end = samples[::-1], len(samples) - end, len(samples) - start
    loop = (start, end) if mode & _LOOP and end - start > 8 else None
    if loop and mode & _PING_PONG:  # forwards and back again is a loop of twice the length
        samples = np.concatenate([samples[:end], samples[start:end][::-1], samples[end:]])
        loop = start, 2 * end - start
    pitches = (69 + 12 * np.log2(max(f, 1) / 440_000) for f in (top, root))  # from thousandths of a hertz
    return Wave(samples, loop, rate, *map(float, pitches), _envelope(ramps, levels, mode)), at + size


def _envelope(ramps: bytes, levels: bytes, mode: int) -> dict[str, int]:
    """SF2 generators of attack, decay and release. Six ramps, each to a level: three to the sustain, three to the end."""
    if not mode & _ENVELOPE:
        return {"releaseVolEnv": _timecents(0.1)}

    def seconds(stage):
        before = levels[stage - 1] if stage else 0
        return max(abs(levels[stage] - before), 1) * 8 ** (ramps[stage] >> 6) / max(ramps[stage] & 63, 1) / _STEPS

    def fall(first, last):
        """Seconds for 100 dB, the unit of SF2, at the rate of these ramps; and how far they fall, in dB."""
        down = max((levels[first - 1] - levels[last]) * _DB, 0.1)
        return sum(seconds(stage) for stage in range(first, last + 1)) * 100 / down, down

    to_sustain, drop = fall(1, 2)
    sustained = mode & _SUSTAIN
    decay = to_sustain if sustained else fall(1, 5)[0]
    return {
        "attackVolEnv": _timecents(seconds(0)),
        "decayVolEnv": _timecents(decay),
        "sustainVolEnv": round(10 * drop) if sustained else 1000,  # centibels
        "releaseVolEnv": _timecents(min(fall(3, 5)[0], 5.0)),
    }


def _timecents(seconds: float) -> int:
    return int(np.clip(round(1200 * np.log2(max(seconds, 1e-3))), -12_000, 8000))


# Numbers of SF2 generators in the order that a zone requires: the range first, the sample last.
_GENERATORS = {
    "keyRange": 43, "attackVolEnv": 34, "decayVolEnv": 36, "sustainVolEnv": 37, "releaseVolEnv": 38,
    "fineTune": 52, "sampleModes": 54, "overridingRootKey": 58, "sampleID": 53,
}  # fmt: skip


def make_soundfont(path: str | os.PathLike, folder: str | os.PathLike = FOLDER) -> Path:
    """Write Freepats as an SF2 file, whole or not at all; from the same patches always the same bytes.

    Raises
    ------
    SoundfontError
        If a patch is missing or damaged.
    """
    path = Path(path).expanduser()
    patches = {name: read_patch(Path(folder) / f"{name}.pat") for name in sorted(set(PATCHES.values()))}
    tables, samples = _instruments(patches)
    tables = _presets(list(patches)) | tables
    info = {b"ifil": struct.pack("<HH", 2, 1), b"isng": b"EMU8000\0", b"INAM": b"Freepats\0\0", b"ICOP": b"GPL-2\0"}
    lists = (
        _chunk(b"LIST", b"INFO" + b"".join(_chunk(*item) for item in info.items())),
        _chunk(b"LIST", b"sdta" + _chunk(b"smpl", samples)),
        _chunk(b"LIST", b"pdta" + b"".join(_chunk(name, b"".join(records)) for name, records in tables.items())),
    )
    with atomic_path(path) as part:
        part.write_bytes(_chunk(b"RIFF", b"sfbk" + b"".join(lists)))
    return path


def _presets(names: list[str]) -> dict[bytes, list[bytes]]:
    """Records of the presets: each program plays the instrument of its patch."""
    phdr, pbag, pgen = [], [], []
    for program, name in PATCHES.items():
        phdr.append(struct.pack("<20sHHHIII", name.encode()[:19], program, 0, len(pbag), 0, 0, 0))
        pbag.append(struct.pack("<HH", len(pgen), 0))
        pgen.append(struct.pack("<HH", 41, names.index(name)))  # 41: instrument
    # Each list ends with a record that says where the last one ends.
    phdr.append(struct.pack("<20sHHHIII", b"EOP", 0, 0, len(pbag), 0, 0, 0))
    pbag.append(struct.pack("<HH", len(pgen), 0))
    return {b"phdr": phdr, b"pbag": pbag, b"pmod": [bytes(10)], b"pgen": [*pgen, bytes(4)]}


def _instruments(patches: dict[str, list[Wave]]) -> tuple[dict[bytes, list[bytes]], bytes]:
    """Records of the instruments, one per patch, with their zones and samples; and the samples."""
    smpl, shdr, inst, ibag, igen = [], [], [], [], []
    offset = 0  # in samples
    for name, waves in patches.items():
        inst.append(struct.pack("<20sH", name.encode()[:19], len(ibag)))
        bounds = [0, *(int(np.clip(round(wave.top) + 1, 1, 127)) for wave in waves[:-1]), 128]
        loudest = max(int(np.abs(wave.samples.astype(np.int32)).max()) for wave in waves)
        for wave, (low, high) in zip(waves, pairwise(bounds), strict=True):
            if high <= low:
                continue
            zone = _zone(wave, low, high, len(shdr))
            ibag.append(struct.pack("<HH", len(igen), 0))
            igen += [
                struct.pack("<HH", number, zone[field] & 0xFFFF) for field, number in _GENERATORS.items() if field in zone
            ]
            sound = np.round(wave.samples * (20_000 / loudest)).astype("<i2")  # patches are all equally loud
            first, last = wave.loop or (0, len(sound))
            ends = (offset, offset + len(sound), offset + first, offset + last)
            shdr.append(struct.pack("<20s5IBbHH", name.encode()[:19], *ends, wave.rate, zone["overridingRootKey"], 0, 0, 1))
            smpl += [sound.tobytes(), bytes(2 * 46)]  # silence between samples, as the format requires
            offset += len(sound) + 46
    inst.append(struct.pack("<20sH", b"EOI", len(ibag)))
    ibag.append(struct.pack("<HH", len(igen), 0))
    shdr.append(struct.pack("<20s5IBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0))
    tables = {b"inst": inst, b"ibag": ibag, b"imod": [bytes(10)], b"igen": [*igen, bytes(4)], b"shdr": shdr}
    return tables, b"".join(smpl)


def _zone(wave: Wave, low: int, high: int, sample: int) -> dict[str, int]:
    """Generators with which a wave is played from one key up to, but without, another."""
    key = round(wave.root)
    return wave.envelope | {
        "keyRange": low | (high - 1) << 8,
        "fineTune": round(100 * (key - wave.root)),
        "sampleModes": 1 if wave.loop else 0,
        "overridingRootKey": key,
        "sampleID": sample,
    }


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
