"""Interventions: edit the music, ask the networks again, and measure the difference.

:func:`run_interventions` gives :class:`Outcomes`, the logits clip by clip; the other functions summarise them, with 95 %
bootstrap intervals over clips. Chapter 8 uses all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..constants import CLIP_SAMPLES, FLOOR_DB
from ..data.spectrogram import log_mel
from ..errors import InputError
from ..explain.attribution import relevance
from ..music.instruments import instrument_index
from ..networks.evaluation import logits
from ..stats import Interval, bootstrap_mean, bootstrap_ratio, bootstrap_statistic, resampled_rows
from .edits import Edit, set_level
from .sanity import spearman
from .stems import Clip


class Outcomes(NamedTuple):
    """A network's logits before and after an edit, for n clips.

    Attributes
    ----------
    instrument : int (n,), the instrument whose stem was edited
    before, after, without : float32 (n, 12)
        Logits for the clip, for the edited clip, and for the clip without the instrument.
    relevance, energy : float (n,)
        The instrument's relevance, and the mix's level above silence, on the power that the edit removed.
    level : float (n,)
        The mix's level above silence, summed over all cells.
    """

    instrument: np.ndarray
    before: np.ndarray
    after: np.ndarray
    without: np.ndarray
    relevance: np.ndarray
    energy: np.ndarray
    level: np.ndarray

    def own(self, logits: np.ndarray) -> np.ndarray:
        """Of logits (n, 12), those of each clip's instrument, (n,)."""
        return logits[np.arange(len(logits)), self.instrument]

    @property
    def drop(self) -> np.ndarray:
        """How far the instrument's logit falls by the edit, (n,)."""
        return self.own(self.before - self.after)

    @property
    def evidence(self) -> np.ndarray:
        """How far the instrument's logit falls when the instrument is removed, (n,)."""
        return self.own(self.before - self.without)

    @property
    def logit_share(self) -> np.ndarray:
        """The instrument's logit before the edit, times the share of the mix's level that was removed, (n,)."""
        return self.own(self.before) * self.energy / self.level


def run_interventions(
    networks: Mapping[str, torch.nn.Module],
    clips: Iterable[Clip],
    edits: Mapping[str, Edit],
    composite: str = "epsilon_plus",
    progress: bool = True,
) -> dict[str, dict[str, Outcomes]]:
    """Apply each edit to each clip and ask each network before and after.

    Parameters
    ----------
    networks : by name
    clips : iterable of Clip
    edits : by name, functions of a clip that return its stem anew, float32 (220_500,)
    composite : of :func:`instr_lib.relevance`
    progress : bool

    Returns
    -------
    dict of dict of Outcomes, by network and edit

    Raises
    ------
    InputError
        If there are no clips, networks or edits, or an edit returns something else than a stem.
    """
    rows = {network: {edit: [] for edit in edits} for network in networks}
    for clip in tqdm(clips, "interventions", disable=not progress):
        edited = [clip.rest + _edited_stem(clip, name, edit) for name, edit in edits.items()]
        mels = log_mel(np.stack([clip.rest + clip.stem, clip.rest, *edited]))
        power = 10 ** (mels / 10)
        removed = np.where(mels[0] > FLOOR_DB, 1 - power[2:] / power[0], 0).clip(min=0)  # (edits, 128, 431)
        level = mels[0] - FLOOR_DB
        energy = (removed * level).sum((1, 2))
        for network, model in networks.items():
            before, without, *after = logits(model, mels)
            heatmap = relevance(model, mels[:1], [clip.instrument], composite)[0]
            on_removed = (removed * heatmap).sum((1, 2))
            for n, edit in enumerate(edits):
                values = (clip.instrument, before, after[n], without, on_removed[n], energy[n], level.sum())
                rows[network][edit].append(values)
    if not rows or not all(by_edit and all(by_edit.values()) for by_edit in rows.values()):
        raise InputError("there are no clips, networks or edits: give at least one of each")
    return {
        network: {edit: Outcomes(*map(np.array, zip(*outcomes, strict=True))) for edit, outcomes in by_edit.items()}
        for network, by_edit in rows.items()
    }


def _edited_stem(clip: Clip, name: str, edit: Edit) -> np.ndarray:
    stem = np.asarray(edit(clip))
    if stem.shape != (CLIP_SAMPLES,) or not np.isfinite(stem).all():
        raise InputError(
            f"the edit {name!r} gave shape {stem.shape} or NaN: it must return a stem of {CLIP_SAMPLES} finite samples"
        )
    return stem.astype(np.float32, copy=False)


def sweep(
    networks: Mapping[str, torch.nn.Module], clips: Iterable[Clip], levels: Sequence[float], progress: bool = True
) -> dict[str, np.ndarray]:
    """Whether each network detects the instrument at each level (dB relative to all others): bool (clips, levels)."""
    rows = {network: [] for network in networks}
    for clip in tqdm(clips, "levels", disable=not progress):
        mels = log_mel(clip.rest + np.stack([set_level(clip, level) for level in levels]))
        for network, model in networks.items():
            rows[network].append(logits(model, mels)[:, clip.instrument] > 0)
    return {network: np.array(detected) for network, detected in rows.items()}


