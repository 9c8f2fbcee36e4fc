"""Change the music, ask the network again, and measure the difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from tqdm.auto import tqdm

from ..constants import CLIP_SAMPLES, FLOOR_DB
from ..data.spectrogram import log_mel
from ..errors import InputError
from ..explain.attribution import relevance
from ..music.instruments import instrument_index
from ..networks.evaluation import logits
from ..stats import Interval, bootstrap_mean, bootstrap_ratio, bootstrap_statistic, resampled_rows
from .edits import Change, set_level
from .stems import Clip


class Outcomes(NamedTuple):
    """What a network says about an instrument before and after a change, clip by clip.

    Attributes
    ----------
    instrument : int (n,), whom each clip is about
    before, after, without : float32 (n, 12)
        Logits for the clip, for the changed clip, and for the clip in which the instrument does not play at all.
    relevance, energy : float (n,)
        What of the instrument's relevance, and of the level above silence, lay on power that the change removed.
    """

    instrument: np.ndarray
    before: np.ndarray
    after: np.ndarray
    without: np.ndarray
    relevance: np.ndarray
    energy: np.ndarray

    def own(self, logits: np.ndarray) -> np.ndarray:
        """Of logits (n, 12) those of the instrument that each clip is about, (n,)."""
        return logits[np.arange(len(logits)), self.instrument]

    @property
    def drop(self) -> np.ndarray:
        """By how much the instrument's logit fell, (n,)."""
        return self.own(self.before - self.after)

    @property
    def evidence(self) -> np.ndarray:
        """By how much the logit falls if the instrument is taken out altogether, (n,)."""
        return self.own(self.before - self.without)


def run_interventions(
    networks: Mapping[str, torch.nn.Module],
    clips: Iterable[Clip],
    changes: Mapping[str, Change],
    progress: str = "",
    composite: str = "epsilon_plus",
) -> dict[str, dict[str, Outcomes]]:
    """Play each clip with each change, and ask each network about the instrument.

    Parameters
    ----------
    networks : by name
    clips : each about an instrument
    changes : by name
    progress : what to write beside the progress bar; without it there is none
    composite : of :func:`instr_lib.relevance`

    Returns
    -------
    Answers by network and change

    Raises
    ------
    InputError
        If there are no clips, or a change gives something that is no stem.
    """
    rows = {network: {change: [] for change in changes} for network in networks}
    for clip in tqdm(clips, progress, disable=not progress):
        mels = log_mel(
            np.stack([clip.rest + clip.stem, clip.rest, *(clip.rest + _stem(clip, *c) for c in changes.items())])
        )
        power = 10 ** (mels / 10)
        removed = np.where(mels[0] > FLOOR_DB, 1 - power[2:] / power[0], 0).clip(min=0)  # (changes, 128, 431)
        energy = (removed * (mels[0] - FLOOR_DB)).sum((1, 2))
        for network, model in networks.items():
            before, without, *after = logits(model, mels)
            heat = relevance(model, mels[:1], [clip.instrument], composite)[0]
            moved = (removed * heat).sum((1, 2))
            for n, change in enumerate(changes):
                rows[network][change].append((clip.instrument, before, after[n], without, moved[n], energy[n]))
    if not all(found for by_change in rows.values() for found in by_change.values()):
        raise InputError("there are no clips, networks or changes to ask about")
    return {
        network: {change: Outcomes(*map(np.array, zip(*found, strict=True))) for change, found in by_change.items()}
        for network, by_change in rows.items()
    }


def _stem(clip: Clip, name: str, change: Change) -> np.ndarray:
    stem = np.asarray(change(clip))
    if stem.shape != (CLIP_SAMPLES,) or not np.isfinite(stem).all():
        raise InputError(f"the change {name!r} gave {stem.shape} or NaN, not a stem of {CLIP_SAMPLES} samples")
    return stem.astype(np.float32, copy=False)


