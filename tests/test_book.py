"""The notebooks as they are committed, and the book that is built of them in profile smoke."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from pybtex.database import parse_file
from test_setup import load

import instr_lib as il
from instr_lib.networks.weights import models_folder

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if path.stem != "06_explorer"]  # which has no text to speak of, and no figures


def read(path):
    return json.loads(path.read_text())["cells"]


def source(cell):
    return "".join(cell["source"])


def prose(path):
    """Its Markdown, without code in it."""
    text = "\n".join(source(cell) for cell in read(path) if cell["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_committed_without_outputs(path):
    for cell in read(path):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert len(source(cell).splitlines()) <= 20


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_every_chapter_asks_promises_concludes_and_links(path):
    text = "\n".join(source(cell) for cell in read(path) if cell["cell_type"] == "markdown")
    title = text.splitlines()[0]
    assert title.startswith("# ") and title.rstrip("*").endswith(("?", "?*"))
    for part in ("**You will see**", "**It takes**", "What we learned", "## Exercises"):
        assert part in text, part
    assert re.search(r"\*\*(Next|Before):\*\*", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_headings_are_in_order(path):
    """One title, first of all, and no level left out on the way down."""
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose(path), flags=re.M)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(lower <= upper + 1 for upper, lower in pairwise(levels))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_figure_is_referred_to_in_its_section(path):
    section, figures, referred = "", {}, set()
    for cell in read(path):
        if cell["cell_type"] == "markdown":
            for part in re.split(r"^(?=#)", source(cell), flags=re.M):
                section = part.splitlines()[0] if part.startswith("#") else section
                names = re.findall(r"\{numref\}`(?:[^`<]*<)?([^`>]+)>?`", part)
                referred |= {(section, name) for name in names}
        elif figure := cell["metadata"].get("mystnb", {}).get("figure"):
            figures[figure["name"]] = section
    lonely = {name: section for name, section in figures.items() if (section, name) not in referred}
    assert not lonely, "refer to these with {numref}`name`"


def test_names_of_figures_are_unique():
    figures = [cell["metadata"].get("mystnb", {}).get("figure", {}) for path in NOTEBOOKS for cell in read(path)]
    pages = "\n".join(page.read_text() for page in (ROOT / "book").glob("*.md"))
    names = [figure["name"] for figure in figures if figure] + re.findall(r"^:name: (\S+)", pages, flags=re.M)
    assert len(names) > 40
    assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_exercises_are_three_to_five_from_looking_to_a_thesis(path):
    cells = read(path)
    (start,) = [n for n, cell in enumerate(cells) if re.search("^## Exercises$", source(cell), flags=re.M)]
    text = "\n".join(source(cell) for cell in cells[start:] if cell["cell_type"] == "markdown").split("## Exercises")[1]
    numbers = [int(number) for number in re.findall(r"^\*\*(\d+)\.\*\* ", text, flags=re.M)]
    assert numbers == list(range(1, len(numbers) + 1)) and 3 <= len(numbers) <= 5
    assert "*(a thesis)*" in text
    assert any("hide-cell" in cell["metadata"].get("tags", []) for cell in cells[start:]), "no solution"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_profiles_give_what_the_notebooks_ask_for(path):
    (parameters,) = [c for c in read(path) if "parameters" in c["metadata"].get("tags", [])]
    needed = set(re.findall(r"^(\w+) =", source(parameters), flags=re.M))
    given = {p.stem: yaml.safe_load(p.read_text()) for p in (ROOT / "notebooks" / "profiles").glob("*.yml")}
    assert set(given) == {"smoke", "quick", "full", "seeds"}
    for name, values in given.items():
        assert needed <= set(values), f"profile {name} lacks {needed - set(values)}"
        assert values["PROFILE"] == name
    # Opened by hand, a notebook runs in the default profile.
    defaults = {}
    exec(source(parameters), defaults)
    assert all(defaults[name] == given["quick"][name] for name in needed)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_numbers_in_prose_come_from_cells(path):
    """No decimal fraction is typed into prose that could be a result; quoted facts of the report are few and known."""
    known = {"0.3", "0.5", "0.6", "0.8", "0.15", "0.001", "4.99", "0.92", "1.000", "3.0"}  # CC BY 3.0
    for cell in read(path):
        if cell["cell_type"] == "markdown":
            prose = re.sub(r"CC BY[A-Z-]* \d\.\d|\$\$.*?\$\$|\$.*?\$|`.*?`|\]\(.*?\)", "", source(cell), flags=re.S)
            assert set(re.findall(r"\b\d+\.\d+\b", prose)) <= known


# Decimals and percentages that a page in Markdown may type: versions, settings, kinds of interval; no results.
TYPED = {
    "from_the_report": {"95 %", "0.62", "7.8", "0.001", "4.99", "20 %", "0.5", "44.1"},  # what the report says
    "how_to": {"3.11", "3.13"},
    "model_card": {"95 %", "1.000"},
    "scale_out": {"2.8", "0.001", "0.0001"},
}


@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("*.md")), ids=lambda p: p.stem)
def test_numbers_in_pages_come_from_files(path):
    """What is not Jinja's, code, a formula, a style or a link, holds no number that could be a result."""
    text = re.sub(r"<!--.*?-->|<style>.*?</style>|```.*?```|\{%.*?%\}|\{\{.*?\}\}", "", path.read_text(), flags=re.S)
    text = re.sub(r"CC BY[A-Z-]* \d\.\d|\$\$.*?\$\$|\$.*?\$|`.*?`|\]\(.*?\)|<.*?>", "", text, flags=re.S)
    found = set(re.findall(r"\b\d+\.\d+\b|\b\d+(?:\.\d+)? ?%", text))
    assert found <= TYPED.get(path.stem, set()), f"let a cell or a file give {found - TYPED.get(path.stem, set())}"


