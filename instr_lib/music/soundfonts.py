"""Soundfonts: where they are looked for, whether a file is one, and its hash. Chapter 9 compares all of them."""

from __future__ import annotations

import functools
import os
import struct
from pathlib import Path
from typing import NamedTuple

from .._files import sha256
from ..errors import SoundfontError


class Soundfont(NamedTuple):
    """A General MIDI soundfont: its file, the Debian package that it comes from (npm, if it begins with @), its licence."""

    file: str
    package: str
    licence: str


# The published networks learned from FluidR3, the robust one also from the four below it. TimGM6mb is held out for the
# test, and so is A320U, which contains TimGM6mb's violin byte for byte (chapter 9, exercise 1).
SOUNDFONTS = {
    "FluidR3": Soundfont("FluidR3_GM.sf2", "fluid-soundfont-gm", "MIT"),
    "GeneralUser": Soundfont("GeneralUser-v1.47.sf2", "minuet-data", "GeneralUser GS licence 2.0"),
    "OPL3": Soundfont("OPL-3_FM_128M.sf2", "opl3-soundfont", "CC BY-SA 3.0"),
    "Sonivox": Soundfont("sonivox.sf2", "@coderline/alphatab", "Apache-2.0"),
    "Freepats": Soundfont("Freepats.sf2", "freepats", "GPL-2, music made with it excepted"),  # by tools/freepats.py
    "A320U": Soundfont("A320U.sf2", "denemo-data", "GPL-2"),
    "TimGM6mb": Soundfont("TimGM6mb.sf2", "timgm6mb-soundfont", "GPL-2"),
}
_PLACES = ("/usr/share/sounds/sf2", "/usr/share/soundfonts", "/usr/local/share/sounds/sf2", "~/.local/share/soundfonts")
_MINUET = "/usr/share/minuet/soundfonts"  # where Debian's minuet-data puts GeneralUser


def remedy(name: str = "FluidR3") -> str:
    """How to get one of ``SOUNDFONTS``, with a wheel and with a checkout: the end of an error message."""
    package = SOUNDFONTS[name].package
    source = f"the npm package {package}" if package.startswith("@") else f"the package {package}"
    if name == "FluidR3":
        advice = f"install {source} (Debian, Ubuntu: 'apt-get install {package}') or point INSTR_SOUNDFONT at an .sf2 file"
    elif name == "Freepats":
        advice = f"put the file, which tools/freepats.py makes from {source}, into {_PLACES[-1]}"
    else:
        advice = f"install {source}, or put the file into {_PLACES[-1]}"
    return f"{advice}; in a checkout of the repository 'make soundfonts' does it"


def find_soundfont(name: str | None = None) -> Path:
    """Path of a soundfont: by default ``$INSTR_SOUNDFONT`` or, if that is not set, the FluidR3_GM.sf2 of this machine.

    Parameters
    ----------
    name : str, optional
        One of ``SOUNDFONTS``. ``$INSTR_SOUNDFONT`` stands in for ``"FluidR3"`` only;
        ``$INSTR_SOUNDFONT_PLACES``, folders separated as in PATH, are searched instead of the usual ones.

    Raises
    ------
    SoundfontError
        If the file is not found, or the name is unknown; the message says what to install.
    """
    name = name or "FluidR3"
    if name not in SOUNDFONTS:
        raise SoundfontError(f"no soundfont is called {name!r}: choose among {', '.join(SOUNDFONTS)}, or give a path")
    if name == "FluidR3" and os.environ.get("INSTR_SOUNDFONT"):
        return Path(os.environ["INSTR_SOUNDFONT"]).expanduser()
    only = os.environ.get("INSTR_SOUNDFONT_PLACES")
    for place in only.split(os.pathsep) if only else (*_PLACES, _MINUET):
        path = Path(place).expanduser() / SOUNDFONTS[name].file
        if path.is_file():
            return path
    raise SoundfontError(f"the soundfont {SOUNDFONTS[name].file} was not found: {remedy(name)}")


def check_soundfont(path: str | os.PathLike) -> Path:
    """The path, if the file exists and, by its header, is a whole SF2 file.

    Raises
    ------
    SoundfontError
        If it is missing, empty, not a soundfont or cut short.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise SoundfontError(f"the soundfont {path} does not exist: {remedy()}")
    with open(path, "rb") as file:
        header = file.read(12)
    if not header:
        raise SoundfontError(f"the soundfont {path} is empty: {remedy()}")
    if len(header) < 12 or header[:4] != b"RIFF" or header[8:] != b"sfbk":
        raise SoundfontError(f"{path} is not an SF2 soundfont: {remedy()}")
    expected = struct.unpack("<I", header[4:8])[0] + 8
    if path.stat().st_size < expected:
        raise SoundfontError(f"the soundfont {path} is cut short ({path.stat().st_size} of {expected} bytes): {remedy()}")
    return path


@functools.lru_cache
def soundfont_sha256(path: Path) -> str:
    """SHA-256 of a soundfont, by which a dataset names the sound that it was made of."""
    return sha256(check_soundfont(path))
