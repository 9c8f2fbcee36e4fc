"""Scores of a heatmap in closed form, and grades of heatmaps whose right answer is known."""

import math

import numpy as np
import pytest
import torch

import instr_lib as il
from instr_lib.errors import InputError
from instr_lib.stats import bootstrap
from instr_lib.truth import causal, grading, localisation, sanity, stems

CELLS = 128 * 431
OWNED = np.zeros((1, 128, 431), bool)
OWNED[0, :32] = True  # a quarter
SHARE = 0.25


def heat(where=None, value=1.0) -> np.ndarray:
    """Nothing but a value in some cells."""
    cells = np.zeros((1, 128, 431))
    cells[0][where if where is not None else slice(None)] = value
    return cells


PERFECT, INVERTED, UNIFORM, EMPTY = OWNED.astype(float), (~OWNED).astype(float), heat(), heat(value=0)
HIT, MISS, AGAINST = heat((3, 7)), heat((100, 7)), -OWNED.astype(float)
NAN = math.nan
N, K = CELLS, CELLS // 4
FIRST = (1 + (K - 1) * (K - 1) / (N - 1)) / K
LATER = (K - 1) * K / (N - 1) / K
# Precision 1 for the first of K, then K / N for the others; or K / N for all.
AP_HIT, AP_MISS = 1 / K + (1 - 1 / K) * K / N, K / N


@pytest.mark.parametrize(
    "score, expected",
    # perfect, inverted, uniform, empty, one owned cell, one other cell, against all that is owned
    [
        (localisation.relevance_mass_accuracy, (1, 0, SHARE, NAN, 1, 0, NAN)),
        # A single cell first, then all others level: of the quarter still to take, a quarter is owned but for that cell.
        (localisation.relevance_rank_accuracy, (1, 0, SHARE, SHARE, FIRST, LATER, 0)),
        (localisation.pointing_game, (1, 0, SHARE, NAN, 1, 0, NAN)),
        (localisation.average_precision, (1, SHARE, SHARE, SHARE, AP_HIT, AP_MISS, SHARE)),
        (lambda h, _: localisation.sparseness(h), (1 - SHARE, SHARE, 0, NAN, 1 - 1 / CELLS, 1 - 1 / CELLS, 1 - SHARE)),
        (
            lambda h, _: localisation.complexity(h),
            (math.log2(CELLS / 4), math.log2(CELLS * 3 / 4), math.log2(CELLS), NAN, 0, 0, math.log2(CELLS / 4)),
        ),
    ],
)
def test_scores_in_closed_form(score, expected):
    for heatmaps, wanted in zip((PERFECT, INVERTED, UNIFORM, EMPTY, HIT, MISS, AGAINST), expected, strict=True):
        assert score(heatmaps, OWNED)[0] == pytest.approx(wanted, nan_ok=True)


def test_many_at_once_are_the_same_as_one_by_one():
    rng = np.random.default_rng(0)
    heatmaps, owned_mask = rng.normal(size=(5, 128, 431)), rng.random((5, 128, 431)) < 0.1
    for score in (
        localisation.relevance_mass_accuracy,
        localisation.relevance_rank_accuracy,
        localisation.pointing_game,
        localisation.average_precision,
    ):
        assert np.allclose(
            score(heatmaps, owned_mask), [score(h[None], o[None])[0] for h, o in zip(heatmaps, owned_mask, strict=True)]
        )


def slow_average_precision(heat: np.ndarray, own: np.ndarray) -> float:
    """From the definition: at each distinct relevance, precision times the gain in recall."""
    total, previous = 0.0, 0.0
    for threshold in np.unique(heat)[::-1]:
        selected = heat >= threshold
        recall = own[selected].sum() / own.sum()
        total += own[selected].mean() * (recall - previous)
        previous = recall
    return total


@pytest.mark.parametrize("levels", [2, 25, 1000])  # few levels: many ties
def test_average_precision_is_its_definition(levels):
    rng = np.random.default_rng(levels)
    heatmaps = np.round(rng.normal(size=(2, 128, 431)) * levels / 6) / levels
    heatmaps[1] *= 1e-9  # small differences are differences
    owned_mask = (heatmaps > np.quantile(heatmaps, 0.8, axis=(1, 2), keepdims=True)) ^ (rng.random(heatmaps.shape) < 0.1)
    expected = [slow_average_precision(*pair) for pair in zip(heatmaps, owned_mask, strict=True)]
    assert localisation.average_precision(heatmaps, owned_mask) == pytest.approx(expected, abs=1e-12)


