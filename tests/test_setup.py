"""Setting up and building: what is wrong is said at once in one line, and nothing half-done passes for finished."""

import importlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement

import instr_lib as il
from instr_lib.music import soundfonts as fonts
from tools import freepats

ROOT = Path(__file__).parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"


def load(name, root=ROOT):
    """A script of book/scripts/ as a module."""
    scripts = root / "book" / "scripts"
    siblings = {path.stem for path in scripts.glob("*.py")}
    others = {each: sys.modules.pop(each) for each in siblings & sys.modules.keys()}  # of another root
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(scripts)  # as when it is run: a script imports its siblings
        try:
            return importlib.import_module(name)
        finally:
            for each in siblings & sys.modules.keys():
                del sys.modules[each]
            sys.modules.update(others)


def copy_scripts(root):
    """Put a copy of book/scripts/ into a test's project."""
    shutil.copytree(ROOT / "book" / "scripts", root / "book" / "scripts", ignore=shutil.ignore_patterns("__pycache__"))


def run(code, cwd, **environment):
    """Run Python code with the folder's book/scripts/ on the path."""
    environment = {**os.environ, "PYTHONPATH": str(cwd / "book" / "scripts"), **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


# --- setup.py ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    """A project with a space in its path, of which only setting up is there."""
    root = tmp_path / "a project"
    copy_scripts(root)
    for name in ("requirements.lock", "pyproject.toml"):
        (root / name).write_text(f"# {name}\n")
    return root


def set_up(root, before="", **environment):
    """Run setup.main() with every step of the installation replaced by printing its name."""
    code = f"""
import setup, system_packages
def step(label, command, **kwargs):
    print(label)
    (setup.VENV / "bin").mkdir(parents=True, exist_ok=True)
    (setup.VENV / "bin" / "python").touch()
    return True, ""
setup.run, setup.NEW_GB = step, 0
{before}
setup.main()
"""
    return run(code, root, **environment)


def assert_refused(done, *words):
    assert done.returncode == 1 and done.stdout == "", done
    assert done.stderr.startswith("setup: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


SF2 = b"RIFF" + struct.pack("<I", 4 + 100) + b"sfbk" + bytes(100)


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "does not exist"), (b"", "empty"), (b"once upon a time", "not an SF2"), (SF2[:-1], "cut short")],
    ids=["missing", "empty", "text", "truncated"],
)
def test_bad_soundfont_stops_at_once(project, tmp_path, content, word):
    font = tmp_path / "my font.sf2"
    if content is not None:
        font.write_bytes(content)
    start = time.monotonic()
    done = run("import setup; setup.NEW_GB = 0; setup.main()", project, INSTR_SOUNDFONT=str(font))
    assert time.monotonic() - start < 5  # a fraction of it on an idle machine
    assert_refused(done, str(font), word, "INSTR_SOUNDFONT")
    assert not (project / ".venv").exists()


def test_whole_soundfont_is_taken(project, tmp_path):
    (tmp_path / "my.sf2").write_bytes(SF2)
    assert set_up(project, INSTR_SOUNDFONT=str(tmp_path / "my.sf2")).returncode == 0


def test_soundfont_is_looked_for_where_the_library_looks():
    assert load("system_packages").SOUNDFONT_PLACES == fonts._PLACES
    soundfonts = load("soundfonts")
    packages = {font.package for name, font in fonts.SOUNDFONTS.items() if name != "FluidR3"}
    assert {*soundfonts.OTHER_SOUNDFONTS.values(), soundfonts.SONIVOX[0].rpartition("@")[0]} == packages
    ready = {Path(file).name: package for file, package in soundfonts.OTHER_SOUNDFONTS.items() if file.endswith(".sf2")}
    assert ready.items() <= {font.file: font.package for font in fonts.SOUNDFONTS.values()}.items()
    places = {str(Path(file).parent) for file in soundfonts.OTHER_SOUNDFONTS if file.endswith(".sf2")} | {
        str(soundfonts.MADE)
    }
    assert places <= {*fonts._PLACES, fonts._MINUET}
    assert str(freepats.FOLDER) in {str(Path(file).parent) for file in soundfonts.OTHER_SOUNDFONTS}


