"""The book's pages as their readers meet them: in Chromium, opened as files without a network, on narrow and wide
screens, in light and dark, by keyboard, on a slow line, on paper, and with axe-core's eyes."""

import functools
import http.server
import itertools
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from pypdf import PdfReader

ROOT = Path(__file__).parents[1]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for chapter in TOC["chapters"]), "search", "genindex"]
MATH_IS_DONE = "async () => { if (window.MathJax?.Hub) await new Promise(done => MathJax.Hub.Queue(done)); }"
OURS = ("file:", "data:", "blob:")


@pytest.fixture(scope="session")
def site(book) -> Path:
    return book / "html"


ONCE = [pytest.param(page, marks=pytest.mark.xdist_group(page)) for page in PAGES]  # all checks of a page in one process


@pytest.fixture(scope="module", params=ONCE)
def opened(browser, site, request):
    """A page, opened as a file without a network: its tab, its name, what it asked for and what it said."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True, color_scheme="light")
    tab, targets, said = context.new_page(), [], []
    tab.on("request", lambda r: targets.append(r.url))
    tab.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda e: said.append(str(e)))
    tab.goto((site / f"{request.param}.html").as_uri())
    tab.evaluate(MATH_IS_DONE)
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    yield SimpleNamespace(tab=tab, name=request.param, targets=targets, said=said)
    context.close()


def test_a_page_needs_no_network_and_has_no_errors(opened):
    assert [url for url in opened.targets if not url.startswith(OURS)] == []
    assert opened.said == []


def test_formulas_are_set(opened):
    sources = opened.tab.locator("article :is(span, div).math:not(.MathJax *)")
    texts = sources.evaluate_all("all => all.map(e => [!!e.querySelector('.MathJax'), e.textContent])")
    assert all(is_set for is_set, _ in texts), texts
    assert opened.tab.locator(".MathJax_Error, .merror").count() == 0
    assert not re.search(r"\\\(|\\\[|\$\$", opened.tab.inner_text("main"))


def test_nothing_scrolls_sideways_but_what_is_wide(opened):
    for width in (390, 768, 1280, 1920):
        opened.tab.set_viewport_size({"width": width, "height": 900})
        assert (
            opened.tab.evaluate("() => { const e = document.scrollingElement; return e.scrollWidth - e.clientWidth; }") <= 0
        )
        past = """all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).filter(e => {
            for (let p = e; p; p = p.parentElement)
                if (['auto', 'scroll'].includes(getComputedStyle(p).overflowX)) return false;
            return true; }).map(e => e.outerHTML.slice(0, 99))"""
        elements = opened.tab.locator("article :is(p, h1, h2, h3, img, table, pre, figcaption, audio, .math, canvas)")
        assert elements.evaluate_all(past) == [], width
    opened.tab.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened, scheme):
    opened.tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    opened.tab.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
    opened.tab.add_style_tag(content="* { transition: none !important; }")
    # The theme lets the keyboard reach code that scrolls, but only after the page has loaded.
    scrolls = "[...document.querySelectorAll('pre')].every(e => e.scrollWidth <= e.clientWidth || e.tabIndex === 0)"
    opened.tab.wait_for_function(scrolls)
    options = {"resultTypes": ["violations"], "preload": False}  # which would fetch the styles once more
    if scheme == "dark":
        options["runOnly"] = ["color-contrast", "link-in-text-block"]
    found = Axe().run(opened.tab, options=options).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], node["html"][:200]) for v in serious for node in v["nodes"][:3]] == []
    # What must be serious to us though axe calls it moderate:
    assert {v["id"] for v in found} & {
        "heading-order",
        "page-has-heading-one",
        "image-redundant-alt",
        "landmark-unique",
    } == set()


def test_language_title_and_pictures_are_named(opened):
    assert opened.tab.get_attribute("html", "lang") == "en" and len(opened.tab.title()) > 5
    for picture in opened.tab.locator("article img").all():
        assert len(picture.get_attribute("alt") or "") > 30
    tags = "all => all.filter(e => e.checkVisibility()).map(e => e.tagName)"
    levels = [int(tag[1]) for tag in opened.tab.locator("main :is(h1, h2, h3, h4, h5)").evaluate_all(tags)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))


# Reading with the keyboard, searching, listening


@pytest.fixture
def tab(browser, site):
    """A function that opens a page as a file, without a network, in a tab of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)

    def go(name):
        page = context.new_page()
        page.goto(f"{(site / name).as_uri()}")
        return page

    yield go
    context.close()


@pytest.mark.parametrize("name", [TOC["root"], "notebooks/06_explorer"])
def test_the_keyboard_reaches_everything_and_its_place_is_seen(tab, name):
    page, reached = tab(f"{name}.html"), []
    focused = """() => { const e = document.activeElement, s = getComputedStyle(e), b = e.getBoundingClientRect();
        const seen = (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1) || s.boxShadow !== 'none';
        return [e === document.body, seen && b.width > 0, e.outerHTML.slice(0, 120), e.className]; }"""
    for _ in range(120):
        page.keyboard.press("Tab")
        nothing, seen, html, classes = page.evaluate(focused)
        if nothing:
            break
        assert seen, html
        reached.append(html + classes)
    expected = page.locator("article a[href]:not(.headerlink), article select, article input").evaluate_all(
        "all => all.filter(e => e.checkVisibility()).map(e => e.outerHTML.slice(0, 120) + e.className)"
    )
    assert expected and set(expected) <= set(reached)