def test_average_precision_of_real_heatmaps_is_its_definition(pairs):
    """Float32 relevance, in which neighbouring values lie a rounding error apart; by sorting, as there are many values."""
    heatmaps = grading.compute_heatmaps(il.relevance, il.load_model("compact"), pairs.mels[:1], pairs.classes[:1])
    own = pairs.owned_mask[0].ravel()
    order = np.argsort(-heatmaps[0].ravel(), kind="stable")
    hits, value = own[order].cumsum(), heatmaps[0].ravel()[order]
    last = np.append(np.flatnonzero(value[1:] != value[:-1]), len(order) - 1)
    expected = (hits[last] / (last + 1) * np.diff(hits[last] / hits[-1], prepend=0)).sum()
    assert localisation.average_precision(heatmaps, pairs.owned_mask[:1])[0] == pytest.approx(expected, abs=1e-12)


def test_scores_are_those_of_quantus():
    """Heatmaps without a tie and without anything negative, for which its definitions and ours are the same."""
    import quantus
    import torch

    rng = np.random.default_rng(0)
    heatmaps, owned_mask = rng.random((3, 128, 431)), rng.random((3, 128, 431)) < 0.1
    heatmaps[0][owned_mask[0]] += 0.3
    batch = {
        "model": torch.nn.Linear(1, 1),  # is not asked anything
        "x_batch": heatmaps[:, None].astype(np.float32),
        "y_batch": np.zeros(3, int),
        "a_batch": heatmaps[:, None],
    }

    def quantus_scores(metric, **more):
        score = metric(abs=False, normalise=False, disable_warnings=True, return_aggregate=False)
        return np.array(score(**batch, **more), float)

    for metric, score in (
        (quantus.RelevanceMassAccuracy, localisation.relevance_mass_accuracy),
        (quantus.RelevanceRankAccuracy, localisation.relevance_rank_accuracy),
        (quantus.PointingGame, localisation.pointing_game),
    ):
        expected = quantus_scores(metric, s_batch=owned_mask[:, None])
        assert np.allclose(expected, score(heatmaps, owned_mask), atol=1e-9), metric
    assert np.allclose(quantus_scores(quantus.Sparseness), localisation.sparseness(heatmaps), atol=1e-9)
    assert np.allclose(
        quantus_scores(quantus.Complexity), localisation.complexity(heatmaps) * np.log(2), atol=1e-9
    )  # nats, not bits


def test_nothing_owned_is_not_defined():
    nobody = np.zeros_like(OWNED)
    assert np.isnan(localisation.relevance_rank_accuracy(UNIFORM, nobody)) and np.isnan(
        localisation.average_precision(UNIFORM, nobody)
    )
    assert localisation.relevance_mass_accuracy(UNIFORM, nobody) == 0


def test_own_over_others():
    other = ~OWNED
    wins = localisation.own_over_others(
        np.concatenate([PERFECT, INVERTED, EMPTY, PERFECT]), np.repeat(OWNED, 4, 0), [other, other, other, other[:0]]
    )
    assert wins[:2].tolist() == [1, 0] and np.isnan(wins[2:]).all()


def test_mean_and_interval_leave_nan_out_and_draw_clips():
    values, clips = np.array([1.0, 1, 0, 0, NAN]), np.array([0, 0, 1, 1, 2])
    interval = bootstrap(values, clips)
    assert interval.value == 0.5 and interval.low == 0 and interval.high == 1  # of two clips
    assert all(np.isnan(bootstrap(np.array([NAN]), np.array([0]))))


def test_area_in_closed_form():
    decades = np.log10(np.maximum(causal.FRACTIONS, 1e-9)).clip(min=-3)  # -3, then -3 to 0
    falls, at_once, late = 4 - 2 * (decades + 3), np.where(decades > -3, 1.0, 3), np.where(decades < 0, 3.0, 1)
    against, nothing = 1 + decades + 3, np.full(len(decades), 2.0)
    areas = causal.normalised_auc(np.array([falls, at_once, late, against, nothing]))
    step = 1 / 9  # of the decades between two fractions
    # At once: the first of the fractions still has everything, and half of the first step is a triangle.
    assert areas == pytest.approx([0.5, step / 2, 1 - step / 2, NAN, NAN], nan_ok=True)
    rises = -falls
    assert causal.normalised_auc(np.array([rises, falls]), insert=True) == pytest.approx([0.5, NAN], nan_ok=True)


