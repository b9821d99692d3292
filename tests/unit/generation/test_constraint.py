"""Choices and repeats: whatever the logits, one of the choices; repeats end the row."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.generation.grammars import EOS, allowed, run

from heliodor.errors import InputError
from heliodor.generation import ChoiceGrammar, Finish, RepeatStop


@given(seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_any_logits_give_exactly_one_choice(seed: int):
    choices = ((10,), (10, 11), (12, 13, 14))
    row = run(ChoiceGrammar(choices=choices, eos=EOS), seed=seed)
    assert row.tokens[:-1] in choices
    assert row.tokens[-1] == EOS
    assert row.finish is Finish.STOP


def test_a_choice_that_begins_another_may_end_or_go_on():
    rule = ChoiceGrammar(choices=((10,), (10, 11)), eos=EOS)
    assert allowed(rule, []) == [10]
    assert allowed(rule, [10]) == [EOS, 11]
    assert allowed(rule, [10, 11]) == [EOS]


@pytest.mark.parametrize(
    ("tokens", "end", "surplus"),
    [
        ([5, 5, 5, 5], 3, 2),
        ([7, 5, 6, 5, 6, 5, 6, 5], 7, 4),
        ([1, 2, 3, 1, 2, 3, 1, 2, 4, 1, 2, 3, 1, 2, 3, 1, 2, 3], 18, 6),
        ([5, 5, 6, 6, 5, 5, 6, 6], None, 0),
        ([1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5], None, 0),  # longer than looked for
    ],
)
def test_repeats_end_the_text_at_the_third_copy(tokens: list[int], end: int | None, surplus: int):
    walk = RepeatStop(times=3, longest=4).start()
    for count, token in enumerate(tokens, start=1):
        walk.push(token)
        assert walk.done == (count == end)
        if walk.done:
            break
    assert walk.surplus == surplus
    assert walk.allowed() is None


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(2, 4), st.integers(1, 5))
@settings(max_examples=300, deadline=None)
def test_repeats_are_found_where_slices_are_equal(tokens: list[int], times: int, longest: int):
    def repeats(seen: list[int]) -> bool:
        return any(
            len(seen) >= n * times and seen[-n * times :] == seen[-n:] * times
            for n in range(1, longest + 1)
        )

    walk = RepeatStop(times=times, longest=longest).start()
    for count, token in enumerate(tokens, start=1):
        walk.push(token)
        assert walk.done == repeats(tokens[:count])
        if walk.done:
            break


def test_runs_of_one_token_pass_when_only_longer_phrases_count():
    walk = RepeatStop(times=3, longest=4, shortest=2).start()
    for token in [5] * 5:
        walk.push(token)
    assert not walk.done


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("choices", "message"),
    [((), r"at least one"), (((10,), ()), r"none of them empty"), (((10, EOS),), r"choice 0")],
)
def test_choices_that_cannot_work_are_refused(choices: tuple[tuple[int, ...], ...], message: str):
    with pytest.raises(InputError, match=message):
        ChoiceGrammar(choices=choices, eos=EOS)


@pytest.mark.parametrize("bad", [{"times": 1}, {"shortest": 0}, {"longest": 2, "shortest": 3}])
def test_repeats_that_cannot_work_are_refused(bad: dict[str, int]):
    with pytest.raises(InputError, match=r"needs times >= 2 and 1 <= shortest <= longest"):
        RepeatStop(**bad)