def test_soundfonts_are_tried_once_and_what_is_missing_is_named(project, tmp_path):
    """Where none can be installed, `make book` goes on; `make soundfonts` tries again."""
    (project / ".venv").mkdir()
    (tmp_path / "empty").mkdir()
    code = """import soundfonts
soundfonts.OTHER_SOUNDFONTS = {"/nowhere/TimGM6mb.sf2": "timgm6mb-soundfont"}
soundfonts.FREEPATS = soundfonts.Path("/nowhere")
soundfonts.install_once()"""
    for tried in (False, True):
        done = run(code, project, PATH=str(tmp_path / "empty"), HOME=str(tmp_path))
        assert done.returncode == 0 and "leaves out what needs TimGM6mb.sf2, sonivox.sf2" in done.stdout, done.stderr
        assert ("5 MB to download" in done.stdout and "sudo apt-get install timgm6mb" in done.stdout) != tried


def test_other_pythons_are_refused(project):
    for version in ((3, 10, 14), (3, 14, 0), (2, 7, 18)):
        done = run(f"import setup; setup.check_python({version})", project)
        assert_refused(done, "Python {}.{}".format(*version), "3.11", "PYTHON=")
    assert run("import setup; [setup.check_python((3, n, 0)) for n in (11, 12, 13)]", project).returncode == 0


def test_no_python_at_all_is_said_by_make(project):
    shutil.copy(ROOT / "Makefile", project)
    done = subprocess.run(["make", "PYTHON="], cwd=project, capture_output=True, text=True)
    assert done.returncode != 0 and "3.11, 3.12 or 3.13 was not found" in done.stderr


def test_little_disk_is_refused(project):
    done = set_up(project, "setup.shutil.disk_usage = lambda path: type('', (), {'free': 3.2e9}); setup.NEW_GB = 10")
    assert_refused(done, "3.2 GB", "10 GB", str(project))


MISSING = "system_packages.ctypes.util.find_library = lambda name: None; system_packages.SOUNDFONT_PLACES = ()\n"


def test_missing_packages_are_named_where_we_may_not_install(project):
    done = set_up(project, MISSING + "setup.sudo = lambda: None", INSTR_SOUNDFONT="")
    assert_refused(done, "sudo apt-get install libfluidsynth3 fluid-soundfont-gm", "INSTR_SOUNDFONT", "brew")
    assert not (project / ".venv").exists()


def test_missing_packages_are_installed_where_we_may(project, tmp_path):
    """apt-get is replaced by a script that fails until `update` was called, as with old package lists."""
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text(
        f'#!/bin/sh\necho "$DEBIAN_FRONTEND $@" >> "{tmp_path}/log"\n'
        f'case "$*" in *update*) touch "{tmp_path}/new";; esac\ntest -e "{tmp_path}/new" || {{ echo E: gone; exit 100; }}\n'
    )
    apt.chmod(0o755)
    path = f"{apt.parent}:{os.environ['PATH']}"
    done = run("import system_packages; system_packages.install_packages(['libfluidsynth3'], [])", project, PATH=path)
    calls = (tmp_path / "log").read_text().splitlines()
    assert done.returncode == 0 and all(call.startswith("noninteractive -q ") for call in calls)
    assert "update" in calls[-2] and calls[-1].endswith("install -y --no-install-recommends libfluidsynth3")

    apt.write_text("#!/bin/sh\necho E: no network; exit 100\n")
    done = run("import system_packages; system_packages.install_packages(['libfluidsynth3'], [])", project, PATH=path)
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    assert "E: no network" in done.stderr and "sudo apt-get install libfluidsynth3" in done.stderr


def test_environment_is_made_once_and_renewed_when_the_lock_changes(project):
    assert set_up(project).stdout.count("\n") == 3  # .venv, packages, instr_lib
    (project / ".venv" / "mark").touch()
    start = time.monotonic()
    assert set_up(project).stdout == ""
    assert time.monotonic() - start < 3
    (project / "requirements.lock").write_text("other==1\n")
    assert set_up(project).stdout.count("\n") == 3 and (project / ".venv" / "mark").exists()


