"""The manifest of a dataset: what it was made of, and which shards are whole.

``manifest.json`` holds the settings, the versions of what computes the sound, and for each shard its file, number of
clips, SHA-256 and labels, or null while it is not made. Chapter 2 looks into one.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import scipy

from .. import constants
from .._files import LOCK_FILE, sha256, write_text
from ..errors import DatasetError, InputError
from ..music.instruments import INSTRUMENTS
from ..music.renderers import Renderer
from ..music.synth import fluidsynth_version

MANIFEST = "manifest.json"
FORMAT = 1
_OTHER_KEYS = ("format", "n_clips", "versions", "shards")  # all others are settings
# In a file of format 1, the settings of domain randomisation have their names of the first edition.
_FORMAT_1_NAMES = {"overrides": "playing", "related_programs": "relatives", "reverb": "room"}


def make_settings(seed: int, split: str, shard: int, renderer: Renderer) -> dict:
    """All that the clips of a dataset depend on. Raises InputError if the renderer's settings do not fit in."""
    settings = {"seed": seed, "split": split, "shard": shard, **clip_settings()}
    own = renderer.settings()
    if "soundfont" not in own or own.keys() & {*settings, *_OTHER_KEYS}:
        raise InputError(
            f"the settings of {renderer!r} must name its soundfont and none of {', '.join([*settings, *_OTHER_KEYS])}, "
            f"but are {', '.join(own) or 'empty'}"
        )
    return settings | own


def clip_settings() -> dict:
    """What clips and labels are to this library: the spectrogram's scale, and the order of the instruments."""
    names = ("SAMPLE_RATE", "N_FFT", "HOP", "N_MELS", "N_FRAMES", "FLOOR_DB", "REFERENCE")
    return {
        "spectrogram": {name.lower(): getattr(constants, name) for name in names},
        "instruments": [instrument.name for instrument in INSTRUMENTS],
    }


def versions() -> dict:
    """Versions on which the bytes of a clip may depend."""
    return {"fluidsynth": fluidsynth_version(), "numpy": np.__version__, "scipy": scipy.__version__}


def shard_clips(number: int, n_clips: int, shard: int) -> int:
    """Number of clips in one shard: the last one may be shorter."""
    return min(shard, n_clips - number * shard)


def write(path: Path, manifest: dict):
    """Write the manifest of the dataset in a folder, whole or not at all."""
    write_text(path / MANIFEST, json.dumps(_renamed(manifest, _FORMAT_1_NAMES)))


def read(path: Path) -> dict:
    """The manifest of the dataset in a folder.

    Raises
    ------
    DatasetError
        If there is none, or it is damaged or of another format.
    """
    remedy = "delete the folder and generate it again"
    if not path.is_dir():
        raise DatasetError(f"there is no dataset folder {path}: make it with il.generate")
    if not (path / MANIFEST).is_file():
        raise DatasetError(f"{path} has no {MANIFEST}, so it is not a dataset of ours: choose another folder")
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise DatasetError(f"{path} has dataset format {manifest['format']}, this library reads {FORMAT}: {remedy}")
        _check(manifest)
        return _renamed(manifest, {stored: name for name, stored in _FORMAT_1_NAMES.items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DatasetError(f"{path / MANIFEST} is damaged: {remedy}") from None


def _check(manifest: dict):
    """Raise ValueError, KeyError or TypeError if something is missing or impossible."""
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


def _renamed(manifest: dict, names: dict[str, str]) -> dict:
    if "variation" not in manifest:
        return manifest
    return {**manifest, "variation": {names.get(key, key): value for key, value in manifest["variation"].items()}}


def open_or_new(path: Path, n_clips: int, settings: dict, versions: dict) -> dict:
    """The manifest to work on, with ``None`` for each shard that is still to be made; written if it is new or grows.

    Raises
    ------
    DatasetError
        If the folder holds something else, or a dataset of other settings, of more clips, or of other versions.
    """
    count = -(-n_clips // settings["shard"])
    if all(file.name in (LOCK_FILE, MANIFEST + ".part") for file in path.iterdir()):
        manifest = {"format": FORMAT, "n_clips": n_clips, **settings, "versions": versions, "shards": [None] * count}
        write(path, manifest)
        return manifest
    manifest = read(path)
    _check_same(path, manifest, settings)
    if manifest["n_clips"] > n_clips:
        raise DatasetError(
            f"{path} already holds {manifest['n_clips']} clips, more than the {n_clips} asked for: open it with "
            "il.ClipDataset, or choose another folder"
        )
    shards = _whole_shards(path, manifest, n_clips) + [None] * (count - len(manifest["shards"]))
    if None in shards and manifest["versions"] != versions:
        raise DatasetError(
            f"{path} was begun with {manifest['versions']} and cannot be continued with {versions}, which may sound "
            "different: delete it and generate it again"
        )
    manifest = {**manifest, "n_clips": n_clips, "shards": shards}
    if None in shards:
        write(path, manifest)  # before a shard that it names is replaced by a longer one
    return manifest


def is_complete(path: Path, n_clips: int, settings: dict) -> bool:
    """Whether the folder holds exactly this dataset, whole. What is wrong with it otherwise, :func:`open_or_new` says."""
    try:
        manifest = read(path)
        if manifest["n_clips"] != n_clips:
            return False
        _check_same(path, manifest, settings)
        return None not in _whole_shards(path, manifest, n_clips)
    except (DatasetError, OSError):
        return False


def _check_same(path: Path, manifest: dict, settings: dict):
    """Settings that only one of the two has are named first: they say most about the difference."""
    names = [name for name in {**settings, **manifest} if name not in _OTHER_KEYS]
    for name in sorted(names, key=lambda name: name in manifest and name in settings):
        if manifest.get(name) != settings.get(name):
            raise DatasetError(
                f"{path} was made with {name} = {manifest.get(name)!r}, not {settings.get(name)!r}: choose another folder "
                "or delete this one"
            )


def _whole_shards(path: Path, manifest: dict, n_clips: int) -> list[dict | None]:
    """The shards that can stay; when the dataset grows, a last one that was short is made again."""

    def is_whole(number: int, shard: dict | None) -> bool:
        if shard is None or shard["clips"] != shard_clips(number, n_clips, manifest["shard"]):
            return False
        file = path / shard["file"]
        return file.is_file() and sha256(file) == shard["sha256"]

    return [shard if is_whole(number, shard) else None for number, shard in enumerate(manifest["shards"])]
