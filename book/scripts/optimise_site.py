"""Remove from a built site what no page uses, so that a page's first screen appears within 3 s on a slow connection.

The theme loads Bootstrap, two copies of Font Awesome and the search index on every page. Here each style sheet keeps
only the rules that some page may need; icons come from the font alone; only the search page loads the index.
"""

import re
import shutil
from pathlib import Path

import tinycss2
from fontTools import subset

UNUSED = ("*.map", "locales", "fontawesome.js")  # for developers; for other languages; a second copy of the icons
FONT = r"""url\(["']?([^)]*/fa-[\w-]+)\.woff2["']?\) format[^}]*"""
SEARCH = "searchtools|language_data|searchindex"
TAG = r'\s*<script[^>]*src="[^"]*(?:{})\.js[^"]*"[^>]*></script>'
NAME = re.compile(r"[.#]((?:[\w-]|\\.)+)")


def optimise_site(site: Path):
    """Optimise the folder of a built book; nothing changes for the reader."""
    names = set()
    for page in site.rglob("*.html"):
        text = page.read_text()
        unused = ["scripts/fontawesome"] + [SEARCH] * (page.name != "search.html")
        unused += ["mathjax/MathJax"] * ('class="math' not in text and "MathJax" not in text.partition("<body")[2])
        text = re.sub(TAG.format("|".join(unused)), "", text)
        text = re.sub(r'<link rel="preload" as="script"[^>]*>', "", text)  # styles are needed sooner
        text = text.replace('role="list" class="citation-list"', 'class="citation-list"')  # its children are no list items
        page.write_text(text)
        names |= words(text)
    for pattern in UNUSED:
        for path in [*(site / "_static").rglob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for script in (site / "_static").rglob("*.js"):
        names |= words(script.read_text())
    sheets = {}
    for sheet in {*(site / "_static").rglob("*.css")} - {site / "_static" / "book.css"}:  # ours is used, by pdf.py too
        rules = tinycss2.parse_stylesheet(sheet.read_text(), skip_comments=True, skip_whitespace=True)
        sheets[sheet] = purge(rules, names)
    icons = {ord(character) for css in sheets.values() for character in css if "\ue000" <= character <= "\uf8ff"}
    for file in (site / "_static").rglob("fa-*.ttf"):
        subset_font(file, icons)
    for sheet, css in sheets.items():
        sheet.write_text(re.sub(FONT, r"url(\1.woff)", css))


def subset_font(file: Path, characters: set[int]):
    """Replace a font by the part that is needed, in a format that needs no further package."""
    font, cutter = subset.load_font(file, subset.Options()), subset.Subsetter()
    cutter.populate(unicodes=characters)
    cutter.subset(font)
    font.flavor = "woff"
    font.save(file.with_suffix(".woff"))
    file.unlink()
    file.with_suffix(".woff2").unlink()


def words(text: str) -> set[str]:
    """All that could be the name of a class or an element in a page or script, embedded sounds excepted."""
    return set(re.findall(r"[\w-]+", re.sub(r"base64,[\w+/=]+", "", text)))


def purge(rules: list, names: set[str]) -> str:
    """As CSS, the rules whose selectors name only what exists; rules inside media queries are purged too."""
    css = []
    for rule in rules:
        if rule.type == "qualified-rule":
            selectors = [s for s in split(rule.prelude) if needed(s, names)]
            if selectors:
                css.append(f"{','.join(selectors)}{{{tinycss2.serialize(rule.content).strip()}}}")
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports", "layer") and rule.content:
            inside = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
            if text := purge(inside, names):
                css.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{text}}}")
        else:
            css.append(rule.serialize())
    return "\n".join(css)


def split(prelude: list) -> list[str]:
    """A rule's selectors; a comma inside :is(...) does not separate selectors."""
    selectors = [""]
    for token in prelude:
        if token == ",":
            selectors.append("")
        elif token.type != "comment":
            selectors[-1] += token.serialize()
    return [selector.strip() for selector in selectors]


def needed(selector: str, names: set[str]) -> bool:
    """Whether every class and id in a selector may occur on a page; what is in brackets is ignored."""
    bare = re.sub(r"\[[^\]]*\]|\([^()]*(?:\([^()]*\)[^()]*)*\)", "", selector)
    return all(re.sub(r"\\(.)", r"\1", name) in names for name in NAME.findall(bare))
