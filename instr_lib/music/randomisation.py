"""Domain randomisation: clips whose soundfont, register, level, playing style and reverberation are random.

A network that has only heard one soundfont may learn the soundfont instead of the instruments. Here each instrument of
each clip gets a random soundfont, register, level and playing style, and each clip a random reverberation, all drawn
independently of the instruments, so that none of it is a clue. This is domain randomisation (Tobin et al. 2017,
arXiv:1703.06907). A clip is a pure function of (settings, seed, split, index). Chapter 9 uses all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from scipy import signal

from ..constants import CLIP_SAMPLES, SAMPLE_RATE
from ..errors import InputError
from .instruments import INSTRUMENTS
from .score import PITCHES, Note, Score
from .soundfonts import SOUNDFONTS, check_soundfont, find_soundfont, soundfont_sha256
from .synth import SynthOverrides, cached_synth

# Lowest and highest pitch of each instrument: about what players of it can play, and always the report's octave too.
PITCH_RANGES = (
    (28, 100), (40, 84), (36, 91), (60, 96), (60, 96), (28, 72), (52, 84), (36, 96), (36, 96), (55, 96), (44, 88), (36, 91),
)  # fmt: skip
# By instrument index, General MIDI programs that are the same instrument, or a close relative: counted from 0.
RELATED_PROGRAMS: Mapping[int, tuple[int, ...]] = {
    0: (0, 1),  # grand and bright piano
    2: (48, 49),  # two string ensembles
    5: (32, 32, 43),  # acoustic bass, contrabass
    6: (56, 56, 59),  # trumpet, muted trumpet
    8: (16, 17, 18, 19),  # drawbar, percussive, rock and church organ
    9: (40, 40, 110),  # violin, fiddle
    10: (64, 65, 66, 67),  # soprano, alto, tenor and baritone saxophone
}
_PLAN_STREAM = 1  # separates the generator that draws a clip's plan from the one that draws its notes


class RenderPlan(NamedTuple):
    """How one clip is played.

    Attributes
    ----------
    score : Score, with the notes as they are played
    fonts : name of a soundfont, by instrument index
    overrides : SynthOverrides, by instrument index
    gains : factor, by instrument index
    reverb : float32 (samples,), impulse response, or None
    """

    score: Score
    fonts: dict[int, str]
    overrides: dict[int, SynthOverrides]
    gains: dict[int, float]
    reverb: np.ndarray | None


@dataclass(frozen=True)
class DomainRandomisation:
    """What is random in a clip besides its notes; a :class:`instr_lib.music.renderers.Renderer`.

    With nothing switched on, clips sound as :func:`instr_lib.generate` makes them by default.

    Parameters
    ----------
    soundfonts : names in :data:`instr_lib.music.soundfonts.SOUNDFONTS`
        Each instrument of each clip is played by one of them.
    registers : bool
        In three clips of five, each instrument is transposed to a random place in its range (``PITCH_RANGES``).
    levels : bool
        Velocities from 20 to 127, and a gain of -12 to 6 dB for each instrument.
    overrides : bool
        Tuning, filter, envelope and vibrato of each instrument.
    related_programs : bool
        A related program of the instrument, if General MIDI has one (``RELATED_PROGRAMS``).
    reverb : bool
        In three clips of five, a reverberation of 0.15 to 1.5 s.

    Raises
    ------
    InputError
        If no soundfont is given, or an unknown one.
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
        # In one order and without repetition: the same soundfonts make equal objects.
        object.__setattr__(self, "soundfonts", tuple(name for name in SOUNDFONTS if name in self.soundfonts))

    @classmethod
    def from_settings(cls, settings: Mapping) -> DomainRandomisation | None:
        """The object whose :meth:`settings` a dataset's manifest holds; None if it holds those of another renderer."""
        return cls(**settings["variation"]) if "variation" in settings else None

    def settings(self) -> dict:
        """All that the sound depends on, for the manifest. Raises SoundfontError if a soundfont is missing."""
        fonts = {name: soundfont_sha256(check_soundfont(find_soundfont(name))) for name in self.soundfonts}
        return {
            "soundfont": {"name": ", ".join(fonts), "sha256": ", ".join(fonts.values())},
            "variation": {**asdict(self), "soundfonts": fonts},
        }

    def sample_plan(self, score: Score, address: tuple[int, int, int]) -> RenderPlan:
        """How a score is played.

        Parameters
        ----------
        score : Score
        address : three whole numbers, not negative
            Seed, number of the split, and index of the clip: the only source of randomness.
        """
        rng = np.random.default_rng([*address, _PLAN_STREAM])
        notes, fonts, overrides, gains = list(score.notes), {}, {}, {}
        for index in score.instruments:
            # The same numbers are drawn whatever is switched on, so that two settings differ only in what they name.
            font, transposed, register, velocity, level, program = rng.random(6)
            style = rng.random(len(_GENERATOR_RANGES) * 2)
            fonts[index] = self.soundfonts[int(font * len(self.soundfonts))]
            shift = _shift(index, register) if self.registers and transposed < 0.6 else 0
            force = 0.4 + 0.9 * velocity if self.levels else None
            notes = [_changed(note, shift, force) if note.instrument == index else note for note in notes]
            gains[index] = float(10 ** ((-12 + 18 * level) / 20)) if self.levels else 1.0
            programs = RELATED_PROGRAMS.get(index, ()) if self.related_programs else ()
            overrides[index] = SynthOverrides(
                generators=_sample_generators(style) if self.overrides else {},
                program=programs[int(program * len(programs))] if programs else None,
            )
        reverb = _sample_reverb(rng) if self.reverb and rng.random() < 0.6 else None
        return RenderPlan(Score(tuple(notes)), fonts, overrides, gains, reverb)

    def render(self, score: Score, address: tuple[int, int, int]) -> np.ndarray:
        """The mix of one clip, float32 (220_500,)."""
        return render(self.sample_plan(score, address))


