"""Generate, resume, check and read clips.

A clip is a pure function of (seed, split, index): its score is drawn from
``np.random.default_rng([seed, SPLITS[split], index])`` and rendered by a fresh synth. So a dataset
comes out the same, byte for byte, for any number of workers, in any order, after any interruption.

On disk a dataset is a folder with shards ``clips-00000.npy`` (uint8 (n, 128, 431), dB quantised by
:func:`instr_lib.spectrogram.quantise`) and ``manifest.json`` with the settings and, for each shard,
its SHA-256 and labels. A shard counts only once it is in the manifest. Chapter 2 uses all of it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shutil
import threading
from pathlib import Path

import joblib
import numpy as np
import scipy
from tqdm.auto import tqdm

from . import spectrogram
from .errors import DatasetError, InputError
from .folders import claimed
from .instruments import INSTRUMENTS
from .memory import keep_freed_memory
from .score import Score, random_score
from .spectrogram import N_FRAMES, N_MELS
from .synth import Synth, check_soundfont, find_soundfont, fluidsynth_version, soundfont_sha256
from .variation import Lot, Variation, draw, render

SPLITS = {"train": 0, "test": 1}
SHARD = 50  # clips a shard: one to two seconds of work, so little is lost and the bar moves
MANIFEST = "manifest.json"
_FORMAT = 1
_HEADER = 128  # bytes of a .npy header, for the size of a shard


def clip_score(index: int, seed: int = 0, split: str = "train") -> Score:
    """The score of one clip of a dataset, drawn anew from its address."""
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    return random_score(np.random.default_rng([seed, SPLITS[split], index]))


def clip_lot(variation: Variation, index: int, seed: int = 0, split: str = "train") -> Lot:
    """How one clip of a varied dataset is played, drawn anew from its address."""
    return draw(clip_score(index, seed, split), variation, (seed, SPLITS[split], index))


def generate(
    path: str | os.PathLike,
    n_clips: int,
    seed: int = 0,
    split: str = "train",
    n_jobs: int = -1,
    soundfont: str | os.PathLike | None = None,
    progress: bool = True,
    variation: Variation | None = None,
) -> ClipDataset:
    """Generate a dataset, or what is missing of it, and return it.

    Parameters
    ----------
    path : path
        The dataset's folder; made if it does not exist. What is whole in it is kept.
    n_clips : int
        Clips 0 … n_clips - 1 of the stream.
    seed : int
        Not negative.
    split : {"train", "test"}
        Two streams without a clip in common.
    n_jobs : int
        Worker processes, as in joblib; -1 for one a core. ``joblib.parallel_config`` may send them
        elsewhere.
    soundfont : path, optional
        By default as for :class:`instr_lib.Synth`.
    progress : bool
        Show a progress bar.
    variation : Variation, optional
        How the clips are played, see :mod:`instr_lib.variation`; it says by which soundfonts, too.

    Raises
    ------
    DatasetError
        If the folder holds something else, or a dataset with other settings or more clips, or the
        disk is too small.
    InputError
        If an argument is out of range.
    """
    path = Path(path)
    for name, value, least in (("n_clips", n_clips, 1), ("seed", seed, 0)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if n_jobs == 0:
        raise InputError("n_jobs must be 1 or more, or -1 for one a core; not 0")
    if variation and soundfont:
        raise InputError("give a soundfont or a variation, not both: a variation names its soundfonts")
    soundfont = check_soundfont(find_soundfont() if soundfont is None else soundfont)
    settings = _settings(int(seed), split, soundfont, variation)
    versions = _versions()
    if _is_complete(path, int(n_clips), settings):
        return ClipDataset(path, check=False)  # without the lock: several processes may open it at the same time
    with claimed(path, DatasetError):
        manifest = _open_or_new(path, int(n_clips), settings, versions)
        missing = [number for number, shard in enumerate(manifest["shards"]) if shard is None]
        if missing:
            _check_disk(path, sum(_shard_clips(number, n_clips) for number in missing))
            work = (
                joblib.delayed(_render_shard)(number, n_clips, settings, versions, variation or str(soundfont))
                for number in missing
            )
            done = n_clips - sum(_shard_clips(number, n_clips) for number in missing)
            with tqdm(total=n_clips, initial=done, desc=f"{split} clips", unit="clip", disable=not progress) as bar:
                rendered = joblib.Parallel(n_jobs, return_as="generator_unordered", pre_dispatch="2*n_jobs")(work)
                for number, mels, labels in rendered:
                    # Only this process writes: a worker that outlives it, when it is killed, leaves nothing behind.
                    shard = manifest["shards"][number] = _write_shard(path, number, mels, labels)
                    _write_json(path / MANIFEST, manifest)
                    bar.update(shard["clips"])
    return ClipDataset(path, check=False)  # each shard was hashed when it was found or written


def _settings(seed: int, split: str, soundfont: Path, variation: Variation | None = None) -> dict:
    settings = {"seed": seed, "split": split, "shard": SHARD, **_constants()}
    settings["soundfont"] = {"name": soundfont.name, "sha256": soundfont_sha256(soundfont)}
    if variation:
        fonts = variation.settings()["soundfonts"]
        settings["soundfont"] = {"name": ", ".join(fonts), "sha256": ", ".join(fonts.values())}
        settings["variation"] = variation.settings()
    return settings


def _versions() -> dict:
    return {"fluidsynth": fluidsynth_version(), "numpy": np.__version__, "scipy": scipy.__version__}


def _constants() -> dict:
    return {
        "spectrogram": {
            name.lower(): getattr(spectrogram, name)
            for name in ("SAMPLE_RATE", "N_FFT", "HOP", "N_MELS", "N_FRAMES", "FLOOR_DB", "REFERENCE")
        },
        "instruments": [i.name for i in INSTRUMENTS],
    }


def _open_or_new(path: Path, n_clips: int, settings: dict, versions: dict) -> dict:
    """The manifest to work on, with ``None`` for each shard that is still to be made."""
    count = -(-n_clips // SHARD)
    if all(file.name == "manifest.part" for file in path.iterdir()):
        manifest = {"format": _FORMAT, "n_clips": n_clips, **settings, "versions": versions, "shards": [None] * count}
        _write_json(path / MANIFEST, manifest)
        return manifest
    manifest = _read_manifest(path)
    for name, wanted in {"variation": None, **settings}.items():
        if manifest.get(name) != wanted:
            raise DatasetError(
                f"{path} was made with {name} = {manifest.get(name)!r}, not {wanted!r}: choose another folder or "
                "delete this one"
            )
    if manifest["n_clips"] > n_clips:
        raise DatasetError(
            f"{path} already holds {manifest['n_clips']} clips, more than the {n_clips} asked for: open it with "
            "il.ClipDataset, or choose another folder"
        )
    # Growing: the last shard may have been a short one and is made again.
    shards = [
        shard if shard and shard["clips"] == _shard_clips(number, n_clips) and _is_whole(path, shard) else None
        for number, shard in enumerate(manifest["shards"])
    ]
    shards += [None] * (count - len(shards))
    if None in shards and manifest["versions"] != versions:
        raise DatasetError(
            f"{path} was begun with {manifest['versions']} and cannot go on with {versions}, which may sound "
            "different: delete it and generate it again"
        )
    manifest = {**manifest, "n_clips": n_clips, "shards": shards}
    if None in shards:
        _write_json(path / MANIFEST, manifest)  # before a shard that it names is replaced by a longer one
    return manifest


def _is_complete(path: Path, n_clips: int, settings: dict) -> bool:
    """Whether the folder holds exactly this dataset, whole; anything wrong with it is for ``_open_or_new`` to report."""
    try:
        manifest = _read_manifest(path)
        wanted = {"n_clips": n_clips, "variation": None, **settings}
        same = all(manifest.get(name) == value for name, value in wanted.items())
        return same and all(shard and _is_whole(path, shard) for shard in manifest["shards"])
    except (DatasetError, OSError):
        return False


def _shard_clips(number: int, n_clips: int) -> int:
    return min(SHARD, n_clips - number * SHARD)


def _check_disk(path: Path, clips: int):
    need, free = clips * N_MELS * N_FRAMES, shutil.disk_usage(path).free
    if need + 50e6 > free:
        raise DatasetError(
            f"{path}: {clips} clips need {need / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free on that disk"
        )


_one_at_a_time = threading.Lock()


@functools.lru_cache(maxsize=2)
def _worker_synth(soundfont: str) -> Synth:
    return Synth(soundfont)


def _render_shard(
    number: int, n_clips: int, settings: dict, versions: dict, played: str | Variation
) -> tuple[int, np.ndarray, list[list[int]]]:
    """In a worker: the clips of one shard, uint8 (clips, 128, 431), and their labels. Played by a soundfont, or varied."""
    # A worker may be another machine, on which the same score must not sound different.
    varied = isinstance(played, Variation)
    same = played.settings() == settings["variation"] if varied else _soundfont_is(played, settings)
    if _versions() != versions or not same:
        raise DatasetError(
            f"the worker on {platform.node()} has {_versions()} and another {played} or other versions than "
            f"{versions}: install the same on every machine"
        )
    keep_freed_memory()
    with _one_at_a_time:  # a cluster's worker may run this in several threads; they share one synth
        synth = None if varied else _worker_synth(played)
    labels = []
    mels = np.empty((_shard_clips(number, n_clips), N_MELS, N_FRAMES), np.uint8)
    for row in range(len(mels)):
        address = (number * SHARD + row, settings["seed"], settings["split"])
        score = clip_score(*address)
        sound = render(clip_lot(played, *address)) if varied else synth.render(score)
        mels[row] = spectrogram.quantise(spectrogram.log_mel(sound))
        labels.append(list(score.instruments))
    return number, mels, labels


def _soundfont_is(path: str, settings: dict) -> bool:
    return soundfont_sha256(Path(path)) == settings["soundfont"]["sha256"]


def _write_shard(path: Path, number: int, mels: np.ndarray, labels: list[list[int]]) -> dict:
    """Put one shard in place, whole or not at all, and describe it for the manifest."""
    file = f"clips-{number:05d}.npy"
    part = path / (file + ".part")
    with open(part, "wb") as out:
        np.save(out, mels)
        out.flush()
        os.fsync(out.fileno())
    shard = {"file": file, "clips": len(mels), "sha256": _sha256(part), "labels": labels}
    os.replace(part, path / file)
    return shard


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(path: Path, shard: dict) -> bool:
    file = path / shard["file"]
    return file.is_file() and _sha256(file) == shard["sha256"]


def _write_json(path: Path, content: dict):
    """Write a JSON file whole or not at all."""
    part = path.with_suffix(".part")
    with open(part, "w") as file:
        file.write(json.dumps(content))  # json.dump takes ten times as long, once a shard
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _read_manifest(path: Path) -> dict:
    remedy = "delete the folder and generate it again"
    if not path.is_dir():
        raise DatasetError(f"there is no dataset folder {path}: make it with il.generate")
    if not (path / MANIFEST).is_file():
        raise DatasetError(f"{path} has no {MANIFEST}, so it is not a dataset of ours: choose another folder")
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != _FORMAT:
            raise DatasetError(f"{path} has dataset format {manifest['format']}, this library reads {_FORMAT}: {remedy}")
        for name in ("n_clips", "seed", "split", "shard", "soundfont", "spectrogram", "instruments", "versions"):
            manifest[name]
        if len(manifest["shards"]) != -(-manifest["n_clips"] // manifest["shard"]):
            raise ValueError
        for shard in manifest["shards"]:
            if shard is not None:
                shard["file"], shard["sha256"]
                if len(shard["labels"]) != shard["clips"]:
                    raise ValueError
                if not all(type(i) is int and 0 <= i < len(INSTRUMENTS) for label in shard["labels"] for i in label):
                    raise ValueError
    except (ValueError, KeyError, TypeError):
        raise DatasetError(f"{path / MANIFEST} is damaged: {remedy}") from None
    return manifest


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
        Settings, versions and shards, as on disk.

    Raises
    ------
    DatasetError
        If the folder is no dataset, was not finished, or a shard is missing, cut short or altered.
    """

    def __init__(self, path: str | os.PathLike, check: bool = True):
        self.path = Path(path)
        self.manifest = _read_manifest(self.path)
        remedy = "il.generate with the same arguments makes it again"
        for name, ours in _constants().items():
            if self.manifest[name] != ours:
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
            if check and _sha256(file) != shard["sha256"]:
                raise DatasetError(f"{file} was altered (its SHA-256 is not the manifest's): {remedy}")
        self._shards = [np.load(self.path / shard["file"], mmap_mode="r") for shard in self.manifest["shards"]]
        self.labels = np.zeros((self.manifest["n_clips"], len(INSTRUMENTS)), np.float32)
        for row, present in enumerate(label for shard in self.manifest["shards"] for label in shard["labels"]):
            self.labels[row, present] = 1

    def __len__(self) -> int:
        return self.manifest["n_clips"]

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        index %= len(self)
        return self.mels([index]), self.labels[index]

    def stored(self, indices) -> np.ndarray:
        """Several clips as they are stored: uint8 (n, 128, 431), a copy."""
        rows = (range(len(self))[i] for i in indices)
        return np.stack([self._shards[i // self.manifest["shard"]][i % self.manifest["shard"]] for i in rows])

    def mels(self, indices=None) -> np.ndarray:
        """Several clips (all, if none are named): float32 (n, 128, 431) in dB."""
        return spectrogram.dequantise(self.stored(range(len(self)) if indices is None else indices))

    def score(self, index: int) -> Score:
        """The score a clip was rendered from, so that it can be rendered again, as stems or changed."""
        lot = self.lot(index)
        return lot.score if lot else clip_score(*self._address(index))

    def lot(self, index: int) -> Lot | None:
        """How a clip of a varied dataset is played, for :func:`instr_lib.variation.render_stems`; None of a plain one."""
        about = self.manifest.get("variation")
        return clip_lot(Variation(**about), *self._address(index)) if about else None

    def _address(self, index: int) -> tuple[int, int, str]:
        return range(len(self))[index], self.manifest["seed"], self.manifest["split"]

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the training and validation parts, 80 to 20 as in the report.

        Clips are independent draws, so every fifth one is as random a choice as any, and it does not
        change when the dataset grows.
        """
        index = np.arange(len(self))
        return index[index % 5 != 4], index[index % 5 == 4]

    @property
    def fingerprint(self) -> str:
        """One hash for all clips and labels, to name the data a network was trained on."""
        lines = [f"{shard['sha256']} {shard['labels']}" for shard in self.manifest["shards"]]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