def relative_logit_drop(outcomes: Outcomes, minus: Outcomes | None = None) -> Interval:
    """The share of the evidence for the instrument that an edit takes away.

    The sum over clips of the logit's drop, divided by the sum of its drop when the instrument is removed: 0 if nothing
    changes, 1 if the edit is as good as removing the instrument, negative if the logit rises. With ``minus``, how much
    larger the share is than that of another edit of the same clips.
    """
    drops = outcomes.drop if minus is None else outcomes.drop - minus.drop
    return bootstrap_ratio(drops, outcomes.evidence)


def logit_gain(outcomes: Outcomes, others: Sequence[str | int]) -> Interval:
    """How far the logit of another instrument rises, in logits. ``others``: that instrument, for each of the n clips."""
    rows, indices = np.arange(len(outcomes.after)), [instrument_index(other) for other in others]
    return bootstrap_mean((outcomes.after - outcomes.before)[rows, indices])


def detection_rate(outcomes: Outcomes, before: bool = False) -> Interval:
    """The share of clips in which the instrument is detected after the edit, or before it."""
    return bootstrap_mean(outcomes.own(outcomes.before if before else outcomes.after) > 0)


def drop_correlation(outcomes: Outcomes, by: str = "relevance") -> Interval:
    """How well relevance, energy, or another field predicts in which clips the logit drops most.

    Spearman's rank correlation over clips; NaN where one of the two is constant. ``by`` is ``"relevance"``, ``"energy"`` or
    ``"logit_share"``.
    """
    predictor, drop = getattr(outcomes, by), outcomes.drop
    return bootstrap_statistic(lambda rows: spearman(predictor[rows], drop[rows]), len(drop))


def correlation_gap(outcomes: Mapping[str, Outcomes], by: str, least: float = 0.0) -> Interval:
    """How much better relevance predicts the drop than another predictor does, on average over edits of the same clips.

    The difference of the two values of :func:`drop_correlation`. Edits of the same clips are not independent, so whole
    clips are drawn, each with all its edits.

    Parameters
    ----------
    outcomes : by edit, of the same clips in the same order
    by : "energy" or "logit_share"
    least : float
        Edits with a relative logit drop below this are left out: where nothing falls there is nothing to predict.
    """
    chosen = [values for values in outcomes.values() if relative_logit_drop(values).value > least]
    if not chosen:
        return Interval(np.nan, np.nan, np.nan)

    def gap(rows):
        return np.mean(
            [
                spearman(values.relevance[rows], values.drop[rows]) - spearman(getattr(values, by)[rows], values.drop[rows])
                for values in chosen
            ]
        )

    return bootstrap_statistic(gap, len(chosen[0].drop))


def detection_threshold_db(levels: Sequence[float], detected: np.ndarray) -> Interval:
    """The level at which the instrument is detected in half of the clips.

    Parameters
    ----------
    levels : dB, descending
    detected : bool (clips, levels), from :func:`sweep`

    Returns
    -------
    Interval
        Interpolated between levels. ``-inf`` if more than half are still detected at the lowest level, NaN if not even
        half are at the highest.
    """
    levels = np.asarray(levels, float)

    def threshold(rate):
        if rate[0] < 0.5:
            return np.nan
        below = np.flatnonzero(rate < 0.5)
        if not len(below):
            return -np.inf
        n = below[0]
        return levels[n] + (levels[n - 1] - levels[n]) * (0.5 - rate[n]) / (rate[n - 1] - rate[n])

    # Sorted by hand: a percentile interpolates between thresholds, and that of -inf and a number is NaN.
    resampled = np.sort([threshold(detected[rows].mean(0)) for rows in resampled_rows(len(detected))])
    ends = resampled[[int(0.025 * len(resampled)), int(0.975 * len(resampled))]]
    return Interval(float(threshold(detected.mean(0))), *map(float, ends))


def summary(
    outcomes: Mapping[str, Mapping[str, Outcomes]], controls: Mapping[str, str] | None = None
) -> dict[str, dict[str, dict[str, Interval]]]:
    """The measures that chapter 8 stores, by network, edit and name.

    ``relative_logit_drop``, ``detection_rate``, ``detection_rate_before``; ``relevance``, ``energy`` and ``logit_share``,
    how well each predicts the drop; and, for edits named in ``controls``, ``beyond_control``: how much larger the relative
    drop is than that of the control edit named there.
    """
    table = {}
    for network, by_edit in outcomes.items():
        table[network] = {}
        for edit, values in by_edit.items():
            row = {
                "relative_logit_drop": relative_logit_drop(values),
                "detection_rate": detection_rate(values),
                "detection_rate_before": detection_rate(values, before=True),
                "relevance": drop_correlation(values, "relevance"),
                "energy": drop_correlation(values, "energy"),
                "logit_share": drop_correlation(values, "logit_share"),
            }
            if edit in (controls or {}):
                row["beyond_control"] = relative_logit_drop(values, minus=by_edit[controls[edit]])
            table[network][edit] = row
    return table
