"""The dominant source of every cell of a data set: what networks trained with an attribution prior learn from.

Chapters 7 and 9 use all of it.
"""

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

_CHUNK = 50  # clips that a worker renders at a time


def dominant_source_map(ds: ClipDataset, path: str | os.PathLike, n_jobs: int = -1, progress: bool = True) -> np.ndarray:
    """Which instrument owns each cell of a data set: the clips are rendered again, stem by stem.

    Parameters
    ----------
    ds : ClipDataset
    path : path
        A .npy file, 55 KB per clip. If it exists it is read; otherwise it is computed and written.
    n_jobs : int, worker processes, as in joblib
    progress : bool

    Returns
    -------
    uint8 (n, 128, 431), a memory map
        1 + the index of the instrument that has at least ``OWNERSHIP_THRESHOLD`` of the cell's power, 0 if none has.

    Raises
    ------
    DatasetError
        If the file belongs to another data set.
    """
    path, shape = Path(path), (len(ds), N_MELS, N_FRAMES)
    fingerprint_file = path.with_suffix(".txt")
    if not (path.exists() and fingerprint_file.exists()):
        seed, split = ds.manifest["seed"], ds.manifest["split"]
        starts = range(0, len(ds), _CHUNK)
        tasks = (
            joblib.delayed(_dominant_sources)([ds.plan(i) or ds.score(i) for i in range(s, min(s + _CHUNK, len(ds)))])
            for s in starts
        )
        chunks = joblib.Parallel(n_jobs, return_as="generator", pre_dispatch="2*n_jobs")(tasks)
        bar = tqdm(zip(starts, chunks, strict=True), f"sources, {split} {seed}", len(starts), disable=not progress)
        with atomic_path(path) as part:
            sources = open_memmap(part, "w+", np.uint8, shape)
            for start, chunk in bar:
                sources[start : start + len(chunk)] = chunk
            sources.flush()
        write_text(fingerprint_file, ds.fingerprint)
    if fingerprint_file.read_text() != ds.fingerprint:
        raise DatasetError(f"{path} holds the dominant sources of another dataset: delete it, or choose another file")
    return np.load(path, mmap_mode="r")


_synth = functools.cache(Synth)  # one per process


def _dominant_sources(clips: Sequence[Score | RenderPlan]) -> np.ndarray:
    sources = np.zeros((len(clips), N_MELS, N_FRAMES), np.uint8)
    for source, clip in zip(sources, clips, strict=True):
        randomised = isinstance(clip, RenderPlan)
        stems = render_stems(clip) if randomised else _synth().render_stems(clip)
        instruments = (clip.score if randomised else clip).instruments
        for share, instrument in zip(ownership(stems), instruments, strict=True):
            source[share >= OWNERSHIP_THRESHOLD] = instrument + 1
    return sources
