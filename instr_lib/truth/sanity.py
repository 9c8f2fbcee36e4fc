"""Sanity checks of explanations (Adebayo et al. 2018, arXiv:1810.03292)."""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from ..errors import InputError


def randomise(model: torch.nn.Module, layers: int, seed: int = 0) -> torch.nn.Module:
    """A copy of a network whose last layers with weights have new random ones (Adebayo et al. 2018, arXiv:1810.03292).

    Parameters
    ----------
    layers : int
        How many, from the top: the linear layer first, then the convolutions, each with its batch normalisation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found, fresh = copy.deepcopy(model), type(model)()
    tops = [name for name, layer in model.layers.named_children() if isinstance(layer, (nn.Conv2d, nn.Linear))][::-1]
    if not 0 <= layers <= len(tops):
        raise InputError(
            f"this network has {len(tops)} layers with weights, so layers must be 0 to {len(tops)}, not {layers}"
        )
    for name in tops[:layers]:
        for part in (name, name.replace("conv", "bn")):
            getattr(found.layers, part).load_state_dict(getattr(fresh.layers, part).state_dict())
    return found.eval()


def rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation between the cells of two heatmaps, (n,); NaN where one is the same everywhere."""
    found = np.full(len(one), np.nan)
    for n, pair in enumerate(zip(one, other, strict=True)):
        ranks = [rankdata(heat) for heat in pair]
        if all(np.ptp(rank) for rank in ranks):
            found[n] = np.corrcoef(*ranks)[0, 1]
    return found
