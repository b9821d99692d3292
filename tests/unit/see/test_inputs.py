"""Pictures and prompts on their way to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny

from heliodor.errors import InputError, PromptError
from heliodor.image import ImageSource
from heliodor.see.inputs import (
    ImageFeatures,
    collect_features,
    join_features,
    pad_left,
    pad_right,
    pair_up,
)

CPU = torch.device("cpu")


def features(tokens: int, value: float = 1.0, width: int = 3) -> ImageFeatures:
    return ImageFeatures(tokens=torch.full((tokens, width), value), size=(8, 6))


class Tower:
    """Counts the pictures that pass through it."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: list[ImageSource]) -> list[ImageFeatures]:
        self.batches.append(len(images))
        return [features(2, float(number)) for number in range(len(images))]


def test_each_distinct_picture_is_encoded_once_and_in_one_batch() -> None:
    tower = Tower()
    one, other = tiny.picture(1), tiny.picture(2)
    rows = collect_features([[one, other], [], [one], [other, one, other]], tower)
    assert tower.batches == [2]
    assert [len(row) for row in rows] == [2, 0, 1, 3]
    assert rows[0] == [rows[2][0], rows[0][1]]
    assert rows[3] == [rows[0][1], rows[0][0], rows[0][1]]
    assert rows[0][0].tokens[0, 0] == 0.0
    assert rows[0][1].tokens[0, 0] == 1.0


def test_features_do_not_pass_through_the_tower() -> None:
    tower = Tower()
    ready = features(2)
    assert collect_features([[ready], [ready, ready]], tower) == [[ready], [ready, ready]]
    assert tower.batches == []


def test_features_are_laid_side_by_side_and_padded_behind() -> None:
    joined, valid = join_features(
        [[features(2, 1.0), features(2, 2.0)], [features(2, 3.0)], []], 3, CPU
    )
    assert joined is not None
    assert valid is not None
    assert joined[:, :, 0].tolist() == [[1, 1, 2, 2], [3, 3, 0, 0], [0, 0, 0, 0]]
    assert valid.tolist() == [[True] * 4, [True, True, False, False], [False] * 4]
    assert joined.dtype == torch.float32
    assert valid.dtype == torch.bool


def test_rows_of_equal_length_need_no_mask() -> None:
    joined, valid = join_features([[features(2)], [features(2)]], 3, CPU)
    assert joined is not None
    assert joined.shape == (2, 2, 3)
    assert valid is None


def test_no_pictures_are_no_features() -> None:
    assert join_features([[], []], 3, CPU) == (None, None)


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"width 5 came to a model of width 3: encode the picture"):
        join_features([[features(2)], [features(2, width=5)]], 3, CPU)


def test_short_rows_are_padded_in_front_for_reading() -> None:
    tokens, valid = pad_left([[7, 8, 9], [5]], 0, CPU)
    assert tokens.tolist() == [[7, 8, 9], [0, 0, 5]]
    assert valid.tolist() == [[True] * 3, [False, False, True]]
    assert tokens.dtype == torch.int64


def test_a_real_token_that_equals_the_padding_stays_valid() -> None:
    _, valid = pad_left([[0, 8], [0]], 0, CPU)
    assert valid.tolist() == [[True, True], [False, True]]


def test_short_rows_are_padded_behind_for_scoring() -> None:
    assert pad_right([[7, 8, 9], [5]], 0, CPU).tolist() == [[7, 8, 9], [5, 0, 0]]


def test_one_entry_serves_every_prompt() -> None:
    one, other = features(1), features(1)
    assert pair_up([one], ["a", "b"]) == [(one,), (one,)]
    assert pair_up([[one, other]], ["a", "b"]) == [(one, other), (one, other)]
    assert pair_up([None], ["a", "b"]) == [(), ()]


def test_each_prompt_has_its_own_pictures() -> None:
    one, other = features(1), features(1)
    assert pair_up([one, None, (other, one), []], list("abcd")) == [
        (one,),
        (),
        (other, one),
        (),
    ]


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        ("cat.png", "str"),
        (b"\x89PNG", "bytes"),
        (Path("cat.png"), "PosixPath"),
        (np.zeros((2, 4, 3), np.uint8), "ndarray"),
        (tiny.picture(), "Image"),
        (features(1), "ImageFeatures"),
        (None, "NoneType"),
    ],
)
def test_one_picture_where_a_list_is_expected_is_refused(images: Any, kind: str) -> None:
    """An array would otherwise be read as one picture a row, two prompts for two rows."""
    with pytest.raises(InputError, match=f"a list of pictures is expected, not a {kind}"):
        pair_up(images, ["a", "b"])


@pytest.mark.parametrize("prompts", ["caption en", None, 3, {"a"}])
def test_one_prompt_where_a_list_is_expected_is_refused(prompts: Any) -> None:
    kind = type(prompts).__name__
    with pytest.raises(InputError, match=f"a list of prompts is expected, not a {kind}"):
        pair_up([None], prompts)


@pytest.mark.parametrize("prompt", [None, 5, b"caption en"])
def test_a_prompt_that_is_no_string_is_refused(prompt: Any) -> None:
    kind = type(prompt).__name__
    with pytest.raises(PromptError, match=f"a prompt must be a string, not {kind}"):
        pair_up([None], ["fine", prompt])


def test_no_prompts_are_refused() -> None:
    with pytest.raises(InputError, match="no prompts were given"):
        pair_up([None], [])


@pytest.mark.parametrize("images", [[], [None, None]])
def test_counts_that_do_not_pair_up_are_refused(images: Sequence[None]) -> None:
    with pytest.raises(InputError, match=f"{len(images)} pictures came with 3 prompts"):
        pair_up(images, ["a", "b", "c"])


def test_features_print_their_size_and_not_their_numbers() -> None:
    assert repr(features(2)) == "ImageFeatures(size=(8, 6))"