def _shift(instrument: int, share: float) -> int:
    """Semitones that move the report's octave to a place in the instrument's range, 0 for the lowest to 1."""
    low, high = PITCH_RANGES[instrument]
    return int(low + share * (high - (PITCHES[1] - PITCHES[0]) - low + 1)) - PITCHES[0]


def _changed(note: Note, shift: int, force: float | None) -> Note:
    """A note transposed, and played with a multiple of its velocity."""
    if force is None and not shift:
        return note
    velocity = round(note.velocity * (1.0 if force is None else force))
    return note._replace(pitch=note.pitch + shift, velocity=int(np.clip(velocity, 20, 127)))


# Generator, probability that it is changed, and the range of the offset, which is uniform.
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
    """Offsets from two numbers from 0 to 1 for each of ``_GENERATOR_RANGES``: whether it is changed, and how much."""
    rows = zip(_GENERATOR_RANGES, shares.reshape(-1, 2), strict=True)
    return {
        name: float(low + share * (high - low))
        for (name, probability, low, high), (draw, share) in rows
        if draw < probability
    }


def _sample_reverb(rng: np.random.Generator) -> np.ndarray:
    """Direct sound and exponentially decaying noise (Moorer 1979, doi:10.2307/3680280): float32 impulse response.

    Reverberation time 0.15 to 1.5 s, 6 to 25 dB below the direct sound in all, up to 20 ms after it, and low-pass filtered.
    """
    seconds, level = 0.15 * 10 ** rng.random(), -25 + 19 * rng.random()
    times = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(times)) * 10 ** (-3 * times / seconds)  # -60 dB at the end
    brightness = rng.uniform(1500, 12_000)  # Hz
    tail = signal.lfilter(*signal.butter(1, brightness, fs=SAMPLE_RATE), tail)
    tail *= 10 ** (level / 20) / np.sqrt((tail**2).sum())
    late = rng.integers(1, int(0.02 * SAMPLE_RATE))
    return np.concatenate([[1.0], np.zeros(late), tail]).astype(np.float32)


def render_stems(plan: RenderPlan) -> np.ndarray:
    """The sound of each instrument with its reverberation: float32 (k, 220_500) in order of ``plan.score.instruments``.

    Their sum is the mix. Raises SoundfontError if a soundfont is missing.
    """
    stems = _dry_stems(plan)
    return stems if plan.reverb is None else _apply_reverb(stems, plan.reverb)


def render(plan: RenderPlan) -> np.ndarray:
    """The mix, float32 (220_500,): to rounding the sum of :func:`render_stems`, with the reverberation applied once."""
    mix = _dry_stems(plan).sum(0)
    return mix if plan.reverb is None else _apply_reverb(mix, plan.reverb)


def _dry_stems(plan: RenderPlan) -> np.ndarray:
    stems = np.empty((len(plan.score.instruments), CLIP_SAMPLES), np.float32)
    for stem, index in zip(stems, plan.score.instruments, strict=True):
        synth = cached_synth(find_soundfont(plan.fonts[index]))
        sound = synth.render(plan.score.only(index), {index: plan.overrides[index]})
        stem[:] = sound * np.float32(plan.gains[index])
    return stems


def _apply_reverb(sound: np.ndarray, reverb: np.ndarray) -> np.ndarray:
    """Convolved with an impulse response, and cut to the length of a clip: float32 (..., 220_500) to the same."""
    wet = signal.oaconvolve(sound, np.broadcast_to(reverb, (*sound.shape[:-1], len(reverb))), axes=-1)
    return wet[..., :CLIP_SAMPLES].astype(np.float32)


assert len(PITCH_RANGES) == len(INSTRUMENTS)