def test_seeds_go_on_from_the_full_run():
    full, seeds = (
        yaml.safe_load((ROOT / "notebooks" / "profiles" / f"{name}.yml").read_text()) for name in ("full", "seeds")
    )
    assert {name for name in full if full[name] != seeds[name]} == {"PROFILE", "SEEDS"}
    assert full["SEEDS"] == {"original": 1, "compact": 1} and seeds["SEEDS"] == {"original": 2, "compact": 3}


@pytest.mark.parametrize("name", ["model_card", "data_card"])
def test_numbers_in_cards_come_from_files(name):
    text = (ROOT / "book" / f"{name}.md").read_text()
    typed = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|```.*?```|`.*?`|\]\(.*?\)", "", text, flags=re.S)
    # 12 logits, 95 % intervals, exercise 2, chapters, numbered lists, the dB scale's end; and how "no error" reads
    known = {"12", "95", "1", "2", "3", "4", "5", "7", "9", "0", "1.000"}
    assert set(re.findall(r"\d+(?:\.\d+)?", typed.replace("SHA-256", "").replace("F1", ""))) <= known


@pytest.mark.parametrize("name", ["index", "from_the_report"])
def test_results_in_pages_come_from_files(name):
    """What the report or its code says may be typed; what came out here may not."""
    text = (ROOT / "book" / f"{name}.md").read_text()
    typed = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|`.*?`|\]\(.*?\)", "", text, flags=re.S)
    # sampling and learning rate; seconds a clip; 0.5 on logits as a probability; a quantile of chi-squared
    assert set(re.findall(r"\d+\.\d+", typed)) <= {"44.1", "0.001", "4.99", "0.5", "0.62", "7.8"}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """What pages in Markdown can name in the default profile."""
    return load("template_context").template_context("quick", tmp_path_factory.mktemp("context"))


def filled(context, name, folder, **changed):
    page = folder / f"{name}.md"
    page.write_text((ROOT / "book" / page.name).read_text())
    load("fill_pages").fill_pages(folder, context | changed)
    return page.read_text()


def test_welcome_says_what_the_files_say(context, tmp_path):
    text = filled(context, "index", tmp_path)
    rows = {name: content["rows"] for name, content in context["results"].items()}
    mass = rows["attribution_scores"]["compact, CRP, contrastive"]["scores"]["relevance_mass_accuracy"][0]
    drop = rows["interventions"]["harmonics"]["compact"]["harmonics of another instrument"]["relative_logit_drop"][0]
    assert f"{100 * mass:.0f}\N{NO-BREAK SPACE}%" in text and f"{100 * drop:.0f}\N{NO-BREAK SPACE}%" in text
    notes = np.array([note.instrument for note in il.recorded_notes()])
    for network in ("compact", "robust"):
        assert f"{rows['generalisation'][f'{network}, TimGM6mb']['macro'][0]:.2f}" in text
        answers = np.array(rows["generalisation"][f"{network}, real notes"]["answers"])
        right = np.mean([(answers[notes == i] == i).mean() for i in np.unique(notes)])
        assert f"{100 * right:.0f}\N{NO-BREAK SPACE}%" in text


