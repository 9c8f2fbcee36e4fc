"""From a score to sound, as a mix and as stems. The only module that knows FluidSynth.

Sound is float32 mono at 44 100 Hz, 220 500 samples a clip, within -1 and 1. A *stem* is the sound
of one instrument alone; the *mix* is by definition the sum of the stems. Chapter 1 listens to both.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import os
import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from .errors import ScoreError, SoundfontError, SynthError
from .instruments import INSTRUMENTS, instrument_index
from .score import CLIP_SECONDS, Event, Note, Score

SAMPLE_RATE = 44_100
CLIP_SAMPLES = int(CLIP_SECONDS * SAMPLE_RATE)

_BLOCK = 64  # FluidSynth lets an event take effect only at the start of a block of 64 frames
_BLOCKS = -(-CLIP_SAMPLES // _BLOCK)
# The loudest of 8000 mixes then peaks below 1. It must be a float: an integer is ignored.
_GAIN = 1.0
_POLYPHONY = 128  # the default, 256, costs a tenth of the rendering time and is never reached
_DRUMS = (128, 0)  # bank and program that channel 10 is given when a font is attached

# What a soundfont lets one change about a sound, by its name in the SF2 specification, section 8.1.3. Units: cents
# of pitch or of a filter's frequency; timecents, of which 1200 double a time; centibels.
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


class Soundfont(NamedTuple):
    """A General MIDI soundfont: its file, the package that it is in (of Debian, or else of npm), and its licence."""

    file: str
    package: str
    licence: str


# The published networks learned from FluidR3, the robust one from the four below it too. TimGM6mb is kept for the test,
# and nothing learns from A320U either, because it has TimGM6mb's violin in it, byte by byte (chapter 9, exercise 1).
SOUNDFONTS = {
    "FluidR3": Soundfont("FluidR3_GM.sf2", "fluid-soundfont-gm", "MIT"),
    "GeneralUser": Soundfont("GeneralUser-v1.47.sf2", "minuet-data", "GeneralUser GS licence 2.0"),
    "OPL3": Soundfont("OPL-3_FM_128M.sf2", "opl3-soundfont", "CC BY-SA 3.0"),
    "Sonivox": Soundfont("sonivox.sf2", "@coderline/alphatab", "Apache-2.0"),
    "Freepats": Soundfont("Freepats.sf2", "freepats", "GPL-2, music made with it excepted"),  # made by instr_lib.freepats
    "A320U": Soundfont("A320U.sf2", "denemo-data", "GPL-2"),
    "TimGM6mb": Soundfont("TimGM6mb.sf2", "timgm6mb-soundfont", "GPL-2"),
}
_PLACES = ("/usr/share/sounds/sf2", "/usr/share/soundfonts", "/usr/local/share/sounds/sf2", "~/.local/share/soundfonts")
_MINUET = "/usr/share/minuet/soundfonts"  # where Debian's minuet-data puts GeneralUser
_REMEDY = "install it (Debian, Ubuntu: 'apt-get install fluid-soundfont-gm') or point INSTR_SOUNDFONT at an .sf2 file"


def find_soundfont(name: str | None = None) -> Path:
    """Path of a soundfont: by default of ``$INSTR_SOUNDFONT`` or, without it, of the FluidR3_GM.sf2 found on this machine.

    Parameters
    ----------
    name : str, optional
        One of ``SOUNDFONTS``, wherever ``$INSTR_SOUNDFONT`` points; but ``"FluidR3"`` means the default.

    Raises
    ------
    SoundfontError
        If there is none, or no such name; the message says what to install.
    """
    name = name or "FluidR3"
    if name not in SOUNDFONTS:
        raise SoundfontError(f"no soundfont is called {name!r}: choose among {', '.join(SOUNDFONTS)}, or give a path")
    if name == "FluidR3" and os.environ.get("INSTR_SOUNDFONT"):
        return Path(os.environ["INSTR_SOUNDFONT"]).expanduser()
    only = os.environ.get("INSTR_SOUNDFONT_PLACES")  # folders to search instead, separated as in PATH
    for place in only.split(os.pathsep) if only else (*_PLACES, _MINUET):
        path = Path(place).expanduser() / SOUNDFONTS[name].file
        if path.is_file():
            return path
    remedy = _REMEDY
    if name != "FluidR3":
        remedy = (
            f"'make soundfonts' installs it (from the package {SOUNDFONTS[name].package}); or put it into {_PLACES[-1]}"
        )
    raise SoundfontError(f"the soundfont {SOUNDFONTS[name].file} was not found; {remedy}")


def check_soundfont(path: str | os.PathLike) -> Path:
    """The path, if the file is there and is a whole SF2 file by its header.

    Raises
    ------
    SoundfontError
        If it is missing, empty, not a soundfont or cut short.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise SoundfontError(f"the soundfont {path} does not exist; {_REMEDY}")
    with open(path, "rb") as file:
        header = file.read(12)
    if not header:
        raise SoundfontError(f"the soundfont {path} is empty; {_REMEDY}")
    if len(header) < 12 or header[:4] != b"RIFF" or header[8:] != b"sfbk":
        raise SoundfontError(f"{path} is not an SF2 soundfont; {_REMEDY}")
    expected = struct.unpack("<I", header[4:8])[0] + 8
    if path.stat().st_size < expected:
        raise SoundfontError(f"the soundfont {path} is cut short ({path.stat().st_size} of {expected} bytes); {_REMEDY}")
    return path


