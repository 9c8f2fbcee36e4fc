"""Predictions and F1, against PyTorch, scikit-learn and a slow loop."""

import json
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import instr_lib as il


@pytest.fixture(scope="module")
def compact(random_network):
    return random_network(il.CompactCNN)


@pytest.fixture
def answers():
    """Labels and predictions of 90 clips that agree in part, bool (90, 12)."""
    rng = np.random.default_rng(0)
    labels = rng.random((90, 12)) < 0.2
    return labels, labels ^ (rng.random((90, 12)) < rng.uniform(0, 0.3, 12))


# Predictions


@torch.no_grad()
def test_predict_is_the_sigmoid_of_the_network(compact, mels):
    probs = il.predict(compact, mels)
    assert (probs.shape, probs.dtype) == ((3, 12), np.float32)
    compact.eval()
    assert np.allclose(probs, 1 / (1 + np.exp(-compact(torch.from_numpy(mels)[:, None]).double().numpy())), atol=1e-6)


def test_predict_in_any_batches(compact, mels):
    many = np.concatenate([mels, mels[::-1]])
    whole = il.predict(compact, many)
    assert np.allclose(il.predict(compact, many, batch_size=4), whole, atol=1e-6)
    assert np.allclose(whole[3:], whole[2::-1], atol=1e-6)


def test_predict_nothing(compact):
    assert il.predict(compact, np.empty((0, 128, 431), np.float32)).shape == (0, 12)


@pytest.mark.parametrize("training", [True, False])
def test_predict_ignores_and_keeps_the_mode(compact, mels, training):
    expected = il.predict(compact.eval(), mels)
    before = {k: v.clone() for k, v in compact.state_dict().items()}
    compact.train(training)
    assert np.array_equal(il.predict(compact, mels), expected)  # no dropout, no batch statistics
    assert all(module.training == training for module in compact.modules())
    assert all(torch.equal(v, before[k]) for k, v in compact.state_dict().items())


def test_predict_keeps_layers_that_were_frozen(compact, mels):
    """Whoever trains on with frozen batch statistics wants them frozen after a look at the predictions, too."""
    compact.train()
    compact.layers.bn1.eval()
    il.predict(compact, mels)
    assert compact.training
    assert compact.layers.conv1.training
    assert not compact.layers.bn1.training


def test_predict_keeps_the_mode_when_it_fails(compact, mels):
    def fail(*_):
        raise RuntimeError("on purpose")

    compact.train()
    handle = compact.layers.conv3.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="on purpose"):
            il.predict(compact, mels)
    finally:
        handle.remove()
    assert compact.training


# F1


def test_f1_equals_scikit_learn(answers):
    labels, predicted = answers
    expected = f1_score(labels, predicted, average=None)
    assert len(set(expected.round(3))) > 6
    assert np.allclose(il.f1_scores(labels, predicted), expected, atol=1e-12)
    assert np.allclose(il.f1_scores(labels.astype(np.float32), predicted.astype(int)), expected, atol=1e-12)


def test_f1_by_hand():
    """Two hits, one miss, one false alarm: F1 = 2 · 2 / (3 + 3); no hit at all: 0; nothing to find or found: NaN."""
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    predicted = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]])
    assert np.allclose(il.f1_scores(labels, predicted), [2 / 3, 0, np.nan], equal_nan=True)


def test_bootstrap_equals_a_slow_loop(answers):
    labels, predicted = answers
    macro, each = il.bootstrap_f1(labels, predicted, n_resamples=150, level=0.9, seed=5)
    scores = []
    for counts in np.random.default_rng(5).multinomial(90, [1 / 90] * 90, 150):
        rows = np.repeat(np.arange(90), counts)
        scores.append(f1_score(labels[rows], predicted[rows], average=None, zero_division=np.nan))
    assert np.allclose(each.value, f1_score(labels, predicted, average=None))
    assert np.allclose(each.low, np.nanpercentile(scores, 5, axis=0))
    assert np.allclose(each.high, np.nanpercentile(scores, 95, axis=0))
    assert macro.value == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert macro.low == pytest.approx(np.percentile(np.nanmean(scores, axis=1), 5))
    assert macro.high == pytest.approx(np.percentile(np.nanmean(scores, axis=1), 95))
    assert (each.low <= each.value).all() and (each.value <= each.high).all()


def test_bootstrap_depends_on_its_seed_alone(answers):
    first = il.bootstrap_f1(*answers, n_resamples=50, seed=1)
    np.random.seed(0)
    assert np.array_equal(il.bootstrap_f1(*answers, n_resamples=50, seed=1)[1].low, first[1].low)
    assert not np.array_equal(il.bootstrap_f1(*answers, n_resamples=50, seed=2)[1].low, first[1].low)


def test_bootstrap_of_perfect_answers_is_certain(answers):
    macro, _ = il.bootstrap_f1(answers[0], answers[0], n_resamples=50)
    assert macro == (1, 1, 1)


def test_bootstrap_is_nan_where_f1_is_undefined_and_does_not_warn(answers):
    """A warning would appear on the page of a short run, where an instrument may well be missing."""
    labels, predicted = (np.array(x) for x in answers)
    labels[:, 4] = predicted[:, 4] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        macro, each = il.bootstrap_f1(labels, predicted, n_resamples=50)
    assert np.isnan([each.value[4], each.low[4], each.high[4]]).all()
    assert np.isfinite(np.delete(each, 4, axis=1)).all()
    assert macro.value == pytest.approx(np.nanmean(each.value))


# Scores of the test


@pytest.fixture(scope="module")
def few(need_soundfont, tmp_path_factory) -> il.ClipDataset:
    """Too few test clips for every instrument to play."""
    return il.generate(tmp_path_factory.mktemp("few") / "test", 3, seed=5, split="test", n_jobs=1, progress=False)


def test_scores_are_those_of_predict_and_bootstrap(compact, few):
    scores = il.evaluate(compact, few)
    said = il.predict(compact, few.mels()) > 0.5
    macro, each = il.bootstrap_f1(few.labels, said)
    assert list(scores["f1"]) == [i.name for i in il.INSTRUMENTS]
    for place, end in enumerate(("value", "low", "high")):
        assert scores["macro_f1"][end] == pytest.approx(macro[place], abs=1e-6)
        for name, f1 in zip(scores["f1"], each[place], strict=True):
            assert scores["f1"][name][end] == (None if np.isnan(f1) else pytest.approx(f1, abs=1e-6))
    about = {key: scores[key] for key in ("n_clips", "seed", "split", "fingerprint", "threshold")}
    assert about == {"n_clips": 3, "seed": 5, "split": "test", "fingerprint": few.fingerprint, "threshold": 0.5}


def test_scores_fit_into_json(few, tmp_path):
    """Also where an instrument has no F1, because it is neither played nor heard."""
    silent = il.CompactCNN()
    with torch.no_grad():
        silent.layers.linear.weight.zero_()
        silent.layers.linear.bias.fill_(-5)
    scores = il.evaluate(silent, few)
    absent = [i.name for i, played in zip(il.INSTRUMENTS, few.labels.any(axis=0), strict=True) if not played]
    assert absent
    for name, f1 in scores["f1"].items():
        assert f1 == dict.fromkeys(("value", "low", "high"), None) if name in absent else f1["value"] == 0
    path = il.save_model(silent, tmp_path / "silent.safetensors")
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores == il.add_info(path, test=scores)["test"]


def test_scores_of_clips_that_were_learned_from_are_refused(compact, clips):
    with pytest.raises(il.InputError, match=r"clips.*'train'.*split='test'"):
        il.evaluate(compact, clips)
