"""Execute the notebooks and build the book. `make book` runs this with the Python of .venv.

notebooks/*.ipynb --papermill, profiles/X.yml--> _build/X/executed/     (reused while nothing changed)
executed notebooks + book/* + _config.yml + _toc.yml --> _build/X/source/   (values filled into the pages of book/)
_build/X/source/ --jupyter-book, warnings are errors--> _build/html/    (replaced only by a book that passes)
"""

import argparse
import base64
import collections
import datetime
import fcntl
import functools
import hashlib
import io
import json
import logging
import math
import os
import platform
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback
from html.parser import HTMLParser
from importlib import metadata, resources
from pathlib import Path

import jinja2
import nbformat
import optimise_site
import yaml
from PIL import Image

import instr_lib as il
from instr_lib import synth

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
NEED_GB = 1
PAGE_MB = 2  # with its pictures and sounds: what a phone has to fetch
INJECTED = "injected-parameters"  # papermill's tag of the cell that it adds
WIDGET = "application/vnd.jupyter.widget-view+json"
run = functools.partial(subprocess.run, capture_output=True, text=True)
# Where a reader can run a notebook that is on GitHub; and how the theme marks its button for a page's source.
LAUNCH = {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org"}
DOWNLOAD = re.compile(r'href="[^"]*"(?:\s+target="_blank")?(\s+class="[^"]*btn-download-source-button)')
FOREIGN_CSS = re.compile(r"(url\(|@import)\s*['\"]?(https?:)?//")


def digest(*parts: str | Path) -> str:
    """SHA-256 of texts and files, each kept apart from the next."""
    single = (part.read_bytes() if isinstance(part, Path) else part.encode() for part in parts)
    return hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in single)).hexdigest()


def digest_tree(folder: Path) -> str:
    """SHA-256 of a folder's files with their names."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return digest(*(part for file in files for part in (str(file.relative_to(folder)), file)))


def keys(profile: str, sound: str) -> dict[Path, str]:
    """The notebooks that _toc.yml names, each with a hash of all that its page depends on, earlier pages included."""
    common = [
        sound,
        platform.python_version(),
        *(digest_tree(ROOT / name) for name in ("instr_lib", "models", "book/results")),
    ]
    key, found = digest(*common, LOCK, ROOT / "notebooks" / "profiles" / f"{profile}.yml"), {}
    for name in re.findall(r"^[\s-]*file:\s*(notebooks/\S+)", (ROOT / "_toc.yml").read_text(), re.MULTILINE):
        page = Path(f"{name}.ipynb")
        if not (ROOT / page).is_file():
            sys.exit(f"book: _toc.yml names {name}, but there is no {page}")
        # Not the file: saving it in JupyterLab, with outputs, changes no page.
        cells = [(cell.cell_type, cell.source, cell.metadata) for cell in nbformat.read(ROOT / page, 4).cells]
        key = found[page] = digest(key, json.dumps(cells))
    return found


def preflight(out: Path) -> str:
    """Stop before any long work if it cannot succeed. Returns what the sound depends on."""
    if (free := shutil.disk_usage(out).free / 1e9) < NEED_GB:
        sys.exit(f"book: {free:.1f} GB are free in {out}, but {NEED_GB} GB are needed: make room")
    try:
        il.Synth()  # the library and every program of the soundfont
        return f"FluidSynth {synth.fluidsynth_version()} {synth.soundfont_sha256(synth.find_soundfont())}"
    except il.InstrError as error:
        sys.exit(f"book: {error}")


def isolate(cache: Path):
    """Let what the user has set up for Jupyter, IPython and matplotlib change no page."""
    os.environ.update(
        JUPYTER_PATH=f"{sys.prefix}/share/jupyter",  # searched first: a user's own kernel "python3" is not taken
        IPYTHONDIR=str(cache / "ipython"),
        MPLCONFIGDIR=str(cache / "matplotlib"),
        TQDM_DISABLE="1",  # progress bars are for people who watch
    )
    if named := os.environ.get("INSTR_SOUNDFONT"):  # kernels run in notebooks/
        os.environ["INSTR_SOUNDFONT"] = str(Path(named).expanduser().absolute())
    os.environ.pop("MPLBACKEND", None)  # the kernel's own puts figures into the notebook


def parameters(profile: str, out: Path) -> dict:
    """The notebooks' parameters. Profiles write ../_build, as seen from notebooks/, for the folder that --out may move."""
    text = (ROOT / "notebooks" / "profiles" / f"{profile}.yml").read_text()
    return yaml.safe_load(text.replace("../_build", os.path.relpath(out, ROOT / "notebooks")))