def test_interrupted_environment_is_made_anew(project):
    fail = "done = setup.run; setup.run = lambda label, *a, **k: (done(label, *a, **k)[0] and {} not in label, 'no space')"
    set_up(project)
    (project / "pyproject.toml").write_text("# changed\n")
    done = set_up(project, fail.format("'packages'"))
    assert done.returncode == 1 and "no space" in done.stderr and "Traceback" not in done.stderr
    (project / ".venv" / "half").touch()
    assert set_up(project).stdout.count("\n") == 3 and not (project / ".venv" / "half").exists()
    moved = project.rename(project.with_name("elsewhere"))  # its scripts name the old place
    (moved / ".venv" / "old").touch()
    assert set_up(moved).stdout.count("\n") == 3 and not (moved / ".venv" / "old").exists()


def test_lock_is_exact_and_holds_what_the_project_asks_for():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    locked = {}
    for requirement in map(Requirement, lines):
        (only,) = requirement.specifier
        assert only.operator == "==" and requirement.url is None
        locked[re.sub("[-_.]+", "-", requirement.name).lower()] = only.version
    assert list(locked) == sorted(locked) and {"setuptools", "wheel"} <= set(locked)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    for requirement in map(Requirement, ranges):
        assert requirement.specifier.contains(locked[re.sub("[-_.]+", "-", requirement.name).lower()]), requirement


# --- build.py, and what it imports ------------------------------------------------------------------------------------


def notebook(*sources):
    cells = [new_markdown_cell("# Why?"), new_code_cell("N = 1", metadata={"tags": ["parameters", "remove-cell"]})]
    return new_notebook(cells=cells + [new_code_cell(source) for source in sources])


@pytest.fixture
def book(tmp_path):
    """A book of two tiny chapters, and a home whose owner has set up Jupyter in ways that must not matter."""
    root = tmp_path / "a book"
    startup = "home/.ipython/profile_default/startup"
    for name in ("book/_static", "book/results", "notebooks/profiles", "instr_lib", startup):
        (root / name).mkdir(parents=True)
    copy_scripts(root)
    shutil.copy(ROOT / "_config.yml", root)
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: notebooks/one\n- file: notebooks/two\n"
    )
    (root / "requirements.lock").write_text("")
    (root / "book" / "index.md").write_text(
        "# Welcome\n\nBuilt in {{profile}}. $a^2$ {cite:p}`x`\n\n```{bibliography}\n```\n"
    )
    (root / "book" / "references.bib").write_text("@misc{x, title={X}, author={Y, Z}, year={2000}}\n")
    (root / "notebooks" / "dependencies.yml").write_text("always: {two: [one]}\n")
    (root / "notebooks" / "profiles" / "tiny.yml").write_text("N: 3\nFOLDER: ../_build/tiny\n")
    one = notebook(
        "import sys\nfrom pathlib import Path\nimport matplotlib.pyplot as plt\nfrom ipywidgets import interact",
        "(Path(FOLDER) / 'n').write_text(str(N)); print(sys.prefix)",
        "plt.plot([1, 2]);",
        "interact(lambda k: print('k is', k), k=(4, 4));",
    )
    nbformat.write(one, root / "notebooks" / "one.ipynb")
    nbformat.write(notebook("print('n is', open(FOLDER + '/n').read())"), root / "notebooks" / "two.ipynb")
    kernel = root / "home" / ".local" / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": ["false"], "display_name": "mine", "language": "python"}))
    (root / "home" / ".ipython" / "profile_default" / "startup" / "00.py").write_text("import builtins\ndel builtins.print")
    return root


def build(root, start=subprocess.run, jobs=2, **options):
    """Run build.py in profile tiny, as someone with that home."""
    home = root / "home"
    mine = {"HOME": str(home), "JUPYTER_PATH": str(home / ".local/share/jupyter"), "MPLBACKEND": "Agg"}
    # A test that was started in the background would hand on a Ctrl-C that is switched off.
    code = "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); del sys.argv[0]\n"
    arguments = [root / "book" / "scripts" / "build.py", "--profile", "tiny", "--jobs", str(jobs)]
    code += "sys.path[0] = sys.argv[0].removesuffix('build.py')\n"  # as when it is run as a file
    command = [sys.executable, "-c", code + "runpy.run_path(sys.argv[0], run_name='__main__')", *arguments]
    return start(command, env={**os.environ, **mine}, text=True, **options)