@functools.lru_cache
def soundfont_sha256(path: Path) -> str:
    """SHA-256 of a soundfont, so that a dataset can name the sound it was made of."""
    with open(check_soundfont(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _fluidsynth() -> SimpleNamespace:
    """The C functions we call. pyfluidsynth has most of them; it leaves out those below."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # with CI set it prints where it found the library
            fs = importlib.import_module("fluidsynth")
    except (ImportError, OSError) as error:
        raise SynthError(
            f"the FluidSynth library cannot be loaded ({error}); install it (Debian, Ubuntu: 'apt-get install "
            "libfluidsynth3', macOS: 'brew install fluid-synth') and the Python package pyfluidsynth (not 'fluidsynth')"
        ) from None
    from ctypes import c_float, c_int, c_void_p

    def bind(name, result, *types):
        function = fs.cfunc(name, result, *((f"a{i}", t, 1) for i, t in enumerate(types)))
        if function is None:
            raise SynthError(f"this FluidSynth library lacks {name}; install FluidSynth 2.2 or newer")
        return function

    p, i = c_void_p, c_int
    lib = SimpleNamespace(
        write_float=bind("fluid_synth_write_float", i, p, i, p, i, i, p, i, i),
        pin_preset=bind("fluid_synth_pin_preset", i, p, i, i, i),
        add_sfont=bind("fluid_synth_add_sfont", i, p, p),
        remove_sfont=bind("fluid_synth_remove_sfont", i, p, p),
        set_gen=bind("fluid_synth_set_gen", i, p, i, i, c_float),
        module=fs,
    )
    # Every new synth without a font would print 16 warnings to stderr; failures reach us as
    # return values. Levels: 0 panic, 1 error, 2 warning.
    set_log = bind("fluid_set_log_function", p, i, p, p)
    for level in (0, 1, 2):
        set_log(level, None, None)
    return lib


def fluidsynth_version() -> str:
    """Version of the FluidSynth library, such as ``2.3.1``."""
    from ctypes import byref, c_int

    numbers = [c_int() for _ in range(3)]
    _fluidsynth().module.fluid_version(*(byref(n) for n in numbers))
    return ".".join(str(n.value) for n in numbers)


@dataclass(frozen=True)
class Playing:
    """How an instrument is to be played, other than the soundfont has it.

    Parameters
    ----------
    generators : mapping of names in ``GENERATORS`` to offsets
        Added to the soundfont's own values: ``{"attackVolEnv": 6000}`` makes the attack 32 times as long.
    controllers : mapping of MIDI controller numbers to values, both 0 to 127
        ``{1: 127}`` turns the modulation wheel all the way up.
    bend : function of seconds since a note's onset (array) to semitones, optional
        Followed anew for each note, in steps of 10 ms, within ``BEND_RANGE``.
    program : int, optional
        Another General MIDI program than the instrument's own, 0 to 127: another make of it.

    Raises
    ------
    SynthError
        If a generator, controller or program does not exist.
    """

    generators: Mapping[str, float] = field(default_factory=dict)
    controllers: Mapping[int, int] = field(default_factory=dict)
    bend: Callable[[np.ndarray], np.ndarray] | None = None
    program: int | None = None

    def __post_init__(self):
        if self.program is not None and self.program not in range(128):
            raise SynthError(f"program {self.program} does not exist: it is a whole number from 0 to 127")
        for name in self.generators:
            if name not in GENERATORS:
                raise SynthError(f"{name!r} is no generator we know: use one of {', '.join(GENERATORS)}")
        for number, value in self.controllers.items():
            if number not in range(128) or value not in range(128):
                raise SynthError(f"controller {number} = {value} does not exist: both are whole numbers from 0 to 127")


_AS_IS = Playing()


class Synth:
    """Renders scores with FluidSynth, the same samples for the same score, always.

    A synth that has played carries state into the next note, so every stem gets a fresh one; the
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
        lib = _fluidsynth()
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
            raise SoundfontError(f"FluidSynth cannot read the soundfont {self.soundfont}: it is damaged; {_REMEDY}")
        lacking = [i for i in INSTRUMENTS if lib.pin_preset(self._home, number, 0, i.program) != 0]
        if lacking:
            self._delete(lib, self._settings, self._home, None)
            names = ", ".join(f"{i.name} (program {i.program})" for i in lacking)
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

    def render_stems(self, score: Score, playing: Mapping[str | int, Playing] | None = None) -> np.ndarray:
        """Each instrument alone.

        Parameters
        ----------
        score : Score
        playing : mapping of instruments (names or indices) to Playing, optional
            Those that are not to be played as the soundfont has them.

        Returns
        -------
        float32 (k, 220_500)
            In the order of ``score.instruments``.
        """
        if not isinstance(score, Score):
            raise ScoreError(f"expected an il.Score, got {type(score).__name__}; read MIDI with il.Score.from_midi")
        playing = {instrument_index(name): how for name, how in (playing or {}).items()}
        stems = np.empty((len(score.instruments), CLIP_SAMPLES), np.float32)
        for stem, index in zip(stems, score.instruments, strict=True):
            self._render_into(stem, score, index, playing.get(index, _AS_IS))
        return stems

    def render(self, score: Score, playing: Mapping[str | int, Playing] | None = None) -> np.ndarray:
        """The mix: the sum of the stems, float32 (220_500,).

        One synth playing all instruments would not give this sum exactly: FluidSynth glides the panning
        of a voice from the note that used it before, so what a note sounds like in its first two blocks
        (3 ms) would depend on the other instruments.
        """
        return self.render_stems(score, playing).sum(axis=0)

    def render_events(self, events: Iterable[Event], seconds: float) -> np.ndarray:
        """The sound of a whole piece, all programs and drums of the soundfont at once, see :func:`score.midi_events`.

        Parameters
        ----------
        events : Event, by time
        seconds : float, how long it sounds

        Returns
        -------
        float32 (samples,), mono
        """
        lib = _fluidsynth()
        fs = lib.module
        frames = -(-round(seconds * SAMPLE_RATE) // _BLOCK) * _BLOCK
        left, right = np.zeros((2, frames), np.float32)
        act = {
            "note_on": lambda s, e: fs.fluid_synth_noteon(s, e.channel, e.first, e.second),
            "note_off": lambda s, e: fs.fluid_synth_noteoff(s, e.channel, e.first),
            "control_change": lambda s, e: fs.fluid_synth_cc(s, e.channel, e.first, e.second),
            "program_change": lambda s, e: fs.fluid_synth_program_change(s, e.channel, e.first),
            "pitchwheel": lambda s, e: fs.fluid_synth_pitch_bend(s, e.channel, e.first + 8192),
        }
        with self._lock:
            synth = fs.new_fluid_synth(self._settings)
            lib.add_sfont(synth, self._font)
            for channel in range(16):  # General MIDI begins with pianos, and drums on channel 10
                fs.fluid_synth_program_change(synth, channel, 0)
            try:
                now = 0
                for event in [*events, None]:
                    frame = frames if event is None else min(_to_block(event.time), frames)
                    if frame > now:
                        lib.write_float(synth, frame - now, left.ctypes.data, now, 1, right.ctypes.data, now, 1)
                        now = frame
                    if event is not None:
                        act[event.kind](synth, event)
            finally:
                lib.remove_sfont(synth, self._font)
                fs.delete_fluid_synth(synth)
        return ((left + right) / 2)[: round(seconds * SAMPLE_RATE)]

    def _pin(self, program: int):
        """Keep one more program's samples in memory; without that they would be read for each stem."""
        lib = _fluidsynth()
        number = lib.add_sfont(self._home, self._font)
        try:
            if lib.pin_preset(self._home, number, 0, program) != 0:
                raise SoundfontError(
                    f"the soundfont {self.soundfont} lacks program {program}; use a General MIDI soundfont"
                )
        finally:
            lib.remove_sfont(self._home, self._font)
        self._pinned.add(program)

    def _render_into(self, stem: np.ndarray, score: Score, index: int, playing: Playing):
        events = []  # (frame, kind, ...): at the same frame a note ends, then the pitch bends, then the next note starts
        for note in score.notes:
            if note.instrument == index:
                events.append((_to_block(note.onset), _ON, note.pitch, note.velocity))
                events.append((_to_block(note.end), _OFF, note.pitch, 0))
                if playing.bend is not None:
                    events += _bends(note, playing.bend)
        program = INSTRUMENTS[index].program if playing.program is None else playing.program
        lib = _fluidsynth()
        fs = lib.module
        left, right = np.empty((2, _BLOCKS * _BLOCK), np.float32)
        with self._lock:
            if program not in self._pinned:
                self._pin(program)
            synth = fs.new_fluid_synth(self._settings)
            number = lib.add_sfont(synth, self._font)
            try:
                if fs.fluid_synth_program_select(synth, 0, number, 0, program) != 0:
                    raise SoundfontError(f"the soundfont {self.soundfont} lacks program {program}")
                for controller, value in playing.controllers.items():
                    fs.fluid_synth_cc(synth, 0, controller, value)
                for name, offset in playing.generators.items():
                    lib.set_gen(synth, 0, GENERATORS[name], offset)
                now = 0
                for frame, kind, value, velocity in [*sorted(events), (len(left), None, 0, 0)]:
                    frame = min(frame, len(left))
                    lib.write_float(synth, frame - now, left.ctypes.data, now, 1, right.ctypes.data, now, 1)
                    now = frame
                    if kind == _ON:
                        fs.fluid_synth_noteon(synth, 0, value, velocity)
                    elif kind == _OFF:
                        fs.fluid_synth_noteoff(synth, 0, value)
                    elif kind == _BEND:
                        fs.fluid_synth_pitch_bend(synth, 0, value)
            finally:
                lib.remove_sfont(synth, self._font)
                fs.delete_fluid_synth(synth)
        np.add(left[:CLIP_SAMPLES], right[:CLIP_SAMPLES], out=stem)
        stem /= 2


_OFF, _BEND, _ON = range(3)


def _bends(note: Note, bend: Callable[[np.ndarray], np.ndarray]) -> list[tuple[int, int, int, int]]:
    """Values of the pitch wheel, 0 to 16 383 with 8192 in the middle, from a note's onset to its end."""
    since = np.arange(0, note.duration, _BEND_STEP)
    semitones = np.broadcast_to(bend(since), since.shape)
    if not np.isfinite(semitones).all():
        raise SynthError("the bend of a note is NaN or infinite: give semitones")
    values = np.rint(8192 + 8192 * semitones / BEND_RANGE).clip(0, 16_383)
    return [(_to_block(note.onset + t), _BEND, int(value), 0) for t, value in zip(since, values, strict=True)]


def _to_block(seconds: float) -> int:
    """Nearest frame at which FluidSynth lets an event take effect; at most 0.73 ms away."""
    return round(seconds * SAMPLE_RATE / _BLOCK) * _BLOCK
