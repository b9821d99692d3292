"""Guesses by lookup: what follows the longest n-gram that came before, and when to hold back."""

from __future__ import annotations

from heliodor.generation import PromptLookup


def test_the_longest_and_latest_match_is_continued() -> None:
    lookup = PromptLookup(num_tokens=6, min_ngram=1).start([1, 2, 3, 9, 2, 3, 7, 5, 2])
    lookup.push(3)
    assert lookup.guess(3) == [7, 5, 2]  # "2 3" came twice; the later one counts
    assert lookup.guess(2) == [7, 5]
    long = PromptLookup(num_tokens=6).start([1, 2, 3, 9, 2, 3, 7, 1, 2, 3])
    assert long.guess(2) == [9, 2]  # "1 2 3" is longer than "2 3"


def test_nothing_is_guessed_of_what_is_new() -> None:
    lookup = PromptLookup().start([1, 2, 3])
    assert lookup.guess(9) == []
    assert PromptLookup().start().guess(9) == []
    lookup.push(2)
    assert lookup.guess(9) == []  # one token is too short an n-gram
    lookup.push(3)
    assert lookup.guess(9) == [2, 3]
    assert lookup.guess(0) == []
    assert lookup.guess(-1) == []


def test_guesses_grow_where_they_hold_and_shrink_where_they_fail() -> None:
    lookup = PromptLookup(num_tokens=8).start([*range(20), 0, 1])
    assert len(lookup.guess(99)) == 4
    lookup.learn(4, 4)
    assert len(lookup.guess(99)) == 8
    lookup.learn(8, 8)
    assert len(lookup.guess(99)) == 8
    lookup.learn(8, 3)
    assert len(lookup.guess(99)) == 3
    lookup.learn(3, 1)
    assert len(lookup.guess(99)) == 1


def test_chances_are_let_go_after_misses() -> None:
    lookup = PromptLookup(num_tokens=8).start([*range(20), 0, 1])

    def silent() -> int:
        count = 0
        while not lookup.guess(99):
            count += 1
        return count

    waited: list[int] = []
    for _ in range(8):
        lookup.learn(1, 0)
        waited.append(silent())
    assert waited == [1, 3, 7, 15, 31, 63, 63, 63]
    lookup.learn(1, 1)
    assert silent() == 0
