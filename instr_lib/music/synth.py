"""From a score to sound, as a mix and as stems, with FluidSynth.

Sound is float32 mono at 44 100 Hz, 220 500 samples per clip, within -1 and 1. A *stem* is the sound
of one instrument alone; the *mix* is by definition the sum of the stems. Chapter 1 listens to both,
chapter 8 uses :class:`SynthOverrides`, chapter 10 plays whole pieces.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..constants import CLIP_SAMPLES, SAMPLE_RATE
from ..errors import ScoreError, SoundfontError, SynthError
from ._fluidsynth import bindings
from ._fluidsynth import fluidsynth_version as fluidsynth_version  # the public place of it
from .instruments import INSTRUMENTS, instrument_index
from .midi import Event
from .score import Score
from .soundfonts import check_soundfont, find_soundfont, remedy

_BLOCK = 64  # FluidSynth lets an event take effect only at the start of a block of 64 frames
# The loudest of 8000 mixes then peaks below 1. It must be a float: an integer is ignored.
_GAIN = 1.0
_POLYPHONY = 128  # the default, 256, costs a tenth of the rendering time and is never reached
_DRUMS = (128, 0)  # bank and program that channel 10 is given when a font is attached
# Parameters of a sound that can be changed, by their names in the SF2 specification, section 8.1.3. Units: cents of
# pitch or of a filter's frequency; timecents, of which 1200 double a time; centibels.
GENERATORS = {
    "vibLfoToPitch": 6,
    "initialFilterFc": 8,
    "initialFilterQ": 9,
    "freqVibLFO": 24,
    "delayVibLFO": 23,
    "delayVolEnv": 33,
    "attackVolEnv": 34,
    "holdVolEnv": 35,
    "decayVolEnv": 36,
    "sustainVolEnv": 37,
    "releaseVolEnv": 38,
    "initialAttenuation": 48,
    "fineTune": 52,
}
BEND_RANGE = 2.0  # semitones up and down that a pitch bend reaches
_BEND_STEP = 0.01  # seconds between two values of a bend
_KINDS = ("note_off", "pitchwheel", "note_on")  # in this order where they fall on the same frame


@dataclass(frozen=True)
class SynthOverrides:
    """Changes to how an instrument is played: to the soundfont's own parameters, or to what a player controls.

    Parameters
    ----------
    generators : mapping of names in ``GENERATORS`` to offsets
        Added to the soundfont's own values: ``{"attackVolEnv": 6000}`` makes the attack 32 times as long.
    controllers : mapping of MIDI controller numbers to values, both 0 to 127
        ``{1: 127}`` turns the modulation wheel all the way up.
    pitch_bend : function of seconds since a note's onset (array) to semitones, optional
        Starts anew with each note; in steps of 10 ms, within ``BEND_RANGE``.
    program : int, optional
        A General MIDI program, 0 to 127, instead of the instrument's own.

    Raises
    ------
    SynthError
        If a generator, controller or program does not exist.
    """

    generators: Mapping[str, float] = field(default_factory=dict)
    controllers: Mapping[int, int] = field(default_factory=dict)
    pitch_bend: Callable[[np.ndarray], np.ndarray] | None = None
    program: int | None = None

    def __post_init__(self):
        if self.program is not None and self.program not in range(128):
            raise SynthError(f"program {self.program} does not exist: it is a whole number from 0 to 127")
        for name in self.generators:
            if name not in GENERATORS:
                raise SynthError(f"{name!r} is not a known generator: use one of {', '.join(GENERATORS)}")
        for number, value in self.controllers.items():
            if number not in range(128) or value not in range(128):
                raise SynthError(f"controller {number} = {value} does not exist: both are whole numbers from 0 to 127")


_NO_OVERRIDES = SynthOverrides()


class Synth:
    """Renders scores with FluidSynth: the same score always gives the same samples.

    A FluidSynth synth that has played carries state into the next note, so every stem gets a fresh one; the
    loaded soundfont, with the twelve programs pinned in memory, is moved from synth to synth.

    Parameters
    ----------
    soundfont : path, optional
        An SF2 file; by default see :func:`find_soundfont`.
    effects : bool
        Reverb and chorus. Off by default: in FluidR3 only three of the twelve programs send to the
        chorus, which would label them.

    Raises
    ------
    SoundfontError
        If the soundfont is missing, damaged or lacks one of the twelve programs.
    SynthError
        If the FluidSynth library is not installed.
    """

    def __init__(self, soundfont: str | os.PathLike | None = None, effects: bool = False):
        self.soundfont = check_soundfont(find_soundfont() if soundfont is None else soundfont)
        self.effects = bool(effects)
        self._lock = threading.Lock()
        lib = bindings()
        fs = lib.module
        self._settings = fs.new_fluid_settings()
        for name, value in {
            "synth.reverb.active": int(self.effects),
            "synth.chorus.active": int(self.effects),
            "synth.polyphony": _POLYPHONY,
            # Only the samples of selected programs are read: 0.05 s and 60 MB instead of 2 s and 150 MB.
            "synth.dynamic-sample-loading": 1,
        }.items():
            fs.fluid_settings_setint(self._settings, name.encode(), value)
        fs.fluid_settings_setnum(self._settings, b"synth.gain", _GAIN)
        fs.fluid_settings_setnum(self._settings, b"synth.sample-rate", float(SAMPLE_RATE))
        self._home = fs.new_fluid_synth(self._settings)
        number = fs.fluid_synth_sfload(self._home, os.fsencode(self.soundfont), 0)
        if number < 0:
            self._delete(lib, self._settings, self._home, None)
            raise SoundfontError(f"FluidSynth cannot read the soundfont {self.soundfont}: it is damaged: {remedy()}")
        missing = [i for i in INSTRUMENTS if lib.pin_preset(self._home, number, 0, i.program) != 0]
        if missing:
            self._delete(lib, self._settings, self._home, None)
            names = ", ".join(f"{i.name} (program {i.program})" for i in missing)
            raise SoundfontError(f"the soundfont {self.soundfont} lacks {names}; use a General MIDI soundfont")
        # Attaching a font selects the drums on channel 10; unpinned they would be read each time (7 ms).
        lib.pin_preset(self._home, number, *_DRUMS)
        self._pinned = {i.program for i in INSTRUMENTS}
        self._font = fs.fluid_synth_get_sfont_by_id(self._home, number)
        lib.remove_sfont(self._home, self._font)
        self._finalizer = weakref.finalize(self, self._delete, lib, self._settings, self._home, self._font)

    @staticmethod
    def _delete(lib, settings, synth, font):
        if font is not None:
            lib.add_sfont(synth, font)  # a synth frees the fonts it owns
        lib.module.delete_fluid_synth(synth)
        lib.module.delete_fluid_settings(settings)

    def __reduce__(self):
        return Synth, (self.soundfont, self.effects)

    def render_stems(self, score: Score, overrides: Mapping[str | int, SynthOverrides] | None = None) -> np.ndarray:
        """Each instrument alone.

        Parameters
        ----------
        score : Score
        overrides : mapping of instruments (names or indices) to SynthOverrides, optional
            The other instruments are played as the soundfont has them.

        Returns
        -------
        float32 (k, 220_500)
            In the order of ``score.instruments``.
        """
        if not isinstance(score, Score):
            raise ScoreError(f"expected an il.Score, got {type(score).__name__}; read MIDI with il.Score.from_midi")
        overrides = {instrument_index(name): changes for name, changes in (overrides or {}).items()}
        stems = np.empty((len(score.instruments), CLIP_SAMPLES), np.float32)
        for stem, index in zip(stems, score.instruments, strict=True):
            stem[:] = self._render_stem(score, index, overrides.get(index, _NO_OVERRIDES))
        return stems

    def render(self, score: Score, overrides: Mapping[str | int, SynthOverrides] | None = None) -> np.ndarray:
        """The mix: the sum of the stems, float32 (220_500,).

        One synth playing all instruments would not give this sum exactly: FluidSynth glides the panning
        of a voice from the note that used it before, so the first two blocks (3 ms) of a note would
        depend on the other instruments.
        """
        return self.render_stems(score, overrides).sum(axis=0)

    def render_events(self, events: Iterable[Event], seconds: float) -> np.ndarray:
        """The sound of a whole piece, with all programs and drums of the soundfont.

        Parameters
        ----------
        events : Event, in order of time
            As from :func:`instr_lib.music.midi.midi_events`.
        seconds : float, length of the sound

        Returns
        -------
        float32 (samples,), mono
        """
        samples = round(seconds * SAMPLE_RATE)
        with self._fresh_synth() as (synth, _):
            for channel in range(16):  # General MIDI begins with pianos, and drums on channel 10
                bindings().module.fluid_synth_program_change(synth, channel, 0)
            return _perform(synth, [(_to_block(event.time), *event[1:]) for event in events], samples)

    @contextlib.contextmanager
    def _fresh_synth(self):
        """A synth that has not played yet, with the soundfont attached, and the number of the soundfont in it."""
        lib = bindings()
        with self._lock:
            synth = lib.module.new_fluid_synth(self._settings)
            number = lib.add_sfont(synth, self._font)
            try:
                yield synth, number
            finally:
                lib.remove_sfont(synth, self._font)
                lib.module.delete_fluid_synth(synth)

    def _pin(self, program: int):
        """Keep one more program's samples in memory; without that they would be read for each stem."""
        lib = bindings()
        number = lib.add_sfont(self._home, self._font)
        try:
            if lib.pin_preset(self._home, number, 0, program) != 0:
                raise SoundfontError(
                    f"the soundfont {self.soundfont} lacks program {program}; use a General MIDI soundfont"
                )
        finally:
            lib.remove_sfont(self._home, self._font)
        self._pinned.add(program)

    def _render_stem(self, score: Score, index: int, overrides: SynthOverrides) -> np.ndarray:
        lib = bindings()
        fs = lib.module
        events = _note_events(score, index, overrides.pitch_bend)
        program = INSTRUMENTS[index].program if overrides.program is None else overrides.program
        with self._lock:
            if program not in self._pinned:
                self._pin(program)
        with self._fresh_synth() as (synth, number):
            if fs.fluid_synth_program_select(synth, 0, number, 0, program) != 0:
                raise SoundfontError(
                    f"the soundfont {self.soundfont} lacks program {program}; use a General MIDI soundfont"
                )
            for controller, value in overrides.controllers.items():
                fs.fluid_synth_cc(synth, 0, controller, value)
            for name, offset in overrides.generators.items():
                lib.set_gen(synth, 0, GENERATORS[name], offset)
            return _perform(synth, events, CLIP_SAMPLES)


