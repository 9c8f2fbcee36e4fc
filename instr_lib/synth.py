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
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from .errors import ScoreError, SoundfontError, SynthError
from .instruments import INSTRUMENTS
from .score import CLIP_SECONDS, Score

SAMPLE_RATE = 44_100
CLIP_SAMPLES = int(CLIP_SECONDS * SAMPLE_RATE)

_BLOCK = 64  # FluidSynth lets an event take effect only at the start of a block of 64 frames
_BLOCKS = -(-CLIP_SAMPLES // _BLOCK)
# The loudest of 8000 mixes then peaks below 1. It must be a float: an integer is ignored.
_GAIN = 1.0
_POLYPHONY = 128  # the default, 256, costs a tenth of the rendering time and is never reached
_DRUMS = (128, 0)  # bank and program that channel 10 is given when a font is attached

_PLACES = ("/usr/share/sounds/sf2", "/usr/share/soundfonts", "/usr/local/share/sounds/sf2", "~/.local/share/soundfonts")
_REMEDY = "install it (Debian, Ubuntu: 'apt-get install fluid-soundfont-gm') or point INSTR_SOUNDFONT at an .sf2 file"


def find_soundfont() -> Path:
    """Path of ``$INSTR_SOUNDFONT`` or, without it, of the FluidR3_GM.sf2 found on this machine.

    Raises
    ------
    SoundfontError
        If there is none; the message says what to install.
    """
    if os.environ.get("INSTR_SOUNDFONT"):
        return Path(os.environ["INSTR_SOUNDFONT"]).expanduser()
    for place in _PLACES:
        path = Path(place).expanduser() / "FluidR3_GM.sf2"
        if path.is_file():
            return path
    raise SoundfontError(f"the soundfont FluidR3_GM.sf2 was not found; {_REMEDY}")


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
    """The C functions we call. pyfluidsynth has most of them; it leaves out the four below."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # with CI set it prints where it found the library
            fs = importlib.import_module("fluidsynth")
    except (ImportError, OSError) as error:
        raise SynthError(
            f"the FluidSynth library cannot be loaded ({error}); install it (Debian, Ubuntu: 'apt-get install "
            "libfluidsynth3', macOS: 'brew install fluid-synth') and the Python package pyfluidsynth (not 'fluidsynth')"
        ) from None
    from ctypes import c_int, c_void_p

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

    def render_stems(self, score: Score) -> np.ndarray:
        """Each instrument alone.

        Returns
        -------
        float32 (k, 220_500)
            In the order of ``score.instruments``.
        """
        if not isinstance(score, Score):
            raise ScoreError(f"expected an il.Score, got {type(score).__name__}; read MIDI with il.Score.from_midi")
        stems = np.empty((len(score.instruments), CLIP_SAMPLES), np.float32)
        for stem, index in zip(stems, score.instruments, strict=True):
            self._render_into(stem, score, index)
        return stems

    def render(self, score: Score) -> np.ndarray:
        """The mix: the sum of the stems, float32 (220_500,).

        One synth playing all instruments would not give this sum exactly: FluidSynth glides the panning
        of a voice from the note that used it before, so what a note sounds like in its first two blocks
        (3 ms) would depend on the other instruments.
        """
        return self.render_stems(score).sum(axis=0)

    def _render_into(self, stem: np.ndarray, score: Score, index: int):
        events = []  # (frame, is_on, pitch, velocity): at the same frame a note ends before the next starts
        for note in score.notes:
            if note.instrument == index:
                events.append((_to_block(note.onset), 1, note.pitch, note.velocity))
                events.append((_to_block(note.end), 0, note.pitch, 0))
        lib = _fluidsynth()
        fs = lib.module
        left, right = np.empty((2, _BLOCKS * _BLOCK), np.float32)
        with self._lock:
            synth = fs.new_fluid_synth(self._settings)
            number = lib.add_sfont(synth, self._font)
            try:
                if fs.fluid_synth_program_select(synth, 0, number, 0, INSTRUMENTS[index].program) != 0:
                    raise SoundfontError(f"the soundfont {self.soundfont} lacks {INSTRUMENTS[index].name}")
                now = 0
                for frame, is_on, pitch, velocity in [*sorted(events), (len(left), None, 0, 0)]:
                    frame = min(frame, len(left))
                    lib.write_float(synth, frame - now, left.ctypes.data, now, 1, right.ctypes.data, now, 1)
                    now = frame
                    if is_on == 1:
                        fs.fluid_synth_noteon(synth, 0, pitch, velocity)
                    elif is_on == 0:
                        fs.fluid_synth_noteoff(synth, 0, pitch)
            finally:
                lib.remove_sfont(synth, self._font)
                fs.delete_fluid_synth(synth)
        np.add(left[:CLIP_SAMPLES], right[:CLIP_SAMPLES], out=stem)
        stem /= 2


def _to_block(seconds: float) -> int:
    """Nearest frame at which FluidSynth lets an event take effect; at most 0.73 ms away."""
    return round(seconds * SAMPLE_RATE / _BLOCK) * _BLOCK
