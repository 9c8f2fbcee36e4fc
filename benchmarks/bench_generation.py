"""How fast clips are generated: the baseline script, `il.generate`, and a lower bound."""

import time
from itertools import count
from pathlib import Path

import lower_bound
import numpy as np
import psutil
from baseline.generate import generate

import instr_lib as il
from instr_lib.data import spectrogram
from instr_lib.memory import tune_malloc


def bench_baseline(measure, benchmark, size, tmp_path, dry=False):
    stages = []
    measure(lambda: stages.extend(generate(tmp_path, size.baseline_clips, dry=dry)), size.baseline_clips)
    stages = stages[size.baseline_clips :]  # without the warm-up
    benchmark.extra_info["stages"] = {name: float(np.mean([clip[name] for clip in stages])) for name in stages[0]}


def bench_dry(measure, benchmark, size, tmp_path):
    bench_baseline(measure, benchmark, size, tmp_path, dry=True)


def bench_ours(measure, benchmark, size, tmp_path):
    tune_malloc()  # workers inherit it
    il.generate(tmp_path / "warm", size.warm_clips, progress=False)
    folders = (tmp_path / str(number) for number in count())
    generate = lambda folder: il.generate(folder, size.clips, n_jobs=-1, progress=False)  # noqa: E731
    measure(generate, size.clips, warm=False, setup=lambda: ((next(folders),), {}))
    workers = psutil.Process().children(recursive=True)  # they stay for the next call
    benchmark.extra_info["worker_mb"] = max(peak_mb(worker.pid) for worker in workers)
    benchmark.extra_info["parent_mb"] = peak_mb("self")
    benchmark.extra_info["stages"] = stages(size.warm_clips)


def bench_lower_bound(measure, size):
    clips = [lower_bound.events(il.clip_score(index)) for index in range(size.clips)]
    lower_bound.on_every_core(lower_bound.play_batch, clips[: size.warm_clips])
    measure(lambda: lower_bound.on_every_core(lower_bound.play_batch, clips), size.clips, warm=False)


def bench_stems(measure, size):
    scores = [il.clip_score(index) for index in range(size.clips)]
    lower_bound.on_every_core(lower_bound.stems_batch, scores[: size.warm_clips])
    measure(lambda: lower_bound.on_every_core(lower_bound.stems_batch, scores), size.clips, warm=False)


def peak_mb(pid) -> float:
    """The most memory a process ever had, in MB of 10^6 bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def stages(n_clips) -> dict:
    """Seconds per clip for what `il.generate`'s workers do, one process alone."""
    tune_malloc()
    synth, times = il.Synth(), []
    for index in range(n_clips):
        clock = [time.perf_counter()]
        score = il.clip_score(index)
        clock.append(time.perf_counter())
        sound = synth.render(score)
        clock.append(time.perf_counter())
        spectrogram.quantise(il.log_mel(sound))
        clock.append(time.perf_counter())
        times.append(np.diff(clock))
    return dict(zip(("score", "play", "mel"), np.median(times, axis=0).tolist(), strict=True))
