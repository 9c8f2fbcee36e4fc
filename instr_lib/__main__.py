"""The command line. ``python -m instr_lib explain recording.wav`` writes a page about a recording. Chapter 10 uses it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ._files import write_text
from .errors import InstrError
from .memory import tune_malloc


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m instr_lib", description="What does a network hear in a recording, and why?")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    explain = commands.add_parser(
        "explain",
        help="write a page that shows, 5 s at a time, which instruments a network detects in a recording, and why",
        description="Write one page about a recording: which of the twelve instruments a network detects in each window "
        "of 5 s, how sure it is, and which part of the sound speaks for each. It opens in any browser, offline too, and "
        "plays the sound.",
        epilog="example: python -m instr_lib explain song.mp3 --out song.html. Exit status: 0 when the page is written, "
        "2 when the recording cannot be used (one sentence says why, and nothing is written), 130 when it was interrupted.",
    )
    explain.add_argument(
        "recording", help="WAV, FLAC, OGG, MP3 (mono or stereo, any usual rate) or MIDI; at most 10 minutes and 100 MB"
    )
    explain.add_argument(
        "--model",
        default="robust",
        help="a published network, such as compact (default: robust; all names: instr_lib.networks.weights.PUBLISHED), "
        "or a .safetensors file written by il.save_model",
    )
    explain.add_argument(
        "--out", type=Path, help="the page (default: the recording's name with the ending .html, in this folder)"
    )
    explain.add_argument("--force", action="store_true", help="overwrite an existing page")
    explain.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args()


def _explain(arguments: argparse.Namespace) -> str:
    out = arguments.out or Path(Path(arguments.recording).resolve().name or "report").with_suffix(".html")
    if out.is_dir():
        raise InstrError(f"{out} is a folder: name a file with --out")
    if not out.parent.is_dir():
        raise InstrError(f"there is no folder {out.parent}: make it, or choose another with --out")
    if out.exists() and not arguments.force:
        raise InstrError(f"{out} exists already: choose another with --out, or write over it with --force")
    from .data.recordings import load_recording

    recording = load_recording(arguments.recording)
    from .networks.weights import load_model  # takes seconds, for which --help and a wrong recording need not wait
    from .show import pages

    model = load_model(arguments.model)
    page = pages.document(model, recording, Path(arguments.model).stem, not arguments.quiet)
    try:
        write_text(out, page)
    except OSError as error:
        raise InstrError(f"{out} cannot be written ({error.strerror}): choose another place with --out") from None
    return f"{out}: {len(recording.windows())} windows of 5 s, {out.stat().st_size / 1e6:.1f} MB"


def main() -> int:
    """Run the command line. Returns the exit status."""
    tune_malloc()
    try:
        print(_explain(_arguments()))
    except InstrError as error:
        print(f"instr_lib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("instr_lib: stopped, nothing was written", file=sys.stderr)
        return 130
    return 0


def script():
    """The command ``instr-lib``."""
    sys.exit(main())


if __name__ == "__main__":
    script()
