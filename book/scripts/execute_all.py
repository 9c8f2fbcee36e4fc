"""Execute all notebooks that have changed, several at a time, each as soon as the ones it depends on are done."""

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

from dependencies import ancestors, dependencies, typical_seconds, undeclared
from execute import execute, made, prepare
from project import stop

# Children are copies of this process, so that papermill is imported once. No thread runs when they are made.
FORK = multiprocessing.get_context("fork")
PATIENCE = 20  # seconds that a kernel has to stop in


def jobs() -> int:
    """How many notebooks run at a time: two, or one on a machine with one core."""
    return min(2, len(os.sched_getaffinity(0)))


def execute_all(keys: dict[Path, str], profile: str, out: Path, n_jobs: int) -> list[tuple[str, float, bool]]:
    """Execute the notebooks whose keys have changed. Returns, in the order of keys, name, seconds and "was it reused"."""
    needs = dependencies(profile)
    before = {page: made(page, profile, out) for page in keys}
    todo = [page for page in keys if before[page].get("key") != keys[page]]
    if todo:
        prepare()
        run(todo, keys, needs, urgency(needs, before), profile, out, n_jobs)
    after = {page: made(page, profile, out) if page in todo else before[page] for page in keys}
    access = {page.stem: about["access"] for page, about in after.items() if "access" in about}
    if problems := undeclared(access, needs):
        stop("; ".join(problems) + ": declare it in notebooks/dependencies.yml")
    return [(page.stem, after[page]["seconds"], page not in todo) for page in keys]


def urgency(needs: dict[str, list[str]], before: dict[Path, dict]) -> dict[str, float]:
    """For each notebook the seconds from its start until all that depends on it is done, as far as is known."""
    seconds = typical_seconds() | {page.stem: about["seconds"] for page, about in before.items() if about}

    def rest(name: str) -> float:
        return seconds.get(name, 0.0) + max((rest(later) for later in needs if name in needs[later]), default=0.0)

    return {name: rest(name) for name in needs}


def run(todo: list[Path], keys: dict, needs: dict, urgent: dict, profile: str, out: Path, n_jobs: int):
    """Start notebooks, the most urgent first, and wait for them. The first failure, or Ctrl-C, stops the others."""
    waiting, running = sorted(todo, key=lambda page: -urgent[page.stem]), {}
    try:
        while waiting or running:
            unfinished = {page.stem for page in (*waiting, *(page for page, _ in running.values()))}
            for page in [page for page in waiting if not ancestors(page.stem, needs) & unfinished][
                : max(1, n_jobs) - len(running)
            ]:
                waiting.remove(page)
                print(f"book: executing {page}", flush=True)
                process = FORK.Process(target=child, args=(page, profile, keys[page], out))
                process.start()
                running[process.sentinel] = page, process
            for sentinel in wait(list(running)):
                page, process = running.pop(sentinel)
                process.join()
                if process.exitcode:
                    sys.exit(1)  # the child has said why
                print(f"book: executed {page} in {made(page, profile, out)['seconds']:.0f} s", flush=True)
    finally:
        stop_all([process for _, process in running.values()])


def child(page: Path, profile: str, key: str, out: Path):
    """What a child process does. It leads a process group: only its parent hears Ctrl-C, and then ends it."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # while the kernel runs, nbclient stops it
    execute(page, profile, key, out)


def stop_all(processes: list):
    """End child processes, and with them their kernels."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
