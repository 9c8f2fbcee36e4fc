"""Domain randomisation: clips are a pure function of its settings, and nothing in them is a clue to the instrument."""

import hashlib
import json
import os
import pickle

import numpy as np
import pytest

import instr_lib as il
from instr_lib.data import spectrogram
from instr_lib.music import randomisation, soundfonts
from instr_lib.music.randomisation import DomainRandomisation, render, render_stems

EVERYTHING = dict(registers=True, levels=True, overrides=True, related_programs=True, reverb=True)


@pytest.fixture(scope="module")
def fonts(need_soundfont) -> tuple[str, ...]:
    """The soundfonts that are installed: with CI set, all of them."""
    names = []
    for name in soundfonts.SOUNDFONTS:
        try:
            soundfonts.find_soundfont(name)
            names.append(name)
        except il.SoundfontError as error:
            if os.environ.get("CI"):
                pytest.fail(f"with CI set nothing may be skipped: {error}", pytrace=False)
    return tuple(names)


def clip_plan(variation, index):
    return variation.sample_plan(il.clip_score(index), (0, 0, index))


def plans(n, **settings):
    return [clip_plan(DomainRandomisation(**settings), i) for i in range(n)]


def test_nothing_switched_on_is_the_plain_clip(need_soundfont):
    for index in range(5):
        score = il.clip_score(index)
        plan = clip_plan(DomainRandomisation(), index)
        assert plan.score == score and plan.reverb is None
        assert np.array_equal(render(plan), need_soundfont.render(score))


def test_same_bytes_for_any_number_of_workers_and_after_an_interruption(fonts, tmp_path, hashes):
    varied = DomainRandomisation(fonts[:4], **EVERYTHING)

    def make(folder, jobs, n=120):
        return il.generate(folder, n, n_jobs=jobs, variation=varied, progress=False)

    one = make(tmp_path / "one", 1)
    make(tmp_path / "two", 2, 60)  # a part, and then the rest
    two = make(tmp_path / "two", 2)
    assert one.fingerprint == two.fingerprint and hashes(one.path) == hashes(two.path)
    again = render(clip_plan(varied, 77))
    assert np.array_equal(one.stored([77])[0], spectrogram.quantise(il.log_mel(again)))
    assert one.plan(77).score == one.score(77) == clip_plan(varied, 77).score
    assert tuple(np.flatnonzero(one.labels[77])) == one.score(77).instruments


def test_a_folder_of_another_variation_is_refused(need_soundfont, tmp_path):
    il.generate(tmp_path / "a", 2, variation=DomainRandomisation(levels=True), progress=False)
    for other in (None, DomainRandomisation(), DomainRandomisation(levels=True, reverb=True)):
        with pytest.raises(il.DatasetError, match="was made with variation"):
            il.generate(tmp_path / "a", 2, variation=other, progress=False)
    il.generate(tmp_path / "b", 2, progress=False)
    with pytest.raises(il.DatasetError, match="was made with variation"):
        il.generate(tmp_path / "b", 2, variation=DomainRandomisation(levels=True), progress=False)
    with pytest.raises(il.InputError, match="not both"):
        il.generate(
            tmp_path / "c", 2, variation=DomainRandomisation(), soundfont=soundfonts.find_soundfont(), progress=False
        )


def test_stems_add_up_to_the_mix_with_any_reverberation(need_soundfont):
    for plan in plans(12, **EVERYTHING):
        stems, mix = render_stems(plan), render(plan)
        assert stems.shape == (len(plan.score.instruments), 220_500)
        assert np.abs(stems.sum(0) - mix).max() < 1e-5
    assert any(plan.reverb is not None for plan in plans(12, **EVERYTHING))


def test_settings_change_only_what_they_name():
    plain, levels, both = plans(30), plans(30, levels=True), plans(30, levels=True, registers=True)
    for a, b, c in zip(plain, levels, both, strict=True):
        assert [n[:2] + n[3:] for n in a.score.notes] == [n[:2] + n[3:] for n in b.score.notes]  # but for velocities
        assert b.gains == c.gains and b.fonts == c.fonts
    assert any(a.score != b.score for a, b in zip(levels, both, strict=True))


def test_notes_stay_in_range_and_keep_their_intervals():
    for plan, index in zip(plans(200, registers=True), range(200), strict=True):
        before = il.clip_score(index)
        for i in plan.score.instruments:
            low, high = randomisation.PITCH_RANGES[i]
            pitches = [n.pitch for n in plan.score.notes if n.instrument == i]
            shifts = {n.pitch - p for n, p in zip(
                (n for n in plan.score.notes if n.instrument == i),
                (n.pitch for n in before.notes if n.instrument == i), strict=True)}  # fmt: skip
            assert min(low, 60) <= min(pitches) and max(pitches) <= max(high, 72) and len(shifts) == 1


