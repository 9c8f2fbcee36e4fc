"""Scores for the right reason: does the relevance of notes agree with what taking them away does?

A *question* is a heatmap for one instrument of one clip. Conventions as in :mod:`instr_lib.truth.notes`: the effect of a
note is how far the asked instrument's logit falls without it; scores that are not defined are NaN. Ranks are compared,
because relevance and logits have no common unit. Chapter 7 uses all of it.

Loud notes have more effect and more relevance, whatever the method. So over an instrument's own notes even the
spectrogram itself agrees with the effects; ``partial_correlation`` says what remains once energy is accounted for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from ..constants import FLOOR_DB
from ..errors import InputError
from ..music.instruments import INSTRUMENTS, instrument_index
from ..stats import Interval, percentile_interval, resampled_counts
from .localisation import divide_or_nan
from .notes import Parts, note_relevance

LEAST_NOTES = 3  # two notes have a rank correlation of 1 or -1 by chance


class Notes(NamedTuple):
    """What questions about one clip are compared with.

    Attributes
    ----------
    instruments : int (k,)
    shares : float16 (k, 128, 431), each note's share of the power of each cell
    energy : float (k,), relevance of each note if the spectrogram itself, in dB above silence, is the heatmap
    effects : float (k, 12), from :func:`instr_lib.truth.notes.note_effects` or ``shapley_values``
    """

    instruments: np.ndarray
    shares: np.ndarray
    energy: np.ndarray
    effects: np.ndarray

    @classmethod
    def of(cls, parts: Parts, effects: np.ndarray) -> Notes:
        """Raises InputError if the effects are not those of these parts."""
        effects, shape = np.asarray(effects, float), (len(parts.instruments), len(INSTRUMENTS))
        if effects.shape != shape:
            raise InputError(f"{shape[0]} notes have effects {shape}, not {effects.shape}: see truth.note_effects")
        energy = note_relevance((parts.mel - FLOOR_DB)[None], parts.shares)[0]
        return cls(parts.instruments, parts.shares.astype(np.float16), energy, effects)  # 1 MB for nine notes


class Questions(NamedTuple):
    """Relevance, effect and energy of every note for some questions: arrays (n,), one entry per question and note.

    ``clip`` and ``question`` are numbers; ``own`` says whether the asked instrument plays the note.
    """

    clip: np.ndarray
    question: np.ndarray
    own: np.ndarray
    relevance: np.ndarray
    effect: np.ndarray
    energy: np.ndarray


def compare(heatmaps: np.ndarray, targets: Sequence[int | str], notes: Notes, clip: int = 0) -> Questions:
    """The questions that heatmaps (q, 128, 431) for q instruments answer about one clip.

    Raises
    ------
    InputError
        If a heatmap has another shape or contains NaN, or an instrument does not play in the clip.
    """
    targets = np.array([instrument_index(target) for target in targets], int)
    if len(targets) != len(heatmaps):
        raise InputError(f"{len(heatmaps)} heatmaps need as many instruments, not {len(targets)}")
    for index in targets:
        if index not in notes.instruments:
            names = ", ".join(INSTRUMENTS[i].name for i in np.unique(notes.instruments))
            raise InputError(f"{INSTRUMENTS[index].name} plays no note in this clip: choose among {names}")
    relevance = note_relevance(heatmaps, notes.shares)
    q, k = relevance.shape
    return Questions(
        np.full(q * k, clip),
        np.repeat(np.arange(q), k),
        (targets[:, None] == notes.instruments).ravel(),
        relevance.ravel(),
        notes.effects[:, targets].T.ravel(),
        np.tile(notes.energy, q),
    )


def join(parts: Sequence[Questions]) -> Questions:
    """The questions about several clips as one."""
    firsts = np.cumsum([0, *(part.question.max() + 1 for part in parts)])
    numbered = [part._replace(question=part.question + first) for part, first in zip(parts, firsts, strict=False)]
    return Questions(*(np.concatenate(column) for column in zip(*numbered, strict=True)))


def note_agreement(heatmaps: np.ndarray, targets: Sequence[int | str], parts: Parts, effects: np.ndarray) -> dict:
    """The scores of each question about one clip, by name, float (q,).

    ``note_correlation`` is Spearman's rank correlation of relevance and effect over all notes of the clip,
    ``own_note_correlation`` that over the notes of the asked instrument (NaN if there are fewer than three), and
    ``foreign_sign_agreement`` says for which part of the effect of the other instruments' notes relevance has its sign.

    Parameters
    ----------
    heatmaps : float (q, 128, 431)
    targets : q names or indices, the instrument that each heatmap explains
    parts : Parts, k notes
    effects : float (k, 12), from :func:`instr_lib.truth.note_effects`

    Raises
    ------
    InputError
        As :func:`compare`, and if a heatmap is 0 everywhere.
    """
    for number, heatmap in enumerate(heatmaps):
        if not np.any(heatmap):
            raise InputError(f"heatmap {number} is 0 everywhere: it says nothing about any note")
    return question_scores(compare(heatmaps, targets, Notes.of(parts, effects)))


def question_scores(questions: Questions) -> dict[str, np.ndarray]:
    """The scores of :func:`note_agreement` for each question, (questions,)."""
    scores = {"note_correlation": [], "own_note_correlation": [], "foreign_sign_agreement": []}
    for number in range(questions.question.max() + 1):
        rows = questions.question == number
        own, relevance, effect = questions.own[rows], questions.relevance[rows], questions.effect[rows]
        scores["note_correlation"].append(rank_correlation(relevance, effect))
        scores["own_note_correlation"].append(rank_correlation(relevance[own], effect[own]))
        size = np.abs(effect[~own])
        agrees = np.sign(relevance[~own]) == np.sign(effect[~own])
        scores["foreign_sign_agreement"].append(float(divide_or_nan((size * agrees).sum(), size.sum())))
    return {name: np.array(values) for name, values in scores.items()}


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; NaN for fewer than three values, or if one side is constant."""
    if len(a) < LEAST_NOTES:
        return np.nan
    a, b = rankdata(a) - (len(a) + 1) / 2, rankdata(b) - (len(b) + 1) / 2
    return float(divide_or_nan(a @ b, np.sqrt((a @ a) * (b @ b))))


