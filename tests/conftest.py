"""What the tests share. Nothing here is a mock: sound comes from FluidSynth and FluidR3_GM.sf2.

`make test` runs two processes (pytest-xdist). What is expensive is made once for both, in the folder ``shared``: the
clips, and the book in profile smoke, which is built in the background while other tests run.
"""

import functools
import hashlib
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock, Timeout

import instr_lib as il

ROOT = Path(__file__).parents[1]
BUILD_MINUTES = 25  # longer than any build on a machine that is busy with something else

il.tune_malloc()  # for this process and those it starts: three times faster
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """Mark what needs the book or a browser; keep together what shares an expensive fixture; the book's tests last."""
    for item in items:
        fixtures = set(item.fixturenames)
        if fixtures & {"built", "build", "pdf"}:
            item.add_marker(pytest.mark.book)
        if fixtures & {"browser", "pdf"}:
            item.add_marker(pytest.mark.browser)
        shared = [f[-1] for f in item._fixtureinfo.name2fixturedefs.values() if f[-1].scope == "module"]
        if shared and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("book") is not None)


def pytest_sessionfinish(session):
    """End a build that is still running, after Ctrl-C or a failure with -x. Processes of xdist leave that to the first."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        with suppress(OSError, ValueError):
            base = session.config._tmp_path_factory.getbasetemp()
            if not (base / "book" / "pdf.status").exists():
                os.killpg(int((base / "book" / "pid").read_text()), signal.SIGTERM)


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder that all processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def need_soundfont() -> il.Synth:
    """A synth. Where FluidSynth or the soundfont is missing the test is skipped; with CI set it fails."""
    try:
        return il.Synth()
    except il.SynthError as error:
        if os.environ.get("CI"):
            pytest.fail(f"with CI set nothing may be skipped: {error}", pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def synth(need_soundfont) -> il.Synth:
    return need_soundfont


@pytest.fixture(scope="session")
def clips(need_soundfont, shared) -> il.ClipDataset:
    """120 clips: two whole shards and a short one. Tests that change files work on a copy."""
    with FileLock(shared / "clips.lock"):
        return il.generate(shared / "clips", 120, n_jobs=2, progress=False)


@pytest.fixture(scope="session")
def tones() -> np.ndarray:
    """Three clips of decaying harmonic tones between silences, float32 (3, 220_500); they need no soundfont."""
    time = np.arange(220_500) / 44_100
    audio = np.zeros((3, len(time)))
    for row, (pitch, onsets) in enumerate(((262, (0.5, 2.5)), (440, (1.0,)), (330, (0.2, 1.7, 3.4)))):
        for onset in onsets:
            since = np.clip(time - onset, 0, None)
            shape = np.exp(-4 * since) * (since > 0) * (since < 1.2)
            audio[row] += sum(shape * np.sin(2 * np.pi * k * pitch * since) / k for k in range(1, 8)) / 4
    return audio.astype(np.float32)


@pytest.fixture(scope="session")
def mels(tones) -> np.ndarray:
    """The log-mel spectrograms of ``tones``, float32 (3, 128, 431); most cells are silent."""
    return il.log_mel(tones)


@pytest.fixture(scope="session")
def hashes():
    """A function: SHA-256 of every file in a folder, by name."""
    digest = lambda file: hashlib.sha256(file.read_bytes()).hexdigest()  # noqa: E731
    return lambda folder: {f.name: digest(f) for f in sorted(Path(folder).iterdir()) if f.is_file()}


@pytest.fixture(scope="session")
def write_sf2():
    """A function that writes a soundfont with one sine wave under each of the given programs."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def write(path: Path, programs) -> Path:
        wave = (8000 * np.sin(2 * np.pi * np.arange(1000) / 100)).astype("<i2").tobytes() + bytes(92)
        n = len(programs)
        headers = [(b"preset", program, 0, i) for i, program in enumerate(programs)] + [(b"EOP", 0, 0, n)]
        records = {  # the nine tables of an SF2 file, each with its terminal record
            b"phdr": b"".join(struct.pack("<20s3H3I", *header, 0, 0, 0) for header in headers),
            b"pbag": b"".join(struct.pack("<2H", i, 0) for i in range(n + 1)),
            b"pmod": bytes(10),
            b"pgen": struct.pack("<2H", 41, 0) * n + bytes(4),  # generator 41: play instrument 0
            b"inst": struct.pack("<20sH20sH", b"sine", 0, b"EOI", 1),
            b"ibag": struct.pack("<4H", 0, 0, 2, 0),
            b"imod": bytes(10),
            b"igen": struct.pack("<4H", 54, 1, 53, 0) + bytes(4),  # looped; sample 0
            b"shdr": struct.pack("<20s5IBbHH", b"sine", 0, 1000, 100, 900, 44_100, 69, 0, 0, 1) + b"EOS".ljust(46, b"\0"),
        }
        info = chunk(b"ifil", struct.pack("<2H", 2, 1)) + chunk(b"isng", b"EMU8000\0") + chunk(b"INAM", b"test\0\0")
        parts = {b"INFO": info, b"sdta": chunk(b"smpl", wave), b"pdta": b"".join(chunk(*r) for r in records.items())}
        path.write_bytes(chunk(b"RIFF", b"sfbk" + b"".join(chunk(b"LIST", kind + data) for kind, data in parts.items())))
        return path

    return write


