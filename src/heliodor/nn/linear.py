"""A linear layer that may rest in one precision and compute in another; layers that work as one.

Weights rest in whatever dtype they were loaded in. On a CPU, bfloat16 and float16 weights are
widened to float32 for the product: few processors have units for them, and the result then equals
the float32 model on the same rounded weights. Without gradients no whole copy is made: a kernel
that was offered for the dtype widens weights as it reads them, else they are widened a block of
rows at a time. On other devices the product runs in the stored dtype.

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
from heliodor.nn.fused import fused

Rows = tuple[int, int] | Tensor | None
"""Which rows of a table are meant: a range (first, end), ids int64 [R], or None for all."""

Kernel = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``x W^T + b`` of x float32 [M in], W [out in] as it rests, b float32 [out] -> float32 [M out],
all of them contiguous and on the CPU."""

_SAFE = 2048.0  # largest magnitude let into a float16 product: 2048 * a row of weights stays finite
_BLOCK = 2**19  # weights widened at a time: 2 MB, which stay in the cache until they are multiplied
_LARGE = 2**20  # weights from which on oneDNN's products pay for their preparation
_NARROW = (torch.bfloat16, torch.float16)
_kernels: dict[torch.dtype, Kernel] = {}


def arithmetic(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which a product with weights of ``dtype`` is computed on ``device``."""
    if device.type == "cpu" and dtype in _NARROW:
        return torch.float32
    return dtype


def offer(dtype: torch.dtype, kernel: Kernel | None) -> None:
    """Multiply by weights of a narrow ``dtype`` with ``kernel``, wherever no gradient is wanted.

    Args:
        dtype: bfloat16 or float16.
        kernel: exact to float32's rounding; None takes an earlier one back.

    Raises:
        InputError: another dtype, whose products need no widening.
    """
    if dtype not in _NARROW:
        raise InputError(f"a kernel for {dtype} was offered; bfloat16 and float16 are widened")
    if kernel is None:
        _kernels.pop(dtype, None)
    else:
        _kernels[dtype] = kernel


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
    if torch.is_autocast_enabled(weight.device.type):  # which narrows what is given
        return F.linear(x, weight.to(dtype), bias)
    x = x.to(dtype)
    if torch.is_grad_enabled():
        return F.linear(x, weight.to(dtype), bias)
    if dtype == weight.dtype and not _for_onednn(x, weight):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, weight.shape[1])
    if dtype == weight.dtype:
        found = _multiplied(rows, weight, bias)
    else:
        kernel = _kernels.get(weight.dtype) if weight.is_contiguous() else None
        found = (kernel or _widening)(rows.contiguous(), weight, bias)
    return found.view(*x.shape[:-1], weight.shape[0])


def _widening(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product of x [M in] with a weight that is widened block by block into one buffer."""
    count, width = weight.shape
    out = x.new_empty(x.shape[0], count)
    step = max(16, _BLOCK // max(1, width))
    buffer = x.new_empty(min(step, count), width)
    for start in range(0, count, step):
        part = weight[start : start + step]
        wide = buffer[: part.shape[0]].copy_(part)
        if _for_onednn(x, wide):
            out[:, start : start + step] = _multiplied(x, wide, None)
        else:
            torch.mm(x, wide.T, out=out[:, start : start + step])
    return out if bias is None else out.add_(bias)


def _for_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN multiplies faster than the BLAS behind ``F.linear``, with the same rounding.

    On AMD's processors it does: MKL takes its slower paths there, reads weights for one row at half
    the speed of memory, and takes a product of few rows for several of one (docs/design/exact.md
    has the figures).
    """
    return (
        _ONEDNN
        and weight.numel() >= _LARGE
        and x.numel() > 0
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and weight.is_contiguous()
    )


def _multiplied(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product of x [M in] with a float32 weight by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _has_onednn() -> bool:
    """Whether torch was built with oneDNN, for a processor on which it was tried."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


_ONEDNN = _has_onednn()


def gelu(x: Tensor) -> Tensor:
    """The tanh form of GELU of an x that nobody else needs: in place where gradients are off."""
    one_pass = fused(x)
    if one_pass is not None:
        return one_pass.gelu(x)
    if torch.is_grad_enabled():
        return F.gelu(x, approximate="tanh")
    return torch.ops.aten.gelu_(x, approximate="tanh")


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
    one_pass = fused(left)
    if one_pass is not None:
        inner = one_pass.gelu(left, right)
    else:
        left = gelu(left)
        inner = left * right if torch.is_grad_enabled() else left.mul_(right)
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
