"""Filters for the pages in Markdown: ``{{ score | interval }}`` and the like."""

import collections
import json
import statistics

import instr_lib as il


def interval(score: dict | list | tuple, digits: int = 3, to: str = "–") -> str:
    """An estimate from a JSON file with the ends of its confidence interval, as text."""
    return il.Interval.from_json(score).text(digits, to)


def verdict(effects: list, least: float = 0.0) -> str:
    """Whether a statement holds, given the effects of all its parts, each judged as in chapter 8."""
    held = [il.stats.verdict(il.Interval.from_json(effect), least) == "supported" for effect in effects]
    return "reproduced" if all(held) else "reproduced in part" if any(held) else "not reproduced"


def against(effect: list) -> il.Interval:
    """The effect that supports the opposite statement: the same estimate with the other sign."""
    return -il.Interval.from_json(effect)


def named(answers: list[int]) -> float:
    """The share of recorded notes whose instrument is named correctly: the mean over instruments, as in chapter 9."""
    notes = json.loads((il.samples.recorded.FOLDER / "notes.json").read_text())["notes"]
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