@pytest.fixture(scope="session")
def random_network():
    """A function: a network of a kind whose weights, and batch statistics, are random but always the same."""
    import torch

    def make(kind, seed: int = 0):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            network = kind()
            for layer in network.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.running_mean.normal_(std=0.1)
                    layer.running_var.uniform_(0.2, 1)
                    layer.weight.uniform_(-0.5, 1.5)
                    layer.bias.normal_(std=0.1)
        return network.eval()

    return make


# The book


@pytest.fixture(scope="session")
def build():
    """A function that builds the book in profile smoke into a folder; returns what came of it and its seconds."""

    def run(out: Path) -> tuple[subprocess.CompletedProcess, float]:
        start = time.monotonic()
        return subprocess.run(build_command(out), capture_output=True, text=True, cwd=ROOT), time.monotonic() - start

    return run


def build_command(out: Path) -> list[str]:
    return [sys.executable, str(ROOT / "book" / "scripts" / "build.py"), "--profile", "smoke", "--out", str(out)]


@pytest.fixture(scope="session", autouse=True)
def build_in_background(request, shared):
    """If a test of this run needs the book, start to build it at once, in one of the processes, and print it after."""
    if not any("built" in item.fixturenames for item in request.session.items):
        return
    folder = shared / "book"
    folder.mkdir(exist_ok=True)
    with suppress(Timeout, il.SynthError), FileLock(folder / "lock", timeout=0):
        if (folder / "pid").exists():
            return
        il.Synth()  # raises where the book cannot be built; tests that need it are skipped
        out, printed = folder / "_build", folder / "pdf"
        steps = {"book": [build_command(out)]}
        if any("pdf" in item.fixturenames for item in request.session.items):
            # from a copy: while it prints, there is one page more in the folder
            pdf = [sys.executable, str(ROOT / "book" / "scripts" / "pdf.py"), "--out", str(printed)]
            steps["pdf"] = [["mkdir", str(printed)], ["cp", "-r", str(out / "html"), str(printed)], pdf]
        script = ""
        for name, commands in steps.items():
            joined, log = " && ".join(map(shlex.join, commands)), shlex.quote(str(folder / name))
            script += f"({joined}) > {log}.log 2>&1; echo $? > {log}.part; mv {log}.part {log}.status\n"
        # A session of its own, so that it can be ended as a whole; and it may outlive the process that started it.
        process = subprocess.Popen(["sh", "-c", script], cwd=ROOT, start_new_session=True)
        (folder / "pid").write_text(str(process.pid))


def wait_for(step: Path):
    """Wait until a step of the background build has ended. Fails with what it printed if it failed."""
    status, deadline = step.with_suffix(".status"), time.monotonic() + 60 * BUILD_MINUTES
    while not status.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    log = step.with_suffix(".log").read_text()
    assert status.exists(), f"not finished after {BUILD_MINUTES} minutes:\n{log}"
    assert int(status.read_text()) == 0, log


@pytest.fixture(scope="session")
def built(need_soundfont, build_in_background, shared) -> Path:
    """The folder into which the book was built, once: its pages are in html/."""
    wait_for(shared / "book" / "book")
    return shared / "book" / "_build"


@pytest.fixture(scope="session")
def book(built) -> Path:
    """The same, by the name that tests of a small book of their own use for that."""
    return built


@pytest.fixture(scope="session")
def pdf(built, shared, chromium) -> Path:
    """The book printed as a PDF."""
    wait_for(shared / "book" / "pdf")
    return shared / "book" / "pdf" / "book.pdf"


# The browser


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program. Where it is missing the test is skipped; with CI set it fails."""
    program = shutil.which("chromium")
    if program is None:
        reason = "Chromium is not installed (Debian, Ubuntu: 'apt-get install chromium')"
        if os.environ.get("CI"):
            pytest.fail(f"with CI set nothing may be skipped: {reason}", pytrace=False)
        pytest.skip(reason)
    return program


@pytest.fixture(scope="session")
def browser(chromium):
    """Chromium, one for each process of the tests."""
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options.append("--autoplay-policy=no-user-gesture-required")
    # While Playwright runs, nothing else in its thread can use asyncio: it gets one of its own.
    with ThreadPoolExecutor(1) as thread:
        playwright = thread.submit(lambda: sync_playwright().start()).result()
        started = thread.submit(playwright.chromium.launch, executable_path=chromium, args=options).result()
        yield InThread(started, thread)
        thread.submit(started.close).result()
        thread.submit(playwright.stop).result()


class InThread:
    """An object of Playwright's that looks the same from any thread: all that is done with it is done in one thread."""

    def __init__(self, thing, thread: ThreadPoolExecutor):
        self._thing, self._thread = thing, thread

    def __getattr__(self, name):
        value = self._thread.submit(getattr, self._thing, name).result()
        if not callable(value):
            return self._wrapped(value)
        return functools.wraps(value)(lambda *a, **options: self._call(value, a, options))

    def __enter__(self):
        return self._call(self._thing.__enter__, (), {})

    def __exit__(self, *error):
        return self._call(self._thing.__exit__, error, {})

    def _call(self, function, arguments, options):
        bare = lambda value: value._thing if isinstance(value, InThread) else value  # noqa: E731
        arguments, options = map(bare, arguments), {name: bare(value) for name, value in options.items()}
        return self._wrapped(self._thread.submit(function, *arguments, **options).result())

    def _wrapped(self, value):
        if isinstance(value, list):
            return [self._wrapped(each) for each in value]
        return InThread(value, self._thread) if type(value).__module__.startswith("playwright.") else value
