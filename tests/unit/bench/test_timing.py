from __future__ import annotations

import pytest

from heliodor.bench.timing import Spread, median, ratio, turns
from heliodor.errors import InputError


def test_the_median_of_an_even_number_lies_between_the_two():
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5
    assert median([9.0, 1.0, 2.0]) == 2.0


def test_a_ratio_is_taken_within_each_turn():
    """The machine was twice as slow in the second turn, for both: the ratio does not move."""
    found = ratio([3.0, 6.0, 4.0], [1.0, 2.0, 1.0])
    assert found == Spread(middle=3.0, low=3.0, high=4.0)


def test_a_ratio_of_medians_would_differ():
    assert ratio([1.0, 10.0, 6.0], [1.0, 2.0, 3.0]).middle == 2.0
    assert median([1.0, 10.0, 6.0]) / median([1.0, 2.0, 3.0]) == 3.0


@pytest.mark.parametrize(("over", "under"), [([1.0], [1.0, 2.0]), ([], [])])
def test_turns_that_do_not_pair_up_are_refused(over, under):
    with pytest.raises(InputError, match="turn"):
        ratio(over, under)


def test_no_turn_has_no_median():
    with pytest.raises(InputError, match="at least one repetition"):
        median([])


def test_a_scaled_spread_keeps_its_order():
    assert Spread(middle=2.0, low=1.0, high=4.0).scaled(100.0) == Spread(
        middle=200.0, low=100.0, high=400.0
    )


def test_every_engine_has_its_turn_and_none_is_always_first():
    order = list(turns(["a", "b", "c"], 3))
    assert [engine for turn, engine in order if turn == 0] == ["a", "b", "c"]
    assert [engine for turn, engine in order if turn == 1] == ["b", "c", "a"]
    assert [engine for turn, engine in order if turn == 2] == ["c", "a", "b"]


def test_no_engines_have_no_turns():
    assert list(turns([], 4)) == []
