"""Check a built page: it loads nothing from elsewhere, and with its pictures and sounds it is small enough for a phone."""

import re
from html.parser import HTMLParser
from pathlib import Path

PAGE_MB = 2  # with its pictures and sounds
FOREIGN_CSS = re.compile(r"(url\(|@import)\s*['\"]?(https?:)?//")


def check_page(page: Path) -> list[str]:
    """Problems of a page or style sheet, one line each."""
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