def execute(page: Path, profile: str, key: str, out: Path) -> tuple[float, bool]:
    """Execute a notebook, unless its copy was made with the same key. Returns its seconds and whether it was reused."""
    done = out / profile / "executed" / page.name
    part = done.with_suffix(".part.ipynb")
    made = nbformat.read(done, 4).metadata.get("made", {}) if done.exists() else {}
    if made.get("key") == key:
        return made["seconds"], True
    print(f"book: executing {page}", flush=True)
    done.unlink(missing_ok=True)  # the files that it left for later pages are about to change
    done.parent.mkdir(parents=True, exist_ok=True)
    import matplotlib.font_manager  # noqa: F401  makes its list of fonts; in a kernel it would say so on stderr
    import papermill
    from nbclient import NotebookClient

    # nbclient answers Output widgets as a browser would, and then hangs now and then (its issue 312). Without
    # that, what `interact` shows first is kept as the cell's output, which is what a page needs.
    NotebookClient.on_comm_open_jupyter_widget = lambda client, message: None
    logging.getLogger("papermill").setLevel(logging.ERROR)  # not every notebook has every parameter
    options = dict(kernel_name="python3", language="python", start_timeout=180, progress_bar=False)
    options["extra_arguments"] = ["--log-level=CRITICAL"]  # of the kernel's own log; ours is the notebook
    start = time.monotonic()
    try:
        papermill.execute_notebook(ROOT / page, part, parameters(profile, out), cwd=ROOT / page.parent, **options)
    except papermill.PapermillExecutionError:
        pass  # the copy says more exactly what failed
    except RuntimeError as error:  # nbclient's DeadKernelError and the like
        sys.exit(f"book: {page} was not executed: {error} (out of memory?)")
    notebook = nbformat.read(part, 4)
    if problem := find_problem(notebook):
        sys.exit(f"book: {page}, {problem} (all of it: {part})")
    for data in (output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])):
        if "image/png" in data:
            data["image/png"] = base64.b64encode(lighten(base64.b64decode(data["image/png"]))).decode()
    seconds = time.monotonic() - start
    notebook.metadata.made = {"key": key, "seconds": seconds, "provenance": provenance(profile)}
    nbformat.write(notebook, part)
    part.replace(done)
    return seconds, False


def find_problem(notebook) -> str | None:
    """What must not be on a page: an error, else anything on stderr. Cells are counted as in the source."""
    warnings = []
    cells = [c for c in notebook.cells if not {INJECTED, "papermill-error-cell-tag"} & set(c.metadata.get("tags", []))]
    for number, cell in enumerate(cells, 1):
        for output in cell.get("outputs", []):
            where = f"cell {number} of {len(cells)}"
            if output.output_type == "error":
                return f"{where} failed: {output.ename}: {(output.evalue.strip() or 'no message').splitlines()[-1]}"
            if output.get("name") == "stderr":
                warnings.append(f"{where} wrote to stderr: {(output.text.strip() or 'a blank').splitlines()[0]}")
    return warnings[0] if warnings else None


def lighten(png: bytes) -> bytes:
    """A PNG with a palette of 256 colours: the same picture to the eye, in a third of the bytes."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    # Of Pillow's methods the one that keeps rare colours, such as a colour bar's end.
    picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    picture.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def provenance(profile: str) -> str:
    """One paragraph of Markdown: when, from what and with what a page is made."""
    versions = [f"{name} {metadata.version(name)}" for name in ("instr_lib", "torch", "zennit-crp")]
    versions += [f"FluidSynth {synth.fluidsynth_version()}", f"Python {platform.python_version()}"]
    made = f"Made on {datetime.date.today()} in profile `{profile}` at commit `{commit()}` with {', '.join(versions)}."
    return f"*{made} To make it anew: <code>make book PROFILE={profile}</code>.*"


def commit() -> str:
    """The short name of git's commit, with what was changed since told; "unknown" outside of git."""
    commands = ("rev-parse --show-toplevel", "rev-parse --short --verify HEAD", "status --porcelain")
    answers = [run(["git", "-C", ROOT, *command.split()]).stdout.strip() for command in commands if shutil.which("git")]
    if not answers or answers[0] != str(ROOT) or not answers[1]:
        return "unknown"
    return answers[1] + "+changes" * bool(answers[2])


