"""Rows token by token, with a tokenizer of one character a token."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from tests.unit.teach import small

from heliodor.errors import DataError
from heliodor.teach.data.collate import Batch, collate, divide
from heliodor.teach.data.example import Example, Turn
from heliodor.text import Tokenizer


class Letters:
    """a is 101, b is 102, ...; <pad> 0, <eos> 1, <bos> 2, newline 10."""

    pad, eos = 0, 1

    def encode(self, text: str) -> list[int]:
        return [ord(letter) + 4 for letter in text]

    def spell(self, text: str) -> list[int]:
        return [1000 + ord(letter) for letter in text]

    def encode_prefix(self, prompt: str) -> list[int]:
        return [2, *self.encode(prompt), 10]

    def encode_suffix(self, text: str) -> list[int]:
        return [*self.encode(text), 1]


LETTERS = cast("Tokenizer", Letters())


def example(shade: int, *turns: tuple[str, str, str], side: int = 4) -> Example:
    image = np.full((side, side, 3), shade, np.uint8)
    return Example(image=image, turns=tuple(Turn(task=t, prompt=p, suffix=s) for t, p, s in turns))


def test_two_pictures_three_turns_token_by_token() -> None:
    examples = [
        example(7, ("ask", "ab", "cd"), ("detect", "a", "")),
        example(9, ("read", "", "abcd")),
    ]
    batch = collate(examples, LETTERS)
    (rows,) = batch.groups
    assert rows.tokens.tolist() == [
        [2, 101, 10, 1, 0, 0, 0],  # an empty answer is <eos> alone
        [2, 101, 102, 10, 103, 104, 1],
        [2, 10, 101, 102, 103, 104, 1],
    ]
    assert rows.prefix.tolist() == [3, 4, 2]
    assert rows.length.tolist() == [4, 7, 7]
    assert rows.image.tolist() == [0, 0, 1]
    assert rows.tasks == (("detect",), ("ask",), ("read",))
    assert batch.pixels.shape == (2, 4, 4, 3)
    assert [int(picture.unique()) for picture in batch.pixels] == [7, 9]


def test_turns_together_stand_behind_one_another_in_one_row() -> None:
    examples = [
        example(7, ("ask", "ab", "cd"), ("detect", "a", "")),
        example(9, ("read", "", "abcd")),
    ]
    (rows,) = collate(examples, LETTERS, together=True).groups
    assert rows.tokens.tolist() == [
        [2, 10, 101, 102, 103, 104, 1, 0, 0, 0, 0],
        [2, 101, 102, 10, 103, 104, 1, 2, 101, 10, 1],
    ]
    assert rows.turn.tolist() == [[0] * 7 + [-1] * 4, [0] * 7 + [1] * 4]
    assert rows.asked.int().tolist() == [[1, 1] + [0] * 9, [1] * 4 + [0] * 3 + [1] * 3 + [0]]
    assert rows.length.tolist() == [7, 11]
    assert rows.image.tolist() == [1, 0]
    assert rows.tasks == (("read",), ("ask", "detect"))


def test_groups_of_turns_together_are_as_many_turns_as_apart() -> None:
    examples = [example(i, ("ask", "", "a" * i), ("ask", "b", "a")) for i in range(6)]
    apart = collate(examples, LETTERS, group=4).groups
    joined = collate(examples, LETTERS, group=4, together=True).groups
    assert [len(rows.tasks) for rows in apart] == [4, 4, 4]
    assert [len(rows.tasks) for rows in joined] == [2, 2, 2]


def test_groups_rise_in_length_and_pad_only_to_their_own_longest() -> None:
    lengths = [5, 1, 4, 2, 3, 1]
    examples = [example(i, ("ask", "", "a" * n)) for i, n in enumerate(lengths)]
    batch = collate(examples, LETTERS, group=2)
    assert [rows.length.tolist() for rows in batch.groups] == [[4, 4], [5, 6], [7, 8]]
    assert [rows.tokens.shape[1] for rows in batch.groups] == [4, 6, 8]
    assert [rows.image.tolist() for rows in batch.groups] == [[1, 5], [3, 4], [2, 0]]


def test_rows_of_much_different_length_are_kept_apart() -> None:
    """Short readings beside pictures with eight questions: half of the tokens were padding."""
    short = [example(i, ("read", "", "ab")) for i in range(3)]
    long = [example(9, *(("ask", "x" * 20, "y" * 9) for _ in range(8))) for _ in range(2)]
    batch = collate([*short, *long], LETTERS, together=True, group=32)
    assert [tuple(rows.tokens.shape) for rows in batch.groups] == [(3, 5), (2, 256)]


def test_an_answer_may_be_spelled_and_ends_as_others_do() -> None:
    turns = [
        Turn(task="read", prompt="a", suffix="bcd", spelled=spelled) for spelled in (False, True)
    ]
    image = np.zeros((4, 4, 3), np.uint8)
    (rows,) = collate([Example(image=image, turns=tuple(turns))], LETTERS).groups
    assert rows.tokens.tolist() == [
        [2, 101, 10, 102, 103, 104, 1],
        [2, 101, 10, 1098, 1099, 1100, 1],
    ]
    (short,) = collate([Example(image=image, turns=(turns[1],))], LETTERS, longest=5).groups
    assert short.tokens.tolist() == [[2, 101, 10, 1098, 1099]]


def test_the_last_group_may_be_small() -> None:
    examples = [example(i, ("ask", "", "a")) for i in range(5)]
    assert [len(rows.tasks) for rows in collate(examples, LETTERS, group=2).groups] == [2, 2, 1]


def test_a_long_answer_loses_its_end_and_its_eos() -> None:
    examples = [example(0, ("ask", "ab", "cdefgh")), example(1, ("ask", "ab", "c"))]
    (rows,) = collate(examples, LETTERS, longest=6).groups
    assert rows.tokens.tolist() == [
        [2, 101, 102, 10, 103, 104],
        [2, 101, 102, 10, 103, 1],  # fits exactly
    ]
    assert rows.length.tolist() == [6, 6]


@pytest.mark.parametrize("longest", [4, 3])
def test_a_prompt_that_leaves_no_room_is_an_error(longest: int) -> None:
    with pytest.raises(DataError, match=f"a prompt of 4 tokens leaves no room .* in {longest}: 'a"):
        collate([example(0, ("ask", "ab", "c"))], LETTERS, longest=longest)


def test_a_batch_is_cut_between_pictures_at_half_its_tokens() -> None:
    """Five pictures with 8, 8, 16, 4 and 4 tokens with padding: two parts of 16 and of 24."""
    examples = [
        example(0, ("ask", "a", "bcde")),
        example(1, ("ask", "a", "bcde")),
        example(2, ("ask", "a", "bcde"), ("read", "a", "bcde")),
        example(3, ("read", "a", "")),
        example(4, ("caption", "a", "")),
    ]
    batch = collate(examples, LETTERS, group=2)
    first, second = divide(batch, 2)
    assert [int(picture.unique()) for picture in first.pixels] == [0, 1]
    assert [int(picture.unique()) for picture in second.pixels] == [2, 3, 4]
    assert (first.row_share, second.row_share) == pytest.approx((2 / 6, 4 / 6))

    def turns(part: Batch) -> list[tuple[int, str, list[int]]]:
        return sorted(
            (int(part.pixels[int(i)].unique()), task, row[: int(n)].tolist())
            for rows in part.groups
            for i, (task,), row, n in zip(
                rows.image, rows.tasks, rows.tokens, rows.length, strict=True
            )
        )

    assert sorted(turns(first) + turns(second)) == turns(batch)


def covered(shade: int, *turns: tuple[str, str, str], side: int = 4) -> Example:
    """A picture whose cover is its shade in each of two patches."""
    return replace(example(shade, *turns, side=side), cover=np.full((2, 3), shade, np.uint8))


def test_covers_are_kept_beside_the_pictures_that_have_one() -> None:
    turn = ("ask", "a", "b")
    batch = collate([covered(7, turn), example(8, turn), covered(9, turn)], LETTERS)
    assert batch.covered.tolist() == [0, 2]
    assert batch.cover.tolist() == [[[7] * 3] * 2, [[9] * 3] * 2]
    bare = collate([example(8, turn)], LETTERS)
    assert (bare.covered.tolist(), len(bare.cover)) == ([], 0)


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_a_cut_batch_keeps_covers_with_their_pictures(parts: int) -> None:
    """Seven pictures of rising length, three of them without a cover; one part has none."""
    examples = [
        (example if shade in (0, 3, 4) else covered)(shade, ("ask", "a", "b" * shade))
        for shade in range(7)
    ]
    batch = collate(examples, LETTERS, group=2)
    cut = divide(batch, parts)
    assert len(cut) > 1
    seen = 0
    for part in cut:
        shades = [int(picture.unique()) for picture in part.pixels]
        known = [shades[place] for place in part.covered.tolist()]
        assert known == [shade for shade in shades if shade not in (0, 3, 4)]
        assert [int(rows.unique()) for rows in part.cover] == known
        seen += len(known)
    assert seen == 4


@pytest.mark.parametrize("together", [False, True])
def test_a_picture_without_turns_has_a_cover_and_no_row(*, together: bool) -> None:
    examples = [covered(7, ("ask", "a", "b")), covered(8), covered(9, ("ask", "a", "bc"))]
    batch = collate(examples, LETTERS, together=together)
    assert sorted(i for rows in batch.groups for i in rows.image.tolist()) == [0, 2]
    assert batch.covered.tolist() == [0, 1, 2]
    cut = divide(batch, 2)
    assert sorted(int(c.unique()) for part in cut for c in part.cover) == [7, 8, 9]


def test_parts_know_their_shares_of_rows_and_of_covers() -> None:
    """Six pictures, two a part: two rows and a cover, two covers alone, and neither."""
    asked = ("ask", "a", "bc")
    told = [covered(1, asked, side=64), example(2, asked, side=64), covered(3, side=64)]
    rest = [covered(4, side=64), example(5, side=64), example(6, side=64)]
    first, second = divide(collate([*told, *rest], LETTERS, group=1), 3)
    shades = [[int(picture.unique()) for picture in part.pixels] for part in (first, second)]
    assert shades == [[1, 2], [3, 4]]
    assert (first.row_share, second.row_share) == (1.0, 0.0)
    assert (first.cover_share, second.cover_share) == pytest.approx((1 / 3, 2 / 3))
    assert (len(first.groups), second.groups) == (2, ())
    assert second.covered.tolist() == [0, 1]
    again = divide(second, 2)
    assert [part.cover_share for part in again] == pytest.approx([1 / 3, 1 / 3])
    assert [part.row_share for part in again] == [0.0, 0.0]


def test_nothing_to_learn_from_leaves_no_part() -> None:
    assert divide(collate([example(1), example(2)], LETTERS), 2) == []


def test_a_large_picture_weighs_more_than_its_words() -> None:
    """64 by 64 pixels count as 16 tokens: three such and one turn of 5 tokens are cut evenly."""
    examples = [example(0, ("ask", "a", "b"), side=64), *(example(i, side=64) for i in (1, 2, 3))]
    examples[3] = example(3, ("ask", "a", "b"), side=64)
    cut = divide(collate(examples, LETTERS), 2)
    assert [len(part.pixels) for part in cut] == [2, 2]


def test_a_batch_of_one_picture_stays_whole() -> None:
    batch = collate([example(3, ("ask", "a", "b"))], LETTERS)
    (part,) = divide(batch, 4)
    assert part.row_share == 1.0
    assert part.pixels.tolist() == batch.pixels.tolist()
    assert [rows.tokens.tolist() for rows in part.groups] == [
        rows.tokens.tolist() for rows in batch.groups
    ]


def test_pictures_of_two_sizes_are_an_error() -> None:
    examples = [example(0, ("ask", "a", "b")), example(0, ("ask", "a", "b"), side=5)]
    with pytest.raises(DataError, match=r"of one size, not \[\(4, 4, 3\), \(5, 5, 3\)\]"):
        collate(examples, LETTERS)


def test_the_shipped_tokenizer_writes_the_same_layout() -> None:
    r"""<bos> is 2, "\n" 10, <eos> 1; locations and codes are one token each."""
    suffix = "<loc0001><loc1023><seg127> cat"
    (rows,) = collate([example(0, ("segment", "segment cat", suffix))], small.tokenizer()).groups
    (row,) = rows.tokens.tolist()
    start = int(rows.prefix)
    assert row[0] == 2
    assert row[start - 1] == 10
    assert row[start : start + 3] == [2560 + 1, 2560 + 1023, 3584 + 127]
    assert row[-1] == 1
    assert small.tokenizer().decode(row[1 : start - 1]) == "segment cat"
    assert small.tokenizer().decode(row[start:-1]) == suffix
