"""RMSNorm against the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.reference.norm import rms_norm

from heliodor.nn.norm import RMSNorm


def made(width: int = 12, eps: float = 1e-3) -> RMSNorm:
    norm = RMSNorm(width, eps)
    norm.scale.data = torch.randn(width, generator=torch.Generator().manual_seed(1))
    return norm


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_it_equals_the_formula(size: float) -> None:
    norm = made()
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(0)) * size
    expected = rms_norm(x.double().numpy(), norm.scale.detach().double().numpy(), 1e-3)
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_scale_of_zero_leaves_the_normalised_values_alone() -> None:
    norm = RMSNorm(4, 0.0)
    found = norm(torch.tensor([[3.0, -3.0, 3.0, 3.0]]))
    assert found.tolist() == [[1.0, -1.0, 1.0, 1.0]]


def test_float16_inputs_whose_squares_overflow_are_normalised() -> None:
    norm = made()
    x = torch.linspace(-60000, 60000, 12).half()[None]
    found = norm(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, norm(x.float()))
    assert bool(found.isfinite().all())


def test_a_narrow_scale_is_widened_before_one_is_added() -> None:
    norm = made()
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    norm.scale.data = norm.scale.data.bfloat16()
    rounded = made()
    rounded.scale.data = norm.scale.data.float()
    assert torch.equal(norm(x), rounded(x))