def test_search_finds_and_leads_there(tab):
    page = tab(f"{TOC['root']}.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("vibrato")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=vibrato*")
    page.wait_for_selector("#search-results li a")
    titles = page.locator("#search-results li a").all_inner_texts()
    assert any(title.startswith("8 ·") for title in titles)
    page.locator("#search-results li a").first.click()
    page.wait_for_url("**/notebooks/*.html*")


def test_sounds_can_be_heard(tab):
    page = tab("notebooks/01_generate_data.html")
    seconds = """async a => { await a.play(); await new Promise(done => a.ontimeupdate = () => a.currentTime && done());
        return a.duration; }"""
    for player in page.locator("audio").all():
        assert player.evaluate(seconds) == pytest.approx(5, abs=0.2)


def test_the_explorer_answers(tab):
    page = tab("notebooks/06_explorer.html")
    before = page.text_content(".ex-says")
    page.select_option(".ex-clip", index=2)
    page.wait_for_function("before => document.querySelector('.ex-says').textContent !== before", arg=before)


# Light


def weight(file: Path) -> int:
    """Bytes of a page with its pictures; its sounds are in it."""
    pictures = {picture for picture in re.findall(r'(?:src|href)="([^"]*_images/[^"]+)"', file.read_text())}
    return file.stat().st_size + sum((file.parent / picture).stat().st_size for picture in pictures)


def test_pages_and_site_are_light(site):
    weights = {file.relative_to(site).as_posix(): weight(file) for file in site.rglob("*.html")}
    assert {name: size for name, size in weights.items() if size > 2e6} == {}
    assert sum(file.stat().st_size for file in site.rglob("*") if file.is_file()) < 40e6


def test_the_first_screen_is_there_in_3_s_on_a_slow_line(browser, site):
    """1.6 Mbit/s and 150 ms of latency, nothing kept from before and nothing compressed."""
    handler = functools.partial(Quiet, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    heaviest = max(site.glob("notebooks/*.html"), key=weight).stem
    largest = """() => new Promise(done => new PerformanceObserver(list => done(list.getEntries().at(-1).startTime))
        .observe({type: 'largest-contentful-paint', buffered: true}))"""
    try:
        for name in {TOC["root"], "notebooks/01_generate_data", f"notebooks/{heaviest}", "notebooks/06_explorer"}:
            times = []
            for _ in range(3):  # a busy machine may be slow once
                context = browser.new_context(viewport={"width": 1280, "height": 900})
                page = context.new_page()
                session = context.new_cdp_session(page)
                session.send("Network.enable")
                line = {"offline": False, "latency": 150, "downloadThroughput": 2e5, "uploadThroughput": 1e5}
                session.send("Network.emulateNetworkConditions", line)
                page.goto(f"http://127.0.0.1:{server.server_port}/{name}.html", wait_until="load")
                times.append(page.evaluate(largest) / 1000)
                context.close()
                if times[-1] < 3:
                    break
            assert min(times) < 3, (name, times)
    finally:
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


# Links


class Places(HTMLParser):
    """A page's anchors, and where its links lead."""

    def __init__(self, file):
        super().__init__()
        self.ids, self.links = set(), set()
        self.feed(file.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs.get("id")} | ({attrs.get("name")} if tag == "a" else set())
        self.links |= {attrs[name] for name in ("href", "src") if attrs.get(name)}


def test_every_link_leads_to_something(site):
    pages = {file: Places(file) for file in site.rglob("*.html") if "_static" not in file.parts}
    for file, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or link.startswith(("#pst", "//")):
                continue
            target = (file.parent / unquote(url.path)).resolve() if url.path else file
            assert target.is_file(), f"{file.relative_to(site)} links to {link}"
            if url.fragment and target in pages:
                assert unquote(url.fragment) in pages[target].ids, f"{file.relative_to(site)} links to {link}"


# Paper


@pytest.mark.parametrize("name", ["notebooks/07_ground_truth", "notebooks/08_what_it_listens_to", "notebooks/06_concepts"])
def test_nothing_is_cut_off_on_paper(tab, name):
    page = tab(f"{name}.html")
    page.evaluate(MATH_IS_DONE)
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 658, "height": 985})  # A4 less the margins, in CSS pixels
    wide = """all => all.filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1)
        .map(e => e.outerHTML.slice(0, 99))"""
    assert page.locator("article :is(p, img, table, pre, figcaption, .math)").evaluate_all(wide) == []
    assert not page.is_visible(".bd-sidebar-primary") and not page.is_visible(".bd-header-article")


def test_the_book_as_a_pdf(pdf):
    pdf = PdfReader(pdf)
    width, height = pdf.pages[0].mediabox[2:]
    assert (float(width), float(height)) == pytest.approx((595, 842), abs=2)  # A4, in points
    chapters = [entry for entry in pdf.outline if not isinstance(entry, list)]
    assert len(chapters) == 1 + len(TOC["chapters"])
    starts = [pdf.get_destination_page_number(chapter) for chapter in chapters]
    texts = {number: " ".join(pdf.pages[number].extract_text().split()) for number in (1, *starts)}
    assert starts == sorted(starts)
    for chapter, start in zip(chapters, starts, strict=True):
        assert chapter.title in texts[start]
        assert f"{chapter.title} {start + 1}" in texts[1]  # the contents
        assert texts[start].endswith(f" {start + 1}")
    assert "Concept Relevance Propagation" in " ".join(texts.values())
    links = [a.get_object() for page in pdf.pages for a in page.get("/Annots", [])]
    assert sum("/Dest" in link for link in links) > len(TOC["chapters"])
