"""Grade a method: every score of this room in one row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from tqdm.auto import tqdm

from ..constants import N_FRAMES, N_MELS
from ..errors import InputError
from ..networks.weights import load_model
from ..stats import Interval, bootstrap
from .causal import normalised_auc, perturbation_curves
from .localisation import localisation_scores
from .stems import Pairs, render_pairs


def grade(
    method: Callable[[torch.nn.Module, np.ndarray, np.ndarray], np.ndarray],
    model: torch.nn.Module | str = "compact",
    n_clips: int = 200,
    seed: int = 0,
    pairs: Pairs | None = None,
    batch_size: int = 12,
    curves: bool = True,
    progress: bool = True,
) -> dict[str, Interval]:
    """How true a method's explanations are: one row of the table of chapter 7.

    ``il.truth.grade(il.relevance)`` grades Concept Relevance Propagation.

    Parameters
    ----------
    method : function of (model, mels (n, 128, 431), classes (n,)) that returns heatmaps (n, 128, 431)
    model : network, or the name of a published one
    n_clips : int
        Of the test stream, with two instruments or more: about three pairs of clip and instrument each.
    seed : int, of the stream
    pairs : Pairs, optional
        Rendered before by :func:`render_pairs`, to grade several methods on the same ones.
    batch_size : int, pairs that the method is given at a time
    curves : bool, whether to draw deletion and insertion curves too

    Returns
    -------
    dict of Interval
        Mean of each score with a 95 % bootstrap interval over clips, and ``"undefined"``, for each score the number of
        pairs for which it is not defined (they are left out of its mean).

    Raises
    ------
    InputError
        If the method returns another shape, or NaN, or a heatmap of nothing but zeros for every pair.
    """
    model = load_model(model) if isinstance(model, str) else model
    pairs = render_pairs(n_clips, seed, progress=progress) if pairs is None else pairs
    scores = per_pair_scores(method, model, pairs, batch_size, curves, progress)
    row = {name: bootstrap(values, pairs.clips) for name, values in scores.items()}
    return row | {"undefined": {name: int(np.isnan(values).sum()) for name, values in scores.items()}}


def per_pair_scores(
    method: Callable,
    model: torch.nn.Module,
    pairs: Pairs,
    batch_size: int = 12,
    curves: bool = True,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Every score of every pair, (n,) each: what :func:`grade` takes the mean of."""
    found = compute_heatmaps(method, model, pairs.mels[pairs.clips], pairs.classes, batch_size, progress)
    scores = localisation_scores(found, pairs)
    for name, insert in (("deletion", False), ("insertion", True)) if curves else ():
        scores[name] = normalised_auc(perturbation_curves(model, pairs, found, insert=insert))
    return scores


def compute_heatmaps(
    method: Callable,
    model: torch.nn.Module,
    mels: np.ndarray,
    classes: np.ndarray,
    batch_size: int = 12,
    progress: bool = False,
) -> np.ndarray:
    """What a method makes of spectrograms (n, 128, 431) and classes (n,), some at a time: float32 (n, 128, 431).

    Raises
    ------
    InputError
        If the method returns another shape, or NaN, or nothing but zeros.
    """
    heatmaps = np.empty((len(classes), N_MELS, N_FRAMES), np.float32)
    for start in tqdm(range(0, len(heatmaps), batch_size), "heatmaps", unit_scale=batch_size, disable=not progress):
        part = slice(start, start + batch_size)
        found = np.asarray(method(model, mels[part], classes[part]))
        if found.shape != heatmaps[part].shape:
            raise InputError(f"the method returned heatmaps of shape {found.shape}, not {heatmaps[part].shape}")
        heatmaps[part] = found
    if len(bad := np.flatnonzero(~np.isfinite(heatmaps).all((1, 2)))):
        raise InputError(f"the method's heatmap {bad[0]} contains NaN or infinity")
    if len(heatmaps) and not heatmaps.any():
        raise InputError("the method returned nothing but zeros")
    return heatmaps
