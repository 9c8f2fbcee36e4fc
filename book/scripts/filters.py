"""Filters for the pages in Markdown: ``{{ score | interval }}`` and the like."""

import collections
import json
import math
import statistics

import instr_lib as il


def interval(score: dict | list | tuple, digits: int = 3, to: str = "–") -> str:
    """An estimate from a JSON file with the ends of its confidence interval, as text."""
    ends = [score[key] for key in ("value", "low", "high")] if isinstance(score, dict) else score
    ends = il.results.interval(ends)
    value, low, high = (f"{round(end, digits) + 0.0:.{digits}f}" for end in ends)  # never "-0.00"
    return "–" if math.isnan(ends.value) else f"{value} ({low}{to}{high})"


def verdict(effects: list, least: float = 0.0) -> str:
    """Whether a statement holds, given the effects of all its parts, each judged as in chapter 8."""
    held = [il.interventions.verdict(il.results.interval(effect), least) == "supported" for effect in effects]
    return "reproduced" if all(held) else "reproduced in part" if any(held) else "not reproduced"


def against(effect: list) -> tuple:
    """The effect that supports the opposite statement: the same estimate with the other sign."""
    return il.interventions.negative(il.results.interval(effect))


def named(answers: list[int]) -> float:
    """The share of recorded notes whose instrument is named correctly: the mean over instruments, as in chapter 9."""
    notes = json.loads((il.recorded.FOLDER / "notes.json").read_text())["notes"]
    right = collections.defaultdict(list)
    for note, answer in zip(notes, answers, strict=True):
        right[note["instrument"]].append(il.INSTRUMENTS[answer].name == note["instrument"])
    return statistics.fmean(map(statistics.fmean, right.values()))


FILTERS = {
    "interval": interval,
    "verdict": verdict,
    "against": against,
    "named": named,
    "mean": statistics.fmean,
    "deviation": statistics.stdev,
}
