"""What keeps the project citable, publishable and tidy: metadata, licences, workflow, spelling, style, Colab and Binder."""

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import lazy_loader
import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output
from test_setup import copy_scripts, load

import instr_lib as il
from instr_lib.music import soundfonts
from instr_lib.samples import recorded
from tools import check_names, recorded_notes

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BIN = Path(sys.executable).parent


def run(*command, cwd=ROOT, **options):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, **options)


# --- citing, licences -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "schema", "break_it"),
    [
        ("CITATION.cff", "citation-file-format", ("authors:", "writers:")),
        (".github/workflows/book.yml", "github-workflows", ("runs-on:", "runs-in:")),
    ],
)
def test_files_of_others_formats_follow_their_schemas(tmp_path, file, schema, break_it):
    broken = tmp_path / Path(file).name
    broken.write_text((ROOT / file).read_text().replace(*break_it))
    for path, valid in ((ROOT / file, True), (broken, False)):
        done = run(BIN / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", path)
        assert (done.returncode == 0) == valid, done.stdout + done.stderr


def test_citation_says_what_the_project_says():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["title"] == config["title"]
    assert [author["name"] for author in citation["authors"]] == [config["author"]]
    assert citation["version"] == package["version"] == il.__version__
    assert citation["license"] == "MIT" and (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert config["author"] in (ROOT / "LICENSE").read_text() and config["author"] in (ROOT / "LICENSE-text.md").read_text()


def test_licences_are_named_where_a_reader_looks():
    readme, page = (ROOT / "README.md").read_text(), (ROOT / "book" / "licences.md").read_text()
    for text in (readme, page, (ROOT / "LICENSE-text.md").read_text()):
        assert "CC BY 4.0" in text and "MIT" in text
    rows = [line for line in readme.splitlines() if line.startswith("|")]
    for font in soundfonts.SOUNDFONTS.values():
        assert any(f"`{font.package}`" in row and f"| {font.licence} |" in row for row in rows), font
    notes = json.loads((recorded.FOLDER / "notes.json").read_text())
    assert {key: notes[key] for key in recorded.ABOUT} == recorded.ABOUT
    assert any("tonejs" in row and f"| {recorded.ABOUT['licence']} |" in row for row in rows)
    assert recorded.source_packages() == sorted(f"tonejs-instrument-{name}-mp3" for name in recorded_notes.PACKAGES)


def test_workflow_tests_then_publishes_the_default_branch_only():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    triggers, jobs = workflow[True], workflow["jobs"]  # YAML 1.1 reads `on` as true
    assert {"push", "pull_request", "workflow_dispatch"} <= set(triggers)
    profiles = triggers["workflow_dispatch"]["inputs"]["profile"]
    assert profiles["default"] == "quick" and {f"{name}.yml" for name in profiles["options"]} <= {
        path.name for path in (ROOT / "notebooks" / "profiles").iterdir()
    }
    steps = {name: [step.get("run", step.get("uses")) for step in job["steps"]] for name, job in jobs.items()}
    assert any(step.startswith("make test") for step in steps["test"])
    assert jobs["build"]["needs"] == "test" and "default_branch" in jobs["build"]["if"]
    assert any("make book PROFILE=${{ inputs.profile || 'quick' }}" in step for step in steps["build"])
    assert jobs["publish"]["needs"] == "build"
    assert workflow["permissions"] == {"contents": "read"}
    assert jobs["publish"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert [step.split("@")[0] for step in steps["publish"]] == ["actions/configure-pages", "actions/deploy-pages"]


# --- tidy -------------------------------------------------------------------------------------------------------------


def test_code_and_cells_are_formatted_and_clean():
    for command in (["check"], ["format", "--check"]):
        done = run(BIN / "ruff", *command, "--no-cache", ".")
        assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_reads_the_cells(tmp_path):
    """Else the test above would say nothing about notebooks."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "ruff.toml", tmp_path / "notebooks")
    nbformat.write(new_notebook(cells=[new_code_cell("import os\nx=1")]), tmp_path / "notebooks" / "one.ipynb")
    assert "F401" in run(BIN / "ruff", "check", "--no-cache", ".", cwd=tmp_path).stdout
    assert run(BIN / "ruff", "format", "--check", "--no-cache", ".", cwd=tmp_path).returncode == 1


def test_words_are_spelled_right(tmp_path):
    texts = [*ROOT.glob("*.md"), ROOT / "CITATION.cff", *(ROOT / "book").glob("*.md"), *NOTEBOOKS]
    code = [path for folder in ("book", "instr_lib", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    done = run(BIN / "codespell", *texts, *code)
    assert done.returncode == 0, done.stdout
    (tmp_path / "page.md").write_text("We reci" + "eve a theses.\n")
    assert run(BIN / "codespell", tmp_path / "page.md").stdout.count("==>") == 1


def test_old_names_and_phrases_are_gone():
    done = run(sys.executable, ROOT / "tools" / "check_names.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_old_names_and_phrases_are_found(tmp_path):
    """Else the test above would say nothing. What merely contains an old name, or is meant otherwise, is left alone."""
    for folder in ("instr_lib/explain", "instr_lib/networks/weights", "book/results", "notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    code = """def f(which, other):\n    found = {'mass': 1}  # ten voices, one a\n    # clip\n    return found['mass']\n
class Trace:\n    def start(self): pass\n\nclass Timer:\n    def start(self): return 'critical mass', {}['mass_of']\n"""
    (tmp_path / "instr_lib" / "explain" / "naming.py").write_text(code)
    (tmp_path / "book" / "results" / "lent.json").write_text('{"rows": {"heard": 1, "hearing": 2}}')
    (tmp_path / "book" / "a.md").write_text("Drawn by\nlot, so that a violin is not taken for another. Lotteries.")
    cells = [new_code_cell("%matplotlib inline\nheats = [1]"), nbformat.v4.new_markdown_cell("It redoes it.")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "one.ipynb")
    found = sorted((path, line, old) for path, line, old, _ in check_names.remaining(tmp_path))
    lines = (tmp_path / "notebooks" / "one.ipynb").read_text().splitlines()
    heats, redoes = (next(n for n, line in enumerate(lines, 1) if word in line) for word in ("heats", "redoes"))
    assert set(found) == {
        ("instr_lib/explain/naming.py", 1, "module naming"),
        ("instr_lib/explain/naming.py", 1, "parameter which"),
        ("instr_lib/explain/naming.py", 2, "variable found"),
        ("instr_lib/explain/naming.py", 2, "key mass"),
        ("instr_lib/explain/naming.py", 2, "“one a # clip”"),
        ("instr_lib/explain/naming.py", 4, "key mass"),
        ("instr_lib/explain/naming.py", 7, "definition Trace.start"),
        ("book/results/lent.json", 1, "file lent"),
        ("book/results/lent.json", 1, "key heard"),
        ("book/a.md", 1, "“by lot”"),
        ("book/a.md", 2, "“taken for”"),
        ("notebooks/one.ipynb", heats, "variable heats"),
        ("notebooks/one.ipynb", redoes, "“redoes”"),
    }


# --- Colab, Binder, buttons -------------------------------------------------------------------------------------------


def address():
    return yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_first_cell_of_each_notebook_sets_up_colab(path):
    first = next(cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code")
    assert first == load("colab").cell(address()), "write it anew with: python book/scripts/colab.py"
    assert len(first["source"]) <= 8


def test_cell_is_written_once_and_changes_nothing_else(tmp_path):
    copy_scripts(tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    module, path = load("colab", tmp_path), tmp_path / "notebooks" / NOTEBOOKS[0].name
    for url in ("", "https://github.com/someone/book", ""):
        (tmp_path / "_config.yml").write_text(yaml.safe_dump({"repository": {"url": url}}))
        module.write_cells()
        text = path.read_text()
        module.write_cells()
        assert path.read_text() == text and text.count('"id": "colab"') == 1 and (not url or url in text)
        nbformat.validate(nbformat.reads(text, 4))
        without = [cell for cell in json.loads(text)["cells"] if cell["id"] != "colab"]
        assert without == [cell for cell in json.loads(NOTEBOOKS[0].read_text())["cells"] if cell["id"] != "colab"]
        assert any("parameters" in cell["metadata"].get("tags", []) for cell in without)


def wheel(folder, name, version):
    """An installable package that holds one empty module, or the real one that even the package's first line needs."""
    stem = f"{name.replace('-', '_')}-{version}"
    module = {"pyfluidsynth": "fluidsynth"}.get(name, name.replace("-", "_"))
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as file:
        file.writestr(f"{module}.py", inspect.getsource(lazy_loader) if module == "lazy_loader" else "")
        file.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False], ids=["address known", "address asked for"])
def test_colab_cell_sets_up_a_bare_environment(need_soundfont, tmp_path, known):
    """A new virtual environment plays Colab, with a torch of its own; packages are empty wheels, the rest is real."""
    repository, content, wheels = (tmp_path / name for name in ("repository", "content", "wheels"))
    for name in ("book", "instr_lib", "notebooks"):
        shutil.copytree(ROOT / name, repository / name, ignore=shutil.ignore_patterns("__pycache__", "*.ogg", "*.flac"))
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, repository)
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -q -m book"):
        assert run("git", *command.split(), cwd=repository).returncode == 0
    for folder in (content, wheels):
        folder.mkdir()

    colab = load("colab")
    needed = colab.missing(lambda name: (_ for _ in ()).throw(metadata.PackageNotFoundError(name)))
    wheel(wheels, "torch", "2.9.1")  # older than ours
    for pinned in needed:
        wheel(wheels, *pinned.split("=="))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON"))}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PYTHONUTF8": "1"}
    assert run(sys.executable, "-m", "venv", tmp_path / "venv").returncode == 0
    python = tmp_path / "venv" / "bin" / "python"
    assert run(python, "-m", "pip", "install", "-q", "torch==2.9.1", env=environment).returncode == 0

    cell = "".join(colab.cell(str(repository) if known else "")["source"]).replace("/content/", f"{content}/")
    assert "/content/book" in cell
    before = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('colab')\n"
    after = "\nimport instr_lib as il\nprint('at', os.getcwd(), 'with', il.__file__, len(il.INSTRUMENTS))"
    # A second time, as in a notebook that is run again, nothing is fetched or installed.
    for installs in (True, False):
        done = run(python, "-c", before + cell + after, cwd=content, env=environment, input=f"{repository}\n")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"at {content}/book/notebooks with {content}/book/instr_lib/__init__.py 12" in done.stdout
        assert ("installing" in done.stdout) == installs
    frozen = run(python, "-m", "pip", "freeze", env=environment).stdout.lower().splitlines()
    assert "torch==2.9.1" in frozen
    assert {pin.lower() for pin in needed if not pin.startswith("torch==")} <= set(frozen)

    assert run(python, "-c", cell, cwd=tmp_path, env=environment).stdout == ""  # not on Colab: nothing


