"""Note removal: parts add up, effects and Shapley values are those worked out on paper."""

import itertools
import time

import numpy as np
import pytest
import torch

import instr_lib as il
from instr_lib.data.dataset import clip_score
from instr_lib.errors import AudioError, InputError
from instr_lib.networks.evaluation import logits
from instr_lib.truth import notes


def tones(*frequencies, instruments=None):
    """A clip whose parts are tones in different bands, one after the other."""
    t = np.arange(220_500) / 44_100
    sounds = [
        np.where((t > 0.5 + n) & (t < 1.4 + n), 0.1 * np.sin(2 * np.pi * f * t), 0) for n, f in enumerate(frequencies)
    ]
    return notes.Parts(np.array(sounds, np.float32), instruments or range(len(frequencies)))


class OfPresence(torch.nn.Module):
    """Logits that are a function of which tones sound: found in the second of the clip in which each is played."""

    def __init__(self, function, n):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.function, self.n = function, n

    def forward(self, mels):
        rows = []
        for mel in mels[:, 0]:
            present = [bool((mel[:, int((0.7 + k) * 44_100 / 512)] > -60).any()) for k in range(self.n)]
            rows.append([self.function(*present)] * 12)
        return torch.tensor(rows, dtype=torch.float32)


def test_notes_add_up_to_the_mix_nearly_as_it_is_rendered(synth):
    score = clip_score(3, 0, "test")
    parts = notes.note_parts(score, synth)
    mix = synth.render(score)
    assert [note.instrument for note in score.notes] == parts.instruments.tolist()
    assert ((parts.sounds.sum(0) - mix) ** 2).sum() < 1e-3 * (mix**2).sum()
    assert np.array_equal(parts.mel, il.log_mel(parts.sounds.sum(0)))
    total = parts.shares.sum(0)
    assert np.allclose(total[parts.mel > -80], 1, atol=1e-5) and (total[parts.mel <= -80] == 0).all()


def test_effects_are_differences_of_logits(synth):
    model, parts = il.load_model("compact"), notes.note_parts(clip_score(3, 0, "test"), synth)
    effects = notes.note_effects(model, parts)
    assert effects.shape == (len(parts.sounds), 12)
    whole = logits(model, il.log_mel(parts.sounds.sum(0))[None])[0]
    for k in (0, len(parts.sounds) - 1):
        without = logits(model, il.log_mel(np.delete(parts.sounds, k, 0).sum(0))[None])[0]
        assert np.allclose(effects[k], whole - without, atol=1e-4)


def test_effects_of_a_score_are_those_of_its_notes(synth):
    model, score = il.load_model("compact"), clip_score(3, 0, "test")
    assert np.array_equal(notes.note_effects(model, score), notes.note_effects(model, notes.note_parts(score, synth)))


def test_a_network_without_interaction_has_the_same_effects_and_shapley_values():
    model = OfPresence(lambda a, b, c: 3.0 * a + 2.0 * b - 1.0 * c, 3)
    parts = tones(300, 1000, 3000)
    for values in (notes.note_effects(model, parts), notes.shapley_values(model, parts)):
        assert np.allclose(values[:, 0], [3, 2, -1])


def test_shapley_values_of_three_notes_worked_out_on_paper():
    """Two notes that count only together share their 4; the third, worth 1, loses it if the first plays.

    v(a) = 0, v(b) = 0, v(c) = 1, v(ab) = 4, v(ac) = 0, v(bc) = 1, v(abc) = 4. The six orders give a: 0, 0, 4, 3, -1, 3;
    b: 4, 4, 0, 0, 4, 0; c: 0, 0, 0, 1, 1, 1.
    """
    model = OfPresence(lambda a, b, c: 4.0 * (a and b) + 1.0 * (c and not a), 3)
    values = notes.shapley_values(model, tones(300, 1000, 3000))
    assert np.allclose(values[:, 0], [9 / 6, 12 / 6, 3 / 6])


def test_sampled_shapley_values_add_up_and_come_near(monkeypatch):
    model, parts = il.load_model("compact"), tones(262, 330, 392, 440, instruments=[0, 0, 6, 9])
    exact = notes.shapley_values(model, parts)
    monkeypatch.setattr(notes, "EXACT_SHAPLEY", 0)
    sampled = notes.shapley_values(model, parts, permutations=12)
    silence = logits(model, np.full((1, 128, 431), -80, np.float32))[0]
    for values in (exact, sampled):
        assert np.allclose(values.sum(0), logits(model, parts.mel[None])[0] - silence, atol=1e-3)
    assert np.corrcoef(exact.ravel(), sampled.ravel())[0, 1] > 0.98


