"""Masks: worked examples, and big_vision's formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.reference.mask import from_mask_ar

from heliodor.nn.mask import near, padding, prefix_lm


def drawn(mask: torch.Tensor) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in mask.tolist()]


def test_a_prefix_sees_itself_and_a_suffix_what_came_before() -> None:
    mask = prefix_lm(torch.tensor([3]), 5)
    assert mask.shape == (1, 1, 5, 5)
    assert mask.dtype == torch.bool
    assert drawn(mask[0, 0]) == ["xxx..", "xxx..", "xxx..", "xxxx.", "xxxxx"]


def test_without_a_prefix_it_is_causal_and_with_nothing_else_it_is_full() -> None:
    mask = prefix_lm(torch.tensor([0, 4]), 4)
    assert drawn(mask[0, 0]) == ["x...", "xx..", "xxx.", "xxxx"]
    assert drawn(mask[1, 0]) == ["xxxx"] * 4


def test_a_window_cuts_the_suffix_and_leaves_the_prefix_whole() -> None:
    mask = prefix_lm(torch.tensor([3, 0]), 6, window=2)
    assert drawn(mask[0, 0]) == ["xxx...", "xxx...", "xxx...", "..xx..", "...xx.", "....xx"]
    assert drawn(mask[1, 0]) == ["x.....", "xx....", ".xx...", "..xx..", "...xx.", "....xx"]


@pytest.mark.parametrize("window", [1, 3, 5, 12])
def test_the_windowed_mask_is_that_of_transformers(window: int) -> None:
    """Its rule: (k <= q and k > q - window) or both in the prefix (``masking_utils``)."""
    prefix, length = [0, 2, 7, 11], 11
    found = prefix_lm(torch.tensor(prefix), length, window)
    for row, count in enumerate(prefix):
        for query in range(length):
            for key in range(length):
                expected = query - window < key <= query or max(query, key) < count
                assert bool(found[row, 0, query, key]) == expected
    if window >= length:
        assert torch.equal(found, prefix_lm(torch.tensor(prefix), length))


def test_near_counts_positions_and_not_slots() -> None:
    keys = torch.tensor([[0, 1, -1, -1, 2, 3], [0, 1, 2, 3, 4, 5]])
    seen = near(torch.tensor([[3], [5]]), keys, 3)
    assert seen.shape == (2, 1, 1, 6)
    assert drawn(seen[:, 0, 0]) == [".x..xx", "...xxx"]


@pytest.mark.parametrize("seed", range(5))
def test_it_equals_the_cumulative_sum_of_big_vision(seed: int) -> None:
    random = np.random.default_rng(seed)
    length = int(random.integers(1, 12))
    prefix = random.integers(0, length + 1, 4)
    mask_ar = (np.arange(length)[None] >= prefix[:, None]).astype(np.int64)
    found = prefix_lm(torch.from_numpy(prefix), length)[:, 0]
    np.testing.assert_array_equal(found.numpy(), from_mask_ar(mask_ar))


def test_the_reference_draws_the_blocks_that_its_source_describes() -> None:
    """The three examples of make_attn_mask's documentation."""
    causal = from_mask_ar(np.array([[1, 1, 1, 1]]))[0]
    assert drawn(torch.from_numpy(causal)) == ["x...", "xx..", "xxx.", "xxxx"]
    prefix = from_mask_ar(np.array([[0, 0, 1, 1]]))[0]
    assert drawn(torch.from_numpy(prefix)) == ["xx..", "xx..", "xxx.", "xxxx"]
    blocks = from_mask_ar(np.array([[1, 0, 1, 0]]))[0]
    assert drawn(torch.from_numpy(blocks)) == ["xx..", "xx..", "xxxx", "xxxx"]


def test_nothing_real_looks_at_padding_behind_it() -> None:
    real = 6
    mask = prefix_lm(torch.tensor([4]), 9)
    assert not bool(mask[0, 0, :real, real:].any())


def test_padding_hides_keys_from_every_query() -> None:
    valid = torch.tensor([[False, True, True], [True, True, True]])
    mask = padding(valid)
    assert mask is not None
    assert mask.shape == (2, 1, 1, 3)
    assert torch.equal(mask[:, 0, 0], valid)


def test_no_mask_is_made_where_nothing_is_hidden() -> None:
    assert padding(torch.ones(2, 3, dtype=torch.bool)) is None