def publish(notebook):
    """Make an executed notebook a page: without papermill's traces and live widgets, with its provenance."""
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if INJECTED in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")
        if "outputs" in cell:  # a widget is dead without a kernel, and its text is no substitute
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
    note = f"---\n\n{notebook.metadata.made.provenance}"
    notebook.cells.append(nbformat.v4.new_markdown_cell(note, id="provenance"))
    for name in ("made", "papermill", "widgets"):
        notebook.metadata.pop(name, None)


def facts(profile: str, out: Path) -> dict:
    """What pages in Markdown may name: profile, its networks' JSON, their clips, its results, the benchmark, the library.

    A profile has the networks and results that its notebooks have made so far; ``bench`` is None where nobody measured.
    """
    given, bench = parameters(profile, out), ROOT / "benchmarks" / "results" / "latest.json"
    folder, kept = given.get("MODELS"), given.get("RESULTS")
    try:
        found = sorted((ROOT / "notebooks" / kept).glob("*.json")) if kept else []
        results = {file.stem: il.results.read(file) for file in found}
        models = il.models_info(ROOT / "notebooks" / folder) if folder else {}
        truthful = il.models_info(ROOT / "notebooks" / folder / "truthful").get("compact") if folder else None
    except il.InstrError as error:
        sys.exit(f"book: {error}")
    about = models.get("original", {})
    clips = {"train": about.get("data"), "test": about.get("test")}
    return {
        "profile": profile,
        "repository": repository(),
        "models": models,
        "truthful": truthful,
        "data": {split: composition(split, a["n_clips"], a["seed"], out / "cache") for split, a in clips.items() if a},
        "results": results,
        "bench": json.loads(bench.read_text()) if bench.exists() else None,
        "il": il,
    }


def composition(split: str, n_clips: int, seed: int, cache: Path) -> dict:
    """How many clips of a data set each instrument, and each number of them, plays in; drawn once, then kept."""
    code = [Path(il.__file__).with_name(f"{name}.py") for name in ("dataset", "instruments", "score")]
    file = cache / f"composition-{digest(split, str(n_clips), str(seed), LOCK, *code)[:16]}.json"
    if not file.exists():
        scores = [il.clip_score(index, seed, split) for index in range(n_clips)]
        players = collections.Counter(i for score in scores for i in score.instruments)
        together = collections.Counter(len(score.instruments) for score in scores)
        counted = {
            "clips": n_clips,
            "seed": seed,
            "hours": n_clips * il.score.CLIP_SECONDS / 3600,
            "notes": sum(len(score.notes) for score in scores),
            "instruments": {i.name: players[number] for number, i in enumerate(il.INSTRUMENTS)},
            "together": {str(n): together[n] for n in range(1, il.score.MAX_INSTRUMENTS + 1)},
        }
        cache.mkdir(exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(counted))
        part.replace(file)
    return json.loads(file.read_text())


def repository() -> str:
    """The address that _config.yml names, which the buttons and links need, or "" if it is not known yet."""
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    if url and not re.fullmatch(r"https://git(hub|lab)\.com/[\w.-]+/[\w.-]+", url):
        sys.exit(f"book: _config.yml: repository.url is {url!r}: it must read https://github.com/OWNER/NAME, or be empty")
    return url


def add_buttons(config: Path, url: str):
    """Into the copy of _config.yml: the buttons that lead to the repository and to places that run its notebooks."""
    settings = yaml.safe_load(config.read_text())
    where = LAUNCH if "github.com" in url else {"binderhub_url": LAUNCH["binderhub_url"]}
    settings["launch_buttons"] |= where | {"notebook_interface": "jupyterlab"}
    settings["html"] |= {"use_repository_button": True, "use_issues_button": True}
    config.write_text(yaml.safe_dump(settings, sort_keys=False))