@pytest.fixture(scope="module")
def pairs(need_soundfont):
    return stems.render_pairs(6, progress=False)


@pytest.fixture(scope="module")
def ideal(pairs):
    """A method that knows the truth."""
    return lambda model, mels, classes: np.stack(
        [pairs.shares[_row(pairs, m, c)] for m, c in zip(mels, classes, strict=True)]
    )


def _row(pairs, mel, index):
    (clip,) = [n for n, stored in enumerate(pairs.mels) if np.array_equal(stored, mel)]
    return int(np.flatnonzero((pairs.clips == clip) & (pairs.classes == index))[0])


def test_pairs_are_what_the_score_says(pairs, synth):
    index = next(i for i in range(20) if len(il.clip_score(i, split="test").instruments) > 1)
    score = il.clip_score(index, split="test")
    first = pairs.clips == 0
    assert pairs.classes[first].tolist() == list(score.instruments)
    assert (pairs.n_instruments[first] == len(score.instruments)).all()
    assert np.allclose(pairs.mels[0], il.log_mel(synth.render(score)))
    total = pairs.shares[first].sum(0)
    assert np.allclose(total[pairs.mels[0] > -80], 1, atol=1e-4)
    stems = synth.render_stems(score).astype(float)
    rest = stems.sum(0) - stems[0]
    assert pairs.level[0] == pytest.approx(10 * np.log10((stems[0] ** 2).sum() / (rest**2).sum()), abs=0.01)
    assert len(pairs.others[0]) == len(score.instruments) - 1


@pytest.mark.slow
def test_the_truth_gets_the_best_grade(pairs, ideal):
    rng = np.random.default_rng(0)
    best = grading.grade(ideal, "compact", pairs=pairs, progress=False)
    chance = grading.grade(lambda m, mels, c: rng.random(mels.shape), "compact", pairs=pairs, progress=False)
    mass = "relevance_mass_accuracy"
    crp = grading.grade(il.relevance, "compact", pairs=pairs, progress=False)
    assert best["average_precision"].value > 0.99
    assert best["own_over_others"].value == 1 and best["pointing_game"].value == 1
    for score in ("relevance_mass_accuracy", "relevance_rank_accuracy", "average_precision", "own_over_others"):
        assert best[score].value > crp[score].value > chance[score].value, score
    assert crp["deletion"].value < chance["deletion"].value  # what it names first matters more than random cells
    assert crp["insertion"].value > chance["insertion"].value
    assert all(row[mass].low <= row[mass].value <= row[mass].high for row in (best, chance, crp))
    assert best["note_correlation"].value > crp["note_correlation"].value > chance["note_correlation"].value
    assert crp["own_note_correlation"].value > 0.4 and abs(chance["note_correlation"].value) < 0.3
    few = sum(  # instruments with one or two notes have no rank correlation over their own
        1
        for clip, index in zip(pairs.clips, pairs.classes, strict=True)
        if sum(note.instrument == index for note in pairs.sources[clip][0].notes) < 3
    )
    undefined = {n: count for n, count in crp["undefined"].items() if count and n not in causal.CURVES}
    assert undefined == ({"own_note_correlation": few} if few else {})


def test_taking_all_of_an_instrument_out_is_the_mix_without_it(pairs, synth, monkeypatch):
    monkeypatch.setattr(causal, "FRACTIONS", (0.0, 1.0))
    model = il.load_model("compact")
    heatmaps = np.ones_like(pairs.shares)
    deleted = causal.perturbation_curves(model, pairs, heatmaps)
    inserted = causal.perturbation_curves(model, pairs, heatmaps, insert=True)
    assert deleted.shape == inserted.shape == (len(heatmaps), len(causal.FRACTIONS))
    assert np.allclose(deleted[:, 0], inserted[:, -1], atol=1e-3)
    assert np.allclose(deleted[:, -1], inserted[:, 0], atol=1e-3)
    index = next(i for i in range(20) if len(il.clip_score(i, split="test").instruments) > 1)
    stems = synth.render_stems(il.clip_score(index, split="test"))
    for n in range(len(stems)):
        rest = il.log_mel(np.delete(stems, n, 0).sum(0))
        p = il.predict(model, rest[None])[0, pairs.classes[n]]
        assert (p < 0.5) == (deleted[n, -1] < 0)  # the sum of the other stems' powers gives the same answer as their sound
    silent = il.predict(model, np.full((1, 128, 431), -80, np.float32))[0, pairs.classes]
    all_power = causal.perturbation_curves(model, pairs, heatmaps, power="all")
    assert np.allclose(1 / (1 + np.exp(-all_power[:, -1])), silent, atol=1e-4)
    assert np.allclose(all_power[:, 0], deleted[:, 0], atol=1e-3)
    with pytest.raises(InputError, match="'own' or 'all'"):
        causal.perturbation_curves(model, pairs, heatmaps, power="half")


