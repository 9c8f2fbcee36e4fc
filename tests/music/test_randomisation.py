"""Varied clips: a pure function of their settings, never a clue to the instrument; and augmentation of spectrograms."""

import numpy as np
import pytest
import torch

import instr_lib as il
from instr_lib.data import dataset, spectrogram
from instr_lib.music import randomisation, soundfonts
from instr_lib.music.randomisation import DomainRandomisation, render, render_stems, sample_plan

EVERYTHING = dict(registers=True, levels=True, overrides=True, related_programs=True, reverb=True)


@pytest.fixture(scope="module")
def fonts(need_soundfont) -> tuple[str, ...]:
    """The soundfonts that are installed: with CI set, all of them."""
    import os

    found = []
    for name in soundfonts.SOUNDFONTS:
        try:
            soundfonts.find_soundfont(name)
            found.append(name)
        except il.SoundfontError as error:
            if os.environ.get("CI"):
                pytest.fail(f"with CI set nothing may be skipped: {error}", pytrace=False)
    return tuple(found)


def lots(n, **settings):
    return [dataset.clip_plan(DomainRandomisation(**settings), i) for i in range(n)]


def test_nothing_switched_on_is_the_plain_clip(need_soundfont):
    for index in range(5):
        score = il.clip_score(index)
        plan = sample_plan(score, DomainRandomisation(), (0, 0, index))
        assert plan.score == score and plan.reverb is None
        assert np.array_equal(render(plan), need_soundfont.render(score))


def test_same_bytes_for_any_number_of_workers_and_after_an_interruption(fonts, tmp_path, hashes):
    varied = DomainRandomisation(fonts[:4], **EVERYTHING)
    make = lambda folder, jobs, n=120: il.generate(folder, n, n_jobs=jobs, variation=varied, progress=False)  # noqa: E731
    one = make(tmp_path / "one", 1)
    make(tmp_path / "two", 2, 60)  # a part, and then the rest
    two = make(tmp_path / "two", 2)
    assert one.fingerprint == two.fingerprint and hashes(one.path) == hashes(two.path)
    again = render(dataset.clip_plan(varied, 77))
    assert np.array_equal(one.stored([77])[0], spectrogram.quantise(il.log_mel(again)))
    assert one.plan(77).score == one.score(77) == dataset.clip_plan(varied, 77).score
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


def test_stems_add_up_to_the_mix_in_any_room(need_soundfont):
    for plan in lots(12, **EVERYTHING):
        stems, mix = render_stems(plan), render(plan)
        assert stems.shape == (len(plan.score.instruments), 220_500)
        assert np.abs(stems.sum(0) - mix).max() < 1e-5
    assert any(plan.reverb is not None for plan in lots(12, **EVERYTHING))


def test_switches_change_only_what_they_say():
    plain, levels, both = lots(30), lots(30, levels=True), lots(30, levels=True, registers=True)
    for a, b, c in zip(plain, levels, both, strict=True):
        assert [n[:2] + n[3:] for n in a.score.notes] == [n[:2] + n[3:] for n in b.score.notes]  # but for velocities
        assert b.gains == c.gains and b.fonts == c.fonts
    assert any(a.score != b.score for a, b in zip(levels, both, strict=True))


def test_notes_stay_in_range_and_keep_their_intervals():
    for plan, index in zip(lots(200, registers=True), range(200), strict=True):
        before = il.clip_score(index)
        for i in plan.score.instruments:
            low, high = randomisation.PITCH_RANGES[i]
            pitches = [n.pitch for n in plan.score.notes if n.instrument == i]
            shifts = {n.pitch - p for n, p in zip(
                (n for n in plan.score.notes if n.instrument == i),
                (n.pitch for n in before.notes if n.instrument == i), strict=True)}  # fmt: skip
            assert min(low, 60) <= min(pitches) and max(pitches) <= max(high, 72) and len(shifts) == 1


@pytest.mark.parametrize("what", ["gain", "font", "tuned", "velocity"])
def test_what_is_drawn_tells_nothing_about_the_instrument(what):
    """The mean of what was drawn, instrument by instrument, is the same within chance (five standard errors)."""
    fonts = tuple(soundfonts.SOUNDFONTS)
    look = {
        "gain": lambda plan, i: np.log(plan.gains[i]),
        "font": lambda plan, i: fonts.index(plan.fonts[i]),
        "tuned": lambda plan, i: plan.overrides[i].generators.get("fineTune", 0),
        "velocity": lambda plan, i: np.mean([n.velocity for n in plan.score.notes if n.instrument == i]),
    }[what]
    drawn = lots(1500, soundfonts=fonts, levels=True, overrides=True)
    values = [[look(plan, i) for plan in drawn if i in plan.score.instruments] for i in range(12)]
    middle = np.mean(np.concatenate(values))
    for one in values:
        assert abs(np.mean(one) - middle) < 5 * np.std(one) / np.sqrt(len(one))


