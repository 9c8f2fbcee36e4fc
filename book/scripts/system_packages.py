"""System packages: what is missing, and how to install it with apt-get.

Used before anything is installed, so only the standard library is imported.
"""

import ctypes.util
import importlib.util
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

# The places of instr_lib.music.soundfonts.find_soundfont, which cannot be imported yet.
SOUNDFONT_PLACES = (
    "/usr/share/sounds/sf2",
    "/usr/share/soundfonts",
    "/usr/local/share/sounds/sf2",
    "~/.local/share/soundfonts",
)
ANY_SF2 = "point INSTR_SOUNDFONT at any General MIDI .sf2 file"


def stop(message):
    """End with one line and status 1."""
    sys.exit("setup: " + message)


def find_soundfont():
    """Path of the soundfont that will be played, or None if none is installed. Stop at a damaged one."""
    named = os.environ.get("INSTR_SOUNDFONT")
    paths = [Path(place).expanduser() / "FluidR3_GM.sf2" for place in SOUNDFONT_PLACES]
    path = Path(named).expanduser() if named else next((p for p in paths if p.is_file()), None)
    if path is None:
        return None
    remedy = ANY_SF2 + (", or unset it" if named else ", or install the package fluid-soundfont-gm again")
    if not path.is_file():
        stop(f"the soundfont {path} does not exist: {remedy}")
    try:
        with open(path, "rb") as file:
            header = file.read(12)
    except OSError as error:
        stop(f"the soundfont {path} cannot be read ({error.strerror}): {remedy}")
    if not header:
        stop(f"the soundfont {path} is empty: {remedy}")
    if len(header) < 12 or header[:4] != b"RIFF" or header[8:] != b"sfbk":
        stop(f"{path} is not an SF2 soundfont: {remedy}")
    if path.stat().st_size < struct.unpack("<I", header[4:8])[0] + 8:
        stop(f"the soundfont {path} is cut short: {remedy}")
    return path


def missing_packages(new):
    """Debian names of the missing system packages. new: whether .venv is to be made."""
    importlib.invalidate_caches()
    missing = []
    if new and not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        missing.append("python{}.{}-venv".format(*sys.version_info[:2]))
    if not ctypes.util.find_library("fluidsynth"):
        missing.append("libfluidsynth3")
    if not find_soundfont():
        missing.append("fluid-soundfont-gm")
    return missing


def sudo():
    """What to put before apt-get, or None without apt-get or the permission to use it."""
    if not shutil.which("apt-get"):
        return None
    if os.geteuid() == 0:
        return []
    may = shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
    return ["sudo", "-n"] if may else None


def install_packages(packages, prefix):
    """Install Debian packages, or stop and name the command to type. prefix: see sudo()."""
    others = {"libfluidsynth3": "on macOS 'brew install fluid-synth'", "fluid-soundfont-gm": "or " + ANY_SF2}
    remedy = [f"on Debian and Ubuntu type 'sudo apt-get install {' '.join(packages)}'"]
    remedy = "; ".join(remedy + [others[package] for package in packages if package in others])
    names = ", ".join(packages)
    if prefix is None:
        stop(f"not installed: {names}; {remedy}")
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=60"]
    install = [*apt, "install", "-y", "--no-install-recommends", *packages]
    if any(Path("/var/lib/apt/lists").glob("*_Packages*")) and run("system packages " + names, install)[0]:
        return
    # The lists are missing, as in a container, or so old that they name files that are gone.
    run("apt-get update", [*apt, "update"])
    done, output = run("system packages " + names, install)
    if not done:
        stop(f"apt-get could not install {names} ({reason(output)}); {remedy}")


def run(label, command, **kwargs):
    """Run a step and print how long it took. Returns whether it succeeded and what it wrote."""
    print(f"setup: {label} ...", end=" ", flush=True)
    start = time.monotonic()
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)
    print("failed" if process.returncode else f"{time.monotonic() - start:.0f} s", flush=True)
    return process.returncode == 0, process.stdout


def reason(output):
    """The most telling line of a failed step's output: the last with an error, else the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no message"]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])


def install_if_permitted(packages):
    """Install Debian packages; without permission, or if it fails, print why and go on."""
    try:
        install_packages(packages, sudo())
    except SystemExit as problem:
        print(problem)
