"""What `make bench` claims: both sides do the same work, the table says what was measured, the page can show it."""

import json
import subprocess
import sys
from pathlib import Path

import jinja2
import numpy as np
import pytest
import torch

import instr_lib as il
from instr_lib.explain import lrp

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
sys.path.insert(0, str(ROOT / "benchmarks"))

import bench_relevance  # noqa: E402
import claims  # noqa: E402
import lower_bound  # noqa: E402
import run  # noqa: E402
from baseline import generate, relevance, train  # noqa: E402


def page(bench) -> str:
    text = (ROOT / "book" / "speed.md").read_text()
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text).render(bench=bench)


def check(bench):
    """Every claim is recomputed from its medians, and all of them are on the page."""
    assert list(bench["rows"]) == ["generation", "lower_bound", "training", "whole", "relevance", "memory"]
    wanted = [("at least", 40), ("at most", 1.4), ("at least", 4), ("at least", 30), ("at least", 6), ("at most", 250)]
    assert [(row["rule"], row["target"]) for row in bench["rows"].values()] == wanted
    for row in bench["rows"].values():
        value = row["ours"]
        if "reference" in row:
            value = row["reference"] / row["ours"] if row["rule"] == "at least" else row["ours"] / row["reference"]
            assert row["ratio"] == pytest.approx(value)
        assert row["met"] == (value >= row["target"] if row["rule"] == "at least" else value <= row["target"])
        for side, (least, most) in row["spread"].items():
            assert least <= row[side] <= most and row["rounds"][side] >= 1
    assert bench["table"] == claims.table(bench)
    shown = page(bench)
    assert bench["table"] in shown and bench["date"] in shown and bench["commit"] in shown
    assert ("Missed" in shown) == (not all(row["met"] for row in bench["rows"].values()))


def made_up():
    """Answers of two passes as if everything had taken a second, or 100 MB."""
    more = {"stages": dict.fromkeys(("load", "play", "mel", "picture", "score"), 0.1), "worker_mb": 100, "parent_mb": 90}
    more |= {"f1": 0.93, "clips": 3000, "epochs": 4}
    return {
        w: {variant: [{"rounds": [1.0, 1.0], **more}] * 2 for variant in variants} for w, variants in run.BENCHMARKS.items()
    }


def test_claims_follow_from_what_was_measured():
    answers = made_up()
    answers["training"]["baseline"] = [{"rounds": [3.9, 4.0]}, {"rounds": [4.2, 8.0]}]  # the median is 4.1
    answers["relevance"]["baseline"] = [{"rounds": [5.9]}, {"rounds": [5.9]}]
    rows = (summary := claims.summarise(answers))["rows"]
    assert rows["training"]["ratio"] == pytest.approx(4.1) and rows["training"]["met"]
    assert rows["training"]["ratios"] == pytest.approx([3.95, 6.1]) and rows["training"]["spread"]["reference"] == [
        3.9,
        8.0,
    ]
    assert not rows["relevance"]["met"] and rows["lower_bound"]["met"] and rows["memory"]["met"]
    epochs = summary["report"]["enough"]
    assert il.model_info("original")["history"][epochs - 1]["val_f1"] >= 0.92
    assert summary["asides"]["whole"]["reference"] == pytest.approx(8000 + 20 * 100 * (3.95 + 6.1) / 2)
    summary |= {**run.about(), "quick": True, "minutes": 1.0}
    check(json.loads(json.dumps(summary | {"table": claims.table(summary)})))


def test_page_without_results_says_so():
    assert "make bench" in page(None)


def test_published_results_hold_together():
    if not RESULTS.exists():
        pytest.skip("nothing was measured yet: make bench")
    bench = json.loads(RESULTS.read_text())
    assert not bench["quick"] and all(f1 >= 0.92 for f1 in bench["whole"]["f1"])
    assert RESULTS.with_suffix(".md").read_text().startswith(bench["table"])
    check(bench)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark_name, variant", [("relevance", "ours"), ("generation", "ours")])
def test_a_benchmark_runs(benchmark_name, variant, need_soundfont, tmp_path):
    answer = run.measure(benchmark_name, variant, tmp_path, quick=True, seed=0)
    assert len(answer["rounds"]) == 1 and answer["rounds"][0] > 0
    assert benchmark_name != "generation" or 50 < answer["worker_mb"] < 1000


def test_quick_results_need_a_place_of_their_own():
    command = [sys.executable, ROOT / "benchmarks" / "run.py", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--out" in done.stderr


@pytest.mark.slow
def test_plain_generation_plays_the_same_music(synth, tmp_path):
    score = il.clip_score(2)
    ours = synth.render(score)
    for dry, alike in ((True, 0.999), (False, 0.97)):  # dry as ours, and as FluidSynth comes, with reverb
        baseline = generate.play(generate.load(synth.soundfont, dry), score.to_midi())
        assert baseline.shape == ours.shape
        decibels = [np.maximum(m - m.max(), -60) for m in (generate.log_mel(baseline), il.log_mel(ours))]
        assert alike < np.corrcoef(*map(np.ravel, decibels))[0, 1] < alike + 0.02
    stages = generate.generate(tmp_path, 1)
    assert list(stages[0]) == ["load", "play", "mel", "picture"] and (tmp_path / "0.png").stat().st_size > 1000


def test_floor_plays_the_same_music(synth):
    score = il.clip_score(1)
    left, right = lower_bound.play(*lower_bound.events(score))
    assert np.corrcoef((left + right)[:220_500], synth.render(score))[0, 1] > 0.999


def test_plain_network_and_notebook_loop_compute_what_ours_do(synth):
    model, mel = bench_relevance.clip()
    baseline = bench_relevance.baseline_network(model)
    shown = bench_relevance.picture(model, mel)
    with torch.no_grad():
        theirs, ours = baseline(shown[None]), model(torch.from_numpy(mel)[None, None])
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    assert sum(p.numel() for p in train.network().parameters()) == 855_948
    heat = relevance.relevance(baseline, shown, range(2), times=1)
    trace = lrp.Trace(model.layers, shown[None], "epsilon_plus_flat")
    ours = trace.backward(trace.init_relevance(range(2))).sum(1)  # on the same picture
    assert ((ours - heat).abs() < 1e-3 * heat.abs().amax((1, 2), keepdim=True)).float().mean() > 0.99
    ours = il.relevance(model, mel[None], range(2), composite="epsilon_plus_flat")
    np.testing.assert_allclose(ours.sum((1, 2)), heat.sum((1, 2)), rtol=1e-3)  # in mel cells: the sum is kept
    for two, one in zip(
        relevance.relevance(baseline, shown, [0], 2), relevance.relevance(baseline, shown, [0], 1), strict=True
    ):
        np.testing.assert_allclose(two, one, atol=1e-6)  # the second time gives the same