def fill_in(source: Path, facts: dict):
    """Replace {{ values }} and follow {% loops %} in the pages in Markdown, in Jinja's language; both must exist."""
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(source),
        undefined=jinja2.StrictUndefined,
        comment_start_string="<!--",  # instead of {#, which MyST has a use for
        comment_end_string="-->",
        keep_trailing_newline=True,
    )
    pages.filters |= {"interval": interval, "verdict": verdict, "against": against, "named": named}
    pages.filters |= {"mean": statistics.fmean, "deviation": statistics.stdev}
    for page in sorted(source.rglob("*.md")):
        name = page.relative_to(source).as_posix()
        try:
            page.write_text(pages.get_template(name).render(facts))
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(page)]
            line = getattr(error, "lineno", None) or (lines or "?")[-1]
            sys.exit(f"book: {name}, line {line}: {error}: correct the page, or make what it names")


def interval(score: dict | list | tuple, digits: int = 3, to: str = "–") -> str:
    """An estimate out of a JSON file with the ends of its confidence interval, as text."""
    ends = [score[key] for key in ("value", "low", "high")] if isinstance(score, dict) else score
    ends = il.results.interval(ends)
    value, low, high = (f"{round(end, digits) + 0.0:.{digits}f}" for end in ends)  # never "-0.00"
    return "–" if math.isnan(ends.value) else f"{value} ({low}{to}{high})"


def verdict(effects: list, least: float = 0.0) -> str:
    """Whether a statement holds, by the effects of all that it says, each judged as chapter 8 does."""
    held = [il.interventions.verdict(il.results.interval(effect), least) == "supported" for effect in effects]
    return "reproduced" if all(held) else "reproduced in part" if any(held) else "not reproduced"


def against(effect: list) -> tuple:
    """The effect of the contrary: the same estimate with the other sign."""
    return il.interventions.negative(il.results.interval(effect))


def named(answers: list[int]) -> float:
    """Which share of the recorded notes is named rightly: the mean over instruments, as in chapter 9."""
    notes = json.loads((il.recorded.FOLDER / "notes.json").read_text())["notes"]
    right = collections.defaultdict(list)
    for note, answer in zip(notes, answers, strict=True):
        right[note["instrument"]].append(il.INSTRUMENTS[answer].name == note["instrument"])
    return statistics.fmean(map(statistics.fmean, right.values()))