def test_verdicts_follow_the_results(context, tmp_path):
    text = filled(context, "from_the_report", tmp_path)
    claim = text.split("learned very well the distribution of harmonics")[1].split("“")[0]
    assert "**Reproduced.**" in claim
    results = json.loads(json.dumps(context["results"]))
    changed = results["interventions"]["rows"]["harmonics"]["original"]["harmonics of another instrument"]
    changed["beyond_control"] = [-0.2, -0.3, -0.1]
    text = filled(context, "from_the_report", tmp_path, results=results)
    claim = text.split("learned very well the distribution of harmonics")[1].split("“")[0]
    assert "**Not reproduced.**" in claim and "-0.20 (-0.30 to -0.10)" in claim


@pytest.mark.parametrize("name", ["index", "from_the_report"])
def test_pages_need_no_results(context, tmp_path, name):
    few = {kind: context["models"][kind] for kind in ("original", "compact")}
    text = filled(context, name, tmp_path, results={}, models=few, prior=None)
    assert "in this profile yet" in text


def test_every_source_can_be_found_and_is_cited():
    entries = parse_file(ROOT / "book" / "references.bib").entries
    texts = [path.read_text() for path in (ROOT / "book").glob("*.md")]
    texts += ["\n".join(source(cell) for cell in read(path)) for path in NOTEBOOKS]
    cited = re.findall(r"\{cite:\w+\}`([^`]+)`", "\n".join(texts))
    assert {key.strip() for keys in cited for key in keys.split(",")} == set(entries)
    for key, entry in entries.items():
        # The report was published with its code, under no address that is known to last.
        assert key == "report" or {"doi", "eprint", "isbn", "url"} & set(entry.fields), key
        assert re.fullmatch(r"10\.\d{4,9}/\S+", entry.fields.get("doi", "10.1234/none")), key
        assert entry.persons["author"] and entry.fields["title"] and entry.fields["year"], key


class Page(HTMLParser):
    """What a page shows: pictures with their alternative text, players, captions."""

    def __init__(self, file):
        super().__init__()
        self.images, self.audio, self.captions, self.text = [], 0, 0, file.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs)
        self.audio += tag == "audio"
        self.captions += attrs.get("class") == "caption-text"


@pytest.fixture(scope="module")
def chapters(book):
    return {p.stem: Page(book / "html" / "notebooks" / f"{p.stem}.html") for p in NOTEBOOKS}


def test_pictures_have_alternative_text_and_captions(chapters):
    for name, page in chapters.items():
        figures = [i for i in page.images if "_images" in i["src"]]
        assert figures or "ex-says" in page.text, name  # the explorer draws its own
        for image in figures:
            assert len(image["alt"]) > 30 and "_images" not in image["alt"], (name, image)
        assert page.captions >= len(figures), name


def test_sounds_are_in_the_pages(chapters):
    assert chapters["01_generate_data"].audio == 6  # two mixes, four stems
    assert chapters["05_relevance"].audio == 3
    assert chapters["06_explorer"].audio == 1  # which clip it plays is the reader's choice


def test_no_page_shows_an_error_or_a_warning(chapters):
    for name, page in chapters.items():
        assert "Traceback" not in page.text and 'class="output stderr' not in page.text, name


def test_pages_say_how_they_were_made(book, chapters):
    pages = [*(page.text for page in chapters.values()), *(p.read_text() for p in (book / "html" / "book").glob("*.html"))]
    assert len(pages) > 20
    for page in pages:
        assert page.count("Made on") == 1 and "make book PROFILE=smoke" in page and "FluidSynth 2" in page


def test_every_network_of_the_run_is_tested_once(book):
    info = il.models_info(book / "smoke" / "models")
    assert set(info) == {"original", "compact", "compact-1", "compact-prior", "robust"}
    for name, about in info.items():
        assert about["test"]["n_clips"] == 60 and about["data"]["n_clips"] == (40 if name == "robust" else 100)
        assert about["test"]["split"] == "test" and about["profile"] == "smoke"
    assert len({about["sha256"] for about in info.values()}) == 5


def test_chapters_and_cards_show_what_the_files_say(book, chapters):
    info = il.models_info(book / "smoke" / "models")
    card = Page(book / "html" / "book" / "model_card.html").text
    assert "Their scores mean nothing" in card
    for name, about in info.items():
        for page in (card,) if name in ("robust", "compact-prior") else (card, chapters["04_evaluate"].text):
            score = about["test"]["macro_f1"]
            assert f"{score['value']:.3f} ({score['low']:.3f}–{score['high']:.3f})" in page
        assert about["sha256"][:12] in card or about["settings"]["seed"]
    data = Page(book / "html" / "book" / "data_card.html").text
    fingerprint = info["original"]["data"]["fingerprint"]
    assert all(fingerprint[start : start + 16] in data for start in range(0, 64, 16))
    assert "def</span>" in chapters["03_train"].text and "one_epoch" in chapters["03_train"].text