def executed(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"executing notebooks/(\w+)", done.stdout)


@pytest.mark.slow
def test_book_from_notebooks_to_pages(book, need_soundfont):
    done = build(book, capture_output=True)
    assert executed(done) == ["one", "two"]
    html = book / "_build" / "html"
    page = (html / "notebooks" / "one.html").read_text()
    assert sys.prefix in page  # our kernel and not the home's, nor its startup files
    assert "k is 4" in page and WIDGET not in page and "require" not in page.lower()
    assert 'src="../_images/' in page and "make book PROFILE=tiny" in page and "injected" not in page
    assert "n is 3" in (html / "notebooks" / "two.html").read_text()
    index = (html / "book" / "index.html").read_text()
    assert "Built in tiny" in index and "mathjax/MathJax.js" in index and (html / "mathjax" / "MathJax.js").exists()
    assert str(html / "index.html") in done.stdout and (html / "index.html").exists()

    again = build(book, capture_output=True)
    assert executed(again) == [] and again.stdout.count("reused") == 3

    (book / "book" / "index.md").write_text("# Welcome\n\n{ref}`nowhere`\n")
    broken = build(book, capture_output=True)
    assert broken.returncode == 1 and "book/index.md:3: WARNING" in broken.stderr and "nowhere" in broken.stderr
    assert "Built in tiny" in (html / "book" / "index.html").read_text()  # the last good book stays


