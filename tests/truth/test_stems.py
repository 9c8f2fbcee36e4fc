"""Ownership of cells, computed again from the power of each stem by librosa."""

import librosa
import numpy as np
import pytest

import instr_lib as il
from instr_lib.truth import stems


def test_ownership_is_the_share_of_the_power(tones):
    stems = tones * np.array([[1], [0.3], [0.1]], np.float32)
    mask = il.ownership(stems)
    assert (mask.shape, mask.dtype) == ((3, 128, 431), np.float32)
    power = librosa.feature.melspectrogram(y=stems, sr=44_100, n_fft=2048, hop_length=512, n_mels=128)
    sounds = il.log_mel(stems.sum(axis=0)) > -80
    assert 0.05 < sounds.mean() < 0.95
    assert np.allclose(mask[:, sounds], (power / np.maximum(power.sum(axis=0), 1e-30))[:, sounds], atol=1e-3)
    assert not mask[:, ~sounds].any()


def test_shares_add_up_to_one_where_the_mix_sounds(tones):
    total, sounds = il.ownership(tones).sum(axis=0), il.log_mel(tones.sum(axis=0)) > -80
    assert np.allclose(total[sounds], 1, atol=1e-5)
    assert np.all(total[~sounds] == 0)


def test_a_single_stem_owns_all_that_sounds(tones):
    assert np.array_equal(il.ownership(tones[:1])[0] > 0.999, il.log_mel(tones[0]) > -80)


def test_who_plays_alone_owns_that_moment(tones):
    """The first clip sounds at 0.5-1.7 s and 2.5-3.7 s, the second at 1-2.2 s."""
    mask = il.ownership(tones[:2])
    frame = round(0.75 * 44_100 / 512)
    assert mask[0, :, frame].max() > 0.999
    assert mask[1, :, frame].max() == 0
    frame = round(2.0 * 44_100 / 512)
    assert mask[0, :, frame].max() == 0
    assert mask[1, :, frame].max() > 0.999


def test_order_of_stems_is_order_of_masks(tones):
    assert np.allclose(il.ownership(tones[::-1]), il.ownership(tones)[::-1], atol=1e-6)


def test_silence_has_no_owner():
    assert not il.ownership(np.zeros((2, 220_500), np.float32)).any()


def test_stems_that_cancel_leave_silence(tones):
    assert not il.ownership(np.stack([tones[0], -tones[0]])).any()


def test_loudness_of_the_whole_does_not_matter(tones):
    """Shares are ratios; only what falls below the floor is lost."""
    loud, soft = stems.ownership(tones), stems.ownership(tones / 2)
    both = (loud.sum(axis=0) > 0) & (soft.sum(axis=0) > 0)
    assert np.allclose(loud[:, both], soft[:, both], atol=1e-3)


def test_rendered_stems(synth):
    score = il.random_score(np.random.default_rng(2), instruments=["Acoustic Bass", "Piccolo"])
    mask = il.ownership(synth.render_stems(score))
    assert mask.shape == (2, 128, 431)
    assert set(np.unique(mask.sum(axis=0).round(4))) == {0, 1}


def test_si_sdr_on_paper(tones):
    rng = np.random.default_rng(0)
    sound = tones[0].astype(float)
    noise = rng.normal(size=len(sound))
    noise -= noise @ sound / (sound @ sound) * sound  # at right angles
    noise *= np.linalg.norm(sound) / np.linalg.norm(noise) / 10  # a hundredth of the power: 20 dB
    assert stems.si_sdr(sound + noise, sound) == pytest.approx(20)
    assert stems.si_sdr(-3 * (sound + noise), sound) == pytest.approx(20)  # loudness and sign do not count
    assert stems.si_sdr(sound, sound) > 200 and np.isnan(stems.si_sdr(0 * sound, sound))
    with pytest.raises(il.AudioError, match="one length"):
        stems.si_sdr(sound[1:], sound)
