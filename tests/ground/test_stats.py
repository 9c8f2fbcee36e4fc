"""Corrections for many tests. Intervals themselves are tested in the rooms that use them."""

import pytest

from instr_lib import stats
from instr_lib.stats import Interval


def test_p_values_from_intervals():
    assert stats.p_value(Interval(1.96, 0.0, 3.92)) == pytest.approx(0.05, abs=1e-3)
    assert stats.p_value(Interval(0.5, 0.3, 0.7), 0.5) == 1
    assert stats.p_value(Interval(-3.0, -4.0, -2.0)) == stats.p_value(Interval(3.0, 2.0, 4.0)) < 1e-8


def test_holms_correction_by_hand():
    """Sorted 0.01, 0.02, 0.04, times 3, 2, 1: 0.03, 0.04, 0.04."""
    assert stats.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert stats.holm([0.03, 0.025]) == pytest.approx([0.05, 0.05])  # never below the one before
    assert stats.holm([0.9, 0.8]).max() == 1
