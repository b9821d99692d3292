from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliodor.errors import InputError
from heliodor.teach.evals.text import (
    anls,
    character_error_rate,
    edit_distance,
    exact_match,
    normalise,
    vqa_accuracy,
)

short_text = st.text("abc é日", max_size=9)


def full_table_distance(first: str, second: str) -> int:
    """The textbook table, every cell from its three neighbours."""
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    table[:, 0] = np.arange(len(first) + 1)
    table[0, :] = np.arange(len(second) + 1)
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            table[i, j] = min(
                table[i - 1, j] + 1,
                table[i, j - 1] + 1,
                table[i - 1, j - 1] + (first[i - 1] != second[j - 1]),
            )
    return int(table[-1, -1])


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ("kitten", "sitting", 3),
        ("saturday", "sunday", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("same", "same", 0),
        ("flaw", "lawn", 2),
        ("Straße", "Strasse", 2),
    ],
)
def test_known_distances(first: str, second: str, distance: int):
    assert edit_distance(first, second) == distance


@given(short_text, short_text)
def test_the_distance_equals_the_full_table(first: str, second: str):
    assert edit_distance(first, second) == full_table_distance(first, second)


@given(short_text, short_text, short_text)
def test_the_distance_is_a_metric(a: str, b: str, c: str):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


def test_the_error_rate_sums_edits_and_lengths_before_it_divides():
    # 1 edit in 4 characters and 2 in 8: the mean of the rates would be the same, so add an empty
    assert character_error_rate(["abXd", "abcdefXX"], ["abcd", "abcdefgh"]) == 3 / 12
    assert character_error_rate(["", "x"], ["abcdefghi", "x"]) == 9 / 10
    assert character_error_rate(["hello  world\n"], ["hello world"]) == 0
    assert character_error_rate(["Hello"], ["hello"]) == 1 / 5
    assert character_error_rate(["aaaa"], ["a"]) == 3


@given(st.lists(st.tuples(short_text, short_text), min_size=1, max_size=6))
def test_the_error_rate_equals_the_reference_over_a_corpus(pairs: list[tuple[str, str]]):
    given_, wanted = zip(*pairs, strict=True)
    squeezed = [(" ".join(a.split()), " ".join(b.split())) for a, b in pairs]
    length = sum(len(b) for _, b in squeezed)
    if length == 0:
        with pytest.raises(InputError, match="no character"):
            character_error_rate(given_, wanted)
    else:
        edits = sum(full_table_distance(a, b) for a, b in squeezed)
        assert character_error_rate(given_, wanted) == edits / length


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="2 predictions came for 1 references"):
        character_error_rate(["a", "b"], ["a"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Dog.", "dog"),
        ("an apple!", "apple"),
        ("a", "a"),
        ("$3.50", "$3.50"),
        ("12.50.", "12.50"),
        ("61%", "61%"),
        ("-4", "-4"),
        ("9:30", "9:30"),
        ("Straight ahead", "straight ahead"),
        ('"Ben\'s Toys"', "ben's toys"),
        ("?", "?"),
        ("", ""),
    ],
)
def test_normalising_keeps_what_an_answer_means(text: str, expected: str):
    assert normalise(text) == expected


def test_an_exact_match_is_of_normalised_text_with_any_answer():
    assert exact_match("The museum.", "Museum") == 1.0
    assert exact_match("museum", ["castle", "Museum"]) == 1.0
    assert exact_match("museums", "museum") == 0.0
    assert exact_match("$3.50", "$3.5") == 0.0


def test_similarity_is_one_minus_the_relative_distance_cut_at_the_threshold():
    assert anls("Hello", "hello") == 1.0
    assert anls("abcd", "abce") == 0.75
    assert anls("abcd", "abxy") == 0.5
    assert anls("abcd", "axyz") == 0.0
    assert anls("abcd", ["axyz", "abce"]) == 0.75
    assert anls("abcd", "abce", threshold=0.8) == 0.0
    assert anls("", "") == 1.0


@pytest.mark.parametrize(
    ("matches", "score"), [(0, 0.0), (1, 1 / 3), (2, 2 / 3), (3, 1.0), (7, 1.0)]
)
def test_three_annotators_who_agree_make_an_answer_right(matches: int, score: float):
    answers = ["two"] * matches + ["three"] * (10 - matches)
    assert vqa_accuracy("Two", answers) == pytest.approx(score)


def test_a_single_answer_is_right_or_wrong():
    assert vqa_accuracy("two", ["Two"]) == 1.0
    assert vqa_accuracy("two", ["three"]) == 0.0


@pytest.mark.parametrize("measure", [exact_match, anls, vqa_accuracy])
def test_no_reference_is_an_error(measure):
    with pytest.raises(InputError, match="no reference answer"):
        measure("x", [])