def sweep(
    networks: Mapping[str, torch.nn.Module], clips: Iterable[Clip], levels: Sequence[float], progress: str = ""
) -> dict[str, np.ndarray]:
    """Whether each network recognises the instrument at each level (dB) against all others, bool (clips, levels)."""
    rows = {network: [] for network in networks}
    for clip in tqdm(clips, progress, disable=not progress):
        mels = log_mel(clip.rest + np.stack([set_level(clip, level) for level in levels]))
        for network, model in networks.items():
            rows[network].append(logits(model, mels)[:, clip.instrument] > 0)
    return {network: np.array(found) for network, found in rows.items()}


def relative_logit_drop(answers: Outcomes, minus: Outcomes | None = None) -> Interval:
    """Which share of the evidence for the instrument a change takes away, with a 95 % bootstrap interval over clips.

    The sum of drops as a share of the sum of drops if the instrument is taken out altogether: 0 if nothing changes, 1 if it
    is as good as gone, negative if it is heard better. With ``minus``, how much more than another change of the same clips.
    """
    drops = answers.drop if minus is None else answers.drop - minus.drop
    return bootstrap_ratio(drops, answers.evidence)


def logit_gain(answers: Outcomes, others: Sequence[str | int]) -> Interval:
    """How far the logit of another instrument rises, one a clip, in logits, with a 95 % bootstrap interval over clips."""
    rows, indices = np.arange(len(answers.after)), [instrument_index(other) for other in others]
    return bootstrap_mean((answers.after - answers.before)[rows, indices])


def detection_rate(answers: Outcomes, before: bool = False) -> Interval:
    """In which share of the clips the instrument is still recognised, with a 95 % bootstrap interval over clips."""
    return bootstrap_mean(answers.own(answers.before if before else answers.after) > 0)


def drop_correlation(answers: Outcomes, by: str = "relevance") -> Interval:
    """How well relevance, or energy, on what was removed tells in which clips the logit falls most.

    Spearman's rank correlation over clips with a 95 % bootstrap interval; NaN where one of the two is the same everywhere.
    """
    told, drop = getattr(answers, by), answers.drop

    def spearman(rows):
        ranks = rankdata(told[rows]), rankdata(drop[rows])
        spread = np.std(ranks[0]) * np.std(ranks[1])
        return np.cov(*ranks, ddof=0)[0, 1] / spread if spread else np.nan

    return bootstrap_statistic(spearman, len(drop))


def detection_threshold_db(levels: Sequence[float], heard: np.ndarray) -> Interval:
    """The level at which half of the clips are still recognised, with a 95 % bootstrap interval over clips.

    Parameters
    ----------
    levels : dB, descending
    heard : bool (clips, levels)

    Returns
    -------
    Interval
        Interpolated between levels. ``-inf`` if at the lowest level more than half are recognised still, NaN if at the
        highest not even half are.
    """
    levels = np.asarray(levels, float)

    def half(rate):
        if rate[0] < 0.5:
            return np.nan
        under = np.flatnonzero(rate < 0.5)
        if not len(under):
            return -np.inf
        n = under[0]
        return levels[n] + (levels[n - 1] - levels[n]) * (0.5 - rate[n]) / (rate[n - 1] - rate[n])

    drawn = np.sort([half(heard[rows].mean(0)) for rows in resampled_rows(len(heard))])
    ends = drawn[[int(0.025 * len(drawn)), int(0.975 * len(drawn))]]
    return Interval(float(half(heard.mean(0))), *map(float, ends))


def summary(
    answers: Mapping[str, Mapping[str, Outcomes]], controls: Mapping[str, str] | None = None
) -> dict[str, dict[str, dict[str, Interval]]]:
    """All that is worth keeping of answers, by network and change.

    ``relative_logit_drop``, ``detection_rate`` and ``recognised before``, how well ``relevance`` and ``energy`` predicted the drop, and, for
    changes named in ``controls``, ``beyond control``: how much more is lost than by the change named there.
    """
    found = {}
    for network, by_change in answers.items():
        found[network] = {}
        for change, given in by_change.items():
            row = {
                "lost": relative_logit_drop(given),
                "recognised": detection_rate(given),
                "recognised before": detection_rate(given, before=True),
                "relevance": drop_correlation(given, "relevance"),
                "energy": drop_correlation(given, "energy"),
            }
            if change in (controls or {}):
                row["beyond control"] = relative_logit_drop(given, minus=by_change[controls[change]])
            found[network][change] = row
    return found
