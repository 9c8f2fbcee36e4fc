"""The published networks: the JSON beside the weights is complete and correct, and their scores are good enough."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

import instr_lib as il
from instr_lib import results
from instr_lib.explain.prior import AttributionPrior
from instr_lib.music import soundfonts
from instr_lib.networks.weights import PUBLISHED, models_folder
from instr_lib.samples import original_report

MODELS = models_folder()
RESULTS = Path(__file__).parents[2] / "book" / "results"
INSTRUMENTS = [i.name for i in il.INSTRUMENTS]
each_network = pytest.mark.parametrize("name", PUBLISHED)


@functools.cache
def published() -> dict:
    """The JSON of all networks; raises if one is damaged or describes other weights."""
    return il.models_info(MODELS)


def of_each_kind(look) -> dict:
    """For "original" and "compact": ``look`` at the JSON of every network that was trained from scratch."""
    scratch = [info for info in published().values() if "penalty" not in info["settings"]]
    return {kind: [look(info) for info in scratch if info["architecture"] == kind] for kind in ("original", "compact")}


@pytest.fixture(scope="module")
def first_clips(need_soundfont, tmp_path_factory) -> il.ClipDataset:
    """The first 200 clips of the test stream, rendered again."""
    return il.generate(tmp_path_factory.mktemp("published") / "test", 200, split="test", progress=False)


@pytest.fixture(scope="module", params=["original", "compact", "compact-prior", "robust"])
def predictions(request, first_clips) -> tuple[str, np.ndarray]:
    """A network's name and its predictions for these clips, bool (200, 12)."""
    name = request.param
    probabilities = il.predict(il.load_model(name), first_clips.mels())
    return name, probabilities > published()[name]["test"]["threshold"]


def f1_interval(labels: np.ndarray, predicted: np.ndarray, level: float) -> tuple[float, float]:
    """Exact interval of an F1, also if there was no error, where the bootstrap's interval has no width.

    Of the clips where an instrument is played or predicted, a share J has both. It is binomial, and its interval is that
    of Clopper and Pearson. F1 = 2 J / (1 + J) rises with J, so the interval of J gives that of F1.
    """
    both, either = int((labels & predicted).sum()), int((labels | predicted).sum())
    share = binomtest(both, either).proportion_ci(level)
    return tuple(2 * j / (1 + j) for j in share)


def test_f1_interval_covers_as_often_as_it_says():
    """True F1 0.94, samples of 40 clips: the 90 % interval misses it in 2 to 10 % of the samples."""
    rng = np.random.default_rng(0)
    j = 0.94 / (2 - 0.94)
    misses = 0
    for _ in range(1000):
        both = rng.random(40) < j
        low, high = f1_interval(np.ones(40, bool), both, 0.9)
        misses += not low <= 0.94 <= high
    assert 20 < misses < 100
    assert f1_interval(np.ones(40, bool), np.ones(40, bool), 0.95)[0] < 0.99


@pytest.mark.slow
def test_macro_f1_is_reproduced(predictions, first_clips):
    name, predicted = predictions
    macro, _ = il.bootstrap_f1(first_clips.labels, predicted)
    assert macro.low <= published()[name]["test"]["macro_f1"]["value"] <= macro.high


@pytest.mark.slow
def test_f1_of_every_instrument_is_reproduced(predictions, first_clips):
    """All twelve at once with 95 %, so each with 1 - 0.05/12 (Bonferroni): none of them may lie outside."""
    name, predicted = predictions
    for label, answer, (instrument, f1) in zip(
        first_clips.labels.T.astype(bool), predicted.T, published()[name]["test"]["f1"].items(), strict=True
    ):
        low, high = f1_interval(label, answer, 1 - 0.05 / 12)
        assert low <= f1["value"] <= high, instrument


@pytest.mark.data
def test_original_is_as_good_as_the_reports():
    assert published()["original"]["test"]["macro_f1"]["value"] >= original_report.MACRO_F1


@pytest.mark.data
def test_compact_is_better():
    assert published()["compact"]["test"]["macro_f1"]["value"] >= 0.99
    assert min(f1["value"] for f1 in published()["compact"]["test"]["f1"].values()) >= 0.975
    assert published()["compact"]["test"]["macro_f1"]["low"] > published()["original"]["test"]["macro_f1"]["high"]


@pytest.mark.data
def test_compact_trains_in_a_quarter_of_the_time():
    """By the median epoch, since other processes slowed some epochs down."""

    def seconds(info):
        return info["settings"]["epochs"] * np.median([row["seconds"] for row in info["history"]])

    times = of_each_kind(seconds)
    assert max(times["compact"]) < min(times["original"]) / 4


@pytest.mark.data
def test_there_are_enough_seeds():
    seeds = of_each_kind(lambda info: info["settings"]["seed"])
    assert {0, 1, 2} <= set(seeds["compact"]) and {0, 1} <= set(seeds["original"])
    assert all(len(numbers) == len(set(numbers)) for numbers in seeds.values())
    assert len({info["sha256"] for info in published().values()}) == len(published())


@pytest.mark.data
def test_seeds_differ_less_than_the_networks():
    """Otherwise the book could not say that one is better."""
    f1 = of_each_kind(lambda info: info["test"]["macro_f1"]["value"])
    spread = max(np.std(scores, ddof=1) for scores in f1.values())
    assert np.mean(f1["compact"]) - np.mean(f1["original"]) > 3 * spread


