"""Print the built book as one PDF, _build/book.pdf. `make pdf` runs this with the Python of .venv, after the book.

The articles of all pages become one page, which Chromium prints twice: the second time with the page numbers of the
first in its contents. So links lead across chapters, there are bookmarks, and text can be selected and read aloud.
"""

import argparse
import html
import io
import re
import shutil
import sys
from pathlib import Path

import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, TextStringObject

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FOOTER = '<div style="width:100%;text-align:center;font:8pt sans-serif"><span class="pageNumber"></span></div>'
LICENCE = "Text and figures: CC BY 4.0. Code: MIT."
MARGIN = dict(top="16mm", bottom="18mm", left="18mm", right="18mm")
NUMBER = "all => document.querySelectorAll('.in-it span').forEach((place, i) => { place.textContent = all[i]; })"
CALM = "async () => { if (window.MathJax?.Hub) await new Promise(done => MathJax.Hub.Queue(done)); }"


def anchor(page: str, part: str = "") -> str:
    """What a page, or a place in it, is called in the one page."""
    return page.replace("/", "-") + (f"--{part}" if part else "")


def article(site: Path, page: str):
    """A page's text, with solutions unfolded and with links that lead to where things are in the one page."""
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
    heads = [(site / f"{page}.html").read_text().partition("</head>")[0] for page in pages]
    head = next((head for head in heads if "MathJax.js" in head), heads[0])
    body = "".join(f'<section class="chapter" id="{anchor(page)}">{text}</section>' for page, text in articles.items())
    titles = {page: title(text.h1) for page, text in articles.items()}
    made = re.search(r"Made on .+?(?= with )", " ".join(text.get_text() for text in articles.values()))
    cover = "".join(f"<p>{html.escape(line)}</p>" for line in (config["title"], config["author"], f"{made[0]}. {LICENCE}"))
    rows = "".join(
        f'<li><a href="#{anchor(page)}">{html.escape(name)}<span></span></a></li>' for page, name in titles.items()
    )
    before = f'<header class="cover">{cover}</header><nav class="in-it"><p>Contents</p><ol>{rows}</ol></nav>'
    # In the folder of the root, from where all that pages name is as far away as it is from them.
    one = site / Path(toc["root"]).with_name("print.html")
    one.write_text(f'{head}</head><body class="whole">{before}{body}</body></html>')
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        tab = chromium.new_context(offline=True, color_scheme="light").new_page()
        tab.goto(one.as_uri())
        tab.evaluate(CALM)
        for last in (False, True):
            footer = dict(display_header_footer=True, header_template="<i></i>", footer_template=FOOTER)
            printed = PdfReader(io.BytesIO(tab.pdf(format="A4", margin=MARGIN, **footer, outline=last, tagged=last)))
            found = printed.named_destinations
            numbers = [printed.get_destination_page_number(found[f"/{anchor(page)}"]) + 1 for page in pages]
            tab.evaluate(NUMBER, numbers)
        chromium.close()
    one.unlink()
    writer = PdfWriter(clone_from=printed)
    headings = [title(heading) for text in articles.values() for heading in text.select("h1, h2, h3, h4, h5, h6")]
    rename(writer.root_object["/Outlines"], iter(headings))
    writer.add_metadata({"/Title": config["title"], "/Author": config["author"]})
    writer.write(file)
    print(f"book: {file}, {len(writer.pages)} pages, {file.stat().st_size / 1e6:.1f} MB")


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
        sys.exit("book: for a PDF Chromium is needed (Debian, Ubuntu: 'sudo apt-get install chromium')")
    print_book(out / "html", out / "book.pdf")
