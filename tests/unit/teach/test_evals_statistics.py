"""Figures and their intervals, against numpy on samples drawn outright and against theory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heliodor.errors import InputError
from heliodor.teach.evals.statistics import Macro, Ratio, interval, samples

RIGHT = [1.0] * 70 + [0.0] * 30


def test_a_ratio_is_sum_over_sum_not_a_mean_of_ratios():
    assert Ratio.of([(1, 2), (3, 4), (0, 10)]).value == pytest.approx(4 / 16)


def test_the_interval_of_a_share_is_that_of_the_binomial():
    low, high = interval(Ratio.mean(RIGHT), seed=0, times=20_000)
    error = 1.96 * math.sqrt(0.7 * 0.3 / 100)
    assert low == pytest.approx(0.7 - error, abs=0.011)  # shares move in steps of 0.01
    assert high == pytest.approx(0.7 + error, abs=0.011)


def test_draws_are_the_figure_over_examples_drawn_with_repetition():
    pairs = [(1.0, 2.0), (0.0, 1.0), (5.0, 6.0)]
    drawn = Ratio.of(pairs).draws(np.random.default_rng(3), 50)
    for value, times in zip(drawn, samples(np.random.default_rng(3), 3, 50), strict=True):
        again = [pairs[n] for n in range(3) for _ in range(int(times[n]))]
        assert len(again) == 3
        assert value == pytest.approx(sum(t for t, _ in again) / sum(b for _, b in again))


def test_the_same_seed_gives_the_same_interval():
    assert interval(Ratio.mean(RIGHT), seed=5) == interval(Ratio.mean(RIGHT), seed=5)
    assert interval(Ratio.mean(RIGHT), seed=5) != interval(Ratio.mean(RIGHT), seed=6)


def test_a_mean_of_figures_weighs_them_alike_whatever_their_size():
    both = Macro(parts=(Ratio.mean(RIGHT), Ratio.mean([0.0] * 10)))
    assert both.value == pytest.approx(0.35)
    low, high = interval(both, seed=0)
    one_low, one_high = interval(Ratio.mean(RIGHT), seed=0)
    assert (low, high) == (pytest.approx(one_low / 2), pytest.approx(one_high / 2))


def test_a_figure_that_never_varies_has_no_width():
    assert interval(Ratio.mean([1.0] * 20), seed=0) == (1.0, 1.0)


def test_resamples_with_nothing_to_divide_by_are_left_out():
    low, high = interval(Ratio.of([(1.0, 2.0), (0.0, 0.0)]), seed=0)
    assert (low, high) == (0.5, 0.5)


@pytest.mark.parametrize("pairs", [[], [(0.0, 0.0)]])
def test_nothing_to_divide_by_is_an_error(pairs):
    with pytest.raises(InputError, match="nothing to divide by"):
        Ratio.of(pairs)
