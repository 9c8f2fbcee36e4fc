"""What the tests share. Nothing here is a mock: sound comes from FluidSynth and FluidR3_GM.sf2."""

import hashlib
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import instr_lib as il


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
def clips(need_soundfont, tmp_path_factory) -> il.ClipDataset:
    """120 clips: two whole shards and a short one. Tests that change files work on a copy."""
    return il.generate(tmp_path_factory.mktemp("data") / "clips", 120, n_jobs=2, progress=False)


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


@pytest.fixture(scope="session")
def build():
    """A function that builds the book in profile smoke into a folder; returns what came of it and its seconds."""
    root = Path(__file__).parents[1]

    def run(out: Path) -> tuple[subprocess.CompletedProcess, float]:
        start = time.monotonic()
        command = [sys.executable, root / "book" / "scripts" / "build.py", "--profile", "smoke", "--out", out]
        return subprocess.run(command, capture_output=True, text=True, cwd=root), time.monotonic() - start

    return run


@pytest.fixture(scope="session")
def book(need_soundfont, build, tmp_path_factory) -> Path:
    """The folder into which the book was built, once: its pages are in html/."""
    out = tmp_path_factory.mktemp("book") / "_build"
    done, _ = build(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")  # not longer: while it is open, nothing else in the process can use asyncio
def browser():
    """Chromium. Where it is missing the test is skipped; with CI set it fails."""
    program = shutil.which("chromium")
    if program is None:
        reason = "Chromium is not installed (Debian, Ubuntu: 'apt-get install chromium')"
        if os.environ.get("CI"):
            pytest.fail(f"with CI set nothing may be skipped: {reason}", pytrace=False)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        options.append("--autoplay-policy=no-user-gesture-required")
        started = playwright.chromium.launch(executable_path=program, args=options)
        yield started
        started.close()
