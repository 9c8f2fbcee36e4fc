"""What the pages in Markdown can name: the profile, its networks and results, the benchmark, the library."""

import collections
import json
from pathlib import Path

from page_keys import digest
from project import LOCK, NOTEBOOKS, ROOT, parameters, repository, stop

import instr_lib as il


def template_context(profile: str, out: Path) -> dict:
    """Variables for Jinja. Networks and results are those that the profile's notebooks have made so far.

    ``bench`` is None if nothing was measured.
    """
    given, bench = parameters(profile, out), ROOT / "benchmarks" / "results" / "latest.json"
    results_folder, models = given.get("RESULTS"), {}
    try:
        files = sorted((NOTEBOOKS / results_folder).glob("*.json")) if results_folder else []
        results = {file.stem: il.results.read(file) for file in files}
        if "MODELS" in given:  # a folder, or None for the published ones
            models = il.models_info(NOTEBOOKS / given["MODELS"] if given["MODELS"] else None)
    except il.InstrError as error:
        stop(str(error))
    about = models.get("original", {})
    clips = {"train": about.get("data"), "test": about.get("test")}
    return {
        "profile": profile,
        "repository": repository(),
        "prior": models.pop("compact-prior", None),
        "models": models,
        "data": {split: composition(split, a["n_clips"], a["seed"], out / "cache") for split, a in clips.items() if a},
        "results": results,
        "bench": json.loads(bench.read_text()) if bench.exists() else None,
        "il": il,
    }


def composition(split: str, n_clips: int, seed: int, cache: Path) -> dict:
    """How many clips of a data set contain each instrument, and each number of instruments. Counted once, then cached."""
    code = [Path(module.__file__) for module in (il.data.dataset, il.music.instruments, il.music.score)]
    file = cache / f"composition-{digest(split, str(n_clips), str(seed), LOCK, *code)[:16]}.json"
    if not file.exists():
        scores = [il.clip_score(index, seed, split) for index in range(n_clips)]
        by_instrument = collections.Counter(i for score in scores for i in score.instruments)
        by_number = collections.Counter(len(score.instruments) for score in scores)
        counted = {
            "clips": n_clips,
            "seed": seed,
            "hours": n_clips * il.constants.CLIP_SECONDS / 3600,
            "notes": sum(len(score.notes) for score in scores),
            "instruments": {i.name: by_instrument[number] for number, i in enumerate(il.INSTRUMENTS)},
            "together": {str(n): by_number[n] for n in range(1, il.music.score.MAX_INSTRUMENTS + 1)},
        }
        cache.mkdir(exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(counted))
        part.replace(file)
    return json.loads(file.read_text())
