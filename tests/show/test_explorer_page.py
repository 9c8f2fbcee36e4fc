"""The explorer of a page, in a real browser without a network: Chromium, driven by Playwright, from a file."""

import base64
import json
import re

import numpy as np
import pytest

import instr_lib as il
from instr_lib.data.recordings import Recording
from instr_lib.errors import InputError
from instr_lib.show import pages, plots


@pytest.fixture(scope="module")
def html():
    """The explorer over three curated clips, two of them mixtures."""
    clips = il.curated_clips()
    names = dict.fromkeys(range(128), "a <b>made-up</b> name")
    return pages.page(il.load_model("compact"), (clips[6], clips[13], clips[14]), names=names, first=1).data


@pytest.fixture(scope="module")
def file(html, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "explorer.html"
    path.write_text(
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Explorer</title><body>{html}</body></html>'
    )
    return path


@pytest.fixture(params=[1280, 390])
def page(browser, file, request):
    """The opened page. At the end there may have been no request to any network, and no message in the console."""
    context = browser.new_context(viewport={"width": request.param, "height": 900}, offline=True)
    page, requests, messages = context.new_page(), [], []
    page.on("request", lambda r: requests.append(r.url))
    page.on("console", lambda m: messages.append(m.text))
    page.on("pageerror", lambda e: messages.append(str(e)))
    page.goto(file.as_uri())
    page.wait_for_function("document.querySelector('.ex-says').textContent.length > 0")
    yield page
    assert [url for url in requests if not url.startswith(("data:", "file:", "blob:"))] == [] and messages == []
    context.close()


def pixels(page) -> np.ndarray:
    """What the picture shows, (128, 431, 3)."""
    code = """c => btoa(Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data,
        value => String.fromCharCode(value)).join(''))"""  # as one text: as numbers it takes seconds
    data = base64.b64decode(page.eval_on_selector(".ex-picture", code))
    return np.frombuffer(data, np.uint8).reshape(128, 431, 4)[:, :, :3].astype(int)


def says(page) -> str:
    return page.text_content(".ex-says")


def choose(page, *names):
    for box in page.query_selector_all(".ex-instruments input"):
        box.set_checked(any(name in box.evaluate("b => b.parentElement.textContent") for name in names))


def test_it_is_small(html):
    assert len(html) < 3e6 * 3 / 15  # three clips of fifteen


def test_choosing_an_instrument_changes_the_picture(page):
    assert "Trumpet" in page.eval_on_selector(".ex-clip", "s => s.selectedOptions[0].text")
    choose(page, "Trumpet")
    trumpet = pixels(page)
    assert re.fullmatch(
        r"Trumpet plays, the network says \d+ %; \d+ % of what speaks for it .* most of the power\.", says(page)
    )
    choose(page, "Violin")
    violin = pixels(page)
    assert (trumpet != violin).any(axis=2).mean() > 0.01 and "Violin plays" in says(page)
    choose(page, "Violin", "Trumpet")
    both = pixels(page)
    assert (
        (both != violin).any()
        and (both != trumpet).any()
        and "Violin plays" in says(page)
        and "Trumpet plays" in says(page)
    )
    choose(page)
    alone = pixels(page)
    assert (alone.max(axis=2) - alone.min(axis=2)).max() == 0 and "No instrument is chosen" in says(page)


def test_the_picture_is_the_relevance(page):
    """Red where the heatmap is clearly positive, blue where clearly negative, grey where it is nothing."""
    choose(page, "Acoustic Bass")  # does not play
    assert "Acoustic Bass does not play" in says(page)
    shown = pixels(page).astype(int)[::-1]
    heat = il.relevance(il.load_model("compact"), il.curated_clips()[13].mel[None], ["Acoustic Bass"])[0]
    heat /= np.percentile(np.abs(heat), 99.8)
    redness = shown[:, :, 0] - shown[:, :, 2]
    assert (redness[heat > 0.2] > 0).mean() > 0.97 and (redness[heat < -0.2] < 0).mean() > 0.97
    assert (np.abs(redness[heat == 0]) < 30).mean() > 0.97


def test_opacity_is_in_the_readers_hand(page):
    choose(page, "Trumpet")
    shown = pixels(page)
    page.fill(".ex-opacity", "0")
    faded = pixels(page)
    assert (faded.max(axis=2) == faded.min(axis=2)).all() and (shown != faded).any()


def test_through_a_channel(page):
    choose(page, "Trumpet")
    whole = pixels(page)
    options = page.eval_on_selector_all(".ex-way option", "all => all.map(o => o.text)")
    assert options[0] == "the whole network" and len(options) == 1 + 4 * 4
    page.select_option(".ex-way", label=next(text for text in options if text.startswith("Trumpet through channel")))
    assert (pixels(page) != whole).any()
    assert "<b>made-up</b>" in says(page) and page.query_selector(".ex-says b") is None  # text, not markup
    choose(page, "Violin")  # asks about instruments again
    assert page.input_value(".ex-way") == ""


def test_another_clip(page):
    before = pixels(page)
    page.select_option(".ex-clip", label="Trumpet")
    page.wait_for_function("document.querySelector('.ex-says').textContent.startsWith('Trumpet plays')")
    assert (pixels(page) != before).any() and page.get_attribute(".ex-sound", "aria-label") == "Trumpet"
    assert page.eval_on_selector_all(".ex-instruments input:checked", "all => all.length") == 1


def test_playing_moves_the_playhead(page):
    place = "parseFloat(document.querySelector('.ex-playhead').style.left)"
    assert page.evaluate(place) == 0
    page.focus(".ex-picture")
    page.keyboard.press(" ")
    page.wait_for_function(f"{place} > 4")
    first = page.evaluate(place)
    page.wait_for_function(f"{place} > {first + 2}")
    seconds = page.eval_on_selector(".ex-sound", "a => a.currentTime")
    assert page.evaluate(place) == pytest.approx(100 * seconds / 5, abs=5)
    page.keyboard.press(" ")
    assert page.eval_on_selector(".ex-sound", "a => a.paused")


def test_reading_by_pointer_and_by_keyboard(page):
    choose(page, "Trumpet")
    box = page.query_selector(".ex-picture").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.8 * box["height"])
    read = page.text_content(".ex-pointer")
    assert re.match(r"2\.5\d s, \d+ Hz, -\d+ dB; Trumpet: ", read), read
    page.focus(".ex-picture")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    moved = page.text_content(".ex-pointer")
    assert moved != read and float(moved.split()[0]) > float(read.split()[0])
    assert page.is_visible(".ex-mark")


