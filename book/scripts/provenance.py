"""The line at the end of each page: when, from which commit and with which versions it was made."""

import datetime
import platform
import shutil
import subprocess
from importlib import metadata

from project import ROOT

from instr_lib.music import synth


def provenance(profile: str) -> str:
    """One paragraph of Markdown."""
    versions = [f"{name} {metadata.version(name)}" for name in ("instr_lib", "torch", "zennit-crp")]
    versions += [f"FluidSynth {synth.fluidsynth_version()}", f"Python {platform.python_version()}"]
    made = f"Made on {datetime.date.today()} in profile `{profile}` at commit `{commit()}` with {', '.join(versions)}."
    return f"*{made} To make it again: <code>make book PROFILE={profile}</code>.*"


def commit() -> str:
    """The short name of git's commit, marked if files have changed since; "unknown" outside of git."""
    commands = ("rev-parse --show-toplevel", "rev-parse --short --verify HEAD", "status --porcelain")
    answers = [git(*command.split()) for command in commands if shutil.which("git")]
    if not answers or answers[0] != str(ROOT) or not answers[1]:
        return "unknown"
    return answers[1] + "+changes" * bool(answers[2])


def git(*command: str) -> str:
    """What a git command prints in the project's folder."""
    return subprocess.run(["git", "-C", ROOT, *command], capture_output=True, text=True).stdout.strip()