@pytest.mark.data
@each_network
def test_description_is_complete(name):
    info = published()[name]
    assert {*info} >= {"architecture", "sha256", "profile", "data", "settings", "history"}
    assert {*info} >= {"best_epoch", "seconds", "machine", "test"}
    assert {*info["data"]} >= {"n_clips", "seed", "split", "soundfont", "versions", "fingerprint"}
    assert {*info["data"]["soundfont"]} == {"name", "sha256"}
    assert {*info["data"]["versions"]} >= {"fluidsynth", "numpy", "scipy"}
    assert {*info["settings"]} - {"augment", "penalty"} == {*vars(il.TrainSettings())}
    assert {*info["machine"]} >= {"system", "processor", "threads", "gpu", "python", "torch"}
    assert list(info["test"]["f1"]) == INSTRUMENTS
    for score in (info["test"]["macro_f1"], *info["test"]["f1"].values()):
        assert 0 < score["low"] <= score["value"] <= score["high"] <= 1


@pytest.mark.data
@each_network
def test_description_is_consistent(name):
    info = published()[name]
    f1 = info["test"]["f1"].values()
    seed = info["settings"]["seed"]
    assert info["architecture"] == PUBLISHED[name]
    if name != "compact-prior":
        assert name == info["architecture"] + (f"-{seed}" if seed else "")
    assert [row["epoch"] for row in info["history"]] == list(range(1, info["settings"]["epochs"] + 1))
    assert info["best_epoch"] == max(info["history"], key=lambda row: row["val_f1"])["epoch"]
    assert info["seconds"] == pytest.approx(sum(row["seconds"] for row in info["history"]), abs=1)
    assert info["test"]["macro_f1"]["value"] == pytest.approx(np.mean([score["value"] for score in f1]), abs=1e-5)


@pytest.mark.data
@each_network
def test_all_were_trained_and_tested_on_the_same_clips(name):
    """Otherwise their scores could not be compared."""
    info, first = published()[name], published()["original"]
    if name != "robust":
        assert info["data"] == first["data"]
        assert (info["data"]["n_clips"], info["data"]["split"]) == (original_report.N_CLIPS, "train")
    assert (info["test"]["n_clips"], info["test"]["split"]) == (2000, "test")
    assert info["test"]["fingerprint"] == first["test"]["fingerprint"] != info["data"]["fingerprint"]
    if name != "compact-prior":
        assert {**info["settings"], "seed": 0} == published()[info["architecture"]]["settings"]


@each_network
def test_weights_fit_the_description(name):
    assert type(il.load_model(name)) is il.ARCHITECTURES[published()[name]["architecture"]]


def test_nothing_else_is_published():
    assert set(published()) == set(PUBLISHED)
    assert {file.name for file in MODELS.iterdir()} == {f"{n}.{end}" for n in PUBLISHED for end in ("json", "safetensors")}


@pytest.mark.data
def test_compact_prior_is_as_good_as_compact_to_half_a_point():
    """The network fine-tuned with the attribution prior, on the clips that the others were tested on."""
    info, compact = published()["compact-prior"], published()["compact"]
    assert info["data"] == compact["data"] and info["test"]["fingerprint"] == compact["test"]["fingerprint"]
    assert info["test"]["macro_f1"]["value"] > compact["test"]["macro_f1"]["value"] - 0.005
    assert info["sha256"] != compact["sha256"]
    assert info["settings"]["penalty"] == repr(AttributionPrior(None))


# The network for other sounds (chapter 9)


@pytest.mark.data
def test_robust_was_not_trained_on_what_it_is_tested_on():
    robust = published()["robust"]
    first, *later = (part["data"]["variation"] for part in (*robust["previous_stages"], robust))
    for variation in (first, *later):
        assert set(variation["soundfonts"]) <= {"FluidR3", "GeneralUser", "OPL3", "Sonivox", "Freepats"}
    assert all(first[name] for name in ("registers", "levels", "overrides", "related_programs", "reverb"))
    assert sum(p.numel() for p in il.RobustCNN().parameters()) <= 1_000_000


@pytest.mark.data
def test_published_results_belong_to_the_published_networks():
    for file in ("generalisation", "spectrum_envelope_swap", "localisation_new_soundfont"):
        networks = results.read(RESULTS / f"{file}.json")["settings"]["networks"]
        assert networks == {name: published()[name]["sha256"] for name in ("original", "compact", "robust")}


@pytest.fixture(scope="module")
def other_font(need_soundfont, tmp_path_factory) -> il.ClipDataset:
    """The 400 clips of chapter 9: the first of the test stream, with a soundfont that no network was trained on."""
    font = find_or_skip("TimGM6mb")
    path = tmp_path_factory.mktemp("other") / "test"
    return il.generate(path, 400, split="test", soundfont=font, progress=False)


def find_or_skip(name):
    try:
        return soundfonts.find_soundfont(name)
    except il.SoundfontError as error:
        if os.environ.get("CI"):
            pytest.fail(f"with CI set nothing may be skipped: {error}", pytrace=False)
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compact", "robust"])
def test_score_on_the_other_soundfont_is_reproduced(other_font, name):
    row = results.read(RESULTS / "generalisation.json")["rows"][f"{name}, TimGM6mb"]
    predicted = il.predict(il.load_model(name), other_font.mels()) > 0.5
    macro, _ = il.bootstrap_f1(other_font.labels, predicted)
    assert macro.value == pytest.approx(row["macro"][0], abs=0.005)  # the same clips, to rounding


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compact", "robust"])
def test_answers_to_recorded_notes_are_reproduced(name):
    row = results.read(RESULTS / "generalisation.json")["rows"][f"{name}, real notes"]
    mels = np.stack([note.mel for note in il.recorded_notes()])
    answers = il.predict(il.load_model(name), mels).argmax(1)
    assert (answers == row["answers"]).mean() > 0.97  # decoders round differently