@pytest.mark.slow
def test_interrupted_build_stops_its_kernel_and_goes_on_later(book, need_soundfont):
    first, beat = book / "notebooks" / "one.ipynb", book / "notebooks" / "beat"
    nbformat.write(notebook("import time\nwhile True:\n    open('beat', 'a').write('.'); time.sleep(0.1)"), first)
    process = build(book, subprocess.Popen, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not beat.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1 and "stopped" in errors and "Traceback" not in errors
    size = beat.stat().st_size
    time.sleep(1)
    assert beat.stat().st_size == size
    folder = book / "_build" / "tiny" / "executed"
    assert [file.name for file in folder.iterdir()] == ["one.part.ipynb"]


WAIT = """import time
from pathlib import Path
Path('{0}').touch()
while not Path('{1}').exists():
    open('beat', 'a').write('.'); time.sleep(0.1)"""


@pytest.mark.slow
def test_independent_notebooks_run_at_the_same_time(book, need_soundfont):
    """Each waits for a file that the other one writes."""
    (book / "notebooks" / "dependencies.yml").write_text("")
    for name, mine, other in (("one", "a", "b"), ("two", "b", "a")):
        nbformat.write(notebook(WAIT.format(mine, other)), book / "notebooks" / f"{name}.ipynb")
    done = build(book, capture_output=True, timeout=120)
    assert sorted(executed(done)) == ["one", "two"]
    assert len(re.findall(r"^book: executed notebooks/(?:one|two).ipynb in \d+ s$", done.stdout, re.MULTILINE)) == 2


@pytest.mark.slow
def test_failing_notebook_stops_the_others(book, need_soundfont):
    (book / "notebooks" / "dependencies.yml").write_text("")
    nbformat.write(notebook(WAIT.format("a", "never")), book / "notebooks" / "one.ipynb")
    nbformat.write(notebook(WAIT.format("b", "a"), "raise ValueError('no such thing')"), book / "notebooks" / "two.ipynb")
    done, beat = build(book, capture_output=True, timeout=120), book / "notebooks" / "beat"
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[0].startswith(
        "book: notebooks/two.ipynb, cell 4 of 4 failed: ValueError: no such thing"
    )
    size = beat.stat().st_size
    time.sleep(1)
    assert beat.stat().st_size == size


@pytest.mark.slow
def test_undeclared_dependency_fails_the_build(book, need_soundfont):
    (book / "notebooks" / "dependencies.yml").write_text("always: {}")
    done = build(book, capture_output=True, jobs=1)  # so that chapter two does find its file
    assert done.returncode == 1
    assert done.stderr == "book: two reads n, which one writes: declare it in notebooks/dependencies.yml\n"
    (book / "notebooks" / "dependencies.yml").write_text("always: {one: [two]}")
    done = build(book, capture_output=True)
    assert done.returncode == 1 and "one needs two, which _toc.yml does not name before it" in done.stderr


def test_longest_way_to_the_end_starts_first():
    module = load("execute_all")
    needs = {"a": [], "b": ["a"], "c": [], "d": []}
    before = {Path("d.ipynb"): {"seconds": 8.0}, Path("a.ipynb"): {"seconds": 1.0}, Path("b.ipynb"): {"seconds": 9.0}}
    found = module.urgency(needs, before)
    assert sorted(needs, key=lambda name: -found[name]) == ["a", "b", "d", "c"]


def test_shared_files_ask_for_an_order():
    undeclared = load("dependencies").undeclared
    needs = {"a": [], "b": ["a"], "c": ["b"], "d": []}
    access = {name: {"read": [], "wrote": []} for name in needs}
    access["a"]["wrote"] = ["models/x.json"]
    access["c"]["read"] = ["models/x.json"]
    access["d"]["read"] = ["data/y"]
    assert undeclared(access, needs) == []
    access["d"]["read"] = ["models"]  # it lists the folder
    assert undeclared(access, needs) == ["d reads models, which a writes"]


def test_pages_are_reused_until_something_changes(book):
    module = load("page_keys", book)

    last = {}

    def changed():
        now = module.page_keys("tiny", "sound")
        names = [page.stem for page in now if now[page] != last.get(page)]
        last.update(now)
        return names

    assert changed() == ["one", "two"] and changed() == []
    second = book / "notebooks" / "two.ipynb"
    shown = nbformat.read(second, 4)
    shown.cells[-1].outputs = [new_output("stream", text="saved with outputs")]
    nbformat.write(shown, second)
    assert changed() == []
    nbformat.write(notebook("print(N)"), second)
    assert changed() == ["two"]
    for name in ("instr_lib/new.py", "book/results/new.json", "notebooks/profiles/tiny.yml", "requirements.lock"):
        (book / name).write_text("{}")
        assert changed() == ["one", "two"], name
    nbformat.write(notebook("print(N)"), book / "notebooks" / "one.ipynb")
    assert changed() == ["one", "two"]
    (book / "notebooks" / "dependencies.yml").unlink()
    assert changed() == ["two"]
    nbformat.write(notebook("print(N + 1)"), book / "notebooks" / "one.ipynb")
    assert changed() == ["one"]  # no other page depends on it now


@pytest.mark.slow
def test_failing_cell_fails_the_build_by_name(book):
    module, page = load("execute", book), Path("notebooks") / "two.ipynb"
    out = book / "_build"

    def execute(*sources):
        nbformat.write(notebook(*sources), book / page)
        return module.execute(page, "tiny", "key", out)

    with pytest.raises(SystemExit, match=r"notebooks/two.ipynb, cell 4 of 5 failed: ValueError: no such thing"):
        execute("x = 1", "raise ValueError('first\\nno such thing')", "x = 2")
    with pytest.raises(SystemExit, match=r"two.ipynb, cell 3 of 3 wrote to stderr: beware"):
        execute("import sys; print('beware', file=sys.stderr)")
    with pytest.raises(SystemExit, match=r"two.ipynb was not executed: Kernel died"):
        execute("import os; os._exit(1)")
    assert module.made(page, "tiny", out) == {}  # none of the partial copies passes for a finished one
    assert execute("print(N)") > 0
    assert module.made(page, "tiny", out)["key"] == "key"


@pytest.fixture
def fill_page(tmp_path):
    """A function: one page, filled with values."""

    def fill(text, **context):
        page = tmp_path / "book" / "page.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(text)
        load("fill_pages").fill_pages(tmp_path, context)
        return page.read_text()

    return fill


def test_pages_are_filled_in(fill_page):
    score = {"value": 0.95749, "low": 0.9, "high": 1.0}
    none = dict.fromkeys(score)
    assert fill_page("Built in **{{profile}}**, {{ profile }}.\n", profile="tiny") == "Built in **tiny**, tiny.\n"
    assert fill_page("{{ a | interval }} {{ b | interval }}\n", a=score, b=none) == "0.957 (0.900–1.000) –\n"
    assert fill_page("{{ [-0.001, -1, 0.5] | interval(2, ' to ') }}") == "0.00 (-1.00 to 0.50)"
    few = {"far": ["-inf", "-inf", 6], "lost": [None, None, None]}  # as results.kept writes them
    assert fill_page("{{ far | interval(0) }} {{ lost | interval }}", **few) == "-inf (-inf–6) –"
    judged = "{{ [a, b] | verdict }}, {{ [a] | verdict(0.3) }}, {{ [b | against] | verdict(-0.1) }}"
    assert fill_page(judged, a=[0.4, 0.2, 0.6], b=[0, -0.05, 0.05]) == "reproduced in part, not reproduced, reproduced"
    assert fill_page("{{ x | mean }} {{ '%.2f' | format(x | deviation) }}", x=[1, 2]) == "1.5 0.71"
    rows = "| a |\n|---|\n{%- for x in xs %}\n| {{ x }} |\n{%- endfor %}\n\nEnd<!-- of all -->.\n"
    assert fill_page(rows, xs=[1, 2]) == "| a |\n|---|\n| 1 |\n| 2 |\n\nEnd.\n"


def test_what_is_not_ours_in_a_page_stays(fill_page):
    """Formulas, roles, directives, attributes and code with braces; and no final newline is lost."""
    text = """# A {cite:p}`b` {#anchor}

(label)=
```{figure} a.png
:name: fig-a
```
$\\frac{a_{1}}{b^{2}}$ and `{"a": {1, 2}}` {ref}`x`
% a comment
```python
f"{x:.3f} {y}"; {"a": {"b": 1} }
```
"""
    assert fill_page(text) == text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{{ models.original.test }}", "no attribute 'test'"),
        ("{% for x in models.compact.f1 %}{{ x }}{% endfor %}", "no attribute 'compact'"),
        ("{{ bench.seconds }}", "'bench' is undefined"),
        ("{{ none.seconds }}", "no attribute 'seconds'"),
        ("{{ '%.2f' | format(models.original.f1) }}", "must be real number"),
        ("{{ [1] | deviation }}", "two data points"),
        ("{{ models.original.f1 | interval }}", "not iterable"),
        ("{% if models %}", "endif"),
    ],
)
def test_page_that_names_what_is_not_there_fails_the_build(fill_page, line, says):
    with pytest.raises(SystemExit, match=r"^book: book/page\.md, line 3: .*") as stopped:
        fill_page(f"# Card\n\n{line}\n", models={"original": {"f1": None}}, none=None)
    assert says in str(stopped.value)