def test_colab_gets_all_that_the_notebooks_import():
    """What is not in the groups that are installed there is Colab's own, or is not needed in a kernel."""
    theirs = {"matplotlib", "IPython", "ipywidgets", "PIL"}
    called = {"fluidsynth": "pyfluidsynth", "sklearn": "scikit-learn", "crp": "zennit-crp", "lazy_loader": "lazy-loader"}
    code = [path.read_text() for path in (ROOT / "instr_lib").rglob("*.py")]
    for path in NOTEBOOKS:
        code += [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    imported = {"fluidsynth"}  # which synth imports by its name
    for node in (node for text in code for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and not node.level:
            imported.add(node.module.split(".")[0])
    foreign = {called.get(name, name) for name in imported - set(sys.stdlib_module_names) - theirs - {"instr_lib"}}
    absent = load("colab").missing(lambda name: (_ for _ in ()).throw(metadata.PackageNotFoundError(name)))
    assert {"torch", "librosa", "pyfluidsynth"} <= foreign
    assert foreign <= {pinned.split("==")[0] for pinned in absent}


def test_binder_installs_what_make_installs():
    """No second list of packages: the two of the system are setup.py's, the rest comes out of requirements.lock."""
    setup = load("system_packages")
    setup.ctypes.util.find_library, setup.find_soundfont = (lambda name: None), (lambda: None)
    try:
        assert (ROOT / ".binder" / "apt.txt").read_text().split() == setup.missing_packages(new=False)
    finally:
        import ctypes.util
        from importlib import reload

        reload(ctypes.util)
    assert (ROOT / ".binder" / "runtime.txt").read_text() == "python-3.11\n"
    script = ROOT / ".binder" / "postBuild"
    assert os.access(script, os.X_OK) and "-r requirements.lock" in script.read_text() and "-e ." in script.read_text()


@pytest.fixture
def page(tmp_path):
    """A function: the pages of a book of one notebook and one text, for an address."""
    root = tmp_path / "book"
    for name in ("book/_static", "notebooks", "instr_lib"):
        (root / name).mkdir(parents=True)
    copy_scripts(root)
    (root / "book" / "index.md").write_text("# Welcome\n\n{cite:p}`x`\n\n```{bibliography}\n```\n")
    (root / "book" / "references.bib").write_text("@misc{x, title={X}, author={Y, Z}, year={2000}}\n")
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters:\n- file: notebooks/one\n")
    cells = [new_code_cell("1 + 1", outputs=[new_output("stream", text="an output")])]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), root / "notebooks" / "one.ipynb")
    notebook = nbformat.read(root / "notebooks" / "one.ipynb", 4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# One?"))
    notebook.metadata.made = {"provenance": "*Made.*"}

    def build(url):
        config = (ROOT / "_config.yml").read_text()
        assert config.count(f'url: "{address()}"') == 1
        (root / "_config.yml").write_text(config.replace(f'url: "{address()}"', f'url: "{url}"'))
        module, out = load("assemble", root), root / "_build"
        (out / "tiny" / "executed").mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, out / "tiny" / "executed" / "one.ipynb")
        module.template_context = lambda profile, out: {}
        load("build_html", root).build_html(module.assemble([Path("notebooks/one.ipynb")], "tiny", out), out / "html")
        return out / "html"

    return build


