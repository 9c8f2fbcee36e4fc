"""List what is left of names and phrases that have a standard or a plain form; ``python tools/check_names.py``.

Exit status 1 if anything is left. tests/test_project.py runs it. Identifiers are found in the syntax trees of instr_lib,
tools, book/scripts, benchmarks and of the notebooks' cells, and among the keys of published JSON; phrases in all text that
someone reads, comments and error messages included.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CODE = ("instr_lib", "tools", "book/scripts", "benchmarks", "notebooks")
PAGES = ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "LICENSE-text.md")
EXEMPT = {"tools/check_names.py"}  # which hold the old names on purpose

# What an identifier is: m a module of instr_lib or benchmarks, d a function or class that is defined, i one that is
# imported or taken from a module or object, p a parameter, a a field of a class, v a variable, k a key of a dictionary in
# code, j a key in published JSON, s any whole string.


class Rule(NamedTuple):
    """Names that have a standard one: the kinds of identifiers meant, and the folder meant."""

    old: str
    standard: str
    kinds: str
    folder: str = ""


RULES = [
    Rule("relevance", "attribution", "m", "instr_lib"),
    Rule("naming", "dissection", "mi"),
    Rule("Name", "ChannelLabel", "d"),
    Rule("earned", "significant", "dpavkj"),
    Rule("prop", "property", "pavkj"),
    Rule("moments", "frame_labels", "dpavkj", "instr_lib"),
    Rule("told", "halves", "dpavkj"),
    Rule("truthful", "prior or compact-prior", "mipvkj"),
    Rule("Truthfulness", "AttributionPrior", "divkj"),
    Rule("listening", "recordings", "mi"),
    Rule("Heard", "WindowPredictions", "div"),
    Rule("listen", "predict_windows", "d"),
    Rule("read", "load_recording", "d", "instr_lib/data/recordings"),
    Rule("levelled", "normalise_level", "divk"),
    Rule("report", "original_report", "m"),
    Rule("kept", "cached_rows or the noun it is", "dipavk"),
    Rule("claimed", "FileLock", "di"),
    Rule("keep_freed_memory", "tune_malloc", "di"),
    Rule("processes", "distributed", "m"),
    Rule("OnCells", "CaptumModel", "di"),
    Rule("by_captum", "from_captum", "di"),
    Rule("area", "uniform_baseline or normalised_auc", "dkj"),
    Rule("energy", "energy_baseline", "d"),
    Rule("these", "pairs or the noun it is", "pav"),
    Rule("heats", "heatmaps", "dpavkj"),
    Rule("found", "the noun it is (rows, curves …)", "pavkj"),
    Rule("asked", "targets", "dpavkj"),
    Rule("which", "instruments or the noun it is", "pav"),
    Rule("mine", "target", "pav"),
    Rule("theirs", "source", "pav", "instr_lib"),
    Rule("one, other", "a, b", "pv"),
    Rule("OWNS", "OWNERSHIP_THRESHOLD", "iv"),
    Rule("owned", "owned_mask", "dipavkj"),
    Rule("owners", "dominant_source_map", "dipavkj"),
    Rule("owns", "ownership_threshold", "pakj"),
    Rule("mass", "relevance_mass_accuracy", "dakj"),
    Rule("rank", "relevance_rank_accuracy", "dakj"),
    Rule("pointing", "pointing_game", "dakj"),
    Rule("precision", "average_precision", "dakj"),
    Rule("removal_curves", "perturbation_curves", "divkj"),
    Rule("raw_scores", "per_pair_scores", "divkj"),
    Rule("score_heats", "localisation_scores", "divkj"),
    Rule("alike", "rank_correlation", "dipavkj"),
    Rule("Way", "Edge", "div"),
    Rule("ways", "attribution_graph or edges", "dipavkj"),
    Rule("references", "reference_samples", "di"),
    Rule("Field", "ReceptiveField", "di"),
    Rule("place", "neuron", "dpa", "instr_lib/explain"),
    Rule("favourites", "show_reference_samples", "div"),
    Rule("without", "ablate_channels", "d"),
    Rule("Trace.start", "init_relevance", "d"),
    Rule("Trace.back", "backward", "d"),
    Rule("back", "backward", "i"),
    Rule("after", "start_layer", "pa", "instr_lib/explain"),
    Rule("until", "stop_layer", "pa", "instr_lib/explain"),
    Rule("way", "backward_fn", "pav"),
    Rule("of", "select", "pav"),
    Rule("alpha2beta1", "epsilon_alpha2_beta1", "s"),
    Rule("plus_alpha2beta1", "epsilon_plus_alpha2_beta1", "s"),
    Rule("one-cycle", "warmup-cosine", "s"),
    Rule("Lot", "RenderPlan", "div"),
    Rule("lot", "plan", "pav"),
    Rule("draw", "sample_plan", "d", "instr_lib/music"),
    Rule("clip_lot", "clip_plan", "di"),
    Rule("_manner", "_sample_generators", "di"),
    Rule("relatives", "related_programs", "dipavkj"),
    Rule("room", "reverb", "pakj", "instr_lib"),
    Rule("Variation", "DomainRandomisation", "div"),
    Rule("Playing", "SynthOverrides", "div"),
    Rule("bend", "pitch_bend", "dpakj"),
    Rule("ask", "run_interventions", "di"),
    Rule("Answers", "Outcomes", "div"),
    Rule("lost", "relative_logit_drop", "dakj"),
    Rule("gained", "logit_gain", "dakj"),
    Rule("recognised", "detection_rate", "dakj"),
    Rule("lost_below", "detection_threshold_db", "dikj"),
    Rule("steady", "remove_vibrato", "di"),
    Rule("silenced", "gate", "di"),
    Rule("quieter", "set_level", "di"),
    Rule("by", "resynthesise", "d", "instr_lib"),
    Rule("attack_by", "swap_attack", "di"),
    Rule("envelope_by", "swap_envelope", "di"),
    Rule("harmonics_by", "swap_spectrum", "di"),
    Rule("without_band", "band_stop", "di"),
    Rule("iv", "stats", "v"),
    Rule("negative", "-interval", "di"),
    Rule("apart", "interval - interval", "di"),
    Rule("Front", "Preprocess", "div"),
    Rule("front", "preprocess", "dipa"),
    Rule("enlarge", "resize", "di"),
    Rule("unit", "normalise", "d", "instr_lib/networks"),
    Rule("TimePool", "MeanMaxPool", "di"),
    Rule("positive_weights", "pos_weight", "di"),
    Rule("curve", "history", "kj"),
    Rule("learn", "train", "dpav"),
    Rule("choose", "val", "dpav"),
    Rule("test_scores", "evaluate", "di"),
    Rule("players", "active_instruments or audio_players", "dipavkj"),
    Rule("heard", "predicted or recall", "dpavkj"),
    Rule("said", "predicted", "pavkj"),
    Rule("lent", "spectrum_envelope_swap", "kj"),
    Rule("beyond", "generalisation", "kj"),
    Rule("grades", "attribution_scores", "kj"),
    Rule("first_result", "pipeline_ablation", "kj"),
    Rule("tried", "rule_search", "kj"),
    Rule("likeliest", "top1", "dipavkj"),
    Rule("each", "per_pair", "kj"),
    Rule("before", "previous_stages", "kj"),
    Rule("made_with", "environment", "dipavkj"),
    Rule("facts", "template_context", "di"),
    Rule("hand_out", "embed_source", "di"),
    Rule("publish", "clean_outputs", "di"),
    Rule("lighten", "quantise_png", "di"),
    Rule("light", "optimise_site", "m"),
    Rule("spared", "dry", "dpavk"),
    Rule("floor", "lower_bound", "mk", "benchmarks"),
    Rule("plain", "baseline", "mpvk", "benchmarks"),
    Rule("what", "benchmark", "pa", "benchmarks"),
    Rule("how", "variant", "pa", "benchmarks"),
]
RESULTS = {  # files in book/results
    "lent": "spectrum_envelope_swap", "true": "localisation_new_soundfont", "beyond": "generalisation",
    "steps": "training_ablation", "grades": "attribution_scores", "first_result": "pipeline_ablation",
}  # fmt: skip
_SPACE = r"(?:[ \t]+|\s*\n\s*(?:#\s+)?)"  # also a line break, in comments, too
_COUNTED = r"(?:one|two|three|four|\d+|voice|seconds|ticks|spectrogram|panel|row|minute|curve)"
_COUNTED_BY = "(?:note|clip|beat|epoch|instrument|notebook|soundfont|seed|network|channel|page)"
PHRASES = {  # regular expressions, in which a space also stands for a line break: plain words
    rf"\b{_COUNTED} an? {_COUNTED_BY}\b": "per note, per clip",
    r"\d pairs from each": "3 pairs per clip",
    r"\bby lot\b|\blots\b": "at random, random draws",
    r"\bluck of the\b": "depends on the seed",
    r"\bredoes\b|\bgoes on from there\b": "reproduces and extends",
    r"\bwhere the user may\b": "with permission",
    r"\bwhat is not there\b|\bleft out, and said\b": "missing parts are skipped with a message",
    r"\bwhat took long\b": "cached results",
    r"\bwhat must hold\b": "test suite",
    r"\brun found there\b|\bis taken up\b": "an existing run is resumed",
    r"\bany explanation must beat\b": "baselines and an upper bound",
    r"\bas often as asked\b": "one forward pass, many backward passes",
    r"\bare silent: 0\b|\bwhatever it hears\b": "are set to zero",
    r"\bwas not chosen by\b|\bwere not chosen by\b": "on held-out clips",
    r"\btaken for\b|\b(?:takes?|took|taking) (?:\w+ ){0,3}for (?:another|the other|one another)\b": "mistaken for",
    r"\b(?:told|tells?|telling) (?:\w+ ){0,3}apart\b": "distinguished",
    r"\blent\b": "given",
    r"\bironed\b": "flattened",
    r"[`*]+truthful[`*]+|\btruthful network\b|\bnetwork truthful\b": "compact-prior",
    r"\balpha2beta1\b": "epsilon_alpha2_beta1",
    rf"\bresults\.(?:{'|'.join(RESULTS)})\b": "the file's new name",
}


def main() -> int:
    """Print what is left, one line each. Returns the exit status."""
    left = sorted(set(remaining()))
    for path, line, old, standard in left:
        print(f"{path}:{line}: {old} → {standard}")
    print(f"{len(left)} old names and phrases", file=sys.stderr)
    return int(bool(left))


def remaining(root: Path = ROOT) -> Iterator[tuple[str, int, str, str]]:
    """Path, line, what is there, and what it should be. For notebooks the line is that of the file."""
    for path in files(root):
        name, text = path.relative_to(root).as_posix(), path.read_text()
        if path.suffix == ".json":
            yield from keys_in_json(name, text)
            continue
        for start, part, is_code in parts(path, text):
            if is_code:
                yield from ((name, start + line, *rest) for line, *rest in identifiers(name, part))
            yield from ((name, start + line, *rest) for line, *rest in phrases(part))
        yield from module_name(name)


def files(root: Path) -> Iterator[Path]:
    """All files that are looked through."""
    found = [root / page for page in PAGES]
    found += [path for folder in CODE for path in (root / folder).rglob("*.py")]
    found += [*(root / "book").glob("*.md"), *(root / "notebooks").glob("*.ipynb")]
    found += [*(root / "book" / "results").glob("*.json"), *(root / "instr_lib" / "networks" / "weights").glob("*.json")]
    for path in sorted(set(found)):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts)
        if path.is_file() and not hidden and path.relative_to(root).as_posix() not in EXEMPT:
            yield path


def parts(path: Path, text: str) -> Iterator[tuple[int, str, bool]]:
    """A file's pieces: the number of the line before, the text, and whether it is Python."""
    if path.suffix != ".ipynb":
        yield 0, text, path.suffix == ".py"
        return
    lines = text.splitlines()
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        mark = json.dumps(cell.get("id", ""), ensure_ascii=False)
        (begin, *_) = [n for n, line in enumerate(lines) if f'"id": {mark}' in line] or [0]
        starts = (n for n, line in enumerate(lines[begin:], begin + 1) if '"source": [' in line)
        start = next(starts, begin)
        yield start, source, cell["cell_type"] == "code"
        if figure := cell["metadata"].get("mystnb"):
            yield begin, "\n".join(strings(figure)), False  # captions and alternative texts