@pytest.mark.slow
def test_networks_are_described_to_the_pages(book, need_soundfont):
    """By the JSON in the profile's folder; damaged JSON stops the build by its name; clips are counted as they are."""
    module, out = load("template_context", book), book / "_build"
    out.mkdir()
    context = module.template_context("tiny", out)
    assert context["profile"] == "tiny" and context["models"] == context["data"] == {} and context["bench"] is None
    assert context["results"] == {}

    with open(book / "notebooks" / "profiles" / "tiny.yml", "a") as profile:
        profile.write("MODELS: ../_build/tiny/models\nRESULTS: ../_build/tiny/results\n")
    stored = out / "tiny" / "results" / "some.json"
    il.results.CachedRows(stored, {"clips": 3})("a row", lambda: {"score": 0.5})
    weights = out / "tiny" / "models" / "original.safetensors"
    clips = {"data": {"n_clips": 30, "seed": 2}, "test": {"n_clips": 20, "seed": 2}}
    il.save_model(il.OriginalCNN(), weights, **clips)
    (book / "benchmarks" / "results").mkdir(parents=True)
    (book / "benchmarks" / "results" / "latest.json").write_text('{"a": 1}')
    for _ in range(2):  # counted, then read
        context = module.template_context("tiny", out)
        assert context["models"] == {"original": il.model_info(weights)} and context["bench"] == {"a": 1}
        assert context["results"]["some"]["rows"] == {"a row": {"score": 0.5}}
        for split, n in (("train", 30), ("test", 20)):
            scores = [il.clip_score(i, 2, split) for i in range(n)]
            counted = context["data"][split]
            assert list(counted["instruments"].values()) == [sum(k in s.instruments for s in scores) for k in range(12)]
            assert counted["together"] == {str(k): sum(len(s.instruments) == k for s in scores) for k in range(1, 5)}
            assert counted["notes"] == sum(len(s.notes) for s in scores) and counted["hours"] == n * 5 / 3600

    stored.write_text('{"settings": ')
    with pytest.raises(SystemExit, match=r"^book: .*some\.json is damaged"):
        module.template_context("tiny", out)
    stored.unlink()
    weights.with_suffix(".json").write_text('{"architecture": ')
    with pytest.raises(SystemExit, match=r"^book: .*original\.json cannot be read.*restore"):
        module.template_context("tiny", out)