def test_the_most_relevant_cells_go_first(pairs, monkeypatch):
    """With 1 % of the cells gone, a heatmap of the shares has lost own cells only, its negative has lost others."""
    seen = []
    monkeypatch.setattr(causal, "FRACTIONS", (0.0, 0.01, 1.0))
    monkeypatch.setattr(causal, "logits", lambda model, mels: seen.append(mels) or np.zeros((len(mels), 12)))
    causal.perturbation_curves(None, pairs, pairs.shares)
    for n, mels in enumerate(seen):
        changed = mels[1] < mels[0] - 0.01
        assert changed.sum() == pytest.approx(0.01 * (mels[0] > -80).sum(), rel=0.2)
        assert (pairs.shares[n][changed] >= 0.8).all()


def test_foreign_support_of_a_network_that_listens_to_one_foreign_cell(pairs):
    """The logit is the power of one loud foreign cell: a heatmap that marks it is right, one that marks another is not."""
    row = 0
    mel, foreign = pairs.mels[pairs.clips[row]], pairs.shares[0] < 0.1
    levels = np.where(foreign, mel, -np.inf)
    cell = np.unravel_index(levels.argmax(), mel.shape)
    one = pairs._replace(clips=pairs.clips[:1], classes=pairs.classes[:1], shares=pairs.shares[:1], others=pairs.others[:1])

    class Listens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, mels):
            return self.weight * (mels[:, 0, cell[0], cell[1]] + 80)[:, None].repeat(1, 12)

    marks = np.zeros((1, *mel.shape))
    assert np.isnan(causal.foreign_support(Listens(), one, marks)[0])
    marks[0][cell] = 1
    fall = causal.foreign_support(Listens(), one, marks)[0]
    assert fall > 5
    elsewhere = np.where(foreign & (mel > mel[cell] - 20), 1.0, 0)[None]
    elsewhere[0][cell] = 0
    assert causal.foreign_support(Listens(), one, elsewhere)[0] <= 0


@pytest.mark.parametrize(
    "method, message",
    [
        (lambda m, mels, c: mels[:, :64], "shape"),
        (lambda m, mels, c: np.full(mels.shape, np.nan), "heatmap 0 contains NaN"),
        (lambda m, mels, c: np.zeros(mels.shape), "nothing but zeros"),
    ],
)
def test_bad_methods_are_refused(pairs, method, message):
    with pytest.raises(InputError, match=message):
        grading.grade(method, "compact", pairs=pairs, progress=False)


def test_undefined_scores_are_counted(pairs):
    def half(model, mels, classes):
        heatmaps = np.ones(mels.shape)
        heatmaps[classes % 2 == 0] = 0
        return heatmaps

    row = grading.grade(half, "compact", pairs=pairs, curves=False, progress=False)
    even = int((pairs.classes % 2 == 0).sum())
    assert row["undefined"]["relevance_mass_accuracy"] == even > 0 and row["undefined"]["relevance_rank_accuracy"] == 0
    assert not np.isnan(row["relevance_mass_accuracy"].value)


def test_masks_and_heatmaps_must_belong_together():
    with pytest.raises(InputError, match="masks must be bool"):
        localisation.relevance_mass_accuracy(UNIFORM, OWNED.astype(float))
    with pytest.raises(InputError, match="masks must be bool of shape"):
        localisation.relevance_mass_accuracy(np.repeat(UNIFORM, 2, 0), OWNED)
    with pytest.raises(InputError, match="at least 1"):
        stems.render_pairs(0)


# Pairs of one's own.


@pytest.fixture(scope="module")
def duo(synth):
    score = next(s for s in map(il.clip_score, range(100)) if len(s.instruments) == 2)
    stems = synth.render_stems(score)
    return stems.sum(0), stems, score.instruments


