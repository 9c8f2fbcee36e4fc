"""Localisation: does the relevance lie on the instrument's own cells?

Conventions as in :mod:`instr_lib.truth.stems`: heatmaps are signed float (n, 128, 431), ``owned_mask`` is bool of the same
shape; a score that is not defined is NaN. Where heatmaps have ties, cells of equal relevance count alike: their order does
not matter. Chapter 7 uses all of it, chapter 8 :func:`streak_seconds`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score

from ..constants import HOP, N_FRAMES, N_MELS, SAMPLE_RATE
from ..errors import InputError
from .stems import Pairs


def check_heatmaps(heatmaps: np.ndarray, owned_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps as float64 and masks as bool, both (n, 128, 431).

    Raises
    ------
    InputError
        If the shapes or types are others, or a heatmap contains NaN; the message says which.
    """
    heatmaps, owned_mask = np.asarray(heatmaps, float), np.asarray(owned_mask)
    if heatmaps.ndim != 3 or heatmaps.shape[1:] != (N_MELS, N_FRAMES):
        raise InputError(f"heatmaps must have shape (n, {N_MELS}, {N_FRAMES}), not {heatmaps.shape}")
    if owned_mask.shape != heatmaps.shape or owned_mask.dtype != bool:
        raise InputError(f"masks must be bool of shape {heatmaps.shape}, not {owned_mask.dtype} of {owned_mask.shape}")
    if len(bad := np.flatnonzero(~np.isfinite(heatmaps).all((1, 2)))):
        raise InputError(f"heatmap {bad[0]} contains NaN or infinity")
    return heatmaps, owned_mask


def divide_or_nan(a, b):
    """a / b, and NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=np.asarray(b) != 0)


def relevance_mass_accuracy(heatmaps: np.ndarray, owned_mask: np.ndarray) -> np.ndarray:
    """Share of the positive relevance that lies on owned cells, (n,), 0 to 1.

    Relevance mass accuracy (Arras, Osman & Samek 2022, doi:10.1016/j.inffus.2021.11.008, eq. 1) of the positive relevance.
    NaN for a heatmap with nothing positive.
    """
    heatmaps, owned_mask = check_heatmaps(heatmaps, owned_mask)
    positive = heatmaps.clip(min=0)
    return divide_or_nan((positive * owned_mask).sum((1, 2)), positive.sum((1, 2)))


def relevance_rank_accuracy(heatmaps: np.ndarray, owned_mask: np.ndarray) -> np.ndarray:
    """If K cells are owned: the share of the K most relevant cells that is owned, (n,), 0 to 1.

    Relevance rank accuracy (Arras, Osman & Samek 2022, eq. 2). Of cells that tie for the last places, each counts with the
    share of them that is owned. NaN if no cell is owned.
    """
    heatmaps, owned_mask = check_heatmaps(heatmaps, owned_mask)
    return np.array([_rank_accuracy(heat.ravel(), own.ravel()) for heat, own in zip(heatmaps, owned_mask, strict=True)])


def _rank_accuracy(heat: np.ndarray, own: np.ndarray) -> float:
    count = int(own.sum())
    if not count:
        return np.nan
    least = np.partition(heat, -count)[-count]  # the smallest of the K largest values
    above, tied = heat > least, heat == least
    return (own[above].sum() + (count - above.sum()) * own[tied].mean()) / count


def pointing_game(heatmaps: np.ndarray, owned_mask: np.ndarray) -> np.ndarray:
    """Whether the most relevant cell is owned, (n,), 0 or 1 (Zhang et al. 2018, doi:10.1007/s11263-017-1059-x).

    If several cells share the maximum, the share of them that is owned. NaN for a heatmap with nothing positive.
    """
    heatmaps, owned_mask = check_heatmaps(heatmaps, owned_mask)
    maximum = heatmaps.max((1, 2), keepdims=True)
    peaks = heatmaps == maximum
    return np.where(maximum[:, 0, 0] > 0, (peaks & owned_mask).sum((1, 2)) / peaks.sum((1, 2)), np.nan)


def average_precision(heatmaps: np.ndarray, owned_mask: np.ndarray) -> np.ndarray:
    """Average precision of finding owned cells by their relevance, (n,), 0 to 1; NaN if no cell is owned.

    That of :func:`sklearn.metrics.average_precision_score`: the sum over thresholds of precision times the gain in recall,
    where cells of equal relevance share a threshold.
    """
    heatmaps, owned_mask = check_heatmaps(heatmaps, owned_mask)
    return np.array(
        [
            average_precision_score(own.ravel(), heat.ravel()) if own.any() else np.nan
            for heat, own in zip(heatmaps, owned_mask, strict=True)
        ]
    )


def own_over_others(heatmaps: np.ndarray, owned_mask: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Whether the instrument's own cells carry more positive relevance than any other instrument's, (n,), 0 or 1.

    Parameters
    ----------
    heatmaps, owned_mask : (n, 128, 431)
    others : n bool arrays (k, 128, 431)
        The cells that each of the clip's other instruments owns. NaN where there are none, or nothing is positive.
    """
    heatmaps, owned_mask = check_heatmaps(heatmaps, owned_mask)
    wins = np.full(len(heatmaps), np.nan)
    for n, (positive, own, masks) in enumerate(zip(heatmaps.clip(min=0), owned_mask, others, strict=True)):
        if len(masks) and positive.any():
            wins[n] = float((positive * own).sum() > max((positive * mask).sum() for mask in masks))
    return wins


