"""Rotary positions against complex numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.reference.rope import rotate as reference

from heliodor.nn.rope import rotate, rotations


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("base", [10000.0, 700.0])
@pytest.mark.parametrize("head_dim", [2, 6, 16])
def test_it_turns_pairs_of_halves_by_their_angle(head_dim: int, base: float) -> None:
    x = noise(2, 3, 5, head_dim)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 0, 100, 33, 8]])
    found = rotate(x, *rotations(positions, head_dim, base))
    expected = reference(x.double().numpy(), positions.numpy(), base)
    # float32 angles up to 100 are exact to 4e-6
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-5)


def test_angles_are_float32_and_broadcast_over_heads() -> None:
    cos, sin = rotations(torch.arange(3)[None], 4, 10000.0)
    assert cos.dtype == sin.dtype == torch.float32
    assert cos.shape == sin.shape == (1, 1, 3, 2)
    np.testing.assert_allclose(cos[0, 0, 1].numpy(), np.cos([1.0, 0.01]), atol=1e-7)
    np.testing.assert_allclose(sin[0, 0, 2].numpy(), np.sin([2.0, 0.02]), atol=1e-7)


def test_position_zero_changes_nothing() -> None:
    x = noise(1, 2, 4, 8)
    turn = rotations(torch.zeros(1, 4, dtype=torch.int64), 8, 10000.0)
    assert torch.equal(rotate(x, *turn), x)


def test_products_depend_on_distances_alone() -> None:
    q, k = noise(1, 1, 1, 8, seed=1), noise(1, 1, 1, 8, seed=2)

    def product(query: int, key: int) -> float:
        turned = rotate(q, *rotations(torch.tensor([[query]]), 8, 100.0))
        return float((turned * rotate(k, *rotations(torch.tensor([[key]]), 8, 100.0))).sum())

    assert product(5, 2) == pytest.approx(product(53, 50), abs=1e-5)
    assert abs(product(5, 2) - product(5, 3)) > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_turned_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    x = noise(1, 2, 6, 8).to(dtype)
    turn = rotations(torch.arange(2000, 2006)[None], 8, 10000.0)
    found = rotate(x, *turn)
    assert found.dtype == dtype
    assert torch.equal(found, rotate(x.float(), *turn).to(dtype))
