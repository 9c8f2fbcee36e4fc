"""Causal scores: does the answer change as the heatmap says when its cells are taken away?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..constants import FLOOR_DB, N_FRAMES, N_MELS
from ..networks.evaluation import logits
from .localisation import _divide, check_heatmaps
from .stems import Pairs

FRACTIONS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def perturbation_curves(
    model: torch.nn.Module, pairs: Pairs, heatmaps: np.ndarray, fractions: Sequence[float] = FRACTIONS, insert: bool = False
) -> np.ndarray:
    """What becomes of the instrument's logit when its *own* power is taken out of the most relevant cells first.

    In a cell the mix keeps the power of the other stems, so nothing unheard of appears, as it does where cells are painted
    black (Samek et al. 2017, doi:10.1109/TNNLS.2016.2599820, remove them so).

    Parameters
    ----------
    model : network
    pairs : Pairs
    heatmaps : float (n, 128, 431)
    fractions : of the cells that sound in the mix
    insert : bool
        Start from the mix without the instrument, and put its power back instead.

    Returns
    -------
    float (n, fractions), logits
    """
    check_heatmaps(heatmaps, pairs.owned_mask)
    power = 10 ** (pairs.mels / 10)
    curves = np.empty((len(heatmaps), len(fractions)))
    for n, (clip, index) in enumerate(zip(pairs.clips, pairs.classes, strict=True)):
        sounds = pairs.mels[clip] > FLOOR_DB
        order = np.argsort(-np.where(sounds, heatmaps[n], -np.inf), axis=None, kind="stable")
        changed = np.empty((len(fractions), N_MELS, N_FRAMES), np.float32)
        for k, fraction in enumerate(fractions):
            touched = np.zeros(sounds.size, bool)
            touched[order[: round(fraction * sounds.sum())]] = True
            out = touched.reshape(sounds.shape) != insert
            kept = power[clip] * (1 - pairs.shares[n] * out)
            changed[k] = np.maximum(10 * np.log10(np.maximum(kept, 10 ** (FLOOR_DB / 10))), FLOOR_DB)
        curves[n] = logits(model, changed)[:, index]
    return curves


def normalised_auc(curves: np.ndarray, fractions: Sequence[float] = FRACTIONS) -> np.ndarray:
    """Mean of each curve over the fractions, by trapezoids, on a scale on which its own ends are 1 and 0: (n,).

    For deletion the start is 1 and the end 0, for insertion the other way round; NaN where they are the same.
    """
    low, high = np.minimum(curves[:, 0], curves[:, -1]), np.maximum(curves[:, 0], curves[:, -1])
    return np.trapezoid(_divide(curves - low[:, None], (high - low)[:, None]), fractions, axis=1)