def test_everything_is_reached_by_keyboard_and_named(page):
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.className || document.activeElement.type"))
    assert {"ex-clip", "checkbox", "ex-way", "ex-opacity", "ex-picture", "ex-sound"} <= set(reached)
    for selector in (".ex-clip", ".ex-way", ".ex-opacity", ".ex-instruments input"):
        for element in page.query_selector_all(selector):
            assert element.evaluate("e => e.labels.length && e.labels[0].textContent.trim().length > 3")
    assert page.get_attribute(".ex-picture", "aria-label").startswith("Spectrogram of")
    assert page.get_attribute(".ex-says", "aria-live") == "polite"


def test_nothing_is_wider_than_the_window(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_what_is_in_the_page(html):
    data = json.loads(re.search(r'class="ex-data">(.*?)</script>', html, re.S).group(1))
    four = data["clips"][1]
    assert four["plays"] == [0, 6, 9, 11] and set(four["own"]) == {"0", "6", "9", "11"}
    assert all(0 < share < 1 for share in four["own"].values()) and len(four["owners"]) == 4
    assert data["first"] == 1 and len(data["hz"]) == 128


def test_colours_and_ticks_are_those_of_the_figures(html):
    data = json.loads(re.search(r'class="ex-data">(.*?)</script>', html, re.S).group(1))
    hexadecimal = lambda rgb: "#" + "".join(f"{part:02x}" for part in rgb)  # noqa: E731
    assert [hexadecimal(i["rgb"]).upper() for i in data["instruments"]] == list(plots.OVERLAY_COLOURS)
    assert (hexadecimal(data["for"]), hexadecimal(data["against"])) == (plots.FOR, plots.AGAINST)
    assert re.findall(r'<i style="background:(#\w{6})">', html) == list(plots.OVERLAY_COLOURS)
    bands, labels = plots.frequency_ticks()
    ticks = re.findall(r'<span style="bottom:([\d.]+)%">([^<]+)</span>', html)
    assert [label for _, label in ticks] == [labels[0] + " Hz", *labels[1:]]
    assert [float(y) for y, _ in ticks] == pytest.approx(100 * (bands + 0.5) / 128, abs=0.06)


def test_nothing_to_explore():
    model = il.load_model("compact")
    with pytest.raises(InputError, match="no clips"):
        pages.page(model, ())
    with pytest.raises(InputError, match="no layer 'conv7'"):
        pages.page(model, il.curated_clips(), layer="conv7")


# The page about a recording of one's own


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Violin, then silence, then trumpet: three windows, as `python -m instr_lib explain` writes them."""
    clips = il.curated_clips()
    sound = np.concatenate([clips[9].audio, np.zeros(220_500, np.float32), clips[6].audio])
    text = pages.document(il.load_model("compact"), Recording("<b>my song</b>.wav", sound), "compact", False)
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(text)
    return path


@pytest.fixture(params=[1280, 390])
def opened(browser, report, request):
    context = browser.new_context(viewport={"width": request.param, "height": 900}, offline=True)
    page, requests, messages = context.new_page(), [], []
    page.on("request", lambda r: requests.append(r.url))
    page.on("console", lambda m: messages.append(m.text))
    page.on("pageerror", lambda e: messages.append(str(e)))
    page.goto(report.as_uri())
    page.wait_for_function("document.querySelector('.ex-says').textContent.length > 0")
    yield page
    assert [url for url in requests if not url.startswith(("data:", "file:", "blob:"))] == [] and messages == []
    context.close()


def window(page) -> str:
    return page.eval_on_selector(".ex-clip", "s => s.selectedOptions[0].text")


def test_a_recording_is_shown_window_by_window(opened):
    assert opened.text_content("h1") == "<b>my song</b>.wav"
    assert window(opened).startswith("0:00 to 0:05: Violin") and "Violin: the network says" in says(opened)
    assert "plays" not in says(opened)  # nobody knows
    first = pixels(opened)
    opened.query_selector_all(".ex-column")[2].click()
    opened.wait_for_function("document.querySelector('.ex-says').textContent.indexOf('Trumpet') >= 0")
    assert window(opened).startswith("0:10 to 0:15: Trumpet") and (pixels(opened) != first).any()
    now = opened.eval_on_selector_all(".ex-column", "c => c.map(x => x.classList.contains('ex-now'))")
    assert now == [False, False, True]
    opened.select_option(".ex-clip", "1")
    opened.wait_for_function("document.querySelector('.ex-clip').value === '1'")
    assert "none of the twelve" in window(opened)
    assert not opened.is_visible(".ex-way")  # there is nothing to choose


def test_a_recording_plays_on_into_the_next_window(opened):
    opened.evaluate("() => { const s = document.querySelector('.ex-sound'); s.currentTime = 4.9; return s.play(); }")
    opened.wait_for_function("document.querySelector('.ex-clip').value === '1'", timeout=10_000)
    assert not opened.eval_on_selector(".ex-sound", "s => s.paused")


def test_a_recordings_page_fits_the_screen(opened):
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    label = opened.get_attribute(".ex-timeline", "aria-label")
    assert label.startswith("Timeline of 3 windows. Heard:") and "Violin in 33%" in label
