"""RMSNorm against the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.reference.norm import rms_norm

from heliodor.nn.norm import PlainRMSNorm, RMSNorm


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


def plainly(x: torch.Tensor, norm: PlainRMSNorm, factor: torch.Tensor) -> np.ndarray:
    """The formula in float64."""
    wide = x.detach().double().numpy()
    length = np.sqrt(np.square(wide).mean(-1, keepdims=True) + norm.eps)
    return wide / length * norm.weight.detach().double().numpy() * factor.double().numpy()


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_plain_norm_equals_its_formula_either_way(size: float, *, gradients: bool) -> None:
    random = torch.Generator().manual_seed(2)
    norm = PlainRMSNorm(12, 1e-5)
    norm.weight.data = torch.randn(12, generator=random)
    x, residual = (torch.randn(2, 5, 12, generator=random) * size for _ in range(2))
    factor = torch.randn(2, 1, 12, generator=random)
    expected = plainly(x, norm, factor)
    before = residual.clone()
    with torch.set_grad_enabled(gradients):
        given = x.clone()
        found, onto = norm(given, factor), norm.onto(residual, given.clone(), factor)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    wanted = residual.double().numpy() + expected
    np.testing.assert_allclose(onto.detach().numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(given, x)  # what is normalised before a part is the residual stream itself
    assert torch.equal(residual, before)


def test_the_plain_norm_of_zeros_is_zero_and_has_a_gradient() -> None:
    norm = PlainRMSNorm(4, 1e-5)
    x = torch.zeros(1, 4, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    with torch.no_grad():
        assert norm(x).tolist() == [[0.0] * 4]
