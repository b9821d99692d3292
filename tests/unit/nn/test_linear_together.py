"""Layers that work as one: on one input, as a gated network, and a table as output head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heliodor.errors import InputError
from heliodor.nn import linear
from heliodor.nn.linear import Linear, gated, offer, pick, product, project, scores

NARROW = [torch.bfloat16, torch.float16]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layers(*shapes: tuple[int, int], dtype: torch.dtype = torch.float32) -> list[Linear]:
    made: list[Linear] = []
    for seed, (wide, out) in enumerate(shapes):
        layer = Linear(wide, out, bias=False)
        with torch.no_grad():
            layer.weight.copy_(noise(out, wide, seed=seed + 10))
        made.append(layer.to(dtype))
    return made


class Shared(nn.Module):
    """A layer of a kind that does several at once; each call is noted."""

    calls: list[str] = []  # noqa: RUF012 - emptied by the test

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        Shared.calls.append("alone")
        return x * self.factor

    @staticmethod
    def together(kin: Sequence[Shared], x: Tensor) -> tuple[Tensor, ...]:
        Shared.calls.append("together")
        return tuple(x * layer.factor for layer in kin)

    @staticmethod
    def gated(x: Tensor, gate: Shared, up: Shared, down: Shared) -> Tensor:
        Shared.calls.append("gated")
        return x * gate.factor * up.factor * down.factor


@pytest.fixture(autouse=True)
def _forget() -> None:
    Shared.calls.clear()


def test_projections_are_those_of_each_layer_in_order() -> None:
    q, k, v = layers((6, 8), (6, 3), (6, 5))
    x = noise(2, 4, 6)
    found = project(x, (v, q, k))
    assert [part.shape[-1] for part in found] == [5, 8, 3]
    for part, layer in zip(found, (v, q, k), strict=True):
        torch.testing.assert_close(part, x @ layer.weight.T, rtol=0, atol=1e-5)


def test_layers_of_one_kind_work_together_where_the_kind_can() -> None:
    x = noise(3)
    two, three = project(x, (Shared(2.0), Shared(3.0)))
    assert Shared.calls == ["together"]
    assert torch.equal(two, 2 * x)
    assert torch.equal(three, 3 * x)


@pytest.mark.parametrize("first", [True, False], ids=["shared first", "plain first"])
def test_layers_of_different_kinds_work_alone(*, first: bool) -> None:
    (plain,) = layers((3, 3))
    order = (Shared(2.0), plain) if first else (plain, Shared(2.0))
    x = noise(3)
    found = project(x, order)
    assert Shared.calls == ["alone"]
    assert torch.equal(found[0 if first else 1], 2 * x)


def formula(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> np.ndarray:
    """The gated network in float64; tanh form of GELU (arXiv 1606.08415)."""
    a, b, w, g = (part.detach().double().numpy() for part in (x, up, down, gate))
    left = a @ g.T
    curve = np.tanh(math.sqrt(2 / math.pi) * (left + 0.044715 * left**3))
    return (0.5 * left * (1 + curve) * (a @ b.T)) @ w.T


@pytest.mark.parametrize("grad", [True, False])
def test_the_gated_network_is_the_formula(*, grad: bool) -> None:
    gate, up, down = layers((6, 9), (6, 9), (9, 4))
    x = noise(2, 3, 6)
    kept = x.clone()
    with torch.set_grad_enabled(grad):
        found = gated(x, gate, up, down)
    expected = formula(x, gate.weight, up.weight, down.weight)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=2e-5)
    assert torch.equal(x, kept), "the input belongs to the caller"


def test_a_kind_may_do_the_whole_gated_network() -> None:
    x = noise(3)
    found = gated(x, Shared(2.0), Shared(4.0), Shared(8.0))
    assert Shared.calls == ["gated"]
    assert torch.equal(found, x * 64)


def test_a_gated_network_of_two_kinds_shares_what_it_can() -> None:
    (down,) = layers((3, 2))
    x = noise(4, 3)
    with torch.no_grad():
        found = gated(x, Shared(1.0), Shared(-0.5), down)
    assert Shared.calls == ["together"]
    expected = formula(x, torch.eye(3), -0.5 * torch.eye(3), down.weight)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------ rows of the table


def table(dtype: torch.dtype = torch.float32) -> nn.Embedding:
    made = nn.Embedding(11, 6)
    with torch.no_grad():
        made.weight.copy_(noise(11, 6, seed=3))
    return made.to(dtype)


ROWS = [None, (0, 11), (2, 5), (10, 11), torch.tensor([7, 0, 7, 10])]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
@pytest.mark.parametrize("rows", ROWS, ids=["all", "0-11", "2-5", "last", "ids"])
def test_only_the_rows_asked_for_are_multiplied(
    rows: tuple[int, int] | Tensor | None, dtype: torch.dtype, *, grad: bool
) -> None:
    embedding, hidden = table(dtype), noise(2, 3, 6, seed=4)
    with torch.set_grad_enabled(grad):
        found = scores(hidden, embedding, rows)
    whole = hidden.numpy() @ embedding.weight.detach().float().numpy().T
    if isinstance(rows, tuple):
        whole = whole[..., rows[0] : rows[1]]
    elif rows is not None:
        whole = whole[..., rows.numpy()]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.detach().numpy(), whole, rtol=0, atol=1e-5)


def test_a_range_is_a_view() -> None:
    weight = table().weight
    assert pick(weight, (3, 7)).data_ptr() == weight[3].data_ptr()


@pytest.mark.parametrize("rows", [(0, 12), (-1, 4), (4, 4), (5, 3)])
def test_a_range_outside_the_table_is_refused(rows: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"rows {rows[0]} to {rows[1]} of a table of 11"):
        scores(noise(6), table(), rows)


def test_a_table_with_a_head_is_asked() -> None:
    class Headed(nn.Module):
        def head(self, hidden: Tensor, rows: object = None) -> Tensor:
            assert rows == (1, 3)
            return hidden + 1

    assert torch.equal(scores(torch.zeros(2), Headed(), (1, 3)), torch.ones(2))


# ----------------------------------------------------------------------------- widening in blocks


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(), (1,), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize("count", [1, 16, 17, 50])
@pytest.mark.parametrize("dtype", NARROW)
def test_blocks_of_widened_rows_give_the_whole_product(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    count: int,
    rows: tuple[int, ...],
    *,
    bias: bool,
) -> None:
    monkeypatch.setattr(linear, "_BLOCK", 16 * 7)  # sixteen rows of seven
    weight, add = noise(count, 7).to(dtype), noise(count, seed=1).to(dtype) if bias else None
    x = noise(*rows, 7, seed=2)
    with torch.no_grad():
        found = product(x, weight, add)
    expected = x.numpy() @ weight.float().numpy().T
    if add is not None:
        expected = expected + add.float().numpy()
    assert found.shape == (*rows, count)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", NARROW)
def test_no_whole_copy_of_a_narrow_weight_is_made(dtype: torch.dtype) -> None:
    weight = torch.zeros(4096, 1024, dtype=dtype)
    made: list[int] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                made.append(out.untyped_storage().nbytes())
            return out

    with torch.no_grad(), Watch():
        product(noise(2, 1024), weight)
    assert max(made) <= weight.nbytes  # the narrow weight itself, seen through a slice
    with Watch():
        product(noise(2, 1024), weight)
    assert max(made) == 2 * weight.nbytes  # where gradients may be asked for


# ---------------------------------------------------------------------------- kernels and oneDNN


@pytest.fixture
def offered() -> Iterator[list[tuple[int, ...]]]:
    """A kernel for bfloat16 that notes the shapes of its inputs and adds one to every result."""
    seen: list[tuple[int, ...]] = []

    def kernel(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert x.is_contiguous()
        assert x.dtype == torch.float32
        seen.append((*x.shape, 0 if bias is None else bias.numel()))
        found = x @ weight.float().T + 1
        return found if bias is None else found + bias

    kept = dict(linear._kernels)
    offer(torch.bfloat16, kernel)
    yield seen
    linear._kernels.clear()
    linear._kernels.update(kept)


def test_an_offered_kernel_multiplies_its_type_where_no_gradient_is_wanted(
    offered: list[tuple[int, ...]],
) -> None:
    x, weight, bias = noise(2, 3, 4, 5).transpose(0, 1), noise(7, 5, seed=1), noise(7, seed=2)
    expected = x @ weight.bfloat16().float().T + bias
    with torch.no_grad():
        found = product(x, weight.bfloat16(), bias)
        torch.testing.assert_close(found, expected + 1, rtol=0, atol=1e-5)
        assert offered == [(24, 5, 7)]
        torch.testing.assert_close(product(x, weight.half()), x @ weight.half().float().T)
        product(x, weight.bfloat16().T.contiguous().T)  # lies otherwise than the kernel reads
    product(x, weight.bfloat16())
    assert len(offered) == 1
    offer(torch.bfloat16, None)
    with torch.no_grad():
        found = product(x, weight.bfloat16(), bias)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_kernel_for_what_needs_none_is_refused() -> None:
    with pytest.raises(InputError, match="float32 was offered"):
        offer(torch.float32, None)


@pytest.mark.skipif(not linear._ONEDNN, reason="torch has no oneDNN for this processor")
@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
@pytest.mark.parametrize("bias", [True, False])
def test_large_weights_go_through_onednn_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, *, bias: bool
) -> None:
    monkeypatch.setattr(linear, "_LARGE", 1)
    monkeypatch.setattr(linear, "_kernels", {})
    monkeypatch.setattr(linear, "_BLOCK", 16 * 33)
    weight, add = noise(50, 33).to(dtype), noise(50, seed=1) if bias else None
    calls: list[int] = []
    multiplied = linear._multiplied

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        calls.append(len(weight))
        return multiplied(x, weight, bias)

    monkeypatch.setattr(linear, "_multiplied", counted)
    odd = torch.empty(7 * 33 + 1)[1:].view(7, 33).copy_(noise(7, 33, seed=2))  # not aligned
    for x in (odd, odd[:1], odd[0], noise(2, 3, 33), noise(33, 7).T):
        calls.clear()
        with torch.no_grad():
            found = product(x, weight, add)
        expected = x.double() @ weight.double().T
        expected = expected if add is None else expected + add
        assert float((found - expected).abs().max()) < 2e-5
        assert calls == ([50] if dtype == torch.float32 else [16, 16, 16, 2])
    assert torch.equal(product(odd, weight.float(), add), F.linear(odd, weight.float(), add))
