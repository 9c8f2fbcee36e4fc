"""Causal scores: does the logit change as the heatmap says when cells are taken away?

Conventions as in :mod:`instr_lib.truth.stems`. Chapter 7 uses all of it.
"""

from __future__ import annotations

import numpy as np
import torch

from ..constants import FLOOR_DB, N_FRAMES, N_MELS
from ..networks.evaluation import logits
from .localisation import check_heatmaps, divide_or_nan
from .stems import Pairs

FRACTIONS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the cells that sound in the mix


def perturbation_curves(model: torch.nn.Module, pairs: Pairs, heatmaps: np.ndarray, insert: bool = False) -> np.ndarray:
    """The instrument's logit while its power is removed from more and more cells, the most relevant first.

    Only the instrument's *own* power is removed from a cell; the power of the other stems stays. The network therefore
    never meets a spectrogram that could not occur, as it does where cells are painted black. The procedure is that of
    Samek et al. 2017, doi:10.1109/TNNLS.2016.2599820.

    Parameters
    ----------
    model : network
    pairs : Pairs
    heatmaps : float (n, 128, 431)
    insert : bool
        Start from the mix without the instrument and put its power back instead.

    Returns
    -------
    float (n, 9)
        Logits after each of the ``FRACTIONS`` of cells.

    Raises
    ------
    InputError
        If the heatmaps do not fit the pairs, or contain NaN.
    """
    check_heatmaps(heatmaps, pairs.owned_mask)
    power = 10 ** (pairs.mels / 10)
    curves = np.empty((len(heatmaps), len(FRACTIONS)))
    for n, (clip, index) in enumerate(zip(pairs.clips, pairs.classes, strict=True)):
        sounds = pairs.mels[clip] > FLOOR_DB
        order = np.argsort(-np.where(sounds, heatmaps[n], -np.inf), axis=None, kind="stable")
        changed = np.empty((len(FRACTIONS), N_MELS, N_FRAMES), np.float32)
        for k, fraction in enumerate(FRACTIONS):
            selected = np.zeros(sounds.size, bool)
            selected[order[: round(fraction * sounds.sum())]] = True
            removed = selected.reshape(sounds.shape) != insert
            remaining = power[clip] * (1 - pairs.shares[n] * removed)
            changed[k] = np.maximum(10 * np.log10(np.maximum(remaining, 10 ** (FLOOR_DB / 10))), FLOOR_DB)
        curves[n] = logits(model, changed)[:, index]
    return curves


def normalised_auc(curves: np.ndarray) -> np.ndarray:
    """Area under each perturbation curve (n, 9), (n,), after scaling the curve so that its two ends are 0 and 1.

    A deletion curve starts at 1 and ends at 0, and a small area is good; an insertion curve starts at 0 and ends at 1,
    and a large area is good. The area is computed by the trapezoidal rule over ``FRACTIONS``; NaN where the ends are equal.
    """
    low, high = np.minimum(curves[:, 0], curves[:, -1]), np.maximum(curves[:, 0], curves[:, -1])
    return np.trapezoid(divide_or_nan(curves - low[:, None], (high - low)[:, None]), FRACTIONS, axis=1)