def test_a_room_decays_by_60_db_in_its_time(need_soundfont):
    rng = np.random.default_rng(3)
    for _ in range(5):
        reverb = randomisation._sample_reverb(rng)
        tail = reverb[1:][np.flatnonzero(reverb[1:])[0] :].astype(float)
        energy = np.cumsum(tail[::-1] ** 2)[::-1]
        quarter = len(tail) // 4  # Schroeder's backward integration, from 5 % to 25 %
        fall = 10 * np.log10(energy[len(tail) // 20] / energy[quarter])
        assert abs(fall / (0.2 * 60) - 1) < 0.25
        assert -25.1 < 10 * np.log10((reverb[1:].astype(float) ** 2).sum()) < -5.9


def test_a_relative_is_another_make(need_soundfont):
    score = il.random_score(np.random.default_rng(2), instruments=["Soprano Sax"])
    sounds = [need_soundfont.render(score, {"Soprano Sax": il.SynthOverrides(program=p)}) for p in (None, 64, 66)]
    assert np.array_equal(sounds[0], sounds[1]) and not np.allclose(sounds[0], sounds[2])
    assert np.array_equal(need_soundfont.render(score), sounds[0])  # and leaves nothing behind


def test_soundfonts_by_name(fonts, monkeypatch, tmp_path):
    for name in fonts:
        assert il.Synth(soundfonts.find_soundfont(name)).render(il.clip_score(0)).any()
    with pytest.raises(il.SoundfontError, match="choose among FluidR3"):
        soundfonts.find_soundfont("Steinway")
    monkeypatch.setattr(soundfonts, "_PLACES", (str(tmp_path),))
    with pytest.raises(il.SoundfontError, match=r"make soundfonts.*timgm6mb-soundfont"):
        soundfonts.find_soundfont("TimGM6mb")


@pytest.mark.parametrize("bad", [(), ("Steinway",), ("FluidR3", "x")])
def test_bad_variations_are_refused(bad):
    with pytest.raises(il.InputError, match="soundfonts must be some of"):
        DomainRandomisation(bad)
    with pytest.raises(il.SynthError, match="program 128"):
        il.SynthOverrides(program=128)


# Augmentation


def batch():
    mels = np.stack([clip.mel for clip in il.curated_clips()])
    labels = np.zeros((len(mels), 12), np.float32)
    for label, clip in zip(labels, il.curated_clips(), strict=True):
        label[list(clip.score.instruments)] = 1
    return torch.from_numpy(mels)[:, None], torch.from_numpy(labels)


def augmented(seed=0, **settings):
    off = dict(gain=(0.0, 0.0), filter=0.0, noise=0.0, mix=0.0, masks=0.0)
    torch.manual_seed(seed)
    return il.Augmentation(**(off | settings))(*batch())


def test_augmentation_of_nothing_is_nothing():
    mels, labels = augmented()
    assert torch.allclose(mels, batch()[0], atol=1e-3) and torch.equal(labels, batch()[1])


def test_each_augmentation_does_what_it_says():
    mels, labels = batch()
    louder, _ = augmented(gain=(5.0, 5.0))
    inside = (mels > -74) & (mels < -6)
    assert torch.allclose((louder - mels)[inside], torch.tensor(5.0), atol=1e-3)
    assert torch.equal(louder[mels <= -80], mels[mels <= -80])  # silence stays silent
    filtered, _ = augmented(filter=4.0)
    change = torch.where(inside, filtered - mels, torch.nan)[0, 0]
    assert np.nanmax(np.nanstd(change.numpy(), axis=1)) < 1e-2  # the same at all times
    noisy, _ = augmented(noise=1.0)
    assert (noisy >= mels - 1e-3).all() and (noisy[mels <= -80] > -80).any()
    mixed, both = augmented(mix=1.0)
    assert (mixed >= mels - 1e-3).all() and (both >= labels).all() and both.sum() > labels.sum()
    masked, _ = augmented(masks=1.0)
    silent = (masked <= -80).all(3)[:, 0] & ~(mels <= -80).all(3)[:, 0]
    assert silent.any(1).float().mean() > 0.8 and silent.sum(1).max() <= 17


def test_augmentation_is_the_same_for_the_same_seed_and_stays_on_the_scale():
    one, two, other = (il.Augmentation(), il.Augmentation(), il.Augmentation())
    torch.manual_seed(1)
    a = one(*batch())
    torch.manual_seed(1)
    b = two(*batch())
    c = other(*batch())
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)) and not torch.equal(a[0], c[0])
    assert a[0].min() >= -80 and a[0].max() <= 0 and a[0].dtype == torch.float32


def test_training_with_augmentation_resumes_to_the_same_weights(clips, tmp_path):
    """Stopped after an epoch and taken up again: the same weights; and another augmentation is another run."""
    learn, choose = clips.split()
    settings = il.TrainSettings(2, 16, schedule="one-cycle")

    def fit(folder, augment):
        torch.manual_seed(0)
        model = il.RobustCNN()
        il.train(model, clips, learn, choose, settings, tmp_path / folder, progress=False, augment=augment)
        return model

    class Interrupted(il.Augmentation):
        """The same, by its repr too, that stops in the second epoch."""

        left = 7

        def __call__(self, mels, labels):
            Interrupted.left -= 1
            if Interrupted.left < 0:
                raise KeyboardInterrupt
            return super().__call__(mels, labels)

        def __repr__(self):
            return super().__repr__().replace(type(self).__qualname__, "Augmentation")

    whole = fit("whole", il.Augmentation())
    with pytest.raises(KeyboardInterrupt):
        fit("parts", Interrupted())
    parts = fit("parts", il.Augmentation())
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))
    with pytest.raises(il.TrainingError, match="augment"):
        fit("parts", il.Augmentation(mix=0.9))