def test_exact_shapley_values_are_the_mean_over_all_orders():
    rng = np.random.default_rng(0)
    answers, k = rng.normal(size=(16, 2)), 4
    subsets = (np.arange(16)[:, None] >> np.arange(k)) % 2 == 1
    expected = np.zeros((k, 2))
    for order in itertools.permutations(range(k)):
        now = 0
        for part in order:
            expected[part] += (answers[now + 2**part] - answers[now]) / 24
            now += 2**part
    assert np.allclose(notes._exact_shapley(answers, subsets), expected)


def test_relevance_of_a_note_is_weighted_with_its_share():
    parts = tones(300, 1000)
    heat = np.zeros((1, 128, 431))
    heat[0, 10, 60], heat[0, 40, 150] = 2.0, -3.0
    expected = 2 * parts.shares[:, 10, 60] - 3 * parts.shares[:, 40, 150]
    assert np.allclose(notes.note_relevance(heat, parts), expected)


def test_finer_parts_add_up_to_their_notes(synth):
    score = clip_score(3, 0, "test")
    whole = notes.note_parts(score, synth)
    for split in (notes.envelope_parts, notes.partial_parts):
        parts = split(score, synth)
        assert np.abs(parts.sounds.sum(0) - whole.sounds.sum(0)).max() < 1e-5
        assert set(parts.instruments) == set(whole.instruments)
        assert len(parts.sounds) > len(whole.sounds)


def test_pieces_of_a_note_are_where_their_names_say(synth):
    """A held organ note: attack, sustain and release in time, groups of partials in frequency."""
    score = il.Score((il.Note(8, 69, 90, 1.0, 1.0), il.Note(0, 60, 80, 3.0, 1.0)))
    time = np.arange(220_500) / 44_100
    pieces = notes.envelope_parts(score, synth)
    attack, sustain, *_ = pieces.sounds[pieces.instruments == 8]
    assert np.abs(attack[time > 1.09]).max() == 0 and np.abs(attack[time < 1.07]).max() > 0.001
    assert (
        np.abs(sustain[(time < 1.07) | (time > 2.01)]).max() == 0
        and np.abs(sustain[(time > 1.2) & (time < 1.9)]).max() > 0.01
    )
    groups = notes.partial_parts(score, synth)
    for sound, (low, high) in zip(
        groups.sounds[groups.instruments == 8],
        ((0, 660), (660, 1100), (1100, 2420), (2420, 4620), (4620, 22_051)),
        strict=False,
    ):
        power = np.abs(np.fft.rfft(sound)) ** 2
        inside = (np.fft.rfftfreq(len(sound), 1 / 44_100) >= low) & (np.fft.rfftfreq(len(sound), 1 / 44_100) <= high)
        assert power[inside].sum() > 0.999 * power.sum()


def test_a_note_shorter_than_an_attack_has_no_sustain(synth):
    score = il.Score((il.Note(8, 69, 90, 1.0, 0.05), il.Note(0, 60, 80, 3.0, 1.0)))
    pieces = notes.envelope_parts(score, synth)
    whole = notes.note_parts(score, synth)
    assert np.abs(pieces.sounds.sum(0) - whole.sounds.sum(0)).max() < 1e-5
    kinds = [kind for kind, index in zip(pieces.kinds, pieces.instruments, strict=True) if index == 8]
    assert kinds == ["attack", "release"]
    assert whole.kinds == ()


def test_effects_of_nine_notes_are_fast(synth):
    score = next(s for s in (clip_score(i, 0, "test") for i in range(100)) if len(s.notes) == 9)
    model, parts = il.load_model("compact"), notes.note_parts(score, synth)
    notes.note_effects(model, parts)
    start = time.perf_counter()
    notes.note_effects(model, parts)
    assert time.perf_counter() - start < 5  # 0.5 s on an idle machine


def test_bad_input(synth):
    sounds = tones(300, 1000).sounds
    with pytest.raises(InputError, match="one note"):
        notes.Parts(sounds[:1], [0])
    with pytest.raises(InputError, match="3 parts need sounds"):
        notes.Parts(sounds, [0, 1, 2])
    with pytest.raises(AudioError, match=r"do not add up to the mix: at .* s they differ"):
        notes.Parts.from_mix(1.1 * sounds.sum(0), sounds, [0, 1])
    assert len(notes.Parts.from_mix(sounds.sum(0), sounds, ["Violin", "Trumpet"]).sounds) == 2
    parts = tones(300, 1000)
    with pytest.raises(InputError, match="NaN"):
        notes.note_relevance(np.full((1, 128, 431), np.nan), parts)
    with pytest.raises(InputError, match="shape"):
        notes.note_relevance(np.ones((1, 128, 430)), parts)
    with pytest.raises(InputError, match="subsets"):
        notes.subset_logits(il.load_model("compact"), parts, np.ones((1, 3), bool))
    with pytest.raises(InputError, match="one note"):
        notes.note_effects(il.load_model("compact"), il.Score((il.Note(0, 60, 80, 0.0, 1.0),)))
