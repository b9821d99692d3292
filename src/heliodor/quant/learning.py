"""The native functions of training as differentiable ones: see :mod:`heliodor.nn.fused`."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from heliodor.errors import InputError
from heliodor.quant.native import library

__all__ = ["NativeFused", "native_fused"]


class NativeFused:
    """Functions of the native library, each one pass forwards and one backwards."""

    def gelu(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """The tanh form of GELU of x, multiplied by ``times``.

        Raises:
            InputError: ``times`` is of another shape or dtype.
        """
        if times is not None and (times.shape, times.dtype) != (x.shape, x.dtype):
            raise InputError(
                f"gelu of {list(x.shape)} {x.dtype} times {list(times.shape)} {times.dtype}: both "
                "are to be of one shape and dtype"
            )
        return _applied(_Gelu, x, times)

    def softmax(self, scores: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """Weights of scores [B N T S] over S, 0 where the mask is False.

        A query that may see nothing gets weights of 0.

        Raises:
            InputError: the mask is neither [B 1 T S] nor [B 1 1 S].
        """
        batch, _, queries, slots = scores.shape
        if mask is not None and mask.shape not in (
            (batch, 1, queries, slots),
            (batch, 1, 1, slots),
        ):
            raise InputError(
                f"a mask of {list(mask.shape)} for scores of {list(scores.shape)}: "
                f"[{batch} 1 {queries} {slots}] or one query is wanted"
            )
        return _applied(_Softmax, scores, mask, scale)

    def norm(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        """Layer norm of x float32 [... D], or without bias RMS norm, times weight float32 [D]."""
        return _applied(_Norm, x, weight, bias, eps)


def native_fused() -> NativeFused | None:
    """The functions, or None where the native library is not there."""
    return None if library() is None else NativeFused()


def _applied(function: type[Function], *values: Any) -> Tensor:
    return cast("Tensor", function.apply(*values))  # pyright: ignore[reportUnknownMemberType]


class _Gelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, times: Tensor | None) -> Tensor:
        x, times = x.contiguous(), None if times is None else times.contiguous()
        y = torch.empty_like(x)
        _run("gelu", _narrow(x), x, times, None, y, None, x.numel())
        ctx.save_for_backward(x, times)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        x, times = ctx.saved_tensors
        g = grad_outputs[0].to(x.dtype).contiguous()
        left, right = torch.empty_like(x), None if times is None else torch.empty_like(x)
        _run("gelu", _narrow(x), x, times, g, left, right, x.numel())
        return left, right


class _Softmax(Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        scores = scores.contiguous()
        y = torch.empty_like(scores)
        _weigh(scores, None, y, mask, scale)
        ctx.save_for_backward(y)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None]:
        (weights,) = ctx.saved_tensors
        found = torch.empty_like(weights)
        g = grad_outputs[0].to(weights.dtype).contiguous()
        _weigh(weights, g, found, None, ctx.scale)
        return found, None, None


def _weigh(a: Tensor, g: Tensor | None, y: Tensor, mask: Tensor | None, scale: float) -> None:
    batch, heads, queries, width = a.shape
    mask = None if mask is None else mask.contiguous()
    shape = (heads, queries, 1 if mask is None else mask.shape[2], batch * heads * queries, width)
    _run("softmax", _narrow(a), a, g, y, mask, *shape, scale)


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        width = x.shape[-1]
        rows = x.numel() // max(1, width)
        narrow = torch.is_autocast_enabled("cpu")
        y = torch.empty_like(x, dtype=torch.bfloat16 if narrow else torch.float32)
        stats = torch.empty(rows, 2)
        _run("norm", int(narrow), x, weight, bias, eps, y, stats, rows, width)
        ctx.save_for_backward(x, weight, bias, stats)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, None]:
        x, weight, bias, stats = ctx.saved_tensors
        g = grad_outputs[0].contiguous()
        y = torch.empty_like(x)
        width = x.shape[-1]
        sums = torch.empty(2, (width + 15) // 16 * 16)
        _run("norm_back", _narrow(g), g, x, weight, bias, stats, y, sums, len(stats), width)
        return y, sums[0, :width], None if bias is None else sums[1, :width], None


def _narrow(x: Tensor) -> int:
    return int(x.dtype == torch.bfloat16)


def _run(name: str, *values: Any) -> None:
    """Call the library with tensors as pointers and as many threads as torch has."""
    given = [v.data_ptr() if isinstance(v, Tensor) else v for v in values]
    if getattr(library(), f"heliodor_{name}")(*given, torch.get_num_threads()):
        raise MemoryError(f"no memory left for the scratch space of {name}")
