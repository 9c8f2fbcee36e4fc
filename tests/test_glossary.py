"""The glossary: in order, each word once, every link and every mention of a word leading somewhere."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "book" / "glossary.md"


def entries(text):
    """Terms with their definitions, in the order of the page."""
    (inside,) = re.findall(r"^```\{glossary\}\n(.*?)^```", text, flags=re.M | re.S)
    found = re.findall(r"^(\S.*)\n((?:[ ]+\S.*\n)+)", inside, flags=re.M)
    lines = [line for line in inside.splitlines() if line and not line.startswith(" ")]
    assert lines == [term for term, _ in found], "a term without a definition"
    return found


def pages():
    """The text of every page of the book that _toc.yml names, by its path."""
    for name in re.findall(r"(?:file|root):\s*(\S+)", (ROOT / "_toc.yml").read_text()):
        if (page := ROOT / f"{name}.md").exists():
            yield page, page.read_text()
        else:
            cells = json.loads((ROOT / f"{name}.ipynb").read_text())["cells"]
            text = ("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
            yield ROOT / f"{name}.ipynb", "\n".join(text)


TERMS = [term for term, _ in entries(GLOSSARY.read_text())]


def test_terms_are_in_order_and_each_is_there_once():
    words = [term.casefold() for term in TERMS]
    assert words == sorted(words)
    assert len(words) == len(set(words)) and len(words) >= 50


def test_every_entry_is_short_and_leads_to_a_page_of_the_book():
    book = {page for page, _ in pages()}
    for term, definition in entries(GLOSSARY.read_text()):
        targets = re.findall(r"\]\(([^)#]+)[^)]*\)", definition)
        assert targets, f"{term}: no link"
        for target in targets:
            assert (GLOSSARY.parent / target).resolve() in book, f"{term}: {target} is no page of the book"
        prose = re.sub(r"\]\(.*?\)|\{\{.*?\}\}", "", definition)
        assert 20 < len(prose) < 400, f"{term}: {len(prose)} characters"


def test_words_that_pages_look_up_are_there():
    known = {term.casefold() for term in TERMS}
    looked_up = [(page.name, word) for page, text in pages() for word in re.findall(r"\{term\}`([^`]+)`", text)]
    assert looked_up
    for page, word in looked_up:
        named = re.sub(r".*<(.*)>$", r"\1", " ".join(word.split()))
        assert named.casefold() in known, f"{page} looks up {named!r}"
