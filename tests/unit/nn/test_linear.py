"""Linear layers whose weights rest in another type than they compute in."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from heliodor.models.gemma import GemmaConfig, GemmaMLP
from heliodor.nn import linear
from heliodor.nn.linear import Linear, arithmetic, wide_linear

CPU = torch.device("cpu")
NARROW = [torch.bfloat16, torch.float16]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def half_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute as a graphics card does: in the stored type."""
    monkeypatch.setattr(linear, "arithmetic", lambda dtype, device: dtype)


@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_weights_compute_in_float32_on_a_cpu_alone(dtype: torch.dtype) -> None:
    assert arithmetic(dtype, CPU) == torch.float32
    assert arithmetic(dtype, torch.device("cuda")) == dtype
    assert arithmetic(torch.float32, CPU) == torch.float32
    assert arithmetic(torch.float64, CPU) == torch.float64


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", NARROW)
def test_the_result_is_that_of_float32_on_the_rounded_weights(
    dtype: torch.dtype, *, bias: bool
) -> None:
    layer = Linear(9, 5, bias=bias).to(dtype)
    x = noise(3, 9)
    expected = F.linear(x, layer.weight.float(), layer.bias.float() if bias else None)
    found = layer(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [*NARROW, torch.float64])
def test_inputs_of_any_type_are_brought_to_the_arithmetic_type(dtype: torch.dtype) -> None:
    layer = Linear(4, 3)
    x = noise(2, 4).to(dtype)
    found = layer(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, F.linear(x.float(), layer.weight, layer.bias))


def test_float16_products_of_large_inputs_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    half_arithmetic(monkeypatch)
    layer = Linear(64, 8, bias=False).half()
    x = noise(4, 64, seed=1) * torch.tensor([1.0, 1e3, 1e5, 1e7])[:, None]
    plain = layer(x)
    assert plain.dtype == torch.float16
    assert not bool(plain[2:].isfinite().all()), "the plain product was to overflow"
    found = wide_linear(layer, x).detach()
    expected = F.linear(x.double(), layer.weight.detach().double())
    assert found.dtype == torch.float32
    # eleven bits of mantissa go in, and as many come out
    error = (found - expected).abs().amax(1) / expected.abs().amax(1)
    assert float(error.max()) < 2e-3


def test_small_inputs_are_not_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    half_arithmetic(monkeypatch)
    layer = Linear(64, 8, bias=False).half()
    x = noise(4, 64)
    assert torch.equal(wide_linear(layer, x), layer(x).float())


@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
def test_where_the_arithmetic_is_wide_it_is_the_plain_layer(dtype: torch.dtype) -> None:
    layer = Linear(64, 8, bias=False).to(dtype)
    x = noise(4, 64) * 1e6
    assert torch.equal(wide_linear(layer, x), layer(x))


def test_a_gated_product_beyond_float16_passes_through_the_mlp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gate and up near 2,000 each multiply to four million, sixty times float16's largest."""
    half_arithmetic(monkeypatch)
    config = GemmaConfig(vocab_size=8, width=16, num_heads=1, head_dim=16, mlp_width=32)
    mlp = GemmaMLP(config)
    for parameter in mlp.parameters():
        parameter.data = noise(*parameter.shape, seed=2) * parameter.shape[1] ** -0.5
    half = GemmaMLP(config)
    half.load_state_dict(mlp.state_dict())
    half.half()
    mlp.load_state_dict(half.state_dict())  # the same rounded weights, in float32
    x = noise(3, 16, seed=3) * 2000
    expected = mlp(x).detach()
    assert float(expected.abs().max()) > 65504
    found = half(x).detach()
    assert bool(found.isfinite().all())
    assert float((found - expected).abs().max() / expected.abs().max()) < 5e-3
