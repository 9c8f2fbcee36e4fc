"""Print the built book as one PDF, _build/book.pdf. `make pdf` runs this with the Python of .venv, after the book.

The articles of all pages become one page, which Chromium prints twice: the second time with page numbers in its table of
contents. So links lead across chapters, there are bookmarks, and text can be selected and read aloud.
"""

import argparse
import io
import re
import shutil
import sys
from pathlib import Path

import jinja2
import yaml
from bs4 import BeautifulSoup
from markupsafe import Markup
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, TextStringObject

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = Path(__file__).with_name("templates")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FOOTER = '<div style="width:100%;text-align:center;font:8pt sans-serif"><span class="pageNumber"></span></div>'
LICENCE = "Text and figures: CC BY 4.0. Code: MIT."
MARGIN = dict(top="16mm", bottom="18mm", left="18mm", right="18mm")
NUMBER = "all => document.querySelectorAll('.in-it span').forEach((place, i) => { place.textContent = all[i]; })"
CALM = "async () => { if (window.MathJax?.Hub) await new Promise(done => MathJax.Hub.Queue(done)); }"


def anchor(page: str, part: str = "") -> str:
    """The id of a page, or of a place in it, in the single page."""
    return page.replace("/", "-") + (f"--{part}" if part else "")


def article(site: Path, page: str):
    """A page's text, with solutions unfolded and with links that lead to their targets in the single page."""
    text = BeautifulSoup((site / f"{page}.html").read_text(), "html.parser").select_one("article")
    for element in text.select(".headerlink, .prev-next-area"):
        element.decompose()
    for element in text.select("audio[src]"):
        del element["src"]
    for element in text.select("details"):
        element["open"] = ""
    for element in text.select("img"):
        element["loading"] = "eager"
    for element in text.select("[id]"):
        element["id"] = anchor(page, element["id"])
    for element in text.select("a[href]"):
        file, _, part = element["href"].partition("#")
        if not re.match(r"\w+:", file):
            target = (site / page).parent.joinpath(file).resolve() if file else site / f"{page}.html"
            element["href"] = "#" + anchor(target.relative_to(site).with_suffix("").as_posix(), part)
    return text


def print_book(site: Path, file: Path):
    """Print what is in a folder of pages, in the order of _toc.yml, into a file."""
    toc, config = (yaml.safe_load((ROOT / name).read_text()) for name in ("_toc.yml", "_config.yml"))
    pages = [toc["root"], *(chapter["file"] for chapter in toc["chapters"])]
    articles = {page: article(site, page) for page in pages}
    # In the folder of the root, where relative paths mean the same as on its page.
    whole = site / Path(toc["root"]).with_name("print.html")
    whole.write_text(one_page(site, articles, config))
    printed = print_twice(whole, [anchor(page) for page in pages])
    whole.unlink()
    writer = PdfWriter(clone_from=printed)
    headings = [title(heading) for text in articles.values() for heading in text.select("h1, h2, h3, h4, h5, h6")]
    rename(writer.root_object["/Outlines"], iter(headings))
    writer.add_metadata({"/Title": config["title"], "/Author": config["author"]})
    writer.write(file)
    print(f"book: {file}, {len(writer.pages)} pages, {file.stat().st_size / 1e6:.1f} MB")


def one_page(site: Path, articles: dict, config: dict) -> str:
    """All articles as one page, behind a cover and a table of contents."""
    heads = [(site / f"{page}.html").read_text().partition("</head>")[0] for page in articles]
    made = re.search(r"Made on .+?(?= with )", " ".join(text.get_text() for text in articles.values()))
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return templates.get_template("print.html").render(
        head=Markup(next((head for head in heads if "MathJax.js" in head), heads[0])),
        cover=(config["title"], config["author"], f"{made[0]}. {LICENCE}"),
        chapters=[
            {"anchor": anchor(page), "title": title(text.h1), "body": Markup(str(text))} for page, text in articles.items()
        ],
    )


def print_twice(page: Path, anchors: list[str]) -> PdfReader:
    """The page as a PDF: printed once to learn where chapters begin, and once with these numbers in its contents."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        tab = chromium.new_context(offline=True, color_scheme="light").new_page()
        tab.goto(page.as_uri())
        tab.evaluate(CALM)
        for last in (False, True):
            footer = dict(display_header_footer=True, header_template="<i></i>", footer_template=FOOTER)
            printed = PdfReader(io.BytesIO(tab.pdf(format="A4", margin=MARGIN, **footer, outline=last, tagged=last)))
            destinations = printed.named_destinations
            numbers = [printed.get_destination_page_number(destinations[f"/{name}"]) + 1 for name in anchors]
            tab.evaluate(NUMBER, numbers)
        chromium.close()
    return printed


def title(heading) -> str:
    """A heading's text, on one line."""
    return " ".join(heading.get_text().split())


def rename(bookmark, titles):
    """Give bookmarks their headings' text: Chromium writes twice what stands on two lines."""
    child = bookmark.get("/First")
    while child:
        child = child.get_object()
        child[NameObject("/Title")] = TextStringObject(next(titles))
        rename(child, titles)
        child = child.get("/Next")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "_build", help="where the book was built (default: _build)")
    out = parser.parse_args().out.resolve()
    if not shutil.which("chromium"):
        sys.exit("book: Chromium is needed to print a PDF (Debian, Ubuntu: 'sudo apt-get install chromium')")
    print_book(out / "html", out / "book.pdf")
