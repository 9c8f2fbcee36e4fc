"""Maps of the dominant source of every cell of a data set."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np
from numpy.lib.format import open_memmap
from tqdm.auto import tqdm

from ..constants import N_FRAMES, N_MELS
from ..data.dataset import ClipDataset
from ..errors import DatasetError
from ..memory import keep_freed_memory
from ..music.randomisation import Lot, render_stems
from ..music.score import Score
from ..music.synth import Synth
from .stems import OWNS, ownership

_CHUNK = 50  # clips a worker renders at a time


def owners(ds: ClipDataset, path: str | os.PathLike, n_jobs: int = -1, progress: bool = True) -> np.ndarray:
    """Who owns each cell of a dataset, rendered anew stem by stem, and kept in a .npy file.

    Parameters
    ----------
    ds : ClipDataset
    path : path of the file, made if it does not exist; 55 KB a clip
    n_jobs : worker processes, as in joblib

    Returns
    -------
    uint8 (n, 128, 431), a memory map
        0 for nobody, else 1 + the index of the instrument that has at least ``OWNS`` of the power.

    Raises
    ------
    DatasetError
        If the file belongs to another dataset.
    """
    path, shape = Path(path), (len(ds), N_MELS, N_FRAMES)
    about = path.with_suffix(".txt")
    if not (path.exists() and about.exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        found = open_memmap(part, "w+", np.uint8, shape)
        seed, split = ds.manifest["seed"], ds.manifest["split"]
        starts = range(0, len(ds), _CHUNK)
        work = (
            joblib.delayed(_owners)([ds.lot(i) or ds.score(i) for i in range(s, min(s + _CHUNK, len(ds)))]) for s in starts
        )
        done = joblib.Parallel(n_jobs, return_as="generator", pre_dispatch="2*n_jobs")(work)
        for start, some in tqdm(
            zip(starts, done, strict=True), f"owners, {split} {seed}", len(starts), disable=not progress
        ):
            found[start : start + len(some)] = some
        found.flush()
        os.replace(part, path)
        about.write_text(ds.fingerprint)
    if about.read_text() != ds.fingerprint:
        raise DatasetError(f"{path} tells who owns the cells of another dataset: delete it, or choose another file")
    return np.load(path, mmap_mode="r")


_synth = functools.cache(Synth)  # one a process


def _owners(clips: Sequence[Score | Lot]) -> np.ndarray:
    keep_freed_memory()
    found = np.zeros((len(clips), N_MELS, N_FRAMES), np.uint8)
    for one, clip in zip(found, clips, strict=True):
        varied = isinstance(clip, Lot)
        stems = render_stems(clip) if varied else _synth().render_stems(clip)
        players = (clip.score if varied else clip).instruments
        for share, instrument in zip(ownership(stems), players, strict=True):
            one[share >= OWNS] = instrument + 1
    return found
