"""Freepats' patches as a soundfont: in tune, the same bytes always, and damaged patches refused."""

import os

import numpy as np
import pytest

import instr_lib as il
from instr_lib import constants
from instr_lib.music import soundfonts
from tools import freepats

VIOLIN = freepats.FOLDER / "040_Violin.pat"


@pytest.fixture(scope="module")
def patches():
    if not VIOLIN.is_file():
        if os.environ.get("CI"):
            pytest.fail("with CI set nothing may be skipped: the package freepats is not installed", pytrace=False)
        pytest.skip("the package freepats is not installed")
    return freepats.FOLDER


@pytest.fixture(scope="module")
def font(patches, tmp_path_factory):
    return freepats.make_soundfont(tmp_path_factory.mktemp("font") / "Freepats.sf2")


def cents_off(sound, pitch):
    """Distance of the strongest partial from the nearest harmonic among 1, 2 and 4, in cents."""
    size = 2**18
    spectrum, each = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), size)), constants.SAMPLE_RATE / size
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    found = []
    for harmonic in (1, 2, 4):
        low, high = (int(harmonic * frequency * factor / each) for factor in (0.97, 1.03))
        peak = low + spectrum[low:high].argmax()
        found.append((spectrum[peak], 1200 * np.log2(peak * each / (harmonic * frequency))))
    return max(found)[1]


@pytest.mark.parametrize("instrument", range(12))
def test_every_instrument_sounds_in_tune(need_soundfont, font, instrument):
    pitches = (60, 64, 69, 72)
    score = il.Score([(instrument, pitch, 80, 0.25 + 1.2 * n, 1.0) for n, pitch in enumerate(pitches)])
    sound = il.Synth(font).render(score)
    assert 0.02 < np.abs(sound).max() < 1
    for n, pitch in enumerate(pitches):
        start = int((0.4 + 1.2 * n) * constants.SAMPLE_RATE)
        assert abs(cents_off(sound[start : start + 30_000], pitch)) < 15


def test_same_patches_same_bytes(patches, font, tmp_path):
    again = freepats.make_soundfont(tmp_path / "new" / "Freepats.sf2")
    assert again.read_bytes() == font.read_bytes()
    assert soundfonts.check_soundfont(font) == font


def test_programs_that_variations_ask_for_are_there(font):
    from instr_lib.music.randomisation import RELATED_PROGRAMS

    targets = {i.program for i in il.INSTRUMENTS} | {p for programs in RELATED_PROGRAMS.values() for p in programs}
    assert targets == set(freepats.PATCHES)


def test_a_patch_is_read_whole(patches):
    waves = freepats.read_patch(VIOLIN)
    assert len(waves) == VIOLIN.read_bytes()[freepats._HEADER + freepats._INSTRUMENT + 6] > 5
    assert [wave.top for wave in waves] == sorted(wave.top for wave in waves)
    for wave in waves:
        assert wave.samples.dtype == np.int16 and 0 <= wave.loop[0] < wave.loop[1] <= len(wave.samples)
        assert abs(wave.root - round(wave.root)) < 0.2 and 20_000 < wave.rate < 48_000


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda data: data[:-1000], "cut short"),
        (lambda data: data[:150], "cut short"),
        (lambda data: b"RIFF" + data, "not a GUS"),
    ],
    ids=["end missing", "header only", "another kind"],
)
def test_damaged_patches_are_refused_and_nothing_is_written(patches, tmp_path, change, word):
    folder = tmp_path / "patches"
    folder.mkdir()
    for name in set(freepats.PATCHES.values()):
        (folder / f"{name}.pat").write_bytes((patches / f"{name}.pat").read_bytes())
    (folder / VIOLIN.name).write_bytes(change(VIOLIN.read_bytes()))
    with pytest.raises(il.SoundfontError, match=word):
        freepats.make_soundfont(tmp_path / "x.sf2", folder)
    assert not list(tmp_path.glob("x.*"))


def test_a_missing_patch_is_named(tmp_path):
    with pytest.raises(il.SoundfontError, match=r"cannot be read.*install the package freepats"):
        freepats.make_soundfont(tmp_path / "x.sf2", tmp_path)
