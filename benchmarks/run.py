"""Measure how fast everything is, and compared with what. `make bench` runs this with the Python of .venv.

Each of BENCHMARKS is measured in a process of its own by pytest-benchmark, all of them in turn and then all over
again, so that other load on the machine affects both sides of a comparison. The table is made of the medians of
all rounds. It is written, with all that there is to know about it, once everything is measured.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import claims
import psutil

from instr_lib.music import synth

HERE = Path(__file__).resolve().parent
PASSES = 2
# Each is the function bench_B of bench_A.py.
BENCHMARKS = {
    "generation": ("baseline", "dry", "ours", "lower_bound", "stems"),
    "training": ("baseline", "malloc", "layout", "bfloat16", "ours"),
    "relevance": ("baseline", "once", "malloc", "ours"),
    "whole": ("ours",),
}


def measure(benchmark: str, variant: str, scratch: Path, quick: bool, seed: int) -> dict:
    """Run one benchmark in a new process: the seconds of each round per unit of work, and its extra_info."""
    answer = scratch / "answer.json"
    function = f"{HERE}/bench_{benchmark}.py::bench_{variant}"
    command = [sys.executable, "-m", "pytest", function, "-q", "-p", "no:cacheprovider"]
    command += ["-o", "python_functions=bench_", f"--basetemp={scratch}/tmp", f"--benchmark-json={answer}"]
    command += [f"--scratch={scratch}", f"--seed={seed}", *["--quick"] * quick]
    # Without a GPU, which only our side would use; and pytest-benchmark does not measure in processes of pytest-xdist.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    with open(scratch / "log", "w+") as log:
        # A session of its own, so that it can be stopped together with its workers.
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=HERE, start_new_session=True)
        try:
            failed = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        if failed:
            log.seek(0)
            sys.exit(f"{log.read()[-4000:]}\nbench: {benchmark}, {variant}, failed: see above; nothing was written")
    (result,) = json.loads(answer.read_text())["benchmarks"]
    noted = result["extra_info"]
    return {"rounds": [seconds / noted["units"] for seconds in result["stats"]["data"]], **noted}


def measure_all(quick: bool) -> dict:
    """What each benchmark answered, pass by pass: ``answers["training"]["ours"][0]["rounds"]``."""
    answers = {benchmark: {variant: [] for variant in variants} for benchmark, variants in BENCHMARKS.items()}
    todo = [
        (number, benchmark, variant)
        for number in range(1 if quick else PASSES)
        for benchmark in answers
        for variant in answers[benchmark]
    ]
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for done, (number, benchmark, variant) in enumerate(todo):
            minutes = (time.monotonic() - start) / 60
            print(f"bench: {minutes:4.1f} min, {done + 1:2} of {len(todo)}: {benchmark}, {variant}", flush=True)
            answers[benchmark][variant].append(measure(benchmark, variant, Path(scratch), quick, seed=number))
            shutil.rmtree(Path(scratch) / "tmp", ignore_errors=True)
    return answers


def about() -> dict:
    """The machine, versions and commit, without which a figure says little."""
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next(
        (line.split(":")[1].strip() for line in cpu.splitlines() if line.startswith("model name")), platform.machine()
    )
    packages = ("torch", "numpy", "scipy", "librosa", "matplotlib", "zennit-crp", "joblib", "pytest-benchmark")
    versions = {"python": platform.python_version(), "fluidsynth": synth.fluidsynth_version()}
    return {
        "date": str(datetime.date.today()),
        "commit": commit(),
        "machine": {
            "cpu": model,
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9),
            "system": platform.platform(terse=True),
        },
        "versions": versions | {name: metadata.version(name) for name in packages},
    }


def commit() -> str:
    """The short name of git's commit, and whether anything but the results has changed since."""
    git = ["git", "-C", str(HERE.parent)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changes = subprocess.run([*git, "status", "--porcelain", "--", ".", ":!benchmarks/results"], capture_output=True).stdout
    return name + "+changes" * bool(changes) if name else "unknown"


def write(summary: dict, folder: Path):
    """latest.json and latest.md, both or neither."""
    machine = summary["machine"]
    note = "\n".join(
        [
            f"{summary['date']}, commit {summary['commit']}, {machine['cpu']}, {machine['cores']} cores, "
            f"{machine['memory_gb']} GB, {machine['system']}"
            + ", **with tiny sizes, so it means nothing**"
            * summary["quick"],
            "\\* timed on a part and scaled",
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    files = {"latest.json": json.dumps(summary, indent=1), "latest.md": f"{summary['table']}\n\n{note}"}
    for name, text in files.items():
        (folder / f"{name}.part").write_text(text + "\n")
    for name in files:
        (folder / f"{name}.part").replace(folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing; needs --out"
    )
    parser.add_argument("--out", type=Path, help="where the results go (default: benchmarks/results)")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out is None:
        parser.error("--quick measures nothing, so its results go elsewhere: name a folder with --out")
    if not arguments.quick and (load := os.getloadavg()[0]) > 0.3:
        print(
            f"bench: the machine is busy (load {load:.1f}): stop what else it does, or the figures mean little", flush=True
        )
    start = time.monotonic()
    origin = about()  # before: the files may change meanwhile
    summary = {**origin, "quick": arguments.quick, **claims.summarise(measure_all(arguments.quick))}
    summary |= {"minutes": (time.monotonic() - start) / 60, "table": claims.table(summary)}
    write(summary, arguments.out or HERE / "results")
    print(f"\n{summary['table']}\n\n* timed on a part and scaled")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill stops the workers too, like Ctrl-C
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nbench: stopped; nothing was written")
