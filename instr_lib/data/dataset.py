"""Generate, resume, check and read clips.

A clip is a pure function of (seed, split, index): its score is drawn from
``np.random.default_rng([seed, SPLITS[split], index])`` and its sound made by a renderer. So a dataset is the same,
byte for byte, for any number of workers, in any order, after any interruption.

On disk a dataset is a folder with shards ``clips-00000.npy`` (uint8 (n, 128, 431), dB quantised by
:func:`instr_lib.data.spectrogram.quantise`) and ``manifest.json`` with the settings and, for each shard,
its SHA-256 and labels. A shard counts only once it is in the manifest. Chapter 2 uses all of it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import joblib
import numpy as np
from tqdm.auto import tqdm

from .._files import atomic_path, locked_folder, sha256
from ..constants import N_FRAMES, N_MELS
from ..errors import DatasetError, InputError
from ..music.instruments import INSTRUMENTS
from ..music.randomisation import DomainRandomisation, RenderPlan
from ..music.renderers import Renderer, SoundfontRenderer
from ..music.score import Score, random_score
from . import _manifest, spectrogram

SPLITS = {"train": 0, "test": 1}
SHARD = 50  # clips per shard: one to two seconds of work, so little is lost and the progress bar moves
_HEADER = 128  # bytes of a .npy header, for the size of a shard


def clip_score(index: int, seed: int = 0, split: str = "train") -> Score:
    """The score of one clip, drawn from its address. Raises InputError if there is no such split."""
    return random_score(np.random.default_rng(_address(index, seed, split)))


def _address(index: int, seed: int, split: str) -> tuple[int, int, int]:
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    return seed, SPLITS[split], index


def generate(
    path: str | os.PathLike,
    n_clips: int,
    seed: int = 0,
    split: str = "train",
    n_jobs: int = -1,
    soundfont: str | os.PathLike | None = None,
    progress: bool = True,
    variation: DomainRandomisation | None = None,
    renderer: Renderer | None = None,
) -> ClipDataset:
    """Generate a dataset, or what is missing of it, and return it.

    Parameters
    ----------
    path : path
        The dataset's folder; made if it does not exist. Whole shards in it are kept.
    n_clips : int, clips 0 … n_clips - 1 of the stream
    seed : int, not negative
    split : {"train", "test"}, two streams without a clip in common
    n_jobs : int
        Worker processes, as in joblib; -1 for one per core. ``joblib.parallel_config`` may send them elsewhere.
    soundfont : path, optional
        Plays all clips; by default as for :class:`instr_lib.Synth`.
    progress : bool, show a progress bar
    variation : DomainRandomisation, optional
        Plays each clip in a random way; it names its soundfonts.
    renderer : optional
        Any other object that turns scores into sound, see :class:`instr_lib.music.renderers.Renderer`.

    Raises
    ------
    DatasetError
        If the folder holds something else, or a dataset with other settings or more clips, or the disk is too small.
    InputError
        If an argument is out of range, or more than one of soundfont, variation and renderer is given.
    """
    _check_arguments(n_clips, seed, split, n_jobs)
    if sum(given is not None for given in (soundfont, variation, renderer)) > 1:
        raise InputError("give a soundfont, a variation or a renderer, not both: each says how clips are played")
    path = Path(path)
    renderer = renderer or variation or SoundfontRenderer(soundfont)
    settings = _manifest.make_settings(int(seed), split, SHARD, renderer)
    versions = _manifest.versions()
    if _manifest.is_complete(path, int(n_clips), settings):
        return ClipDataset(path, check=False)  # without a lock: several processes may open it at the same time
    with locked_folder(path, DatasetError):
        manifest = _manifest.open_or_new(path, int(n_clips), settings, versions)
        _make_missing(path, manifest, settings, renderer, n_jobs, progress)
    return ClipDataset(path, check=False)  # each shard was hashed when it was found or written


def _check_arguments(n_clips: int, seed: int, split: str, n_jobs: int):
    for name, value, least in (("n_clips", n_clips, 1), ("seed", seed, 0)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
    _address(0, seed, split)
    if n_jobs == 0:
        raise InputError("n_jobs must be 1 or more, or -1 for one per core; not 0")


def _make_missing(path: Path, manifest: dict, settings: dict, renderer: Renderer, n_jobs: int, progress: bool):
    """Render the shards that a manifest lacks, write them, and enter each into the manifest."""
    n_clips, versions = manifest["n_clips"], manifest["versions"]
    sizes = {
        number: _manifest.shard_clips(number, n_clips, settings["shard"])
        for number, shard in enumerate(manifest["shards"])
        if shard is None
    }
    if not sizes:
        return
    _check_disk(path, sum(sizes.values()))
    tasks = (joblib.delayed(_render_shard)(number, size, settings, versions, renderer) for number, size in sizes.items())
    done, text = n_clips - sum(sizes.values()), f"{settings['split']} clips"
    with tqdm(total=n_clips, initial=done, desc=text, unit="clip", disable=not progress) as bar:
        for number, mels, labels in joblib.Parallel(n_jobs, return_as="generator_unordered", pre_dispatch="2*n_jobs")(
            tasks
        ):
            # Only this process writes: a worker that outlives it, when it is killed, leaves nothing behind.
            manifest["shards"][number] = _write_shard(path, number, mels, labels)
            _manifest.write(path, manifest)
            bar.update(len(mels))


def _check_disk(path: Path, clips: int):
    need, free = clips * N_MELS * N_FRAMES, shutil.disk_usage(path).free
    if need + 50e6 > free:
        raise DatasetError(
            f"{path}: {clips} clips need {need / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free on that disk: "
            "make room, or choose another folder"
        )


def _render_shard(
    number: int, n_clips: int, settings: dict, versions: dict, renderer: Renderer
) -> tuple[int, np.ndarray, list[list[int]]]:
    """In a worker: the clips of one shard, uint8 (n_clips, 128, 431), and their labels.

    Raises
    ------
    DatasetError
        If this machine would make other sounds: a worker of a cluster may have other soundfonts and versions.
    """
    here = renderer.settings()
    if _manifest.versions() != versions or any(settings.get(name) != value for name, value in here.items()):
        raise DatasetError(
            f"the worker on {platform.node()} has {_manifest.versions()} and {here}, not {versions} and "
            f"{ {name: settings.get(name) for name in here} }: install the same on every machine"
        )
    mels, labels = np.empty((n_clips, N_MELS, N_FRAMES), np.uint8), []
    for row in range(n_clips):
        index = number * settings["shard"] + row
        score = clip_score(index, settings["seed"], settings["split"])
        sound = renderer.render(score, _address(index, settings["seed"], settings["split"]))
        mels[row] = spectrogram.quantise(spectrogram.log_mel(sound))
        labels.append(list(score.instruments))
    return number, mels, labels


def _write_shard(path: Path, number: int, mels: np.ndarray, labels: list[list[int]]) -> dict:
    """Put one shard in place, whole or not at all, and describe it for the manifest."""
    file = f"clips-{number:05d}.npy"
    with atomic_path(path / file) as part, open(part, "wb") as out:
        np.save(out, mels)
    return {"file": file, "clips": len(mels), "sha256": sha256(path / file), "labels": labels}


class ClipDataset:
    """A generated dataset, read by memory map. Usable as a PyTorch map-style dataset.

    ``ds[i]`` is ``(mel, label)``: float32 (1, 128, 431) in dB on the fixed scale and float32 (12,)
    with 1 for each instrument that plays.

    Parameters
    ----------
    path : path
    check : bool
        Compare every shard with its SHA-256. Half a second for 8000 clips.

    Attributes
    ----------
    labels : float32 (n, 12)
    manifest : dict
        Settings, versions and shards.

    Raises
    ------
    DatasetError
        If the folder is not a dataset, not finished, or a shard is missing, cut short or altered.
    """

    def __init__(self, path: str | os.PathLike, check: bool = True):
        self.path = Path(path)
        self.manifest = _manifest.read(self.path)
        remedy = "il.generate with the same arguments makes it again"
        for name, value in _manifest.clip_settings().items():
            if self.manifest[name] != value:
                raise DatasetError(f"{self.path} was made with other {name}: delete it and generate it again")
        unfinished = sum(shard is None for shard in self.manifest["shards"])
        if unfinished:
            raise DatasetError(f"{self.path} is not finished ({unfinished} shards to go): {remedy}")
        for shard in self.manifest["shards"]:
            file = self.path / shard["file"]
            if not file.is_file():
                raise DatasetError(f"{file} is missing: {remedy}")
            if file.stat().st_size != _HEADER + shard["clips"] * N_MELS * N_FRAMES:
                raise DatasetError(f"{file} is cut short or too long: {remedy}")
            if check and sha256(file) != shard["sha256"]:
                raise DatasetError(f"{file} was altered (its SHA-256 is not the manifest's): {remedy}")
        self._shards = [np.load(self.path / shard["file"], mmap_mode="r") for shard in self.manifest["shards"]]
        self.labels = np.zeros((self.manifest["n_clips"], len(INSTRUMENTS)), np.float32)
        for row, instruments in enumerate(label for shard in self.manifest["shards"] for label in shard["labels"]):
            self.labels[row, instruments] = 1

    def __len__(self) -> int:
        return self.manifest["n_clips"]

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        index %= len(self)
        return self.mels([index]), self.labels[index]

    def stored(self, indices: Iterable[int]) -> np.ndarray:
        """Several clips as they are stored: uint8 (n, 128, 431), a copy."""
        rows = (range(len(self))[i] for i in indices)
        return np.stack([self._shards[i // self.manifest["shard"]][i % self.manifest["shard"]] for i in rows])

    def mels(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Several clips, by default all: float32 (n, 128, 431) in dB."""
        return spectrogram.dequantise(self.stored(range(len(self)) if indices is None else indices))

    def score(self, index: int) -> Score:
        """The score of a clip as it is played, so that it can be rendered again, as stems or changed."""
        plan = self.plan(index)
        return plan.score if plan else clip_score(*self._stream(index))

    def plan(self, index: int) -> RenderPlan | None:
        """How a clip is played, for :func:`instr_lib.music.randomisation.render_stems`; None if as its score is written."""
        variation, stream = DomainRandomisation.from_settings(self.manifest), self._stream(index)
        return variation and variation.sample_plan(clip_score(*stream), _address(*stream))

    def _stream(self, index: int) -> tuple[int, int, str]:
        return range(len(self))[index], self.manifest["seed"], self.manifest["split"]

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the training and validation parts, 80 to 20 as in the report.

        Clips are independent draws, so every fifth one is as random a choice as any other, and the
        split does not change when the dataset grows.
        """
        index = np.arange(len(self))
        return index[index % 5 != 4], index[index % 5 == 4]

    @property
    def fingerprint(self) -> str:
        """One hash of all clips and labels: it names the data that a network was trained on."""
        lines = [f"{shard['sha256']} {shard['labels']}" for shard in self.manifest["shards"]]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
