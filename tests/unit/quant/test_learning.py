"""Training's native functions and their gradients, against torch in float64, on every path."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from tests.unit.quant.test_kernels_rows import BEST, HERE, choose
from torch import Tensor
from torch.nn import functional as F

from heliodor.errors import InputError
from heliodor.nn import fused
from heliodor.nn.attention import attend
from heliodor.nn.linear import Linear, gated, gelu
from heliodor.nn.norm import LayerNorm, RMSNorm
from heliodor.quant import kernels
from heliodor.quant.learning import NativeFused, native_fused

pytestmark = pytest.mark.skipif(kernels.available() is None, reason="no native library was built")

NATIVE = NativeFused()
WIDTHS = (1, 7, 16, 33, 100)
FLOAT32, BFLOAT16 = (torch.float32, 4e-6), (torch.bfloat16, 2.0**-7)  # rounded twice at most


@pytest.fixture(params=HERE)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    assert choose(request.param)
    yield request.param
    choose(BEST)


def held(found: Callable[..., Tensor], wanted: Callable[..., Tensor], given: list[Tensor]) -> float:
    """Largest distance of values and gradients, over the largest value of each, 0.1 at least."""
    narrow = [x.clone().requires_grad_() for x in given]
    wide = [x.double().requires_grad_() for x in given]
    y, z = found(*narrow), wanted(*wide)
    g = torch.randn(y.shape).to(y.dtype)
    ours = [y, *torch.autograd.grad(y, narrow, g)]
    theirs = [z, *torch.autograd.grad(z, wide, g.double())]
    return max(
        float((a.double() - b).detach().abs().max() / b.detach().abs().max().clamp_min(0.1))
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize(("dtype", "bound"), [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("count", WIDTHS)
@pytest.mark.usefixtures("path")
def test_gelu_and_what_it_gates(count: int, dtype: torch.dtype, bound: float) -> None:
    x, times = (4 * torch.randn(3, count)).to(dtype), torch.randn(3, count).to(dtype)
    assert held(NATIVE.gelu, lambda x: F.gelu(x, approximate="tanh"), [x]) < bound

    def plain(x: Tensor, times: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh") * times

    assert held(NATIVE.gelu, plain, [x, times]) < bound


@pytest.mark.usefixtures("path")
def test_gelu_far_out_is_the_line_or_zero_and_nan_stays() -> None:
    x = torch.tensor([-1e30, -1e4, -20.0, 20.0, 1e4, math.nan], requires_grad=True)
    y = NATIVE.gelu(x)
    (slope,) = torch.autograd.grad(y, x, torch.ones(6))
    assert y[:5].tolist() == [0.0, 0.0, 0.0, 20.0, 1e4]
    assert slope[:5].tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert y[5].isnan()
    assert slope[5].isnan()


@pytest.mark.parametrize(("dtype", "bound"), [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", [None, 1, 5])
@pytest.mark.usefixtures("path")
def test_softmax_under_a_mask(
    rows: int | None, width: int, dtype: torch.dtype, bound: float
) -> None:
    scores = (3 * torch.randn(2, 3, 5, width)).to(dtype)
    mask = None
    if rows is not None:
        mask = torch.rand(2, 1, rows, width) > 0.4
        mask[..., 0] = True

    def plain(x: Tensor) -> Tensor:
        x = 0.3 * x
        return (x if mask is None else x.masked_fill(~mask, -math.inf)).softmax(-1)

    assert held(lambda x: NATIVE.softmax(x, mask, 0.3), plain, [scores]) < bound


@pytest.mark.usefixtures("path")
def test_a_query_that_may_see_nothing_gives_weights_of_zero_and_nan_is_kept() -> None:
    scores = torch.randn(1, 1, 2, 20, requires_grad=True)
    mask = torch.ones(1, 1, 2, 20, dtype=torch.bool)
    mask[:, :, 0] = False
    weights = NATIVE.softmax(scores, mask, 1.0)
    (slope,) = torch.autograd.grad(weights.sum(), scores)
    assert (weights[0, 0, 0] == 0).all()
    assert slope.isfinite().all()
    broken = torch.full((1, 1, 1, 20), math.nan)
    assert NATIVE.softmax(broken, None, 1.0).isnan().all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("biases", [0, 1])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.usefixtures("path")
def test_norms_and_the_gradients_of_their_weights(width: int, biases: int, threads: int) -> None:
    x, weight = 2 * torch.randn(41, width) + 1, torch.randn(width)
    bias = [torch.randn(width)] * biases if width > 1 else []

    def plain(x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        if bias:
            return F.layer_norm(x, (width,), weight, bias[0], 1e-3)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3) * weight

    def native(x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        return NATIVE.norm(x, weight, bias[0] if bias else None, 1e-3)

    torch.set_num_threads(threads)
    assert held(native, plain, [x, weight, *bias]) < 1e-5


def test_norms_give_bfloat16_under_autocast() -> None:
    x, weight = torch.randn(5, 32, requires_grad=True), torch.ones(32)
    exact = NATIVE.norm(x, weight, None, 1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = NATIVE.norm(x, weight, None, 1e-6)
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, exact.bfloat16())
    (slope,) = torch.autograd.grad(narrow, x, torch.ones_like(narrow))
    assert slope.dtype == torch.float32


def layers(x: Tensor, mask: Tensor) -> Tensor:
    """One of everything that asks for functions of training, from the same random weights."""
    torch.manual_seed(3)
    norm, plain = LayerNorm(32), RMSNorm(32, 1e-6)
    plain.scale.data.normal_()
    q, gate, up, down = Linear(32, 64), Linear(32, 48), Linear(32, 48), Linear(48, 32, bias=False)
    heads = q(norm(x)).view(2, 9, 4, 16).transpose(1, 2)
    read = attend(heads, heads[:, :2], heads[:, 2:], mask).transpose(1, 2).reshape(2, 9, 64)
    x = x + read[..., :32] + gelu(read[..., 32:])
    return x + gated(plain(x), gate, up, down)


def test_layers_give_the_same_with_and_without_them_and_use_them() -> None:
    mask = torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()
    x = torch.randn(2, 9, 32)
    found: list[list[Tensor]] = []
    for offered in (None, native_fused()):
        fused.offer(offered)
        given = x.clone().requires_grad_()
        y = layers(given, mask)
        names = {type(node).__name__ for node in graph(y.grad_fn)}
        used = {name for name in names if name.startswith("_")}
        whole = {"_GeluBackward", "_SoftmaxBackward", "_NormBackward"}
        assert used == (set() if offered is None else whole)
        found.append([y, *torch.autograd.grad(y.square().sum(), given)])
    for plain, native in zip(*found, strict=True):
        torch.testing.assert_close(native, plain, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert fused.fused(x) is None
    assert fused.fused(x.double()) is None


def graph(node: object) -> Iterator[object]:
    """A node of the backward pass and all before it."""
    seen, rest = set[object](), [node]
    while rest:
        node = rest.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        rest += [before for before, _ in getattr(node, "next_functions", ())]


def test_what_does_not_fit_together_is_refused() -> None:
    x = torch.zeros(2, 3, 4, 5)
    with pytest.raises(InputError, match=r"mask of \[2, 1, 3, 5\].*\[2 1 4 5\]"):
        NATIVE.softmax(x, torch.ones(2, 1, 3, 5, dtype=torch.bool), 1.0)
    with pytest.raises(InputError, match="one shape and dtype"):
        NATIVE.gelu(x, x.bfloat16())