def strings(content) -> list[str]:
    """All text in a JSON value, without the keys."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [text for value in content for text in strings(value)]
    return [content] if isinstance(content, str) else []


def phrases(text: str) -> Iterator[tuple[int, str, str]]:
    """Phrases in a text, over line breaks, also those in comments."""
    for pattern, plain in PHRASES.items():
        for match in re.finditer(pattern.replace(" ", _SPACE), text, flags=re.IGNORECASE):
            yield text.count("\n", 0, match.start()) + 1, f"“{' '.join(match[0].split())}”", plain


def module_name(path: str) -> Iterator[tuple[str, int, str, str]]:
    """A module's own name, or that of the folder it is in."""
    if path.endswith(".py"):
        for part in Path(path).with_suffix("").parts[1:]:
            yield from ((path, 1, f"module {part}", standard) for standard in standards(path, part, "m"))


def keys_in_json(path: str, text: str) -> Iterator[tuple[str, int, str, str]]:
    """Keys of published JSON, each once, and the file's own name."""
    stem = Path(path).stem
    if "results" in path and stem in RESULTS:
        yield path, 1, f"file {stem}", RESULTS[stem]
    for key in sorted(set(re.findall(r'"([^"\\]+)":', text))):
        for standard in standards(path, key, "j"):
            yield path, text.count("\n", 0, text.index(f'"{key}":')) + 1, f"key {key}", standard


