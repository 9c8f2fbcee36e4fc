"""Results are kept row by row, belong to their settings, and are never half written."""

import json
from pathlib import Path

import numpy as np
import pytest

import instr_lib as il
from instr_lib import results
from instr_lib.errors import ResultsError

ROOT = Path(__file__).parents[2]


def test_an_interrupted_computation_goes_on(tmp_path):
    file, calls = tmp_path / "some" / "rows.json", []

    def work(name):
        def compute():
            calls.append(name)
            if name == "b" and calls.count("b") == 1:
                raise KeyboardInterrupt
            return {"value": len(calls)}

        return compute

    todo = {name: work(name) for name in "abc"}
    with pytest.raises(KeyboardInterrupt):
        results.cached_rows(file, {"n": 1}, todo, progress=False)
    assert list(results.read(file)["rows"]) == ["a"]
    rows = results.cached_rows(file, {"n": 1}, todo, progress=False)
    assert calls == ["a", "b", "b", "c"] and list(rows) == ["a", "b", "c"]
    assert results.cached_rows(file, {"n": 1}, {"b": work("b")}, progress=False) == {"b": {"value": 3}} and len(calls) == 4
    assert [f.name for f in file.parent.iterdir()] == ["rows.json"]


def test_nan_infinity_and_intervals_are_kept(tmp_path):
    row = {"nan": float("nan"), "below": -np.inf, "interval": il.bootstrap_f1(np.eye(2), np.eye(2) > 0)[0]}
    kept = results.cached_rows(tmp_path / "r.json", {}, {"one": lambda: row}, progress=False)["one"]
    assert kept == {"nan": None, "below": "-inf", "interval": [1, 1, 1]}
    assert results.interval(kept["interval"]) == (1, 1, 1)
    assert str(results.interval([None, kept["below"], 2])) == "Interval(value=nan, low=-inf, high=2.0)"


def test_other_settings_are_refused(tmp_path):
    file = tmp_path / "r.json"
    results.cached_rows(file, {"n": 1, "seed": 0}, {"a": lambda: {}}, progress=False)
    before = file.read_bytes()
    with pytest.raises(ResultsError, match=r"r.json was computed with other n: delete it"):
        results.cached_rows(file, {"n": 2, "seed": 0}, {"b": lambda: {}}, progress=False)
    assert file.read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": {}}', '{"settings": {}, "rows": 3}'])
def test_damaged_files_are_refused(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ResultsError, match="damaged: restore it"):
        results.read(tmp_path / "r.json")
    with pytest.raises(ResultsError, match="cannot be read"):
        results.read(tmp_path / "missing.json")


def test_rows_that_json_cannot_hold_are_refused(tmp_path):
    with pytest.raises(ResultsError, match="plain numbers"):
        results.cached_rows(tmp_path / "r.json", {}, {"a": lambda: {"x": np.zeros(3)}}, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["grades", "interventions"])
def test_published_results_are_of_the_published_networks(name):
    found = results.read(ROOT / "book" / "results" / f"{name}.json")
    for network, sha in found["settings"]["networks"].items():
        file = {"truthful": "truthful/compact"}.get(network, network)
        assert il.model_info(ROOT / "models" / f"{file}.safetensors")["sha256"] == sha
    assert found["rows"] and set(found["seconds"]) >= set(found["rows"])


def test_published_grades_are_of_enough_pairs_and_reach_what_is_claimed():
    rows = results.read(ROOT / "book" / "results" / "grades.json")["rows"]
    assert len(rows["pairs"]["clip"]) >= 500
    for network in ("compact", "original", "truthful"):
        ideal, crp = (rows[f"{network}, {m}"]["scores"]["mass"][0] for m in ("ideal mask", "CRP, epsilon plus"))
        energy, chance = (rows[f"{network}, {m}"]["scores"]["mass"][0] for m in ("the mix's energy", "every cell alike"))
        assert ideal == 1 and crp > energy > chance
    assert rows["truthful, CRP, plus alpha 2 beta 1"]["scores"]["mass"][0] >= 0.6


def test_published_interventions_are_of_enough_clips():
    assert results.read(ROOT / "book" / "results" / "interventions.json")["settings"]["clips"] >= 200
    assert json.loads((ROOT / "book" / "results" / "interventions.json").read_text())["rows"].keys() >= {
        "bass",
        "harmonics",
        "place",
    }
