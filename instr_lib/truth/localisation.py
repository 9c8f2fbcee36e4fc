"""Localisation: does relevance lie on the instrument's own cells?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ..constants import HOP, N_FRAMES, N_MELS, SAMPLE_RATE
from ..errors import InputError
from .stems import Pairs


def check_heatmaps(heatmaps: np.ndarray, owned_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps as float64 and masks as bool, if they belong together.

    Raises
    ------
    InputError
        If they are not both (n, 128, 431), or a heatmap contains NaN; the message says which.
    """
    heatmaps, owned_mask = np.asarray(heatmaps, float), np.asarray(owned_mask)
    if heatmaps.ndim != 3 or heatmaps.shape[1:] != (N_MELS, N_FRAMES):
        raise InputError(f"heatmaps must have shape (n, {N_MELS}, {N_FRAMES}), not {heatmaps.shape}")
    if owned_mask.shape != heatmaps.shape or owned_mask.dtype != bool:
        raise InputError(f"masks must be bool of shape {heatmaps.shape}, not {owned_mask.dtype} of {owned_mask.shape}")
    if len(bad := np.flatnonzero(~np.isfinite(heatmaps).all((1, 2)))):
        raise InputError(f"heatmap {bad[0]} contains NaN or infinity")
    return heatmaps, owned_mask


def relevance_mass_accuracy(heatmaps: np.ndarray, owned_mask: np.ndarray) -> np.ndarray:
    """Share of the positive relevance that lies on owned cells, (n,), 0 to 1.

    Relevance mass accuracy of Arras, Osman & Samek 2022, doi:10.1016/j.inffus.2021.11.008, eq. 1, for positive relevance.
    NaN for a heatmap with nothing positive.
    """
    heatmaps, owned_mask = check_heatmaps(heatmaps, owned_mask)
    positive = heatmaps.clip(min=0)
    return _divide((positive * owned_mask).sum((1, 2)), positive.sum((1, 2)))


def relevance_rank_accuracy(heatmaps: np.ndarray, owned_mask: np.ndarray) -> np.ndarray:
    """Of as many cells as are owned, the most relevant ones: the share that is owned, (n,), 0 to 1.

    Relevance rank accuracy of Arras, Osman & Samek 2022, eq. 2. Cells of equal relevance count with the share of them
    that is owned. NaN if no cell is owned.
    """
    heatmaps, owned_mask = check_heatmaps(heatmaps, owned_mask)
    return np.array([_rank_accuracy(heat.ravel(), own.ravel()) for heat, own in zip(heatmaps, owned_mask, strict=True)])


def _rank_accuracy(heat, own):
    count = int(own.sum())
    if not count:
        return np.nan
    least = np.partition(heat, -count)[-count]  # the smallest that is among the first
    above, level = heat > least, heat == least
    return (own[above].sum() + (count - above.sum()) * own[level].mean()) / count


def pointing_game(heatmaps: np.ndarray, owned_mask: np.ndarray) -> np.ndarray:
    """Whether the most relevant cell is owned, (n,), 0 or 1 (Zhang et al. 2018, doi:10.1007/s11263-017-1059-x).

    Several largest cells count with the share of them that is owned. NaN for a heatmap with nothing positive.
    """
    heatmaps, owned_mask = check_heatmaps(heatmaps, owned_mask)
    peak = heatmaps.max((1, 2), keepdims=True)
    hits = heatmaps == peak
    return np.where(peak[:, 0, 0] > 0, (hits & owned_mask).sum((1, 2)) / hits.sum((1, 2)), np.nan)


def average_precision(heatmaps: np.ndarray, owned_mask: np.ndarray) -> np.ndarray:
    """Area under the curve of precision against recall of owned cells, sorted by relevance, (n,), 0 to 1.

    The sum over thresholds of precision times the gain in recall; cells of equal relevance share a threshold. NaN if no
    cell is owned.
    """
    heatmaps, owned_mask = check_heatmaps(heatmaps, owned_mask)
    return np.array([_average_precision(heat.ravel(), own.ravel()) for heat, own in zip(heatmaps, owned_mask, strict=True)])


