"""Grade an explanation method: its localisation and causal scores in one row.

A *method* is a function of (model, mels (n, 128, 431) in dB, classes (n,)) that returns heatmaps (n, 128, 431), such as
:func:`instr_lib.relevance` and those of :mod:`instr_lib.explain.methods`. Chapters 7 and 9 use all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from ..constants import N_FRAMES, N_MELS
from ..errors import InputError
from ..networks.weights import load_model
from ..stats import Interval, bootstrap
from . import agreement
from .causal import curve_scores
from .localisation import localisation_scores
from .notes import note_effects, note_parts
from .stems import Pairs, render_pairs

Method = Callable[[torch.nn.Module, np.ndarray, np.ndarray], np.ndarray]
_BATCH_SIZE = 12  # pairs that a method is given at a time


def grade(
    method: Method,
    model: torch.nn.Module | str = "compact",
    n_clips: int = 200,
    seed: int = 0,
    pairs: Pairs | None = None,
    curves: bool = True,
    progress: bool = True,
    notes: bool = True,
) -> dict[str, Interval | dict[str, int]]:
    """How well a method's heatmaps agree with the stems and with the network: one row of the table of chapter 7.

    ``il.truth.grade(il.relevance)`` grades Concept Relevance Propagation. The row holds the scores of
    :mod:`instr_lib.truth.localisation` (is it in the right place?) and of :mod:`instr_lib.truth.agreement` and
    :mod:`instr_lib.truth.causal` (is it for the right reason?).

    Parameters
    ----------
    method : function of (model, mels (n, 128, 431), classes (n,)) that returns heatmaps (n, 128, 431)
    model : network, or the name of a published one
    n_clips : int
        Clips of the test stream with two or more instruments; about three pairs per clip.
    seed : int, of the stream
    pairs : Pairs, optional
        From :func:`instr_lib.truth.render_pairs`, to grade several methods on the same clips.
    curves : bool
        Whether to compute the areas of deletion and insertion too, see ``truth.causal.CURVES``, which takes longest.
    progress : bool
    notes : bool
        Whether to take each note away and compare; left out for pairs of your own, which are not made of notes.

    Returns
    -------
    dict
        By name of the score, its mean with a 95 % bootstrap interval over clips; and ``"undefined"``, by name of the score
        the number of pairs for which it is not defined and which are left out of the mean.

    Raises
    ------
    InputError
        If the method returns another shape, or NaN, or only zeros.
    """
    model = load_model(model) if isinstance(model, str) else model
    pairs = render_pairs(n_clips, seed, progress=progress) if pairs is None else pairs
    heatmaps = compute_heatmaps(method, model, pairs.mels[pairs.clips], pairs.classes, progress)
    measured = measure_notes(model, pairs, progress) if notes and pairs.sources else ()
    return grade_heatmaps(heatmaps, model, pairs, curves, measured)


def grade_heatmaps(
    heatmaps: np.ndarray,
    model: torch.nn.Module,
    pairs: Pairs,
    curves: bool = True,
    notes: Sequence[agreement.Notes] = (),
) -> dict[str, Interval | dict[str, int]]:
    """The row of :func:`grade` for heatmaps (n, 128, 431), one per pair, and what :func:`measure_notes` returned."""
    scores, pooled = localisation_scores(heatmaps, pairs), {}
    if notes:
        questions = ask_about_notes(heatmaps, pairs, notes)
        scores |= agreement.question_scores(questions)
        pooled = agreement.pooled_scores(questions)
    if curves:
        scores |= curve_scores(model, pairs, heatmaps)
    row = {name: bootstrap(values, pairs.clips) for name, values in scores.items()}
    return row | pooled | {"undefined": {name: int(np.isnan(values).sum()) for name, values in scores.items()}}


def measure_notes(model: torch.nn.Module, pairs: Pairs, progress: bool = False) -> list[agreement.Notes]:
    """The notes of each clip and what taking them away does to a network: to grade several methods on the same pairs.

    Raises
    ------
    InputError
        If the pairs were not rendered from notes, by :func:`instr_lib.truth.render_pairs`.
    """
    if not pairs.sources:
        raise InputError("these pairs are not made of notes: use those of truth.render_pairs")
    measured = []
    for source in tqdm(pairs.sources, "notes taken away", disable=not progress):
        parts = note_parts(*source)
        measured.append(agreement.Notes.of(parts, note_effects(model, parts)))
    return measured


def ask_about_notes(heatmaps: np.ndarray, pairs: Pairs, notes: Sequence[agreement.Notes]) -> agreement.Questions:
    """The questions that all pairs' heatmaps (n, 128, 431) answer, in the order of the pairs."""
    answers = []
    for clip, about in enumerate(notes):
        rows = pairs.clips == clip
        answers.append(agreement.compare(heatmaps[rows], pairs.classes[rows], about, clip))
    return agreement.join(answers)


def per_pair_scores(
    method: Method, model: torch.nn.Module, pairs: Pairs, curves: bool = True, progress: bool = True
) -> dict[str, np.ndarray]:
    """Every score of localisation and every curve's area for every pair, (n,) each; raises what :func:`grade` does."""
    heatmaps = compute_heatmaps(method, model, pairs.mels[pairs.clips], pairs.classes, progress)
    return localisation_scores(heatmaps, pairs) | (curve_scores(model, pairs, heatmaps) if curves else {})


def compute_heatmaps(
    method: Method, model: torch.nn.Module, mels: np.ndarray, classes: np.ndarray, progress: bool = False
) -> np.ndarray:
    """A method's heatmaps, float32 (n, 128, 431), for spectrograms (n, 128, 431) in dB and classes (n,), batch by batch.

    Raises
    ------
    InputError
        If the method returns another shape, or NaN, or only zeros.
    """
    heatmaps = np.empty((len(classes), N_MELS, N_FRAMES), np.float32)
    for start in tqdm(range(0, len(heatmaps), _BATCH_SIZE), "heatmaps", unit_scale=_BATCH_SIZE, disable=not progress):
        batch = slice(start, start + _BATCH_SIZE)
        returned = np.asarray(method(model, mels[batch], classes[batch]))
        if returned.shape != heatmaps[batch].shape:
            raise InputError(f"the method returned heatmaps of shape {returned.shape}, not {heatmaps[batch].shape}")
        heatmaps[batch] = returned
    if len(bad := np.flatnonzero(~np.isfinite(heatmaps).all((1, 2)))):
        raise InputError(f"the method's heatmap {bad[0]} contains NaN or infinity")
    if len(heatmaps) and not heatmaps.any():
        raise InputError("the method returned nothing but zeros")
    return heatmaps
