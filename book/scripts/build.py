"""Execute the notebooks and build the book. `make book` runs this with the Python of .venv.

1. notebooks/*.ipynb --papermill, notebooks/profiles/X.yml--> _build/X/executed/   (reused while nothing changed)
2. executed notebooks + book/* + _config.yml + _toc.yml --> _build/X/source/       (values filled into pages in Markdown)
3. _build/X/source/ --jupyter-book, warnings are errors--> _build/html/            (replaced only by a book that passes)
"""

import argparse
import fcntl
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

from build_html import build_html
from execute import isolate
from execute_all import execute_all, jobs
from page_keys import digest, digest_tree, page_keys
from project import NOTEBOOKS, PROFILES, ROOT, parameters, stop
from provenance import provenance

import instr_lib as il
from instr_lib.music import soundfonts, synth

NEED_GB = 1


def main():
    arguments = parse_arguments()
    profile, out = arguments.profile, arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    lock(out)
    begin = time.monotonic()
    keys = page_keys(profile, preflight(out), further_soundfonts())
    isolate(out / "cache")
    rows = execute_all(keys, profile, out, arguments.jobs)
    rows.append(build_pages(keys, profile, out))
    report(rows, time.monotonic() - begin, out / "html")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    profiles = sorted(file.stem for file in PROFILES.glob("*.yml"))
    parser.add_argument("--profile", default="quick", choices=profiles)
    parser.add_argument("--out", type=Path, default=ROOT / "_build", help="where everything goes (default: _build)")
    parser.add_argument(
        "--jobs", type=int, default=jobs(), help="notebooks that run at a time (default: 2, if there are 2 cores)"
    )
    return parser.parse_args()


def lock(out: Path):
    """Keep other builds out of the folder until this process ends."""
    try:
        fcntl.flock(os.open(out, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stop(f"another build is writing to {out}: wait for it or choose another --out")


def preflight(out: Path) -> str:
    """Stop before any long work if it cannot succeed. Returns what the sound depends on."""
    if (free := shutil.disk_usage(out).free / 1e9) < NEED_GB:
        stop(f"{free:.1f} GB are free in {out}, but {NEED_GB} GB are needed: make room")
    try:
        il.Synth()  # the library and every program of the soundfont
        return f"FluidSynth {synth.fluidsynth_version()} {soundfonts.soundfont_sha256(soundfonts.find_soundfont())}"
    except il.InstrError as error:
        stop(str(error))


def further_soundfonts() -> str:
    """Names and sizes of the soundfonts that are installed beside FluidR3."""
    sizes = []
    for name in soundfonts.SOUNDFONTS:
        try:
            sizes.append(f"{name} {soundfonts.find_soundfont(name).stat().st_size}")
        except (il.SoundfontError, OSError):
            continue
    return ", ".join(sizes)


def build_pages(keys: dict[Path, str], profile: str, out: Path) -> tuple[str, float, bool]:
    """Build the pages unless the last ones were made from the same source. Returns a row for the report."""
    start, html = time.monotonic(), out / "html"
    key, stamp = source_key(keys, profile, out), html / ".source"
    reused = stamp.exists() and stamp.read_text() == key and (html / "index.html").exists()
    if not reused:
        print("book: building the pages", flush=True)
        from assemble import assemble  # with PyTorch and others, which takes seconds

        build_html(assemble(list(keys), profile, out), html)
        stamp.write_text(key)
    return "pages", time.monotonic() - start, reused


def source_key(keys: dict[Path, str], profile: str, out: Path) -> str:
    """A hash of all that the pages are made of: notebooks with what they depend on, Markdown, settings, results."""
    made = (parameters(profile, out).get(name) for name in ("MODELS", "RESULTS"))
    folders = [ROOT / "book", *(NOTEBOOKS / folder for folder in made if folder)]
    files = [ROOT / "_config.yml", ROOT / "_toc.yml", *(ROOT / "benchmarks" / "results").glob("latest.json")]
    return digest(*keys.values(), *map(digest_tree, folders), *files, provenance(profile))


def report(rows: list[tuple[str, float, bool]], seconds: float, html: Path):
    """Print how long each step took, in this run or when it was made, and where the book is."""
    width = max(len(name) for name, *_ in rows)
    print(f"\n{'step':{width}}  seconds")
    for name, took, reused in rows:
        print(f"{name:{width}}  {took:7.1f}{'  reused' * reused}")
    print(f"{'in all':{width}}  {seconds:7.1f}\n\nOpen  {html / 'index.html'}")
    print(f"or    python3 -m http.server -d {shlex.quote(str(html))}  and then localhost:8000")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends the kernels too, like Ctrl-C
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nbook: stopped; finished chapters are kept: run it again to go on")