def _average_precision(heat, own):
    if not own.any():
        return np.nan
    order = np.argsort(-heat, kind="stable")
    found = own[order].cumsum()
    last = np.append(np.flatnonzero(np.diff(heat[order])), len(order) - 1)  # of each run of equal relevance
    precision, recall = found[last] / (last + 1), found[last] / found[-1]
    return float((precision * np.diff(recall, prepend=0)).sum())


def sparseness(heatmaps: np.ndarray) -> np.ndarray:
    """Gini index of the size of relevance, (n,): 0 all cells alike, 1 all in one cell.

    Chalasani et al. 2020, arXiv:1810.06583, use it so. NaN for a heatmap of zeros.
    """
    size = np.sort(np.abs(np.asarray(heatmaps, float)).reshape(len(heatmaps), -1), axis=1)
    n = size.shape[1]
    return _divide(((2 * np.arange(1, n + 1) - n - 1) * size).sum(1), n * size.sum(1))


def complexity(heatmaps: np.ndarray) -> np.ndarray:
    """Entropy of the shares of the size of relevance, in bits, (n,): 0 for one cell (Bhatt et al. 2020, arXiv:2005.00631).

    At most log2 of the number of cells, which is 15.75. NaN for a heatmap of zeros.
    """
    size = np.abs(np.asarray(heatmaps, float)).reshape(len(heatmaps), -1)
    share = _divide(size, size.sum(1, keepdims=True))
    return -(share * np.log2(np.where(share > 0, share, 1))).sum(1)


def own_over_others(heatmaps: np.ndarray, owned_mask: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Whether more positive relevance lies on the asked instrument's cells than on any other's, (n,), 0 or 1.

    Parameters
    ----------
    others : n bool arrays (k, 128, 431), the cells that each of the other instruments of the clip owns
        NaN where there is none, or nothing is positive.
    """
    heatmaps, owned_mask = check_heatmaps(heatmaps, owned_mask)
    found = np.full(len(heatmaps), np.nan)
    for n, (heat, own, other) in enumerate(zip(heatmaps.clip(min=0), owned_mask, others, strict=True)):
        if len(other) and heat.any():
            found[n] = float((heat * own).sum() > max((heat * one).sum() for one in other))
    return found


def _divide(a, b):
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=np.asarray(b) != 0)


def localisation_scores(heatmaps: np.ndarray, pairs: Pairs) -> dict[str, np.ndarray]:
    """All scores that need no network, one array (n,) each, by name."""
    owned_mask = pairs.owned_mask
    return {
        "mass": relevance_mass_accuracy(heatmaps, owned_mask),
        "rank": relevance_rank_accuracy(heatmaps, owned_mask),
        "pointing": pointing_game(heatmaps, owned_mask),
        "precision": average_precision(heatmaps, owned_mask),
        "own over others": own_over_others(heatmaps, owned_mask, pairs.others),
        "sparseness": sparseness(heatmaps),
        "complexity": complexity(heatmaps),
    }


def streak_seconds(heatmaps: np.ndarray) -> np.ndarray:
    """How long relevance stays on in a band: the mean length of its streaks in seconds, (n,).

    A streak is a run of frames in one band that all belong to the fewest cells that hold half of the positive relevance;
    each counts with the relevance on it. NaN for a heatmap with nothing positive.
    """
    heatmaps, found = np.asarray(heatmaps, float).clip(min=0), []
    for heat in heatmaps:
        size = np.sort(heat, axis=None)[::-1]
        if not size[0]:
            found.append(np.nan)
            continue
        strong = heat >= size[np.searchsorted(size.cumsum(), size.sum() / 2)]
        runs, _ = ndimage.label(strong, [[0, 0, 0], [1, 1, 1], [0, 0, 0]])
        lengths, weights = np.bincount(runs.ravel())[1:], np.bincount(runs.ravel(), heat.ravel())[1:]
        found.append(np.average(lengths, weights=weights) * HOP / SAMPLE_RATE)
    return np.array(found)
