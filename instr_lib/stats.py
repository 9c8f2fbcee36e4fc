"""Estimates with confidence intervals by the bootstrap (Efron & Tibshirani 1993). No torch.

Conventions: clips are resampled with replacement, all values of a clip together; an interval is the percentile
interval, of 95 % by default; undefined values are NaN. Chapters 4 and 7 to 9 use all of it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval; numbers or arrays.

    ``-interval`` is the interval of the negative. ``a - b`` is the difference of two estimates from *different* clips:
    the half-widths of their intervals add in squares.
    """

    value: np.ndarray | float
    low: np.ndarray | float
    high: np.ndarray | float

    @classmethod
    def from_json(cls, stored: Sequence | Mapping) -> Interval:
        """An interval as a JSON file holds it, a list of three or a dictionary; ``None`` stands for NaN."""
        ends = [stored[name] for name in cls._fields] if isinstance(stored, Mapping) else stored
        return cls(*(math.nan if end is None else float(end) for end in ends))

    def __neg__(self) -> Interval:
        return Interval(-self.value, -self.high, -self.low)

    def __sub__(self, other: Interval) -> Interval:
        difference = self.value - other.value
        down = math.hypot(self.value - self.low, other.high - other.value)
        up = math.hypot(self.high - self.value, other.value - other.low)
        return Interval(difference, difference - down, difference + up)

    def text(self, digits: int = 2, to: str = "–") -> str:
        """For tables and sentences: ``"0.74 (0.72–0.76)"``, or a dash if the estimate is NaN."""
        value, low, high = (f"{round(float(end), digits) + 0.0:.{digits}f}" for end in self)  # + 0.0: never "-0.00"
        return "–" if math.isnan(self.value) else f"{value} ({low}{to}{high})"


def resampled_counts(n: int, n_resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """How often each of n clips is in each resample, int (n_resamples, n): for statistics that are sums."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_resamples)


def resampled_rows(n: int, n_resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Which clips are in each resample, int (n_resamples, n): for any statistic."""
    return np.random.default_rng(seed).integers(0, n, (n_resamples, n))


def percentile_interval(value, resampled: np.ndarray, level: float = 0.95) -> Interval:
    """An estimate, and the percentiles over the first axis of its resampled values (n_resamples, ...); NaN is ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where nothing is defined the answer is NaN
        low, high = np.nanpercentile(resampled, (50 * (1 - level), 50 * (1 + level)), axis=0)
    return Interval(value, low, high) if np.ndim(low) else Interval(float(value), float(low), float(high))


def bootstrap(values: np.ndarray, groups: np.ndarray, n_resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean with its interval over clips, all values of a clip resampled together; NaN is ignored.

    Parameters
    ----------
    values : float (n,)
    groups : int (n,), the clip that each value belongs to
    """
    known = ~np.isnan(values)
    if not known.any():
        return Interval(math.nan, math.nan, math.nan)
    clips, rows = np.unique(groups[known], return_inverse=True)
    sums, counts = np.bincount(rows, values[known]), np.bincount(rows)
    resamples = resampled_counts(len(clips), n_resamples, seed)
    return percentile_interval(values[known].mean(), (resamples @ sums) / (resamples @ counts))


def bootstrap_mean(values: np.ndarray) -> Interval:
    """Mean of values (n,), one per clip, with its interval."""
    return bootstrap(np.asarray(values, float), np.arange(len(values)))


def bootstrap_statistic(statistic: Callable[[np.ndarray], float], n: int) -> Interval:
    """Any statistic of n clips with its interval: ``statistic(rows)`` computes it from a resample of the rows 0 … n - 1."""
    return percentile_interval(statistic(np.arange(n)), np.array([statistic(rows) for rows in resampled_rows(n)]))


def bootstrap_ratio(numerator: np.ndarray, denominator: np.ndarray) -> Interval:
    """Sum over clips of one quantity (n,) as a share of the sum of another (n,), with its interval."""
    rows = resampled_rows(len(numerator))
    ratios = numerator[rows].sum(1) / denominator[rows].sum(1)
    return percentile_interval(numerator.sum() / denominator.sum(), ratios)


def verdict(effect: Interval, least: float = 0.0) -> str:
    """``"supported"`` if the whole interval is above ``least``, ``"refuted"`` if it is below, else ``"undecided"``."""
    if effect.low > least:
        return "supported"
    return "refuted" if effect.high < least else "undecided"


def p_value(effect: Interval, least: float = 0.0) -> float:
    """Two-sided p of the hypothesis that an effect equals ``least``, from its 95 % interval, taken as that of a normal."""
    error = (effect.high - effect.low) / (2 * 1.959964)
    return math.erfc(abs(effect.value - least) / error / math.sqrt(2)) if error else float(effect.value == least)


def holm(p: Sequence[float]) -> np.ndarray:
    """p values (n,) corrected for being n (Holm 1979, Scandinavian Journal of Statistics 6, 65-70). Chapter 8 uses it."""
    order = np.argsort(p)
    corrected = np.maximum.accumulate(np.asarray(p, float)[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected[np.argsort(order)]
