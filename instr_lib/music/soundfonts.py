"""Soundfonts: where they are looked for, whether a file is one, and its hash."""

from __future__ import annotations

import functools
import os
import struct
from pathlib import Path
from typing import NamedTuple

from .._files import sha256
from ..errors import SoundfontError


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
    for place in (*_PLACES, _MINUET):
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
    return sha256(check_soundfont(path))
