"""Datasets: a pure function of their settings, whatever interrupts the work."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

import instr_lib as il
from instr_lib.data import dataset, spectrogram
from instr_lib.music import soundfonts
from instr_lib.music.synth import fluidsynth_version


def make(folder, n_clips, n_jobs=1, **settings) -> il.ClipDataset:
    return il.generate(folder, n_clips, n_jobs=n_jobs, progress=False, **settings)


@pytest.fixture
def small_shards(monkeypatch):
    """Two clips a shard. For n_jobs=1 only: worker processes read the library anew."""
    monkeypatch.setattr(dataset, "SHARD", 2)


@pytest.fixture
def need_fluidsynth():
    """For tests that bring their own soundfont."""
    try:
        fluidsynth_version()
    except il.SynthError as error:
        if os.environ.get("CI"):
            pytest.fail(f"with CI set nothing may be skipped: {error}", pytrace=False)
        pytest.skip(str(error))


# What is in it


def test_items(clips):
    assert len(clips) == 120
    mel, label = clips[119]
    assert (mel.shape, mel.dtype) == ((1, 128, 431), np.float32)
    assert (label.shape, label.dtype) == ((12,), np.float32)
    assert np.array_equal(clips[-1][0], mel)
    assert np.array_equal(clips.mels([3, 119]), np.concatenate([clips[3][0], mel]))
    assert clips.mels().shape == (120, 128, 431)
    with pytest.raises(IndexError):
        clips[120]


def test_is_a_map_style_dataset_of_pytorch(clips):
    mels, labels = next(iter(torch.utils.data.DataLoader(clips, batch_size=7)))
    assert (mels.shape, labels.shape) == ((7, 1, 128, 431), (7, 12))


def test_labels_are_the_instruments_of_the_score(clips):
    for i in range(len(clips)):
        assert tuple(np.flatnonzero(clips.labels[i])) == clips.score(i).instruments
        assert np.array_equal(clips[i][1], clips.labels[i])


@pytest.mark.parametrize("i", [0, 49, 50, 119])
def test_rendering_the_score_again_gives_the_clip(clips, synth, i):
    mel = il.log_mel(synth.render(clips.score(i)))
    assert np.abs(clips[i][0][0] - mel).max() < 0.16
    assert np.array_equal(clips.stored([i])[0], spectrogram.quantise(mel))


def test_indices_count_from_the_end_in_every_way_of_reading(clips):
    assert clips.score(-31) == clips.score(89)
    assert np.array_equal(clips[-31][0], clips[89][0])
    assert np.array_equal(clips.stored([-31, -1]), clips.stored([89, 119]))


def test_split_is_80_to_20_and_disjoint(clips):
    train, validation = clips.split()
    assert (len(train), len(validation)) == (96, 24)
    assert sorted([*train, *validation]) == list(range(120))


def test_streams_and_seeds_have_no_clip_in_common():
    streams = [[il.clip_score(i, seed, split) for i in range(500)] for seed in (0, 1) for split in ("train", "test")]
    assert len({score for stream in streams for score in stream}) == 4 * 500


# The same bytes


def test_one_worker_or_two_give_the_same_bytes(clips, hashes, tmp_path):
    make(tmp_path / "one", 120, n_jobs=1)
    assert hashes(tmp_path / "one") == hashes(clips.path)
    assert set(hashes(clips.path)) == {"manifest.json", *(f"clips-0000{i}.npy" for i in range(3))}


def test_other_seeds_and_splits_give_other_clips(need_soundfont, hashes, tmp_path):
    variants = ({}, {"seed": 1}, {"split": "test"})
    shards = [hashes(make(tmp_path / str(n), 2, **v).path)["clips-00000.npy"] for n, v in enumerate(variants)]
    assert len(set(shards)) == 3


def test_growing_gives_the_same_bytes_as_generating_at_once(clips, hashes, tmp_path):
    grown = make(tmp_path / "grown", 30, n_jobs=2)
    assert len(grown) == 30
    assert np.array_equal(grown.stored(range(30)), clips.stored(range(30)))
    assert len(make(tmp_path / "grown", 120, n_jobs=2)) == 120
    assert hashes(tmp_path / "grown") == hashes(clips.path)


def test_what_is_whole_is_kept(clips, hashes, tmp_path):
    folder = shutil.copytree(clips.path, tmp_path / "copy")
    before = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
    make(folder, 120)
    assert {f.name: f.stat().st_mtime_ns for f in folder.iterdir()} == before


def test_what_is_missing_or_altered_is_made_again(clips, hashes, tmp_path):
    folder = shutil.copytree(clips.path, tmp_path / "copy")
    first_written = (folder / "clips-00000.npy").stat().st_mtime_ns
    with open(folder / "clips-00001.npy", "r+b") as file:
        file.seek(5000)
        file.write(b"noise")
    (folder / "clips-00002.npy").unlink()
    make(folder, 120, n_jobs=2)
    assert hashes(folder) == hashes(clips.path)
    assert (folder / "clips-00000.npy").stat().st_mtime_ns == first_written


def test_the_fingerprint_names_the_data(clips, small_shards, tmp_path):
    prints = [make(tmp_path / name, n, seed=seed).fingerprint for name, n, seed in (("a", 3, 0), ("b", 4, 0), ("c", 3, 1))]
    assert len({*prints, clips.fingerprint}) == 4
    assert dataset.ClipDataset(tmp_path / "a").fingerprint == prints[0]


def test_the_clips_of_the_first_edition(need_soundfont, tmp_path):
    """What commit eb8400d made, clips and manifest; other versions of FluidSynth or FluidR3 may sound different."""
    ds = make(tmp_path / "clips", 200, n_jobs=2)
    if ds.manifest["versions"] != {"fluidsynth": "2.3.1", "numpy": "2.4.6", "scipy": "1.17.1"}:
        pytest.skip(f"made with other versions: {ds.manifest['versions']}")
    if ds.manifest["soundfont"]["sha256"] != "74594e8f4250680adf590507a306655a299935343583256f3b722c48a1bc1cb0":
        pytest.skip("made with another soundfont")
    assert ds.fingerprint == "e7a5c38baa43af3e43055b30f67db34805f2f05d6e762eee8fce99ba5642c651"
    manifest = hashlib.sha256((ds.path / "manifest.json").read_bytes()).hexdigest()
    assert manifest == "2680bb6ff7381e8b714477b9c4068efb1526477dbb72b4cdd912650e1b9fe7eb"


# Renderers


@pytest.fixture
def sine(write_sf2, tmp_path, monkeypatch):
    """A small soundfont on a machine without any other."""
    monkeypatch.setenv("INSTR_SOUNDFONT", str(tmp_path / "nowhere.sf2"))
    (tmp_path / "fonts").mkdir()
    monkeypatch.setenv("INSTR_SOUNDFONT_PLACES", str(tmp_path / "fonts"))
    return write_sf2(tmp_path / "fonts" / "sine.sf2", [i.program for i in il.INSTRUMENTS])


def test_a_soundfont_needs_no_other(need_fluidsynth, sine, tmp_path):
    with pytest.raises(il.SoundfontError, match="nowhere"):
        make(tmp_path / "none", 2)
    assert not (tmp_path / "none").exists()
    ds = make(tmp_path / "clips", 2, soundfont=sine)
    assert ds.manifest["soundfont"]["name"] == "sine.sf2" and ds.mels().max() > -60


def test_a_variation_needs_only_its_own_soundfonts(need_fluidsynth, sine, tmp_path):
    sine.rename(sine.with_name(soundfonts.SOUNDFONTS["OPL3"].file))
    ds = make(tmp_path / "clips", 2, variation=il.DomainRandomisation(("OPL3",), levels=True))
    assert ds.manifest["soundfont"]["name"] == "OPL3" and ds.mels().max() > -60
    assert ds.plan(1).fonts.keys() == {*ds.score(1).instruments}
    with pytest.raises(il.SoundfontError, match=r"minuet-data"):
        make(tmp_path / "none", 2, variation=il.DomainRandomisation(("OPL3", "GeneralUser")))
    assert not (tmp_path / "none").exists()


class Beeps:
    """A renderer of one's own: a sine for each note, at the pitch of the clip's index."""

    def settings(self):
        return {"soundfont": {"name": "sine", "sha256": ""}, "shape": "sine"}

    def render(self, score, address):
        seed, split, index = address
        return np.sin(2 * np.pi * 110 * (1 + seed + split + index) * np.arange(220_500) / 44_100).astype(np.float32)


def test_any_renderer_will_do(need_fluidsynth, tmp_path):
    ds = make(tmp_path / "clips", 3, renderer=Beeps(), split="test")
    assert ds.manifest["shape"] == "sine" and ds.plan(0) is None and ds.score(2) == il.clip_score(2, split="test")
    assert np.array_equal(ds.mels([2])[0], dequantised(Beeps().render(None, (0, 1, 2))))
    with pytest.raises(il.DatasetError, match="was made with shape = 'sine', not None"):
        make(tmp_path / "clips", 3, soundfont=None, split="test")


def dequantised(sound):
    return spectrogram.dequantise(spectrogram.quantise(il.log_mel(sound)))


def test_one_thing_says_how_clips_are_played(tmp_path):
    for settings in (
        {"soundfont": "x.sf2", "variation": il.DomainRandomisation()},
        {"soundfont": "x.sf2", "renderer": Beeps()},
        {"variation": il.DomainRandomisation(), "renderer": Beeps()},
    ):
        with pytest.raises(il.InputError, match="not both"):
            make(tmp_path / "clips", 2, **settings)


@pytest.mark.parametrize("settings", [{}, {"soundfont": {}, "seed": 3}, {"soundfont": {}, "shards": []}])
def test_settings_that_do_not_fit_are_refused(settings, tmp_path):
    renderer = Beeps()
    renderer.settings = lambda: settings
    with pytest.raises(il.InputError, match="must name its soundfont and none of seed, split"):
        make(tmp_path / "clips", 2, renderer=renderer)
    assert not (tmp_path / "clips").exists()


# Killed and started again


def assert_shards_are_whole(folder):
    """Whatever is there under its final name is whole; what the manifest names is there, with the hash it names."""
    for file in folder.glob("clips-*.npy"):
        assert file.stat().st_size % (128 * 431) == 128, file.name  # a header and whole clips
    if (folder / "manifest.json").exists():
        for shard in json.loads((folder / "manifest.json").read_text())["shards"]:
            if shard is not None:
                assert hashlib.sha256((folder / shard["file"]).read_bytes()).hexdigest() == shard["sha256"], shard["file"]


def killed_at(moment: int, folder, n_clips: int) -> bool:
    """Generate in a forked child that kills itself when it is about to write a shard, or to sync or rename a file,
    for the n-th time. False if the child came to its end before."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            calls = iter(range(1000))

            def deadly(function):
                def call(*args):
                    if next(calls) == moment:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return function(*args)

                return call

            os.replace, os.fsync, np.save = deadly(os.replace), deadly(os.fsync), deadly(np.save)
            make(folder, n_clips)
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("before", [0, 3], ids=["from nothing", "growing"])
def test_killed_at_every_moment_and_started_again(before, small_shards, need_soundfont, hashes, tmp_path):
    make(tmp_path / "whole", 5)
    if before:
        make(tmp_path / "start", before)
    problems = []
    for moment in range(100):
        folder = tmp_path / f"killed-{moment}"
        if before:
            shutil.copytree(tmp_path / "start", folder)
        killed = killed_at(moment, folder, 5)
        try:
            assert_shards_are_whole(folder)
            make(folder, 5)
            assert hashes(folder) == hashes(tmp_path / "whole")
        except (AssertionError, il.InstrError) as error:
            problems.append(f"killed at moment {moment}: {type(error).__name__}: {str(error).splitlines()[0]}")
        if not killed:
            break
    assert moment >= 8  # the kills did happen
    assert not problems, "\n".join(problems)


