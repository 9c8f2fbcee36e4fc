"""Install what the book and the tests need: system packages and .venv. `make` runs this first.

It runs before anything is installed, so it uses the standard library only. Everything that can go wrong is checked first,
in under a second, and ends with one message that names the problem and the remedy; what takes long comes after. If
nothing is missing, it prints nothing.
"""

import fcntl
import hashlib
import os
import shutil
import sys
from pathlib import Path

from system_packages import install_if_permitted, install_packages, missing_packages, reason, run, stop, sudo

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
# Written when everything is installed: a .venv without it was interrupted, or is not ours.
STAMP = VENV / "ready"
LOG = VENV / "setup.log"

GB = 10**9
NEW_GB = 10  # 6.4 for .venv and, during installation, 3.4 for the downloads
CACHE_GB = 4  # for pip's cache, which is used if there is room
BUILD_GB = 1


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
    """Install Chromium, in which tests open the pages. Without it these tests are skipped with a message."""
    if not shutil.which("chromium"):
        install_if_permitted(["chromium"])


def main():
    check_python(sys.version_info)
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second make in the same folder waits for the first
        # A virtual environment contains its own path and its Python's: after a move, or for another Python, make a new one.
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
        {"browser": browser}.get(sys.argv[-1], main)()
    except KeyboardInterrupt:
        sys.exit("\nsetup: stopped; run make again to go on")
