"""From what was measured to what is claimed: ratios, whether they hold, and the table."""

import math
from statistics import mean, median
from typing import NamedTuple

import instr_lib as il

# The report's recipe: 8000 clips, four fifths of them to learn from, in batches of 64, 20 times over.
CLIPS, STEPS, EPOCHS, MACRO_F1 = 8000, 100, 20, 0.92


class Measurements(dict):
    """What the benchmarks measured: by benchmark and variant, one answer for each pass.

    ``answers["training"]["ours"][0]["rounds"]`` are the seconds of a step of training, round by round, in the first pass.
    """

    def times(self, benchmark, variant, scale=1):
        return [[scale * seconds for seconds in answer["rounds"]] for answer in self[benchmark][variant]]

    def noted(self, benchmark, variant, name):
        return [answer[name] for answer in self[benchmark][variant]]

    def recipe(self, epochs):
        """Seconds of the report's recipe written plainly: a part of it was timed, in each pass, and is scaled."""
        passes = zip(self.times("generation", "baseline"), self.times("training", "baseline"), strict=True)
        return [[CLIPS * median(clip) + epochs * STEPS * median(step)] for clip, step in passes]

    def ladder(self, benchmark):
        """From the baseline to ours, one optimisation after another: seconds, and the speed-up over the one before."""
        seconds = {variant: Measured(variant, self.times(benchmark, variant)).median for variant in self[benchmark]}
        before = [None, *seconds.values()]
        return {variant: {"s": s, "gain": b and b / s} for (variant, s), b in zip(seconds.items(), before, strict=False)}

    def stages(self, variant):
        passes = self.noted("generation", variant, "stages")
        return {name: 1000 * mean(stages[name] for stages in passes) for name in passes[0]}


def summarise(answers: dict) -> dict:
    """The claims and what stands behind them, from the answers as :class:`Measurements` describes them."""
    answers = Measurements(answers)
    times, noted = answers.times, answers.noted
    # Generous to the baseline: only as far as the epoch in which the published network's validation score gets there.
    curve = il.model_info("original")["history"]
    enough = next((epoch["epoch"] for epoch in curve if epoch["val_f1"] >= MACRO_F1), EPOCHS)
    clip = Measured("a clip generated, ms", times("generation", "ours", 1000))
    step = Measured("a step of training `OriginalCNN`, s", times("training", "ours"))
    whole = Measured(f"from an empty folder to a test macro-F1 of {MACRO_F1}, s", times("whole", "ours"))
    heat = Measured("relevance of a clip's 12 classes, s", times("relevance", "ours"))
    memory = Measured("memory of a generating process, MB", [[mb] for mb in noted("generation", "ours", "worker_mb")])
    script = Measured("a straightforward script", times("generation", "baseline", 1000))
    dry = Measured("the same script, dry and with small pictures", times("generation", "dry", 1000))
    together = Measured("FluidSynth alone, all of a clip at once", times("generation", "lower_bound", 1000))
    apart = Measured("FluidSynth alone, instrument by instrument", times("generation", "stems", 1000))
    baseline_step = Measured("a straightforward training step", times("training", "baseline"))
    part = Measured(f"the report's procedure, straightforward version, {enough} epochs*", answers.recipe(enough))
    all_of_it = Measured(f"the report's procedure, straightforward version, {EPOCHS} epochs*", answers.recipe(EPOCHS))
    notebook = Measured("the original's notebook loop", times("relevance", "baseline"))
    return {
        "rows": {
            "generation": row(clip, script, at_least=40),
            "lower_bound": row(clip, apart, at_most=1.4),
            "training": row(step, baseline_step, at_least=4),
            "whole": row(whole, part, at_least=30),
            "relevance": row(heat, notebook, at_least=6),
            "memory": row(memory, at_most=250),
        },
        "asides": {
            "dry": row(clip, dry),
            "together": row(clip, together, cost=True),
            "whole": row(whole, all_of_it),
        },  # nothing is claimed of these
        "ladders": {benchmark: answers.ladder(benchmark) for benchmark in ("training", "relevance")},
        "stages": {variant: answers.stages(variant) for variant in ("baseline", "dry", "ours")},
        "whole": {name: noted("whole", "ours", name) for name in ("clips", "epochs", "f1")},
        "parent_mb": max(noted("generation", "ours", "parent_mb")),
        "report": {"clips": CLIPS, "epochs": EPOCHS, "enough": enough, "f1": MACRO_F1},
    }


class Measured(NamedTuple):
    """What was measured, with its unit, and one list of rounds for each pass."""

    name: str
    passes: list[list[float]]

    @property
    def rounds(self) -> list[float]:
        return [figure for rounds in self.passes for figure in rounds]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def spread(self) -> list[float]:
        return [min(self.rounds), max(self.rounds)]


def row(ours: Measured, reference: Measured | None = None, at_least=None, at_most=None, cost=False) -> dict:
    """A claim: that we are so many times faster, need at most so many times as long, or at most so much."""
    cost = cost or at_most is not None

    def ratio(ours, reference):
        return ours / reference if cost else reference / ours

    value = ours.median
    content = {"name": ours.name, "ours": value, "spread": {"ours": ours.spread}, "rounds": {"ours": len(ours.rounds)}}
    if reference:
        value = ratio(ours.median, reference.median)
        content |= {"reference_name": reference.name, "reference": reference.median, "ratio": value}
        content["ratios"] = [ratio(median(a), median(b)) for a, b in zip(ours.passes, reference.passes, strict=True)]
        content["spread"]["reference"] = reference.spread
        content["rounds"]["reference"] = len(reference.rounds)
    if at_least or at_most:
        rule, target = ("at least", at_least) if at_least else ("at most", at_most)
        met = value >= target if at_least else value <= target
        # Logarithms for the page's chart, because its templates have none.
        content |= {"rule": rule, "target": target, "met": met, "log10": [math.log10(value), math.log10(target)]}
    return content


def table(summary: dict) -> str:
    """The claims as a Markdown table."""
    lines = [["measurement", "ours", "compared with", "reference", "ratio", "target", "target met"]]
    for claim in [*summary["rows"].values(), *summary["asides"].values()]:
        targets = f"{claim['rule']} {number(claim['target'])}" if "rule" in claim else ""
        met = {True: "yes", False: "**no**", None: ""}[claim.get("met")]
        reference = [""] * 3
        if "reference" in claim:
            reference = [claim["reference_name"], number(claim["reference"]), f"{number(claim['ratio'])}\u00a0×"]
        lines.append([claim["name"], number(claim["ours"]), *reference, targets, met])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