def assemble(notebooks: list[Path], profile: str, out: Path) -> Path:
    """Put together, always anew, the folder that jupyter-book reads."""
    source = out / profile / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(
        ROOT / "book", source / "book", ignore=shutil.ignore_patterns("scripts", "results", "__pycache__", ".*")
    )
    for picture in (source / "book" / "_static").glob("*.png"):
        picture.write_bytes(lighten(picture.read_bytes()))
    linked = source / "_static"  # styles and scripts in this folder are, on every page
    shutil.copytree(source / "book" / "_static", linked, ignore=shutil.ignore_patterns("*.png"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, source)
    if url := repository():
        add_buttons(source / "_config.yml", url)
    fill_in(source, facts(profile, out))
    made = provenance(profile)
    for page in source.rglob("*.md"):
        with page.open("a") as end:
            end.write(f"\n---\n\n{made}\n")
    for page in notebooks:
        notebook = nbformat.read(out / profile / "executed" / page.name, 4)
        publish(notebook)
        (source / page).parent.mkdir(exist_ok=True)
        nbformat.write(notebook, source / page)
    return source


def build_html(source: Path, html: Path):
    """Build the pages, check them and only then put them in the place of the last ones."""
    staging = source.with_name("staging")
    shutil.rmtree(staging, ignore_errors=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", source]
    command += ["--path-output", staging, "-W", "--keep-going", "-q"]
    done = run(command)
    if done.returncode:
        sys.exit(f"{done.stderr.replace(f'{source}/', '')}book: jupyter-book has warnings or errors: see above")
    built = staging / "_build" / "html"
    ignore = shutil.ignore_patterns("SVG", "localization")  # a second way to draw, and the menu in other languages
    shutil.copytree(str(resources.files("jupyter_server_mathjax") / "static"), built / "mathjax", ignore=ignore)
    optimise_site.lighten(built)
    for page in (built / "notebooks").glob("*.html"):
        hand_out(page)
    files = [*sorted(built.rglob("*.html")), *built.rglob("*.css")]
    problems = [problem for file in files for problem in check_page(file)]
    if problems:
        sys.exit("\n".join(problems) + f"\nbook: pages that must not be published: see above and {built}")
    shutil.rmtree(html, ignore_errors=True)
    built.replace(html)
    shutil.rmtree(staging)


def hand_out(page: Path):
    """Let the download button give the notebook as it is committed. It is in the page: a file may not be fetched by one.

    The theme's button leads to the executed copy, which is large, and which a browser shows as text if the page is a file.
    """
    notebook = nbformat.read(ROOT / "notebooks" / f"{page.stem}.ipynb", 4)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs, cell.execution_count = [], None
    data = base64.b64encode(nbformat.writes(notebook).encode()).decode()
    link = f'href="data:application/x-ipynb+json;base64,{data}" download="{page.stem}.ipynb"'
    text, found = DOWNLOAD.subn(rf"{link}\1", page.read_text())
    if found != 1:
        sys.exit(f"book: {page.name} has {found} download buttons instead of one: has the theme changed?")
    page.write_text(text)
    (page.parents[1] / "_sources" / "notebooks" / f"{page.stem}.ipynb").unlink()


def check_page(page: Path) -> list[str]:
    """What is wrong with a page or a style sheet: too large with pictures and sounds, or loading from elsewhere."""
    text, files = page.read_text(), {page}
    problems = [f"{page.name}: a style loads something from elsewhere"] if FOREIGN_CSS.search(text) else []

    def look(tag, attributes):
        names = ("src", "href", "xlink:href", "srcset", "poster", "data") if tag != "a" else ()
        for url in (url for name, value in attributes if name in names and value for url in re.split(r",\s+", value)):
            if re.match(r"(https?:)?//", url):
                problems.append(f"{page.name}: <{tag}> loads {url}")
            elif tag in ("img", "audio", "source", "video", "object", "embed") and not url.startswith("data:"):
                files.add(page.parent / url.split()[0])

    parser = HTMLParser()
    parser.handle_starttag = look
    parser.feed(text)
    size = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    if size > PAGE_MB:
        problems.append(f"{page.name}: {size:.1f} MB with its pictures and sounds, more than {PAGE_MB}")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    profiles = sorted(file.stem for file in (ROOT / "notebooks" / "profiles").glob("*.yml"))
    parser.add_argument("--profile", default="quick", choices=profiles)
    parser.add_argument("--out", type=Path, default=ROOT / "_build", help="where everything goes (default: _build)")
    arguments = parser.parse_args()
    profile, out = arguments.profile, arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        fcntl.flock(os.open(out, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"book: another build is writing to {out}: wait for it or choose another --out")

    begin = time.monotonic()
    notebooks = keys(profile, preflight(out))
    isolate(out / "cache")
    rows = [(page.stem, *execute(page, profile, key, out)) for page, key in notebooks.items()]

    start = time.monotonic()
    source, html = assemble(list(notebooks), profile, out), out / "html"
    key, stamp = digest(digest_tree(source), LOCK), html / ".source"
    reused = stamp.exists() and stamp.read_text() == key and (html / "index.html").exists()
    if not reused:
        print("book: building the pages", flush=True)
        build_html(source, html)
        stamp.write_text(key)
    rows.append(("pages", time.monotonic() - start, reused))
    report(rows, time.monotonic() - begin, html)


def report(rows: list[tuple[str, float, bool]], seconds: float, html: Path):
    """Say how long each step took, in this run or when it was made, and where to look."""
    width = max(len(name) for name, *_ in rows)
    print(f"\n{'step':{width}}  seconds")
    for name, took, reused in rows:
        print(f"{name:{width}}  {took:7.1f}{'  reused' * reused}")
    print(f"{'in all':{width}}  {seconds:7.1f}\n\nOpen  {html / 'index.html'}")
    print(f"or    python3 -m http.server -d {shlex.quote(str(html))}  and then localhost:8000")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends the kernel too, like Ctrl-C
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nbook: stopped; finished chapters are kept: run it again to go on")
