"""Make the built site light: what no page uses is left out, so that a slow line shows a page's first screen in 3 s.

The theme brings Bootstrap, two copies of Font Awesome and the search's index to every page. Here each style sheet
keeps the rules that some page may need; icons come from the font alone; the index is read by the page that searches.
"""

import re
import shutil
from pathlib import Path

import tinycss2
from fontTools import subset

DEAD = ("*.map", "locales", "fontawesome.js")  # for developers; for other languages; icons once more
FONT = r"""url\(["']?([^)]*/fa-[\w-]+)\.woff2["']?\) format[^}]*"""
SEARCH = "searchtools|language_data|searchindex"
TAG = r'\s*<script[^>]*src="[^"]*(?:{})\.js[^"]*"[^>]*></script>'
NAME = re.compile(r"[.#]((?:[\w-]|\\.)+)")


def lighten(site: Path):
    """Do so in the folder of a built book; nothing that a reader sees or does changes."""
    names = set()
    for page in site.rglob("*.html"):
        text = page.read_text()
        gone = ["scripts/fontawesome"] + [SEARCH] * (page.name != "search.html")
        gone += ["mathjax/MathJax"] * ('class="math' not in text and "MathJax" not in text.partition("<body")[2])
        text = re.sub(TAG.format("|".join(gone)), "", text)
        text = re.sub(r'<link rel="preload" as="script"[^>]*>', "", text)  # its styles it needs sooner
        text = text.replace('role="list" class="citation-list"', 'class="citation-list"')  # what is in it is no list item
        page.write_text(text)
        names |= words(text)
    for pattern in DEAD:
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
    """Write the part of a font that is needed beside it, in a form that needs no further package, instead of it."""
    font, cutter = subset.load_font(file, subset.Options()), subset.Subsetter()
    cutter.populate(unicodes=characters)
    cutter.subset(font)
    font.flavor = "woff"
    font.save(file.with_suffix(".woff"))
    file.unlink()
    file.with_suffix(".woff2").unlink()


def words(text: str) -> set[str]:
    """All that may be the name of a class or an element in a page or a script, without the sounds in it."""
    return set(re.findall(r"[\w-]+", re.sub(r"base64,[\w+/=]+", "", text)))


def purge(rules: list, names: set[str]) -> str:
    """The rules whose selectors name only what there is, as CSS. Of a media query, too, what is inside it."""
    kept = []
    for rule in rules:
        if rule.type == "qualified-rule":
            selectors = [s for s in split(rule.prelude) if needed(s, names)]
            if selectors:
                kept.append(f"{','.join(selectors)}{{{tinycss2.serialize(rule.content).strip()}}}")
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports", "layer") and rule.content:
            inside = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
            if text := purge(inside, names):
                kept.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{text}}}")
        else:
            kept.append(rule.serialize())
    return "\n".join(kept)


def split(prelude: list) -> list[str]:
    """A rule's selectors; a comma inside of :is(...) separates none."""
    selectors = [""]
    for token in prelude:
        if token == ",":
            selectors.append("")
        elif token.type != "comment":
            selectors[-1] += token.serialize()
    return [selector.strip() for selector in selectors]


def needed(selector: str, names: set[str]) -> bool:
    """Whether every class and id that a selector asks for may be on a page; what is inside of brackets is not looked at."""
    bare = re.sub(r"\[[^\]]*\]|\([^()]*(?:\([^()]*\)[^()]*)*\)", "", selector)
    return all(re.sub(r"\\(.)", r"\1", name) in names for name in NAME.findall(bare))
