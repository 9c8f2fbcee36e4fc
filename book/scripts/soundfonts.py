"""Install the further soundfonts, which chapter 9 compares with FluidR3: `make soundfonts`.

Whatever cannot be installed is skipped with a message; chapter 9 then leaves out what needs it. Only the standard library
is imported here, and .venv is needed for Freepats alone.
"""

import hashlib
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from system_packages import install_if_permitted, reason, run

ROOT = Path(__file__).resolve().parents[2]

# Files of these soundfonts, the Debian packages that contain them, and what these weigh when downloaded (Debian 12).
OTHER_SOUNDFONTS = {
    "/usr/share/minuet/soundfonts/GeneralUser-v1.47.sf2": "minuet-data",
    "/usr/share/sounds/sf2/A320U.sf2": "denemo-data",
    "/usr/share/sounds/sf2/OPL-3_FM_128M.sf2": "opl3-soundfont",
    "/usr/share/sounds/sf2/TimGM6mb.sf2": "timgm6mb-soundfont",
    "/usr/share/midi/freepats/Tone_000/040_Violin.pat": "freepats",
}
DOWNLOAD_MB = {"minuet-data": 27, "denemo-data": 10, "opl3-soundfont": 100, "timgm6mb-soundfont": 5, "freepats": 25}
MADE = Path("~/.local/share/soundfonts")  # the user's own, for the two that no Debian package contains as .sf2
# The npm package that contains Sonivox, and the file in it.
SONIVOX = ("@coderline/alphatab@1.8.4", "package/dist/soundfont/sonivox.sf2")
SONIVOX_SHA256 = "4978cf37e7164206f2d22dc4fdf4020ffe040787210bf781e31bdc79961f59ef"


FREEPATS = Path("/usr/share/midi/freepats")
TRIED = ROOT / ".venv" / "soundfonts-tried"


def install_once():
    """For `make book`: try once for each .venv, then only say what is missing, so that later builds do not wait."""
    if not TRIED.exists():
        install_soundfonts()
        TRIED.touch()
    wanted = [Path(file) for file in OTHER_SOUNDFONTS] + [
        MADE.expanduser() / name for name in ("sonivox.sf2", "Freepats.sf2")
    ]
    if names := [file.name for file in wanted if not file.is_file()]:
        print(f"setup: chapter 9 leaves out what needs {', '.join(names)}; 'make soundfonts' tries again to install them")


def install_soundfonts():
    """Install all of them that are missing."""
    missing = [package for file, package in OTHER_SOUNDFONTS.items() if not Path(file).is_file()]
    if missing:
        megabytes = sum(DOWNLOAD_MB[package] for package in missing)
        npm = "" if shutil.which("npm") else "; and npm, for Sonivox"
        print(f"setup: soundfonts for chapter 9: {megabytes} MB to download ({', '.join(missing)}{npm})", flush=True)
        install_if_permitted(missing)
    folder = MADE.expanduser()
    if not (folder / "sonivox.sf2").is_file():
        fetch_sonivox(folder / "sonivox.sf2")
    if FREEPATS.is_dir() and not (folder / "Freepats.sf2").is_file():
        make = f"from tools.freepats import make_soundfont; make_soundfont({str(folder / 'Freepats.sf2')!r})"
        done, output = run("Freepats.sf2, made from its patches", [ROOT / ".venv" / "bin" / "python", "-c", make], cwd=ROOT)
        if not done:
            print(f"setup: that step failed ({reason(output)})")


def fetch_sonivox(path):
    """Extract one file of an npm package, if its hash is right; otherwise print why not, and go on."""
    npm = shutil.which("npm") or (install_if_permitted(["npm"]) or shutil.which("npm"))
    if not npm:
        print("setup: sonivox.sf2 comes in an npm package: install npm and run 'make soundfonts' again")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        done, output = run("sonivox.sf2", [npm, "pack", "--silent", "--fetch-retries=1", SONIVOX[0]], cwd=folder)
        archives = list(Path(folder).glob("*.tgz"))
        if not (done and archives):
            print(f"setup: npm could not fetch {SONIVOX[0]} ({reason(output)})")
            return
        with tarfile.open(archives[0]) as archive:
            content = archive.extractfile(SONIVOX[1]).read()
        if hashlib.sha256(content).hexdigest() != SONIVOX_SHA256:
            print(f"setup: {SONIVOX[1]} of {SONIVOX[0]} has changed: skipped")
            return
        part = path.with_suffix(".part")
        part.write_bytes(content)
        part.replace(path)


if __name__ == "__main__":
    try:
        install_once() if "--once" in sys.argv else install_soundfonts()
    except KeyboardInterrupt:
        sys.exit("\nsetup: stopped; run make again to go on")