def pooled_scores(questions: Questions) -> dict[str, Interval]:
    """Scores over all questions at once, with intervals over clips.

    ``partial_correlation`` is the rank correlation of relevance and effect over own notes given their energy: ranks
    within each question, centred, pooled over questions; the linear part of energy is taken out of both. Per question,
    with four or five notes, it would mean nothing. ``partial_correlation_all`` is the same over all notes.
    ``calibration`` is the slope of the regression, through the origin, of effects on relevance, both as shares of
    their absolute sum over the question's notes: 1 if twice the relevance means twice the effect.
    """
    own = Questions(*(column[questions.own] for column in questions))
    return {
        "partial_correlation": _partial(own),
        "partial_correlation_all": _partial(questions),
        "calibration": _calibration(questions),
    }


def _by_clip(clip: np.ndarray, *products: np.ndarray) -> np.ndarray:
    """Sums of each product over the notes of each clip, (clips, products)."""
    _, row = np.unique(clip, return_inverse=True)
    return np.stack([np.bincount(row, product) for product in products], 1)


def _interval(sums: np.ndarray, statistic) -> Interval:
    resampled = statistic(*(resampled_counts(len(sums)) @ sums).T)
    return percentile_interval(float(statistic(*sums.sum(0))), resampled)


def _partial(questions: Questions) -> Interval:
    r, e, z = (_centred_ranks(questions, column) for column in questions[3:])

    def statistic(rr, ee, zz, re, rz, ez):
        left = [
            np.where(total - divide_or_nan(cross**2, zz) > 1e-9 * total, total - divide_or_nan(cross**2, zz), 0)
            for total, cross in ((rr, rz), (ee, ez))
        ]
        return divide_or_nan(re - divide_or_nan(rz * ez, zz), np.sqrt(left[0] * left[1]))

    return _interval(_by_clip(questions.clip, r * r, e * e, z * z, r * e, r * z, e * z), statistic)


def _centred_ranks(questions: Questions, column: np.ndarray) -> np.ndarray:
    """Ranks within each question, minus their mean."""
    ranks = np.empty(len(column))
    for number in np.unique(questions.question):
        rows = questions.question == number
        ranks[rows] = rankdata(column[rows]) - (rows.sum() + 1) / 2
    return ranks


def _calibration(questions: Questions) -> Interval:
    def share(column):
        total = np.bincount(questions.question, np.abs(column))
        return divide_or_nan(column, total[questions.question])

    x, y = share(questions.relevance), share(questions.effect)
    known = ~np.isnan(x + y)
    return _interval(_by_clip(questions.clip[known], (x * x)[known], (x * y)[known]), lambda xx, xy: divide_or_nan(xy, xx))
