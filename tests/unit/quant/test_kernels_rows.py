"""Rows on their way to int8, and products with weights of half width, against numpy and torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import kernels as plainly
from torch import Tensor
from torch.nn import functional as F

from heliodor.errors import InputError
from heliodor.quant import kernels, native

pytestmark = pytest.mark.skipif(kernels.available() is None, reason="no native library was built")

PATHS = ("avx512-amx", "avx512-vnni", "avx2", "neon", "plain")


def choose(name: str) -> bool:
    library = native.library()
    return library is not None and library.heliodor_choose(name.encode()) == 0


HERE = [name for name in PATHS if choose(name)]
BEST = HERE[0] if HERE else ""
if BEST:
    choose(BEST)


@pytest.fixture(params=HERE)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    assert choose(request.param)
    yield request.param
    choose(BEST)


WIDTHS = (1, 3, 4, 15, 16, 17, 33, 64, 100, 1152)


@pytest.mark.parametrize("k", WIDTHS)
def test_rows_become_the_codes_of_numpy(path: str, k: int) -> None:
    x = torch.randn(7, k) * torch.logspace(-30, 30, 7)[:, None]
    x[5] = 0.0
    q, scales, sums = kernels.quantise_rows(x)
    codes, expected_scales, expected_sums = plainly.rows(x.numpy())
    assert q.shape == (7, -(-k // 4) * 4)
    np.testing.assert_array_equal(q[:, :k].numpy(), codes)
    assert not q[:, k:].any()
    np.testing.assert_array_equal(scales.numpy(), expected_scales)
    np.testing.assert_array_equal(sums.numpy(), expected_sums)


def test_codes_halfway_go_to_the_even_neighbour(path: str) -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 126.5]])
    assert kernels.quantise_rows(x)[0].tolist() == [[127, 0, 2, 2, 0, -2, -126, 126]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_subnormal=True), min_size=1, max_size=40))
def test_any_floats_at_all(values: list[float]) -> None:
    x = torch.tensor([values], dtype=torch.float32)
    codes, expected_scales, _ = plainly.rows(x.numpy())
    for name in HERE:
        assert choose(name)
        q, scales, sums = kernels.quantise_rows(x)
        np.testing.assert_array_equal(q[:, : len(values)].numpy(), codes)
        np.testing.assert_array_equal(scales.numpy(), expected_scales)
        assert int(sums) == codes.sum()
    choose(BEST)


def decoded(parts: tuple[Tensor, Tensor, Tensor], k: int) -> Tensor:
    q, scales, sums = parts
    assert torch.equal(sums, q.sum(1, dtype=torch.int32))
    return q[:, :k].double() * scales[:, None].double()


def check_codes(parts: tuple[Tensor, Tensor, Tensor], expected: Tensor) -> None:
    """Each value is within half a step of what float64 says, and the scale within 1e-5."""
    m, k = expected.shape
    steps = expected.abs().amax(1) / 127
    torch.testing.assert_close(parts[1].double(), steps, rtol=1e-5, atol=0)
    error = (decoded(parts, k) - expected).abs() / steps[:, None]
    assert error.max() < 0.5 + 2e-3
    assert parts[0].abs().amax(1).tolist() == [127] * m


@pytest.mark.parametrize("k", [k for k in WIDTHS if k > 1])
def test_norms_and_gates_are_quantised_as_float64_says(path: str, k: int) -> None:
    torch.manual_seed(k)
    x, other = torch.randn(5, k) * 3 + 1, torch.randn(5, k)
    weight, bias = torch.randn(k), torch.randn(k)
    wide = x.double()
    rms = wide * (wide.square().mean(1, keepdim=True) + 1e-6).rsqrt() * weight
    check_codes(kernels.norm_quantise(x, weight, 1e-6), rms)
    layer = F.layer_norm(wide, (k,), weight.double(), bias.double(), 1e-5)
    check_codes(kernels.norm_quantise(x, weight, 1e-5, bias), layer)
    gated = F.gelu(wide, approximate="tanh") * other
    check_codes(kernels.geglu_quantise(x, other), gated)


def test_every_path_gives_the_same_bits_for_norms_and_gates() -> None:
    x, other, weight, bias = (
        torch.randn(3, 77),
        torch.randn(3, 77),
        torch.rand(77),
        torch.rand(77),
    )
    results: list[list[Tensor]] = []
    for name in HERE:
        assert choose(name)
        parts = (
            *kernels.norm_quantise(x, weight, 1e-6),
            *kernels.norm_quantise(x, weight, 1e-6, bias),
            *kernels.geglu_quantise(x, other),
        )
        results.append(list(parts))
    choose(BEST)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_the_gate_far_out_is_closed_or_open(path: str) -> None:
    up = torch.ones(1, 8)
    gate = torch.tensor([[-1e30, -100.0, -20.0, 0.0, 20.0, 50.0, 100.0, 90.0]])
    assert kernels.geglu_quantise(gate, up)[0].tolist() == [[0, 0, 0, 0, 25, 64, 127, 114]]


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows_in_every_kind(path: str, broken: float) -> None:
    x, one = torch.randn(3, 20), torch.ones(20)
    x[1, 19] = broken
    for parts in (
        kernels.quantise_rows(x),
        kernels.norm_quantise(x, one, 1e-6),
        kernels.norm_quantise(x, one, 1e-6, one),
        kernels.geglu_quantise(x, torch.randn(3, 20)),
        kernels.geglu_quantise(torch.randn(3, 20), x),
    ):
        assert parts[1].isnan().tolist() == [False, True, False]
        assert not parts[0][1].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [
        *((m, 70, 67) for m in range(1, 21)),
        *((m, n, 40) for m in (1, 3, 14) for n in (1, 2, 3, 15, 16, 63, 64, 65)),
        *((m, 19, k) for m in (1, 2, 13) for k in (1, 15, 16, 17, 31, 32, 33, 255, 257, 600)),
        (200, 130, 300),
    ],
)
def test_half_width_weights_multiply_as_float64_does(
    path: str, dtype: torch.dtype, m: int, n: int, k: int
) -> None:
    torch.manual_seed(m * n + k)
    x, weight, bias = torch.randn(m, k), torch.randn(n, k).to(dtype), torch.randn(n)
    product = kernels.linear_bf16 if dtype == torch.bfloat16 else kernels.linear_f16
    expected = x.double() @ weight.double().T
    size = (x.double().square().sum(1)[:, None] * weight.double().square().sum(1)).sqrt()
    error = (product(x, weight) - expected).abs() / size
    assert error.max() < 1e-6
    torch.testing.assert_close(
        product(x, weight, bias), product(x, weight) + bias, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("m", [2, 16])
def test_every_float16_and_bfloat16_is_widened_exactly(path: str, m: int) -> None:
    every = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(-1, 16)
    x = torch.eye(16)[:m]
    for dtype, product in (
        (torch.float16, kernels.linear_f16),
        (torch.bfloat16, kernels.linear_bf16),
    ):
        weight = every.view(dtype)
        finite = weight.isfinite().all(1)
        expected = weight[finite].float().T[:m]
        assert torch.equal(product(x, weight[finite].contiguous()), expected)
        assert not product(x, weight[~finite].contiguous()).isfinite().all(0).any()


@pytest.mark.parametrize("m", [1, 5, 14])
@pytest.mark.parametrize(
    "rows", [(0, 83), (3, 70), (5, 5), torch.tensor([82, 0, 5, 5]), torch.tensor([1])]
)
def test_some_half_width_channels_are_those_of_the_whole(
    path: str, m: int, rows: kernels.Rows
) -> None:
    x, weight, bias = torch.randn(m, 50), torch.randn(83, 50).bfloat16(), torch.randn(83)
    whole = kernels.linear_bf16(x, weight, bias)
    expected = whole[:, rows[0] : rows[1]] if isinstance(rows, tuple) else whole[:, rows]
    got = kernels.linear_bf16(x, weight, bias, rows)
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=2e-6)


def test_half_width_weights_that_do_not_fit_are_refused() -> None:
    x, weight = torch.zeros(2, 8), torch.zeros(5, 8, dtype=torch.bfloat16)
    assert kernels.linear_bf16(x, weight).shape == (2, 5)
    with pytest.raises(InputError, match=r"weight is torch.float16 .* expected torch.bfloat16"):
        kernels.linear_bf16(x, weight.half())
    with pytest.raises(InputError, match=r"x has the shape \[2, 7\], expected \[2, 8\]"):
        kernels.linear_bf16(x[:, :7].contiguous(), weight)
    with pytest.raises(InputError, match=r"both in 0\.\.5"):
        kernels.linear_bf16(x, weight, rows=(0, 6))
    with pytest.raises(InputError, match=r"outside 0\.\.4"):
        kernels.linear_f16(x, weight.half(), rows=torch.tensor([5]))