def test_pairs_of_a_clip_of_ones_own(duo):
    mix, sounds, instruments = duo
    own = stems.pairs_from_stems(mix, sounds, instruments)
    assert own.classes.tolist() == list(instruments)
    assert own.clips.tolist() == [0, 0] and own.n_instruments.tolist() == [2, 2]
    assert np.allclose(own.shares, il.ownership(sounds)) and np.array_equal(own.mels[0], il.log_mel(mix))
    assert own.level[0] == pytest.approx(-own.level[1], abs=0.01)
    name = il.INSTRUMENTS[instruments[1]].name
    second = stems.pairs_from_stems(mix, sounds, instruments, targets=[name])
    assert second.classes.tolist() == [instruments[1]] and np.array_equal(second.others[0][0], own.owned_mask[0])
    both = stems.concatenate_pairs([own, second])
    assert both.clips.tolist() == [0, 0, 1] and len(both.others) == 3 and both.shares.shape == (3, 128, 431)


def test_own_clips_that_cannot_be_graded_are_refused(duo):
    mix, sounds, instruments = duo
    absent = next(i for i in range(12) if i not in instruments)
    for message, given in (
        ("do not add up to the mix: at .* s they differ by", (mix + sounds[0], sounds, instruments)),
        ("do not add up to the mix", (mix, sounds[:1], instruments[:1])),
        ("as many different instruments, not 1", (mix, sounds, instruments[:1])),
        ("as many different instruments", (mix, sounds, (instruments[0], instruments[0]))),
        (f"{il.INSTRUMENTS[absent].name} does not play in this clip and", (mix, sounds, instruments, [absent])),
        ("a clip is a mix", (mix, sounds[0], instruments[:1])),
    ):
        with pytest.raises(il.InstrError, match=message):
            stems.pairs_from_stems(*given)


# Sanity.


def test_randomise_changes_layers_from_the_top_and_leaves_the_network(random_network):
    model = random_network(il.CompactCNN, 1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    order = [["linear"], ["conv5", "bn5"], ["conv4", "bn4"], ["conv3", "bn3"], ["conv2", "bn2"], ["conv1", "bn1"]]
    for count in range(7):
        after = sanity.randomise(model, count).state_dict()
        changed = {key.split(".")[1] for key in after if not np.array_equal(after[key], before[key])}
        assert changed == {name for names in order[:count] for name in names}
    assert all(np.array_equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match="6 layers with weights"):
        sanity.randomise(model, 7)


def test_likeness_is_spearmans():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1, 128, 431))
    assert sanity.rank_correlation(a, a**3)[0] == pytest.approx(1)
    assert sanity.rank_correlation(a, -a)[0] == pytest.approx(-1)
    assert sanity.rank_correlation(a, b)[0] == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    assert np.isnan(sanity.rank_correlation(a, UNIFORM)[0])


def test_contrastive_is_less_the_largest_of_the_others(random_network):
    from instr_lib.explain import methods

    model, mels = (
        random_network(il.CompactCNN),
        np.random.default_rng(0).uniform(-70, -10, (2, 128, 431)).astype(np.float32),
    )
    heatmaps = methods.METHODS["CRP, contrastive"](model, mels, np.array([3, 7]))
    for mel, index, heat in zip(mels, (3, 7), heatmaps, strict=True):
        every = il.relevance(model, mel[None], range(12), "epsilon_plus_alpha2_beta1")
        others = np.delete(every, index, 0).clip(min=0).max(0)
        assert np.allclose(heat, every[index] - others, atol=1e-5 * np.abs(every).max())


def test_control_cells_are_as_many_and_as_loud(pairs):
    mel, rng = pairs.mels[0], np.random.default_rng(0)
    sounding = np.flatnonzero(mel > -80)
    marked = np.zeros(mel.size, bool)
    marked[rng.permutation(sounding)[:400]] = True
    marked = marked.reshape(mel.shape)
    drawn = causal._as_loud(rng, mel, marked, (mel > -80) & ~marked)
    assert not (drawn & marked).any() and drawn.sum() == pytest.approx(400, abs=4)
    assert np.sort(mel[drawn]).mean() == pytest.approx(mel[marked].mean(), abs=0.5)
    half = causal._strongest_half(np.array([[5.0, 1, 2], [0, 0, 2]]))
    assert half.tolist() == [[True, False, False], [False, False, False]]
    assert not causal._strongest_half(np.zeros((2, 2))).any()
