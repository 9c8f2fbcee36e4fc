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

from .._files import atomic_path, write_text
from ..constants import N_FRAMES, N_MELS
from ..data.dataset import ClipDataset
from ..errors import DatasetError
from ..music.randomisation import RenderPlan, render_stems
from ..music.score import Score
from ..music.synth import Synth
from .stems import OWNERSHIP_THRESHOLD, ownership

_CHUNK = 50  # clips a worker renders at a time


def dominant_source_map(ds: ClipDataset, path: str | os.PathLike, n_jobs: int = -1, progress: bool = True) -> np.ndarray:
    """Who owns each cell of a dataset, rendered anew stem by stem, and kept in a .npy file.

    Parameters
    ----------
    ds : ClipDataset
    path : path of the file, made if it does not exist; 55 KB a clip
    n_jobs : worker processes, as in joblib

    Returns
    -------
    uint8 (n, 128, 431), a memory map
        0 for nobody, else 1 + the index of the instrument that has at least ``OWNERSHIP_THRESHOLD`` of the power.

    Raises
    ------
    DatasetError
        If the file belongs to another dataset.
    """
    path, shape = Path(path), (len(ds), N_MELS, N_FRAMES)
    about = path.with_suffix(".txt")
    if not (path.exists() and about.exists()):
        seed, split = ds.manifest["seed"], ds.manifest["split"]
        starts = range(0, len(ds), _CHUNK)
        work = (
            joblib.delayed(_dominant_sources)([ds.plan(i) or ds.score(i) for i in range(s, min(s + _CHUNK, len(ds)))])
            for s in starts
        )
        done = joblib.Parallel(n_jobs, return_as="generator", pre_dispatch="2*n_jobs")(work)
        bar = tqdm(zip(starts, done, strict=True), f"sources, {split} {seed}", len(starts), disable=not progress)
        with atomic_path(path) as part:
            sources = open_memmap(part, "w+", np.uint8, shape)
            for start, some in bar:
                sources[start : start + len(some)] = some
            sources.flush()
        write_text(about, ds.fingerprint)
    if about.read_text() != ds.fingerprint:
        raise DatasetError(f"{path} tells who owns the cells of another dataset: delete it, or choose another file")
    return np.load(path, mmap_mode="r")


_synth = functools.cache(Synth)  # one a process


def _dominant_sources(clips: Sequence[Score | RenderPlan]) -> np.ndarray:
    found = np.zeros((len(clips), N_MELS, N_FRAMES), np.uint8)
    for one, clip in zip(found, clips, strict=True):
        varied = isinstance(clip, RenderPlan)
        stems = render_stems(clip) if varied else _synth().render_stems(clip)
        players = (clip.score if varied else clip).instruments
        for share, instrument in zip(ownership(stems), players, strict=True):
            one[share >= OWNERSHIP_THRESHOLD] = instrument + 1
    return found
