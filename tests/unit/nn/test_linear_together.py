"""Layers that work as one: on one input, as a gated network, and a table as output head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heliodor.errors import InputError
from heliodor.nn import linear
from heliodor.nn.linear import Linear, gated, pick, product, project, scores

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