def test_second_build_reuses_everything(book, build):
    done, seconds = build(book)
    assert done.returncode == 0 and seconds < 30
    assert done.stdout.count("reused") >= len(NOTEBOOKS) + 1
    assert not re.search(r"\.\.\. +\d", done.stdout)


CHAPTER_9 = Path("notebooks") / "09_beyond_the_soundfont.ipynb"
TABLE = re.compile(r"<table.*?</table>", re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("found", ["FluidR3", "everything"])
def test_chapter_9_shows_nothing_empty(need_soundfont, tmp_path, monkeypatch, found):
    """Executed as for a page, which fails at an empty panel, with FluidR3 alone and with all soundfonts of this machine."""
    only = found == "FluidR3"
    if only:
        monkeypatch.setenv("INSTR_SOUNDFONT", str(il.find_soundfont()))
        monkeypatch.setenv("INSTR_SOUNDFONT_PLACES", str(tmp_path))
    for name in ("JUPYTER_PATH", "IPYTHONDIR", "MPLCONFIGDIR", "TQDM_DISABLE", "OMP_WAIT_POLICY", "MPLBACKEND"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back what the build sets
    execute, clean = load("execute"), load("clean_outputs")
    execute.isolate(tmp_path / "cache")
    execute.execute(CHAPTER_9, "quick", "key", tmp_path)
    notebook = nbformat.read(execute.executed_copy(CHAPTER_9, "quick", tmp_path), 4)
    clean.clean_outputs(notebook)
    data = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    tables = [table for each in data for table in TABLE.findall(each.get("text/html", ""))]
    assert len(tables) > 4
    for table in tables:
        rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in table.split("<tr") if "<td" in row]
        assert rows and all({*line} - {"–", "nan", ""} for line in (*rows, *zip(*rows, strict=True))), table
    text = "".join(each.get("text/markdown", "") for each in data)
    names = [cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in notebook.cells]
    sources = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "nan" not in text
    for name in ("fig-fonts", "fig-generalisation", "fig-failure"):
        assert (f"`{name}`" in sources) == (name in names)
    if only:
        assert "Not found:" in text and "`make soundfonts` installs them" in text and "fig-fonts" not in names
        assert sum("image/png" in each for each in data) == 1


def test_cells_for_what_is_missing_are_left_out():
    module, tag = load("clean_outputs"), "other-soundfonts"
    absent = nbformat.v4.new_output("display_data", {module.LEAVE_OUT: [tag]})
    first = nbformat.v4.new_code_cell("look()", outputs=[absent])
    section = nbformat.v4.new_markdown_cell("## More", metadata={"tags": [tag]})
    notebook = nbformat.v4.new_notebook(cells=[first, section], metadata={"made": {"provenance": "*Made.*"}})
    notebook = nbformat.from_dict(notebook)
    module.clean_outputs(notebook)
    assert [cell.source for cell in notebook.cells] == ["look()", "---\n\n*Made.*"] and notebook.cells[0].outputs == []


def run_chapter(path, before="", until="", **environment):
    """Run a chapter's code cells, up to the one with ``until``, after what ``before`` sets in place of its parameters."""
    code = ["import matplotlib; matplotlib.use('Agg')"]
    for cell in (cell for cell in read(path) if cell["cell_type"] == "code"):
        code.append(source(cell))
        if "parameters" in cell["metadata"].get("tags", []):
            code.append(before)
        if until and until in source(cell):
            break
    command = [sys.executable, "-c", "\n".join(code)]
    done = subprocess.run(command, cwd=path.parent, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_chapter_4_asks_for_its_own_networks_only(need_soundfont, tmp_path, hashes):
    """The published ones have their scores: the quick profile must not write over them, nor one on fewer clips over any."""
    own = tmp_path / "models"
    il.save_model(il.CompactCNN(), own / "compact.safetensors", settings={"seed": 0})
    other = il.save_model(il.CompactCNN(), own / "compact-1.safetensors", settings={"seed": 1}, test="asked before")
    models, before = models_folder(), hashes(models_folder())
    parameters = f"FOLDER, MODELS, N_TEST = {str(tmp_path)!r}, {str(models)!r}, 12"
    run_chapter(ROOT / "notebooks" / "04_evaluate.ipynb", parameters, until="add_info")
    assert il.model_info(own / "compact.safetensors")["test"]["n_clips"] == 12
    assert il.model_info(other)["test"] == "asked before"
    assert hashes(models) == before


@pytest.mark.slow
def test_chapter_5_needs_no_soundfont(tmp_path):
    """Its clips travel with the library; only the published weights are read besides."""
    run_chapter(ROOT / "notebooks" / "05_relevance.ipynb", INSTR_SOUNDFONT=str(tmp_path / "missing.sf2"))
