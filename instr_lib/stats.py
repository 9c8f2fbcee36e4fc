"""Estimates with confidence intervals. No torch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval; numbers or arrays."""

    value: np.ndarray | float
    low: np.ndarray | float
    high: np.ndarray | float


def bootstrap(values: np.ndarray, groups: np.ndarray, n_resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean with a 95 % percentile interval over clips, all pairs of a clip together; NaN is left out.

    Parameters
    ----------
    values : float (n,)
    groups : int (n,), the clip of each
    """
    known = ~np.isnan(values)
    if not known.any():
        return Interval(float("nan"), float("nan"), float("nan"))
    clips, which = np.unique(groups[known], return_inverse=True)
    sums, counts = np.bincount(which, values[known]), np.bincount(which)
    draws = np.random.default_rng(seed).multinomial(len(clips), np.full(len(clips), 1 / len(clips)), n_resamples)
    means = (draws @ sums) / (draws @ counts)
    return Interval(float(values[known].mean()), *np.percentile(means, (2.5, 97.5)).tolist())


def mean(values: np.ndarray) -> Interval:
    """Mean with a 95 % bootstrap interval over clips."""
    return bootstrap(np.asarray(values, float), np.arange(len(values)))


def _draws(n: int, n_resamples: int = 1000) -> np.ndarray:
    return np.random.default_rng(0).integers(0, n, (n_resamples, n))


def _ratio_of_sums(above: np.ndarray, below: np.ndarray) -> Interval:
    draws = _draws(len(above))
    ends = np.percentile(above[draws].sum(1) / below[draws].sum(1), (2.5, 97.5))
    return Interval(float(above.sum() / below.sum()), *map(float, ends))


def negative(found: Interval) -> Interval:
    """The same estimate with the other sign."""
    return Interval(-found.value, -found.high, -found.low)


def apart(one: Interval, other: Interval) -> Interval:
    """Difference of two estimates from different clips; the half-widths of their intervals add in squares."""
    difference = one.value - other.value
    down = math.hypot(one.value - one.low, other.high - other.value)
    up = math.hypot(one.high - one.value, other.value - other.low)
    return Interval(difference, difference - down, difference + up)


def verdict(effect: Interval, least: float = 0.0) -> str:
    """``"supported"`` if all of the interval is above ``least``, ``"refuted"`` if all is below, else ``"undecided"``."""
    if effect.low > least:
        return "supported"
    return "refuted" if effect.high < least else "undecided"