@pytest.mark.slow
def test_buttons_lead_to_the_repository_only_if_there_is_one(page):
    words = ("colab.research", "mybinder", "issues/new", "source-repository-button", "launch-buttons")
    text = (page("") / "notebooks" / "one.html").read_text()
    assert not any(word in text for word in (*words, "github.com/executablebooks"))
    html = page("https://github.com/someone/book")
    text = (html / "notebooks" / "one.html").read_text()
    assert all(word in text for word in words) and "thebe" not in text.lower()
    assert "https://colab.research.google.com/github/someone/book/blob/main/notebooks/one.ipynb" in text
    assert "https://mybinder.org/v2/gh/someone/book/main?urlpath=lab/tree/notebooks/one.ipynb" in text
    index = (html / "book" / "index.html").read_text()
    assert "https://github.com/someone/book/issues/new" in index and "colab.research" not in index


@pytest.mark.slow
def test_repository_that_no_button_could_lead_to_is_refused(page):
    with pytest.raises(SystemExit, match=r"^book: _config.yml: repository.url is 'someone/book'.*github.com/OWNER"):
        page("someone/book")


@pytest.mark.slow
def test_download_button_gives_the_notebook_offline_and_from_a_file(page, browser, tmp_path):
    """As it is committed, without outputs; Chromium saves it with the network off, from a page opened as a file."""
    html, context = page(""), browser.new_context(offline=True)
    tab = context.new_page()
    tab.goto((html / "notebooks" / "one.html").as_uri())
    tab.click(".dropdown-download-buttons > button")
    with tab.expect_download() as download:
        tab.click(".btn-download-source-button")
    download.value.save_as(tmp_path / "saved.ipynb")
    assert download.value.suggested_filename == "one.ipynb"
    context.close()
    saved = nbformat.read(tmp_path / "saved.ipynb", 4)
    assert [(cell.source, cell.outputs) for cell in saved.cells] == [("1 + 1", [])]
    assert not list(html.glob("_sources/**/*.ipynb"))  # nothing that is not linked