@pytest.fixture
def start(clips):
    """A function that generates 120 clips with two workers elsewhere, in processes that end with the test."""
    started = []

    def run(folder) -> psutil.Process:
        code = f"import instr_lib as il; il.generate({str(folder)!r}, 120, n_jobs=2, progress=False)"
        started.append(subprocess.Popen([sys.executable, "-c", code], start_new_session=True))
        return psutil.Process(started[-1].pid)

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(folder, pattern: str):
    deadline = time.monotonic() + 60
    while not any(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} after a minute"
        time.sleep(0.002)


def test_a_second_process_into_the_same_folder_stops_at_once(start, clips, hashes, tmp_path):
    folder = tmp_path / "shared"
    first = start(folder)
    wait_for(folder, "manifest.json")
    with pytest.raises(il.DatasetError, match=r"another process is writing to .*wait.*another folder"):
        make(folder, 120)
    assert first.wait() == 0
    assert hashes(folder) == hashes(clips.path)
    make(folder, 120)  # now it may


@pytest.mark.parametrize("pattern", ["manifest.json", "clips-*.npy"])
def test_killed_with_two_workers_and_started_again(pattern, start, clips, hashes, tmp_path):
    """SIGKILL when the first file of a kind appears; the workers do not get the signal and live a while longer."""
    folder = tmp_path / "killed"
    process = start(folder)
    wait_for(folder, pattern)
    process.kill()
    process.wait()
    assert_shards_are_whole(folder)
    make(folder, 120, n_jobs=2)
    assert hashes(folder) == hashes(clips.path)


def test_workers_that_outlive_their_killed_parent_change_nothing(start, clips, hashes, tmp_path):
    """They sleep while their parent is killed and another does the work; then they wake up and go on with theirs."""
    folder = tmp_path / "killed"
    process = start(folder)
    wait_for(folder, "clips-*.npy")
    workers = process.children(recursive=True)
    for worker in workers:
        worker.suspend()
    process.kill()
    process.wait()
    make(folder, 120, n_jobs=2)
    assert hashes(folder) == hashes(clips.path)
    for worker in workers:
        worker.resume()
    busy, before = cpu_seconds(workers), -1.0
    while busy > before:  # they end, or wait for work that never comes
        time.sleep(0.3)
        busy, before = cpu_seconds(workers), busy
    assert hashes(folder) == hashes(clips.path)


def cpu_seconds(processes) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total
