"""Results are cached row by row, belong to their settings, and are never half written."""

from pathlib import Path

import numpy as np
import pytest

import instr_lib as il
from instr_lib import results
from instr_lib.errors import ResultsError
from instr_lib.results import CachedRows

ROOT = Path(__file__).parents[2]


def test_an_interrupted_computation_goes_on(tmp_path):
    file, calls = tmp_path / "some" / "rows.json", []

    def compute(name):
        calls.append(name)
        if name == "b" and calls.count("b") == 1:
            raise KeyboardInterrupt
        return {"value": len(calls)}

    def all_rows(names="abc"):
        row = CachedRows(file, {"n": 1})
        return {name: row(name, compute, name) for name in names}

    with pytest.raises(KeyboardInterrupt):
        all_rows()
    assert list(results.read(file)["rows"]) == ["a"]
    rows = all_rows()
    assert calls == ["a", "b", "b", "c"] and list(rows) == ["a", "b", "c"]
    assert all_rows("b") == {"b": {"value": 3}} and len(calls) == 4
    assert [f.name for f in file.parent.iterdir()] == ["rows.json"]


def test_several_rows_at_once(tmp_path, capsys):
    work = {"a": lambda: {"x": 1}, "b": lambda: {"x": 2}}
    assert results.cached_rows(tmp_path / "r.json", {}, work, progress=False) == {"a": {"x": 1}, "b": {"x": 2}}
    assert results.cached_rows(tmp_path / "r.json", {}, {"b": None}, progress=False) == {"b": {"x": 2}}
    assert not capsys.readouterr().err
    results.cached_rows(tmp_path / "r.json", {}, work)
    assert "2/2" in capsys.readouterr().err


def test_a_row_may_ask_for_others(tmp_path):
    row = CachedRows(tmp_path / "r.json", {})
    assert row("outer", lambda: {"x": row("inner", lambda: {"y": 1})["y"]}) == {"x": 1}
    assert CachedRows(tmp_path / "r.json", {})("inner", lambda: {"y": 2}) == {"y": 1}


def test_two_objects_share_a_file(tmp_path):
    first, second = (CachedRows(tmp_path / "r.json", {"n": 1}) for _ in range(2))
    first("a", dict, [("x", 1)])
    second("b", dict, [("x", 2)])
    assert results.read(tmp_path / "r.json")["rows"] == {"a": {"x": 1}, "b": {"x": 2}}


def test_nan_infinity_and_intervals_are_kept(tmp_path):
    row = {"nan": float("nan"), "below": -np.inf, "interval": il.bootstrap_f1(np.eye(2), np.eye(2) > 0)[0]}
    cached = CachedRows(tmp_path / "r.json", {})("row", lambda: row)
    assert cached == {"nan": None, "below": "-inf", "interval": [1, 1, 1]}
    assert il.Interval.from_json(cached["interval"]) == (1, 1, 1)
    assert str(il.Interval.from_json([None, cached["below"], 2])) == "Interval(value=nan, low=-inf, high=2.0)"


def test_what_is_computed_equals_what_is_read(tmp_path):
    row = CachedRows(tmp_path / "r.json", {})
    compute = lambda: {"tuple": (1, 0.1234567), 3: [None, "text", {"deep": -np.inf}]}  # noqa: E731
    assert row("a", compute) == row("a", compute) == {"tuple": [1, 0.12346], "3": [None, "text", {"deep": "-inf"}]}


def test_what_rows_were_computed_with_is_stored(tmp_path):
    CachedRows(tmp_path / "r.json", {"n": (1, 2)})("a", dict)
    content = results.read(tmp_path / "r.json")
    assert content["settings"] == {"n": [1, 2]} and content["seconds"].keys() == {"a"}
    assert content["environment"].keys() == {"torch", "captum", "numpy", "python", "machine"}


def test_other_settings_are_refused(tmp_path):
    file = tmp_path / "r.json"
    CachedRows(file, {"n": 1, "seed": 0})("a", dict)
    before = file.read_bytes()
    for name in ("a", "b"):
        with pytest.raises(ResultsError, match=r"r.json was computed with other n: delete it"):
            CachedRows(file, {"n": 2, "seed": 0})(name, dict)
    assert file.read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": {}}', '{"settings": {}, "rows": 3}'])
def test_damaged_files_are_refused(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ResultsError, match="damaged: restore it"):
        results.read(tmp_path / "r.json")
    with pytest.raises(ResultsError, match="cannot be read"):
        results.read(tmp_path / "missing.json")


def test_rows_and_settings_that_json_cannot_hold_are_refused(tmp_path):
    with pytest.raises(ResultsError, match="plain numbers"):
        CachedRows(tmp_path / "r.json", {})("a", lambda: {"x": np.zeros(3)})
    with pytest.raises(ResultsError, match="plain numbers"):
        CachedRows(tmp_path / "r.json", {"x": np.zeros(3)})
    assert not list(tmp_path.iterdir())


# The published files


@pytest.mark.data
@pytest.mark.parametrize("name", ["attribution_scores", "interventions"])
def test_published_results_are_of_the_published_networks(name):
    content = results.read(ROOT / "book" / "results" / f"{name}.json")
    for network, sha in content["settings"]["networks"].items():
        assert il.model_info(network)["sha256"] == sha
    assert content["rows"] and set(content["seconds"]) >= set(content["rows"])


@pytest.mark.data
def test_published_scores_are_of_enough_pairs_and_reach_what_is_claimed():
    rows = results.read(ROOT / "book" / "results" / "attribution_scores.json")["rows"]
    mass = {name: row["scores"]["relevance_mass_accuracy"][0] for name, row in rows.items() if "scores" in row}
    assert len(rows["pairs"]["clip"]) >= 500
    for network in ("compact", "original", "compact-prior"):
        ideal, crp = (mass[f"{network}, {method}"] for method in ("ideal mask", "CRP, epsilon plus"))
        energy, uniform = (mass[f"{network}, {method}"] for method in ("energy of the mix", "uniform"))
        assert ideal == 1 and crp > energy > uniform
    assert mass["compact-prior, CRP, plus alpha 2 beta 1"] >= 0.6


@pytest.mark.data
def test_published_interventions_are_of_enough_clips():
    content = results.read(ROOT / "book" / "results" / "interventions.json")
    assert content["settings"]["clips"] >= 200
    assert content["rows"].keys() >= {"bass", "harmonics", "place"}
