"""Rename keys of the published results and of the JSON beside the weights to the field's terms. Nothing is computed.

``python tools/rename_result_keys.py`` did it once; tests/test_renamed_keys.py compares before and after.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "eb8400d"  # the last commit with the old names
FILES = {  # old path: new path
    "results/grades.json": "book/results/attribution_scores.json",
    "results/interventions.json": "book/results/interventions.json",
    "results/beyond.json": "book/results/generalisation.json",
    "results/lent.json": "book/results/spectrum_envelope_swap.json",
    "results/true.json": "book/results/localisation_new_soundfont.json",
    "results/steps.json": "book/results/training_ablation.json",
    "results/first_result.json": "book/results/pipeline_ablation.json",
    "models/truthful/compact.json": "instr_lib/networks/weights/compact-prior.json",
    **{
        f"models/{name}.json": f"instr_lib/networks/weights/{name}.json"
        for name in ("compact", "compact-1", "compact-2", "original", "original-1", "robust")
    },
}
KEYS = {
    "made_with": "environment", "mass": "relevance_mass_accuracy", "rank": "relevance_rank_accuracy",
    "pointing": "pointing_game", "precision": "average_precision", "own over others": "own_over_others",
    "each": "per_pair", "heard": "recall", "likeliest": "top1", "tried": "rule_search", "before": "previous_stages",
    "owns": "ownership_threshold", "alike": "rank_correlation", "found": "rules", "players": "n_instruments",
    "lost": "relative_logit_drop", "recognised": "detection_rate", "recognised before": "detection_rate_before",
    "gained": "logit_gain", "beyond control": "beyond_control", "half": "detection_threshold_db", "longer": "difference",
    "curve": "history", "area": "area_share", "relatives": "related_programs", "room": "reverb", "playing": "overrides",
    "truthful": "compact-prior",
    # names of rows and of changes of the music
    "ironed": "pitch flattened", "ironed at the start": "pitch flattened at the start",
    "ironed and put back": "pitch flattened and restored", "vibrato put on": "vibrato added",
    "harmonics by chance": "random harmonics", "harmonics of another": "harmonics of another instrument",
    "envelope of another": "envelope of another instrument", "attacks of another": "attacks of another instrument",
    "release cut short": "short release", "attack made slow": "slow attack",
    "FluidR3, as it learned": "FluidR3 (training soundfont)", "as before": "baseline",
    "+ playing, rooms": "+ playing, reverberation", "+ relatives": "+ related programs",
    "length tells how many": "length reveals the number", "first onset at one place": "fixed first onset",
    "all of it, message by message": "all combined",
    "z+, α2β1 from 3, less the others at the start": "z+, α2β1 from 3, minus the others at the start",
    "z+, α2β1 from 3, less the others in each cell": "z+, α2β1 from 3, minus the others in each cell",
}  # fmt: skip
PARTS = {  # of row names that join several parts
    "truthful, ": "compact-prior, ", "the mix's energy": "energy of the mix", "every cell alike": "uniform",
    "FluidR3, as it learned": "FluidR3 (training soundfont)",
}  # fmt: skip
VALUES = {
    "one-cycle": "warmup-cosine",
    "Truthfulness(weight=0.5, composite='plus_alpha2beta1')": (
        "AttributionPrior(weight=0.5, composite='epsilon_plus_alpha2_beta1')"
    ),
    "robust-true": "robust-prior",
}


def renamed(content):
    """The same content with other names."""
    if isinstance(content, dict):
        return {key(name): renamed(value) for name, value in content.items()}
    if isinstance(content, list):
        return [renamed(value) for value in content]
    return VALUES.get(content, content) if isinstance(content, str) else content


def key(name: str) -> str:
    if name in KEYS:
        return KEYS[name]
    for old, new in PARTS.items():
        name = name.replace(old, new)
    return name


def before(path: str) -> str:
    """The text of a file at the commit with the old names."""
    show = ["git", "-C", ROOT, "show", f"{BEFORE}:{path}"]
    return subprocess.run(show, capture_output=True, text=True, check=True).stdout


def main():
    for old, new in FILES.items():
        text = before(old)
        indent = 1 if text.startswith("{\n") else None
        (ROOT / new).write_text(json.dumps(renamed(json.loads(text)), indent=indent) + "\n")


if __name__ == "__main__":
    sys.exit(main())
