"""What the benchmarks share: how much to measure, a folder that lasts for the whole run, and a seed."""

from pathlib import Path
from types import SimpleNamespace

import pytest

# name: (in earnest, with --quick)
SIZES = {
    "rounds": (2, 1),
    "baseline_clips": (10, 1),  # a round, one after another
    "clips": (2000, 100),  # a round, on every core: enough that the last batch's idle core does not count
    "warm_clips": (200, 50),  # for workers to start and the soundfont to be in memory
    "batch": (64, 4),
    "steps": (8, 2),  # of il.train a round
    "train_clips": (3000, 120),
    "val_clips": (100, 20),  # the last of them: to choose the epoch by
    "epochs": (4, 1),
    "test_clips": (2000, 60),
    "classes": (12, 2),
}


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.addoption("--scratch", type=Path, required=True, help="folder for data that later processes use again")
    parser.addoption("--seed", type=int, default=0)


@pytest.fixture
def size(pytestconfig):
    return SimpleNamespace(**{name: pair[pytestconfig.option.quick] for name, pair in SIZES.items()})


@pytest.fixture
def scratch(pytestconfig) -> Path:
    return pytestconfig.option.scratch


@pytest.fixture
def seed(pytestconfig) -> int:
    return pytestconfig.option.seed


@pytest.fixture
def measure(benchmark, size):
    """A function that times ``work``, which does ``units`` things at once, after one round that does not count."""

    def measure(work, units=1, warm=True, **options):
        benchmark.extra_info["units"] = units
        return benchmark.pedantic(work, **{"rounds": size.rounds, "warmup_rounds": int(warm), **options})

    return measure