def sparseness(heatmaps: np.ndarray) -> np.ndarray:
    """Gini index of the absolute relevance, (n,): 0 if all cells are alike, 1 if all of it is in one cell.

    As in Chalasani et al. 2020, arXiv:1810.06583. NaN for a heatmap of zeros.
    """
    size = np.sort(np.abs(np.asarray(heatmaps, float)).reshape(len(heatmaps), -1), axis=1)
    n = size.shape[1]
    return divide_or_nan(((2 * np.arange(1, n + 1) - n - 1) * size).sum(1), n * size.sum(1))


def complexity(heatmaps: np.ndarray) -> np.ndarray:
    """Entropy of the distribution of absolute relevance over cells, in bits, (n,): 0 if all of it is in one cell.

    As in Bhatt et al. 2020, arXiv:2005.00631. At most log2 of the number of cells, 15.75. NaN for a heatmap of zeros.
    """
    size = np.abs(np.asarray(heatmaps, float)).reshape(len(heatmaps), -1)
    share = divide_or_nan(size, size.sum(1, keepdims=True))
    return -(share * np.log2(np.where(share > 0, share, 1))).sum(1)


def localisation_scores(heatmaps: np.ndarray, pairs: Pairs) -> dict[str, np.ndarray]:
    """All scores that need no network, by name, (n,) each.

    Parameters
    ----------
    heatmaps : float (n, 128, 431), one for each pair
    pairs : Pairs

    Raises
    ------
    InputError
        If the heatmaps do not fit the pairs, or contain NaN.
    """
    owned_mask = pairs.owned_mask
    return {
        "relevance_mass_accuracy": relevance_mass_accuracy(heatmaps, owned_mask),
        "relevance_rank_accuracy": relevance_rank_accuracy(heatmaps, owned_mask),
        "pointing_game": pointing_game(heatmaps, owned_mask),
        "average_precision": average_precision(heatmaps, owned_mask),
        "own_over_others": own_over_others(heatmaps, owned_mask, pairs.others),
        "sparseness": sparseness(heatmaps),
        "complexity": complexity(heatmaps),
    }


def streak_seconds(heatmaps: np.ndarray) -> np.ndarray:
    """How long relevance lasts in a band: the mean length of its streaks, weighted by their relevance, in seconds, (n,).

    A streak is a run of frames in one band that all belong to the smallest set of cells that holds half of the positive
    relevance. NaN for a heatmap with nothing positive.
    """
    seconds = []
    for positive in np.asarray(heatmaps, float).clip(min=0):
        size = np.sort(positive, axis=None)[::-1]
        if not size[0]:
            seconds.append(np.nan)
            continue
        strong = positive >= size[np.searchsorted(size.cumsum(), size.sum() / 2)]
        streaks, _ = ndimage.label(strong, [[0, 0, 0], [1, 1, 1], [0, 0, 0]])
        lengths, weights = np.bincount(streaks.ravel())[1:], np.bincount(streaks.ravel(), positive.ravel())[1:]
        seconds.append(np.average(lengths, weights=weights) * HOP / SAMPLE_RATE)
    return np.array(seconds)