def standards(path: str, name: str, kind: str) -> list[str]:
    """What the rules say about an identifier of one kind in a file."""
    return [r.standard for r in RULES if r.old == name and kind in r.kinds and path.startswith(r.folder)]


WORDS = {
    "d": "definition", "i": "name", "p": "parameter", "a": "field", "v": "variable", "k": "key", "s": "string",
}  # fmt: skip


def identifiers(path: str, source: str) -> Iterator[tuple[int, str, str]]:
    """Identifiers of Python source that a rule names. Lines of IPython's own (``%``, ``!``) count as empty."""
    source = re.sub(r"^[ \t]*[%!].*$", "", source, flags=re.MULTILINE)
    for line, kind, name in uses(ast.parse(source)):
        for standard in standards(path, name, kind):
            yield line, f"{WORDS[kind]} {name}", standard


def uses(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Line, kind and name of every identifier."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, "d", node.name
                yield from parameters(node.args, node.lineno)
            case ast.Lambda():
                yield from parameters(node.args, node.lineno)
            case ast.ClassDef():
                yield node.lineno, "d", node.name
                yield from members(node)
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, "v", node.id
            case ast.Attribute():
                yield node.lineno, "a" if isinstance(node.ctx, ast.Store) else "i", node.attr
            case ast.ImportFrom() | ast.Import():
                for alias in node.names:
                    yield node.lineno, "i", alias.name.split(".")[-1]
                    yield node.lineno, "v", alias.asname or ""
            case ast.keyword():
                if node.arg != "which":  # matplotlib's
                    yield node.value.lineno, "p", node.arg or ""
            case ast.Dict():
                yield from ((key.lineno, "k", key.value) for key in node.keys if is_text(key))
            case ast.Subscript(slice=ast.Constant(value=str(key))):
                yield node.lineno, "k", key
            case ast.Constant(value=str(text)):
                yield node.lineno, "s", text


def is_text(node) -> bool:
    """Whether a node is a string constant."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def parameters(arguments: ast.arguments, line: int) -> Iterator[tuple[int, str, str]]:
    """Parameters of a function; two that are called one and other count as the pair."""
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    yield from ((line, "p", name) for name in names)
    if {"one", "other"} <= set(names):
        yield line, "p", "one, other"


def members(node: ast.ClassDef) -> Iterator[tuple[int, str, str]]:
    """Fields of a class, and its methods with its name before theirs."""
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part.lineno, "a", part.target.id
        elif isinstance(part, ast.FunctionDef):
            yield part.lineno, "d", f"{node.name}.{part.name}"


if __name__ == "__main__":
    sys.exit(main())