def _perform(synth, events: Iterable[tuple[int, str, int, int, int]], samples: int) -> np.ndarray:
    """What a synth plays, float32 (samples,). Events: frame, kind, channel and two numbers, in order of time."""
    lib = bindings()
    fs = lib.module
    send = {
        "note_on": lambda channel, pitch, velocity: fs.fluid_synth_noteon(synth, channel, pitch, velocity),
        "note_off": lambda channel, pitch, _: fs.fluid_synth_noteoff(synth, channel, pitch),
        "control_change": lambda channel, number, value: fs.fluid_synth_cc(synth, channel, number, value),
        "program_change": lambda channel, program, _: fs.fluid_synth_program_change(synth, channel, program),
        "pitchwheel": lambda channel, pitch, _: fs.fluid_synth_pitch_bend(synth, channel, pitch + 8192),
    }
    frames = -(-samples // _BLOCK) * _BLOCK
    left, right = np.empty((2, frames), np.float32)
    now = 0
    for frame, kind, *message in [*events, (frames, None)]:
        frame = min(frame, frames)
        if frame > now:
            lib.write_float(synth, frame - now, left.ctypes.data, now, 1, right.ctypes.data, now, 1)
            now = frame
        if kind is not None:
            send[kind](*message)
    left += right
    left /= 2
    return left[:samples]


def _note_events(score: Score, index: int, pitch_bend: Callable | None) -> list[tuple[int, str, int, int, int]]:
    """What one instrument plays, on channel 0, for :func:`_perform`."""
    rows = []
    for note in score.notes:
        if note.instrument == index:
            rows.append((_to_block(note.onset), _KINDS.index("note_on"), note.pitch, note.velocity))
            rows.append((_to_block(note.end), _KINDS.index("note_off"), note.pitch, 0))
            if pitch_bend is not None:
                times = np.arange(0, note.duration, _BEND_STEP)
                values = _wheel_values(pitch_bend(times), times.shape)
                frames = [_to_block(note.onset + time) for time in times]
                rows += [(f, _KINDS.index("pitchwheel"), value, 0) for f, value in zip(frames, values, strict=True)]
    return [(frame, _KINDS[kind], 0, first, second) for frame, kind, first, second in sorted(rows)]


def _wheel_values(semitones: np.ndarray, shape: tuple[int, ...]) -> list[int]:
    """Values of the pitch wheel, -8192 to 8191."""
    semitones = np.broadcast_to(semitones, shape)
    if not np.isfinite(semitones).all():
        raise SynthError("the pitch bend of a note is NaN or infinite: give semitones")
    return [int(value) - 8192 for value in np.rint(8192 + 8192 * semitones / BEND_RANGE).clip(0, 16_383)]


def _to_block(seconds: float) -> int:
    """Nearest frame at which FluidSynth lets an event take effect; at most 0.73 ms away."""
    return round(seconds * SAMPLE_RATE / _BLOCK) * _BLOCK


@functools.cache
def _synth_at(soundfont: str) -> Synth:
    return Synth(soundfont)


_loading = threading.Lock()


def cached_synth(soundfont: str | os.PathLike | None = None) -> Synth:
    """The one synth of this process for a soundfont, as for :class:`Synth`, without effects."""
    with _loading:  # a cluster's worker may ask in several threads at once
        return _synth_at(str(find_soundfont() if soundfont is None else soundfont))
