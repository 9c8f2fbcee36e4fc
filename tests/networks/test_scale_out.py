"""Several machines or processes give the same result as one: Dask for clips, Lightning Fabric for training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster

import instr_lib as il
from instr_lib.data import _manifest, dataset
from instr_lib.music import synth
from instr_lib.music.renderers import SoundfontRenderer
from instr_lib.networks import training  # noqa: F401  before a test patches what it imports

pytestmark = pytest.mark.slow

# What a reader would write, and nothing more: see book/scale_out.md.
SCRIPT = """
import json, sys
import torch
from lightning_fabric import Fabric
import instr_lib as il
from instr_lib.networks import training

data, run, out, devices = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
fabric = Fabric(accelerator="cpu", devices=devices)
fabric.launch()

steps, one_epoch = [], training.one_epoch
training.one_epoch = lambda *arguments: steps.append(one_epoch(*arguments)) or steps[-1]  # keeps the loss at each step

ds = il.ClipDataset(data)
torch.manual_seed(0)
model = il.CompactCNN()
model.layers.dropout.p = 0  # it would differ from process to process
settings = il.TrainSettings(epochs=4, batch_size=16, learning_rate=1e-4)
history = il.train(model, ds, range(45), range(45, 60), settings, run=run, progress=False, fabric=fabric)
weights = sum(p.double().abs().sum().item() for p in model.state_dict().values())
with open(f"{out}-{fabric.global_rank}.json", "w") as file:
    json.dump({"losses": sum(steps, []), "history": history, "weights": weights, "world": fabric.world_size}, file)
"""


def run_script(folder: Path, clips, devices: int) -> list[dict]:
    """Train in that many processes; returns what each of them writes at the end."""
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(SCRIPT)
    command = [sys.executable, "train.py", str(clips.path), "run", "out", str(devices)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"out-{rank}.json").read_text()) for rank in range(devices)]


@pytest.fixture(scope="module")
def one(clips, tmp_path_factory):
    return run_script(tmp_path_factory.mktemp("one"), clips, 1)[0]


@pytest.fixture(scope="module")
def two(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, run_script(folder, clips, 2)


def test_two_processes_have_the_loss_curve_of_one(one, two):
    """The same global batches: the last of each epoch has 13 clips, 7 in one process and 6 in the other.

    The learning rate is low, because training amplifies rounding errors the faster the higher it is.
    """
    _, processes = two
    assert [p["world"] for p in processes] == [2, 2]
    assert len(one["losses"]) == 12
    for process in processes:
        assert np.abs(np.subtract(process["losses"], one["losses"]))[:9].max() < 1e-3
    assert np.ptp(one["losses"][:9]) > 0.1  # and the loss does change
    assert processes[0]["weights"] == processes[1]["weights"]
    curves = [[row["val_loss"] for row in process["history"]] for process in (one, *processes)]
    assert curves[1] == curves[2]
    assert curves[1] == pytest.approx(curves[0], abs=5e-3)


def test_without_fabric_the_loss_curve_is_nearly_the_same(one, clips, monkeypatch):
    """PyTorch's own batch normalisation rounds differently, see GlobalBatchNorm2d."""
    monkeypatch.setattr("instr_lib.networks.distributed.has_bfloat16", lambda device: False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = il.CompactCNN()
    model.layers.dropout.p = 0
    settings = il.TrainSettings(epochs=1, batch_size=16, learning_rate=1e-4)
    (row,) = il.train(model, clips, range(45), range(45, 60), settings, progress=False)
    assert row["train_loss"] == pytest.approx(one["history"][0]["train_loss"], abs=0.02)


def test_a_run_of_two_processes_is_resumed(clips, two):
    folder, processes = two
    assert (folder / "run" / "checkpoint.safetensors").exists()
    again = run_script(folder, clips, 2)
    for before, after in zip(processes, again, strict=True):
        assert after["losses"] == []
        assert [row["val_loss"] for row in after["history"]] == [row["val_loss"] for row in before["history"]]
        assert after["weights"] == before["weights"]


def test_without_a_common_batch_norm_the_curves_would_differ(one, clips, tmp_path, monkeypatch):
    """The first test would notice statistics over each process's own clips."""
    monkeypatch.setattr(sys.modules[__name__], "SCRIPT", SCRIPT.replace("steps, one", BREAK + "steps, one"))
    process = run_script(tmp_path, clips, 2)[0]
    assert np.abs(np.subtract(process["losses"], one["losses"]))[:9].max() > 1e-3


BREAK = "import contextlib\ntraining.training_batch_norm = lambda model, fabric, frozen=False: contextlib.nullcontext()\n"


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes with two threads each, as is Dask's default."""
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as client:
        yield client


def test_a_dask_cluster_makes_the_same_bytes(cluster, clips, hashes, tmp_path):
    with joblib.parallel_config("dask"):
        il.generate(tmp_path / "clips", 120, progress=False)
    assert hashes(tmp_path / "clips") == hashes(clips.path)
    shards = cluster.run(lambda: synth._synth_at.cache_info().misses)
    assert list(shards.values()) == [1, 1]  # the workers of the cluster did it, both of them


def test_a_worker_with_another_soundfont_is_refused(need_soundfont):
    renderer, versions = SoundfontRenderer(), _manifest.versions()
    settings = {**_manifest.make_settings(0, "train", 50, renderer), "soundfont": {"name": "x", "sha256": "0"}}
    with pytest.raises(il.DatasetError, match=r"worker on .* install the same"):
        dataset._render_shard(0, 1, settings, versions, renderer)


def test_a_worker_with_another_fluidsynth_is_refused(need_soundfont):
    renderer = SoundfontRenderer()
    settings = _manifest.make_settings(0, "train", 50, renderer)
    with pytest.raises(il.DatasetError, match=r"worker on .* install the same"):
        dataset._render_shard(0, 1, settings, {"fluidsynth": "1.0"}, renderer)
