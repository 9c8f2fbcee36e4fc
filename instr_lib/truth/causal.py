"""Causal scores: does the logit change as the heatmap says when cells are taken away?

Conventions as in :mod:`instr_lib.truth.stems`. Chapter 7 uses all of it.
"""

from __future__ import annotations

import numpy as np
import torch

from ..constants import FLOOR_DB
from ..errors import InputError
from ..networks.evaluation import logits
from .localisation import check_heatmaps, divide_or_nan
from .stems import OWNERSHIP_THRESHOLD, Pairs

# Of the cells that sound in the mix: none, then from a thousandth to all of them, so that each decade counts alike.
FRACTIONS = (0.0, *np.geomspace(0.001, 1, 10).tolist())
LEAST_EVIDENCE = 1.0  # logits
CURVES = {  # the four curves: whether power is put back, and which
    "deletion": (False, "own"),
    "insertion": (True, "own"),
    "deletion_all_power": (False, "all"),
    "insertion_all_power": (True, "all"),
}


def perturbation_curves(
    model: torch.nn.Module, pairs: Pairs, heatmaps: np.ndarray, insert: bool = False, power: str = "own"
) -> np.ndarray:
    """The instrument's logit while power is removed from more and more cells, the most relevant first.

    With ``power="own"`` only the instrument's own power is removed from a cell; that of the other stems stays, and the
    network hardly meets a spectrogram that could not occur. With ``power="all"`` the cell becomes silent, which is the
    usual way (Samek et al. 2017, doi:10.1109/TNNLS.2016.2599820): it also counts what other instruments' cells contribute.

    Parameters
    ----------
    model : network
    pairs : Pairs
    heatmaps : float (n, 128, 431)
    insert : bool
        Start without the power and put it back instead.
    power : "own" or "all"

    Returns
    -------
    float (n, 11)
        Logits after each of the ``FRACTIONS`` of cells.

    Raises
    ------
    InputError
        If the heatmaps do not fit the pairs, or contain NaN, or there is no such power.
    """
    if power not in ("own", "all"):
        raise InputError(f"power must be 'own' or 'all', not {power!r}")
    check_heatmaps(heatmaps, pairs.owned_mask)
    curves = np.empty((len(heatmaps), len(FRACTIONS)))
    for n, (clip, index) in enumerate(zip(pairs.clips, pairs.classes, strict=True)):
        mel = pairs.mels[clip]
        rank = np.full(mel.shape, mel.size)  # of each cell that sounds, from the most relevant on
        order = np.argsort(-np.where(mel > FLOOR_DB, heatmaps[n], -np.inf), axis=None, kind="stable")
        rank.ravel()[order[: (mel > FLOOR_DB).sum()]] = np.arange((mel > FLOOR_DB).sum())
        counts = np.round(np.array(FRACTIONS) * (mel > FLOOR_DB).sum())[:, None, None]
        share = pairs.shares[n] if power == "own" else 1.0
        curves[n] = logits(model, without_power(mel, share * ((rank < counts) != insert)))[:, index]
    return curves


def without_power(mel: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Spectrograms in dB (..., 128, 431) of which shares, from 0 to 1, of the power of each cell are taken away."""
    left = np.maximum(1 - shares, 10 ** (FLOOR_DB / 10))
    return np.maximum(mel + 10 * np.log10(left), FLOOR_DB).astype(np.float32)


def normalised_auc(curves: np.ndarray, insert: bool = False) -> np.ndarray:
    """Area under each perturbation curve (n, 11), (n,), after scaling it so that 0 is without the power and 1 with it.

    A small area is good for deletion, a large one for insertion. The area is computed by the trapezoidal rule over the
    logarithm of ``FRACTIONS`` but the first, so that the first thousandth of the cells counts as much as the last nine
    tenths. NaN where the logit does not rise by at least ``LEAST_EVIDENCE`` from one end to the other: where an
    instrument's power speaks against it, or for nothing, no order of its cells is right.
    """
    without, everything = (curves[:, 0], curves[:, -1]) if insert else (curves[:, -1], curves[:, 0])
    evidence = np.where(everything - without >= LEAST_EVIDENCE, everything - without, 0)
    scaled = divide_or_nan(curves - without[:, None], evidence[:, None])[:, 1:]
    decades = np.log10(FRACTIONS[1:])
    return np.trapezoid(scaled, decades, axis=1) / (decades[-1] - decades[0])


def curve_scores(model: torch.nn.Module, pairs: Pairs, heatmaps: np.ndarray) -> dict[str, np.ndarray]:
    """The areas of all four ``CURVES`` for each pair, (n,) each."""
    return {
        name: normalised_auc(perturbation_curves(model, pairs, heatmaps, insert, power), insert)
        for name, (insert, power) in CURVES.items()
    }


def foreign_support(model: torch.nn.Module, pairs: Pairs, heatmaps: np.ndarray, seed: int = 0) -> np.ndarray:
    """How much further the logit falls without foreign cells that a heatmap marks than without others as loud, (n,).

    A heatmap with positive relevance on the cells of other instruments says that the network takes their sound for that
    of the instrument asked about. If so, the logit falls when the others' power is taken from these cells. Marked are
    the cells that hold half of the positive relevance on foreign cells (those in which the instrument has at most a fifth
    of the power); as many others are drawn with the same levels, to 3 dB, among foreign cells that are not marked.
    In logits; NaN if nothing is marked. Where a step has too few other cells, fewer are drawn (here half a per cent).

    Its weakness: the logit falls in both cases, because spectrograms with holes are strange to a network, and those that
    are drawn lie scattered where those that are marked lie together.

    Parameters
    ----------
    model : network
    pairs : Pairs
    heatmaps : float (n, 128, 431)
    seed : int, of the cells drawn
    """
    check_heatmaps(heatmaps, pairs.owned_mask)
    rng, falls = np.random.default_rng(seed), np.full(len(heatmaps), np.nan)
    for n, (clip, index) in enumerate(zip(pairs.clips, pairs.classes, strict=True)):
        mel, share = pairs.mels[clip], pairs.shares[n]
        foreign = (mel > FLOOR_DB) & (share <= 1 - OWNERSHIP_THRESHOLD)
        marked = _strongest_half(np.where(foreign, heatmaps[n], 0).clip(min=0))
        if not marked.any():
            continue
        drawn = _as_loud(rng, mel, marked, foreign & ~marked)
        without = without_power(mel, (1 - share) * np.stack([marked, drawn]))
        answers = logits(model, without)[:, index]
        falls[n] = answers[1] - answers[0]
    return falls


def _strongest_half(positive: np.ndarray) -> np.ndarray:
    """The smallest set of cells that holds half of what is there, bool; empty if there is nothing."""
    order = np.argsort(-positive, axis=None)
    running = positive.ravel()[order].cumsum()
    chosen = np.zeros(positive.size, bool)
    if running[-1] > 0:
        chosen[order[: np.searchsorted(running, running[-1] / 2) + 1]] = True
    return chosen.reshape(positive.shape)


def _as_loud(rng: np.random.Generator, mel: np.ndarray, marked: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Random cells, bool (128, 431): as many as marked in each step of 3 dB, or all that there are."""
    level, drawn = np.floor(mel / 3).astype(int), np.zeros(mel.size, bool)
    for step, count in zip(*np.unique(level[marked], return_counts=True), strict=True):
        choice = np.flatnonzero(among & (level == step))
        drawn[rng.permutation(choice)[:count]] = True
    return drawn.reshape(mel.shape)
