"""A linear layer that may rest in one precision and compute in another; layers that work as one.

Weights rest in whatever dtype they were loaded in. On a CPU, bfloat16 and float16 weights are
widened to float32 for the product: few processors have units for them, and the result then equals
the float32 model on the same rounded weights. Without gradients they are widened a block of rows at
a time, so that no whole copy ever exists. On other devices the product runs in the stored dtype.

Models say what they want through :func:`project`, :func:`gated` and :func:`scores`; layers of
another kind (quantised ones) take part by offering ``together``, ``gated`` and ``head``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heliodor.errors import InputError

Rows = tuple[int, int] | Tensor | None
"""Which rows of a table are meant: a range (first, end), ids int64 [R], or None for all."""

_SAFE = 2048.0  # largest magnitude let into a float16 product: 2048 * a row of weights stays finite
_BLOCK = 2**20  # weights widened at a time: 4 MB, which stay in the cache until they are multiplied
_NARROW = (torch.bfloat16, torch.float16)


def arithmetic(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which a product with weights of ``dtype`` is computed on ``device``."""
    if device.type == "cpu" and dtype in _NARROW:
        return torch.float32
    return dtype


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` in the arithmetic dtype of the weight.

    Args:
        x: [... in] of any float dtype.
        weight: [out in], as it rests.
        bias: [out], or None.

    Returns:
        [... out].
    """
    dtype = arithmetic(weight.dtype, weight.device)
    bias = None if bias is None else bias.to(dtype)
    if dtype == weight.dtype or torch.is_grad_enabled():
        return F.linear(x.to(dtype), weight.to(dtype), bias)
    return _widening(x.to(dtype), weight, bias)


def _widening(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`product` with a weight that is widened block by block into one buffer."""
    count, width = weight.shape
    rows = x.reshape(-1, width)
    out = rows.new_empty(rows.shape[0], count)
    step = max(16, _BLOCK // max(1, width))
    buffer = rows.new_empty(min(step, count), width)
    for start in range(0, count, step):
        part = weight[start : start + step]
        wide = buffer[: part.shape[0]].copy_(part)
        torch.mm(rows, wide.T, out=out[:, start : start + step])
    if bias is not None:
        out += bias
    return out.view(*x.shape[:-1], count)


class Linear(nn.Linear):
    """``y = x W^T + b``: x [... in] of any float dtype -> y [... out] in the arithmetic dtype."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the overridden method's name
        """Input [... in] -> [... out]."""
        return product(input, self.weight, self.bias)


def project(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Several layers on one input.

    Layers of one class that has a static method ``together(layers, x)`` share the work there.

    Args:
        x: [... in].
        layers: at least one.

    Returns:
        What each layer gives, [... out] each, in their order.
    """
    together = _shared(layers, "together")
    if together is not None:
        return together(layers, x)
    return tuple(layer(x) for layer in layers)


def gated(x: Tensor, gate: nn.Module, up: nn.Module, down: nn.Module) -> Tensor:
    """``down(gelu(gate(x)) * up(x))`` with the tanh form of GELU.

    Layers of one class that has a static method ``gated(x, gate, up, down)`` do it there.

    Args:
        x: [... in].
        gate: in -> F.
        up: in -> F.
        down: F -> out, without bias.

    Returns:
        [... out].
    """
    whole = _shared((gate, up, down), "gated")
    if whole is not None:
        return whole(x, gate, up, down)
    left, right = project(x, (gate, up))
    if left.dtype == torch.float16:  # the product may leave its range
        left, right = left.float(), right.float()
    if torch.is_grad_enabled():
        inner = F.gelu(left, approximate="tanh") * right
    else:
        inner = torch.ops.aten.gelu_(left, approximate="tanh").mul_(right)
    return wide_linear(down, inner) if isinstance(down, Linear) else down(inner)


def scores(hidden: Tensor, table: nn.Module, rows: Rows = None) -> Tensor:
    """Products of hidden states with rows of an embedding table: the output head.

    A table that has a method ``head(hidden, rows)`` is asked; any other has a ``weight`` [V W].

    Args:
        hidden: [... W].
        table: the embedding.
        rows: which of its rows; the others are not read.

    Returns:
        float32 [... R], in the order of ``rows``.

    Raises:
        InputError: a range that the table does not have.
    """
    head: Callable[[Tensor, Rows], Tensor] | None = getattr(table, "head", None)
    if head is not None:
        return head(hidden, rows)
    weight = table.get_parameter("weight")
    return product(hidden, weight if rows is None else pick(weight, rows)).float()


def pick(weight: Tensor, rows: tuple[int, int] | Tensor) -> Tensor:
    """Rows of a table: a view for a range, a copy for ids.

    Args:
        weight: [V ...].
        rows: a range (first, end) within 0..V, or ids int64 [R].

    Raises:
        InputError: a range that the table does not have.
    """
    if isinstance(rows, Tensor):
        return weight.index_select(0, rows)
    first, end = rows
    if not 0 <= first < end <= weight.shape[0]:
        raise InputError(
            f"rows {first} to {end} of a table of {weight.shape[0]} were asked for; a range begins "
            "at 0 or later, ends behind its beginning and within the table"
        )
    return weight[first:end]


def wide_linear(layer: Linear, x: Tensor) -> Tensor:
    """A bias-free ``layer`` on inputs that may exceed float16: x [... in] -> float32 [... out].

    Gemma's gated products reach magnitudes beyond 65,504. Where the arithmetic is float16, each row
    is scaled into range before the product and back after it, in float32; elsewhere this is the
    plain layer.
    """
    if arithmetic(layer.weight.dtype, layer.weight.device) != torch.float16:
        return layer(x)
    x = x.float()
    scale = (x.abs().amax(-1, keepdim=True) / _SAFE).clamp_min(1.0)
    return layer(x / scale).float() * scale


def _shared(layers: Sequence[nn.Module], name: str) -> Callable[..., Any] | None:
    """The static method ``name`` of the class that all layers are of, if it has one."""
    kind = type(layers[0])
    if any(type(layer) is not kind for layer in layers):
        return None
    return getattr(kind, name, None)