def test_settings_of_the_first_edition_are_read_and_written(need_soundfont, tmp_path):
    """Format 1: the same clips, and the same manifest to the byte, as commit eb8400d made."""
    ds = il.generate(tmp_path / "a", 60, variation=DomainRandomisation(**EVERYTHING), progress=False)
    assert ds.plan(7) == clip_plan(DomainRandomisation(**EVERYTHING), 7)._replace(reverb=ds.plan(7).reverb)
    stored = json.loads((ds.path / "manifest.json").read_text())
    assert list(stored["variation"]) == ["soundfonts", "registers", "levels", "playing", "relatives", "room"]
    if ds.manifest["versions"] == FIRST_VERSIONS and ds.manifest["soundfont"]["sha256"] == FLUIDR3:
        assert ds.fingerprint == FINGERPRINT
        assert hashlib.sha256((ds.path / "manifest.json").read_bytes()).hexdigest() == MANIFEST_SHA256
    assert len(il.generate(ds.path, 60, variation=DomainRandomisation(**EVERYTHING), progress=False)) == 60


FIRST_VERSIONS = {"fluidsynth": "2.3.1", "numpy": "2.4.6", "scipy": "1.17.1"}
FLUIDR3 = "74594e8f4250680adf590507a306655a299935343583256f3b722c48a1bc1cb0"
FINGERPRINT = "ea69dc6efb155e29a9624f7a8b0bc710a7a7ea8c045390cb00d2c659c9d4b001"
MANIFEST_SHA256 = "84573872ee133d122d98a805581e93d72b19411f1fb3d54a6e83c5746715cbb5"


def test_it_is_a_renderer(need_soundfont):
    variation = pickle.loads(pickle.dumps(DomainRandomisation(**EVERYTHING)))
    score, plan = il.clip_score(3), clip_plan(DomainRandomisation(**EVERYTHING), 3)
    assert np.array_equal(variation.render(score, (0, 0, 3)), render(plan))
    assert DomainRandomisation.from_settings(variation.settings()) == variation
    assert DomainRandomisation.from_settings({"soundfont": {}}) is None


@pytest.mark.parametrize("quantity", ["gain", "font", "tuned", "velocity"])
def test_what_is_drawn_tells_nothing_about_the_instrument(quantity):
    """The mean of what was drawn, instrument by instrument, is the same within chance (five standard errors)."""
    fonts = tuple(soundfonts.SOUNDFONTS)
    measure = {
        "gain": lambda plan, i: np.log(plan.gains[i]),
        "font": lambda plan, i: fonts.index(plan.fonts[i]),
        "tuned": lambda plan, i: plan.overrides[i].generators.get("fineTune", 0),
        "velocity": lambda plan, i: np.mean([n.velocity for n in plan.score.notes if n.instrument == i]),
    }[quantity]
    drawn = plans(1500, soundfonts=fonts, levels=True, overrides=True)
    values = [[measure(plan, i) for plan in drawn if i in plan.score.instruments] for i in range(12)]
    middle = np.mean(np.concatenate(values))
    for sample in values:
        assert abs(np.mean(sample) - middle) < 5 * np.std(sample) / np.sqrt(len(sample))


def test_a_reverberation_decays_by_60_db_in_its_time(need_soundfont):
    rng = np.random.default_rng(3)
    for _ in range(5):
        reverb = randomisation._sample_reverb(rng)
        tail = reverb[1:][np.flatnonzero(reverb[1:])[0] :].astype(float)
        energy = np.cumsum(tail[::-1] ** 2)[::-1]
        quarter = len(tail) // 4  # Schroeder's backward integration, from 5 % to 25 %
        fall = 10 * np.log10(energy[len(tail) // 20] / energy[quarter])
        assert abs(fall / (0.2 * 60) - 1) < 0.25
        assert -25.1 < 10 * np.log10((reverb[1:].astype(float) ** 2).sum()) < -5.9


def test_a_related_program_sounds_different(need_soundfont):
    score = il.random_score(np.random.default_rng(2), instruments=["Soprano Sax"])
    sounds = [need_soundfont.render(score, {"Soprano Sax": il.SynthOverrides(program=p)}) for p in (None, 64, 66)]
    assert np.array_equal(sounds[0], sounds[1]) and not np.allclose(sounds[0], sounds[2])
    assert np.array_equal(need_soundfont.render(score), sounds[0])  # and leaves nothing behind


def test_soundfonts_by_name(fonts, monkeypatch, tmp_path):
    for name in fonts:
        assert il.Synth(soundfonts.find_soundfont(name)).render(il.clip_score(0)).any()
    with pytest.raises(il.SoundfontError, match="choose among FluidR3"):
        soundfonts.find_soundfont("Steinway")
    monkeypatch.setenv("INSTR_SOUNDFONT_PLACES", str(tmp_path))
    with pytest.raises(il.SoundfontError, match=r"timgm6mb-soundfont.*make soundfonts"):
        soundfonts.find_soundfont("TimGM6mb")


@pytest.mark.parametrize("bad", [(), ("Steinway",), ("FluidR3", "x")])
def test_bad_variations_are_refused(bad):
    with pytest.raises(il.InputError, match="soundfonts must be some of"):
        DomainRandomisation(bad)
    with pytest.raises(il.SynthError, match="program 128"):
        il.SynthOverrides(program=128)
