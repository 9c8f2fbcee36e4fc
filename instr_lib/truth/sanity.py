"""Sanity checks: does a heatmap change when the network forgets? (Adebayo et al. 2018, arXiv:1810.03292)

Chapter 7 uses all of it.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from ..errors import InputError


def randomise(model: torch.nn.Module, layers: int, seed: int = 0) -> torch.nn.Module:
    """A copy of a network, in eval mode, whose last layers with weights are replaced by newly initialised ones.

    Parameters
    ----------
    model : OriginalCNN or CompactCNN
    layers : int
        How many, from the top: the linear layer first, then the convolutions, each with its batch normalisation.
    seed : int

    Raises
    ------
    InputError
        If the network has fewer layers with weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed, fresh = copy.deepcopy(model), type(model)()
    names = [name for name, layer in model.layers.named_children() if isinstance(layer, (nn.Conv2d, nn.Linear))][::-1]
    if not 0 <= layers <= len(names):
        raise InputError(
            f"this network has {len(names)} layers with weights, so layers must be 0 to {len(names)}, not {layers}"
        )
    for name in names[:layers]:
        for part in (name, name.replace("conv", "bn")):
            getattr(changed.layers, part).load_state_dict(getattr(fresh.layers, part).state_dict())
    return changed.eval()


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation between the cells of heatmaps a and b (n, 128, 431): (n,), NaN where one is constant."""
    return np.array([spearman(*heatmaps) for heatmaps in zip(a, b, strict=True)])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation between all values of two arrays; NaN where one is constant."""
    ranks = rankdata(a), rankdata(b)
    return float(np.corrcoef(*ranks)[0, 1]) if all(np.ptp(rank) for rank in ranks) else np.nan
