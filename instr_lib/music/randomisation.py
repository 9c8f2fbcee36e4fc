"""One music, played in many ways: what is drawn by lot in a clip besides its notes.

A network that has only heard one soundfont may know the soundfont and not the instruments. Here each instrument of each
clip is played by a soundfont drawn by lot, in a register, at a level and in a manner drawn by lot, in a room drawn by lot;
always without regard to which instrument it is, so that nothing of it is a clue. This is domain randomisation (Tobin et al.
2017, arXiv:1703.06907). A varied clip is a pure function of (variation, seed, split, index). Chapter 9 uses all of it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from scipy import signal

from ..constants import CLIP_SAMPLES, SAMPLE_RATE
from ..errors import InputError
from .instruments import INSTRUMENTS
from .score import PITCHES, Score
from .soundfonts import SOUNDFONTS, check_soundfont, find_soundfont, soundfont_sha256
from .synth import Synth, SynthOverrides

# Lowest and highest note that each is asked to play: about what players of it can, and always the report's octave too.
PITCH_RANGES = (
    (28, 100), (40, 84), (36, 91), (60, 96), (60, 96), (28, 72), (52, 84), (36, 96), (36, 96), (55, 96), (44, 88), (36, 91),
)  # fmt: skip
# Programs of General MIDI that are the same instrument, or nearly, in another make: counted from 0, of any soundfont.
RELATED_PROGRAMS: Mapping[int, tuple[int, ...]] = {
    0: (0, 1),  # grand and bright piano
    2: (48, 49),  # two string ensembles
    5: (32, 32, 43),  # acoustic bass, contrabass
    6: (56, 56, 59),  # trumpet, muted trumpet
    8: (16, 17, 18, 19),  # drawbar, percussive, rock and church organ
    9: (40, 40, 110),  # violin, fiddle
    10: (64, 65, 66, 67),  # soprano, alto, tenor and baritone saxophone
}
_PLAN_STREAM = 1  # sets a clip's second generator apart from the one that draws its notes


@dataclass(frozen=True)
class DomainRandomisation:
    """What is drawn by lot. With nothing switched on a clip is as :func:`instr_lib.generate` has always made it.

    Parameters
    ----------
    soundfonts : names in ``instr_lib.synth.SOUNDFONTS``
        Each instrument of each clip is played by one of them.
    registers : bool
        In three clips of five, each instrument is moved to somewhere in its range (``PITCH_RANGES``).
    levels : bool
        Velocities from 20 to 127, and each instrument turned up or down by -12 to 6 dB.
    overrides : bool
        Tuning, filter, envelope and vibrato, instrument by instrument.
    related_programs : bool
        Another make of the instrument, if General MIDI has one (``RELATED_PROGRAMS``).
    reverb : bool
        In three clips of five, a room with 0.15 to 1.5 s of reverberation.

    Raises
    ------
    InputError
        If there is no soundfont, or one that is not known.
    """

    soundfonts: tuple[str, ...] = ("FluidR3",)
    registers: bool = False
    levels: bool = False
    overrides: bool = False
    related_programs: bool = False
    reverb: bool = False

    def __post_init__(self):
        unknown = [name for name in self.soundfonts if name not in SOUNDFONTS]
        if unknown or not self.soundfonts:
            raise InputError(f"soundfonts must be some of {', '.join(SOUNDFONTS)}, not {unknown or 'none'}")
        # Always in one order, each once: the same soundfonts are the same variation.
        object.__setattr__(self, "soundfonts", tuple(name for name in SOUNDFONTS if name in self.soundfonts))

    def settings(self) -> dict:
        """All that the sound depends on, in plain numbers and text. Raises SoundfontError if a soundfont is missing."""
        fonts = {name: soundfont_sha256(check_soundfont(find_soundfont(name))) for name in self.soundfonts}
        return {**asdict(self), "soundfonts": fonts}


class RenderPlan(NamedTuple):
    """What was drawn for one clip.

    Attributes
    ----------
    score : Score, with the notes as they are played
    fonts : name of a soundfont, by instrument index
    overrides : Playing, by instrument index
    gains : factor, by instrument index
    reverb : float32 (samples,), impulse response, or None
    """

    score: Score
    fonts: dict[int, str]
    overrides: dict[int, SynthOverrides]
    gains: dict[int, float]
    reverb: np.ndarray | None


def sample_plan(score: Score, variation: DomainRandomisation, address: tuple[int, int, int]) -> RenderPlan:
    """Draw how a score is to be played.

    Parameters
    ----------
    score : Score
    variation : Variation
    address : three whole numbers, not negative
        The only source of chance: seed, split and index of the clip.
    """
    rng = np.random.default_rng([*address, _PLAN_STREAM])
    notes, fonts, overrides, gains = list(score.notes), {}, {}, {}
    for index in score.instruments:
        # The same numbers are drawn whatever is switched on, so that two variations differ only in what they say.
        font, away, place, louder, gain, relative = rng.random(6)
        manner = rng.random(len(_GENERATOR_RANGES) * 2)
        fonts[index] = variation.soundfonts[int(font * len(variation.soundfonts))]
        shift = 0
        if variation.registers and away < 0.6:
            low, high = PITCH_RANGES[index]
            shift = int(low + place * (high - (PITCHES[1] - PITCHES[0]) - low + 1)) - PITCHES[0]
        force = 0.4 + 0.9 * louder if variation.levels else 1.0
        notes = [
            note._replace(pitch=note.pitch + shift, velocity=int(np.clip(round(note.velocity * force), 20, 127)))
            if note.instrument == index and (shift or variation.levels)
            else note
            for note in notes
        ]
        gains[index] = float(10 ** ((-12 + 18 * gain) / 20)) if variation.levels else 1.0
        programs = RELATED_PROGRAMS.get(index, ()) if variation.related_programs else ()
        overrides[index] = SynthOverrides(
            generators=_sample_generators(manner) if variation.overrides else {},
            program=programs[int(relative * len(programs))] if programs else None,
        )
    return RenderPlan(
        Score(tuple(notes)),
        fonts,
        overrides,
        gains,
        _sample_reverb(rng) if variation.reverb and rng.random() < 0.6 else None,
    )


# Generator, how often it is changed, and the offsets between which it is drawn then.
_GENERATOR_RANGES = (
    ("fineTune", 0.7, -35, 35),  # cents
    ("initialFilterFc", 0.5, -3600, 600),  # cents
    ("initialFilterQ", 0.3, 0, 120),  # centibels
    ("attackVolEnv", 0.4, -2400, 2400),  # timecents
    ("decayVolEnv", 0.5, -2400, 2400),
    ("releaseVolEnv", 0.6, -2400, 3000),
    ("vibLfoToPitch", 0.35, 5, 40),  # cents
    ("freqVibLFO", 0.5, -1200, 0),  # cents
    ("delayVibLFO", 0.3, 0, 9000),  # timecents
)


def _sample_generators(shares: np.ndarray) -> dict[str, float]:
    """Two numbers from 0 to 1 for each of ``_GENERATOR_RANGES``: whether, and how much."""
    rows = zip(_GENERATOR_RANGES, shares.reshape(-1, 2), strict=True)
    return {name: float(low + share * (high - low)) for (name, often, low, high), (luck, share) in rows if luck < often}


def _sample_reverb(rng: np.random.Generator) -> np.ndarray:
    """Direct sound, and noise that dies away (Moorer 1979, doi:10.2307/3680280): float32 impulse response.

    Reverberation time 0.15 to 1.5 s, 6 to 25 dB below the direct sound in all, up to 20 ms behind it, and duller than it.
    """
    seconds, level = 0.15 * 10 ** rng.random(), -25 + 19 * rng.random()
    times = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(times)) * 10 ** (-3 * times / seconds)  # -60 dB at the end
    brightness = rng.uniform(1500, 12_000)  # Hz
    tail = signal.lfilter(*signal.butter(1, brightness, fs=SAMPLE_RATE), tail)
    tail *= 10 ** (level / 20) / np.sqrt((tail**2).sum())
    late = rng.integers(1, int(0.02 * SAMPLE_RATE))
    return np.concatenate([[1.0], np.zeros(late), tail]).astype(np.float32)


@functools.cache
def cached_synth(name: str) -> Synth:
    """The one synth of this process for a soundfont in ``SOUNDFONTS``."""
    return Synth(find_soundfont(name))


def render_stems(plan: RenderPlan) -> np.ndarray:
    """The sound of each instrument, in the room: float32 (k, 220_500) in order of ``lot.score.instruments``.

    Their sum is the mix. Raises SoundfontError if a soundfont is missing.
    """
    stems = np.empty((len(plan.score.instruments), CLIP_SAMPLES), np.float32)
    for stem, index in zip(stems, plan.score.instruments, strict=True):
        one = cached_synth(plan.fonts[index]).render(plan.score.only(index), {index: plan.overrides[index]})
        stem[:] = one * np.float32(plan.gains[index])
    return stems if plan.reverb is None else _apply_reverb(stems, plan.reverb)


def render(plan: RenderPlan) -> np.ndarray:
    """The mix, float32 (220_500,): the sum of :func:`render_stems`, to rounding, with the room put on once."""
    mix = render_stems(plan._replace(reverb=None)).sum(0)
    return mix if plan.reverb is None else _apply_reverb(mix, plan.reverb)


def _apply_reverb(sound: np.ndarray, reverb: np.ndarray) -> np.ndarray:
    found = signal.oaconvolve(sound, np.broadcast_to(reverb, (*sound.shape[:-1], len(reverb))), axes=-1)
    return found[..., :CLIP_SAMPLES].astype(np.float32)


assert len(PITCH_RANGES) == len(INSTRUMENTS)