def test_pages_hold_no_live_widgets():
    module = load("clean_outputs")
    live = new_output("display_data", {WIDGET: {"model_id": "a"}, "text/plain": "IntSlider()"})
    text = new_output("stream", text="kept")
    cell = new_code_cell("slider", outputs=[live, text], metadata={"papermill": {}, "tags": [module.INJECTED]})
    metadata = {"widgets": {"state": 1}, "papermill": {}, "made": {"provenance": "*Made today.*"}}
    page = nbformat.from_dict(new_notebook(cells=[cell], metadata=metadata))
    module.clean_outputs(page)
    assert page.metadata == {} and page.cells[0].outputs == [text]
    assert page.cells[0].metadata == {"tags": [module.INJECTED, "remove-cell"]}
    assert page.cells[1].source == "---\n\n*Made today.*"
    nbformat.validate(page)


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<a href="https://doi.org/1">1</a><img src="a.png"><script src="../x.js"></script>', None),
        ('<script src="https://cdn.example.org/x.js"></script>', "<script> loads https://cdn"),
        ('<link rel="stylesheet" href="//fonts.example.org/x">', "<link> loads //fonts"),
        ('<img srcset="a.png 1x, https://example.org/b.png 2x">', "<img> loads https://example.org/b.png"),
        ("<style>@import 'https://example.org/x.css'</style>", "a style loads"),
        ('<audio src="big.mp3"></audio>', "2.5 MB"),
        (f"<p>{'x' * 2_100_000}</p>", "2.1 MB"),
    ],
    ids=["fine", "script", "font", "picture", "style", "sound", "text"],
)
def test_pages_are_light_and_complete(tmp_path, html, problem):
    (tmp_path / "big.mp3").write_bytes(bytes(2_500_000))
    (tmp_path / "page.html").write_text(html)
    problems = load("check_page").check_page(tmp_path / "page.html")
    assert len(problems) == (problem is not None) and (not problem or problem in problems[0])


def test_a_light_site_keeps_what_its_pages_use(tmp_path):
    """Rules for classes that no page and no script names go; all others, and what a media query holds, stay."""
    module, static = load("optimise_site"), tmp_path / "_static"
    static.mkdir()
    (static / "a.css").write_text(
        ":root{--x:1} .here, .gone {a:b} .gone:hover{a:b} #there>p{a:b} .made{a:b} p:not(.gone){a:b} .md\\:here{a:b}"
        "@media print{.here{c:d} .gone{c:d}} @media screen{.gone{e:f}} [class*=gone] b{g:h} @page{margin:1cm}"
    )
    (static / "a.js").write_text("element.classList.add('made')")
    tags = "".join(f'<script src="_static/{name}.js"></script>' for name in ("a", "searchtools", "scripts/fontawesome"))
    for name in ("page", "search"):
        (tmp_path / f"{name}.html").write_text(f'{tags}<p class="here md:here" id="there">base64,gone</p>')
    module.optimise_site(tmp_path)
    css = (static / "a.css").read_text()
    for rule in (":root{", ".here{a", "#there>p{", ".made{", "p:not(.gone){", "[class*=gone] b{", "@page{", ".here{c"):
        assert rule in css, rule
    assert ".gone{" not in css and ".gone:" not in css and "screen" not in css
    page, search = ((tmp_path / f"{name}.html").read_text() for name in ("page", "search"))
    assert "a.js" in page and "searchtools" not in page and "searchtools" in search and "fontawesome" not in page + search
