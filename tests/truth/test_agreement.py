"""Agreement of relevance and effect, on heatmaps whose scores are known."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

import instr_lib as il
from instr_lib.errors import InputError
from instr_lib.truth import agreement, notes


def clip(k=8, instruments=None, seed=0):
    """Notes one after the other, at random levels and pitches."""
    rng, t = np.random.default_rng(seed), np.arange(220_500) / 44_100
    sounds = [
        np.where((t > 0.3 + 0.5 * n) & (t < 0.6 + 0.5 * n), rng.uniform(0.01, 0.1) * np.sin(2 * np.pi * f * t), 0)
        for n, f in enumerate(rng.uniform(200, 4000, k))
    ]
    return notes.Parts(np.array(sounds, np.float32), instruments or [n % 2 for n in range(k)])


class LinearInPower(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(12, 128, 431, generator=generator))

    def forward(self, mels):
        power = torch.where(mels[:, 0] > -80, 10 ** (mels[:, 0] / 10), 0)
        return torch.einsum("chw,nhw->nc", self.weight, power)

    def gradient_times_input(self, mel, classes):
        power = np.where(mel > -80, 10 ** (mel / 10), 0)
        return self.weight.detach().numpy()[classes] * power


def test_gradient_times_input_of_a_network_that_is_linear_in_power_agrees_fully():
    model, parts = LinearInPower(), clip()
    heatmaps = model.gradient_times_input(parts.mel, [0, 1])
    scores = agreement.note_agreement(heatmaps, [0, 1], parts, notes.note_effects(model, parts))
    for name, values in scores.items():
        assert values == pytest.approx([1, 1]), name


def test_scores_of_one_question_by_hand():
    """Relevance 1 2 3 4 | -1 -2, effects 1 3 2 4 | -1 1: two own ranks change places, half of the foreign signs agree."""
    own = np.array([True] * 4 + [False] * 2)
    relevance, effect = np.array([1, 2, 3, 4, -1, -2.0]), np.array([1, 3, 2, 4, -1, 1.0])
    zeros = np.zeros(6, int)
    scores = agreement.question_scores(agreement.Questions(zeros, zeros, own, relevance, effect, relevance))
    assert scores["own_note_correlation"][0] == pytest.approx(0.8)
    assert scores["note_correlation"][0] == pytest.approx(spearmanr(relevance, effect).statistic)
    assert scores["foreign_sign_agreement"][0] == pytest.approx(0.5)


def test_undefined_scores_are_nan():
    assert np.isnan(agreement.rank_correlation(np.array([1.0, 2]), np.array([1.0, 2])))
    assert np.isnan(agreement.rank_correlation(np.ones(5), np.arange(5.0)))
    parts = clip(4, [0, 0, 1, 1])
    scores = agreement.note_agreement(np.ones((1, 128, 431)), [0], parts, np.ones((4, 12)))
    assert np.isnan(scores["own_note_correlation"][0]) and np.isnan(scores["note_correlation"][0])


def random_questions(n=30, k=5, seed=0):
    rng = np.random.default_rng(seed)
    clip_of, question = np.repeat(np.arange(n) // 2, k), np.repeat(np.arange(n), k)
    energy = rng.normal(size=n * k)
    effect = energy + rng.normal(size=n * k)
    relevance = effect + energy + rng.normal(size=n * k)
    return agreement.Questions(clip_of, question, np.ones(n * k, bool), relevance, effect, energy)


def test_partial_correlation_is_that_of_the_residuals():
    questions = random_questions()
    r, e, z = (
        np.concatenate([rankdata(c[questions.question == q]) - 3 for q in range(30)])
        for c in (questions.relevance, questions.effect, questions.energy)
    )
    r, e = (x - z * (x @ z) / (z @ z) for x in (r, e))
    expected = np.corrcoef(r, e)[0, 1]
    score = agreement.pooled_scores(questions)["partial_correlation"]
    assert score.value == pytest.approx(expected) and score.low < expected < score.high


def test_energy_itself_has_no_partial_correlation():
    questions = random_questions()
    energy = questions._replace(relevance=3 * questions.energy + 1)
    assert np.isnan(agreement.pooled_scores(energy)["partial_correlation"].value)
    noise = questions._replace(relevance=np.random.default_rng(1).normal(size=150))
    score = agreement.pooled_scores(noise)["partial_correlation"]
    assert score.low < 0 < score.high


def test_calibration_is_one_where_shares_of_effect_are_shares_of_relevance():
    questions = random_questions()
    scores = agreement.pooled_scores(questions._replace(relevance=7 * questions.effect))
    assert scores["calibration"].value == pytest.approx(1)
    assert agreement.pooled_scores(questions._replace(relevance=-questions.effect))["calibration"].value == pytest.approx(
        -1
    )


def test_questions_of_several_clips_are_numbered_on():
    parts = clip(4)
    measured = agreement.Notes.of(parts, np.random.default_rng(0).normal(size=(4, 12)))
    heatmaps = np.random.default_rng(1).random((2, 128, 431))
    joined = agreement.join([agreement.compare(heatmaps, [0, 1], measured, clip=c) for c in (7, 9)])
    assert np.unique(joined.question).tolist() == [0, 1, 2, 3] and np.unique(joined.clip).tolist() == [7, 9]
    assert joined.own.sum() == 8 and len(joined.relevance) == 16


def test_bad_input():
    parts = clip(4)
    effects, heatmaps = np.ones((4, 12)), np.ones((1, 128, 431))
    with pytest.raises(InputError, match="Violin plays no note in this clip: choose among"):
        agreement.note_agreement(heatmaps, ["Violin"], parts, effects)
    with pytest.raises(InputError, match="4 notes have effects"):
        agreement.note_agreement(heatmaps, [0], parts, effects[:3])
    with pytest.raises(InputError, match="as many instruments"):
        agreement.note_agreement(heatmaps, [0, 1], parts, effects)
    with pytest.raises(InputError, match="0 everywhere"):
        agreement.note_agreement(0 * heatmaps, [0], parts, effects)
    with pytest.raises(InputError, match="shape"):
        agreement.note_agreement(heatmaps[:, 1:], [0], parts, effects)
    assert il.truth.note_agreement is agreement.note_agreement
