"""The products of :mod:`heliodor.quant.kernels` without the native library, by torch alone.

The same functions with the same arguments, and results that are the same up to the rounding of
float32: sums over codes are exact here too. On processors with integer instructions oneDNN's int8
matrix product does the work. It wants the weights in an order of its own, so a second copy of them
is made when a layer first runs, and held as long as the layer's own. On other processors, and on
devices other than the CPU, codes are multiplied in float32.

int4 weights become int8 codes, and each group of 64 a product of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from heliodor.quant import kernels
from heliodor.quant.pack import values4
from heliodor.quant.scheme import COLUMNS, GROUP

__all__ = [
    "geglu_quantise",
    "integer_path",
    "linear4",
    "linear8",
    "norm_quantise",
    "product4",
    "product8",
    "quantise_rows",
]

_NOTHING = 1.5e-36  # rows of smaller numbers count as zeros
_WIDENED = 2**20  # codes turned into float32 at a time
_UNPACKED = 2**18  # codes unpacked at a time

_Product = Callable[[Tensor], Tensor]
"""Codes int8 [M S] -> their sums with each channel's codes times its scale, float32 [M N]."""


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`heliodor.quant.kernels.quantise_rows`."""
    largest = x.abs().amax(-1)
    usable = largest.isfinite() & (largest >= _NOTHING)
    factor = torch.where(usable, 127 / largest, 0)
    codes = torch.where(usable[:, None], x * factor[:, None], 0).round_().to(torch.int8)
    codes = F.pad(codes, (0, -x.shape[1] % 4))
    scales = torch.where(usable, largest / 127, 0).masked_fill(~largest.isfinite(), torch.nan)
    return codes, scales, codes.sum(-1, dtype=torch.int32)


def norm_quantise(
    x: Tensor, weight: Tensor, eps: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`heliodor.quant.kernels.norm_quantise`."""
    if bias is not None:
        return quantise_rows(F.layer_norm(x, x.shape[-1:], weight, bias, eps))
    return quantise_rows(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight)


def geglu_quantise(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`heliodor.quant.kernels.geglu_quantise`."""
    return quantise_rows(F.gelu(gate, approximate="tanh") * up)


def product8(
    q: Tensor,
    scales: Tensor,
    sums: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    rows: kernels.Rows = None,
) -> Tensor:
    """See :func:`heliodor.quant.kernels.product8`; ``sums`` are not needed here."""
    del sums
    q = q[:, : packed.shape[1]]
    if rows is None:
        out = _product(packed, scale, _prepared8)(q)
    else:
        codes, scale, bias = _chosen(packed, scale, bias, rows)
        out = _product_once(codes, scale)(q)
    out = out * scales[:, None]
    return out if bias is None else out + bias


def linear8(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None = None, rows: kernels.Rows = None
) -> Tensor:
    """See :func:`heliodor.quant.kernels.linear8`."""
    return product8(*quantise_rows(x), packed, scale, bias, rows)


def product4(
    q: Tensor,
    scales: Tensor,
    sums: Tensor,
    packed: Tensor,
    group_scales: Tensor,
    bias: Tensor | None = None,
    rows: kernels.Rows = None,
    *,
    channels: int | None = None,
) -> Tensor:
    """See :func:`heliodor.quant.kernels.product4`; ``sums`` are not needed here."""
    del sums
    n = channels if channels is not None else COLUMNS * packed.shape[0]
    n = n if bias is None else bias.shape[0]
    if rows is not None:
        ids = torch.arange(*rows, device=q.device) if isinstance(rows, tuple) else rows
        blocks, place = _blocks_of(ids)
        out = _grouped(*_unpacked4(packed[blocks], group_scales[blocks]))(q)
        out = out[:, place * COLUMNS + ids % COLUMNS]
        bias = None if bias is None else bias[ids]
    else:
        out = _product(packed, group_scales, _prepared4)(q)[:, :n]
    out = out * scales[:, None]
    return out if bias is None else out + bias


def linear4(
    x: Tensor,
    packed: Tensor,
    group_scales: Tensor,
    bias: Tensor | None = None,
    rows: kernels.Rows = None,
    *,
    channels: int | None = None,
) -> Tensor:
    """See :func:`heliodor.quant.kernels.linear4`."""
    return product4(*quantise_rows(x), packed, group_scales, bias, rows, channels=channels)


def _chosen(
    packed: Tensor, scale: Tensor, bias: Tensor | None, rows: tuple[int, int] | Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes int8 [R S], scales and bias of some channels; only their blocks are read."""
    depth = packed.shape[1]
    if isinstance(rows, tuple):
        a, b = rows
        codes = kernels.unpack8(packed[a : -(-b // COLUMNS) * COLUMNS], b - a, depth)
        return codes, scale[a:b], None if bias is None else bias[a:b]
    blocks, place = _blocks_of(rows)
    taken = packed.view(-1, COLUMNS * depth)[blocks].view(-1, depth)
    codes = kernels.unpack8(taken, taken.shape[0], depth)[place * COLUMNS + rows % COLUMNS]
    return codes, scale[rows], None if bias is None else bias[rows]


def _blocks_of(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks that hold some channels, each once, and for each channel which of them it is."""
    unique: Callable[..., tuple[Tensor, Tensor]] = getattr(torch, "unique")  # noqa: B009 - untyped
    return unique(ids // COLUMNS, return_inverse=True)


_INT_MM: Callable[[Tensor, Tensor], Tensor] = getattr(torch, "_int_mm")  # noqa: B009 - its only name
"""int8 [M K] times int8 [K N] -> int32 [M N]."""

_PREPARED: Any = WeakIdKeyDictionary()
"""For each packed tensor that was multiplied: its version, and its product."""


def _product(
    packed: Tensor, scale: Tensor, prepare: Callable[[Tensor, Tensor], _Product]
) -> _Product:
    """The product with all channels, prepared once a tensor and again if that was written to."""
    version = packed._version
    found = _PREPARED.get(packed)
    if found is None or found[0] != version or found[1] is not scale:
        found = (version, scale, prepare(packed, scale))
        _PREPARED[packed] = found
    return found[2]


def _prepared8(packed: Tensor, scale: Tensor) -> _Product:
    codes = kernels.unpack8(packed, scale.shape[0], packed.shape[1])
    if codes.device.type != "cpu" or integer_path() != "onednn":
        return _product_once(codes, scale)
    weight = torch.ops.onednn.qlinear_prepack(codes, None)
    zeros = torch.zeros(codes.shape[0], dtype=torch.int32)
    return lambda q: _onednn(_unsigned(q), weight, scale, zeros)


def _prepared4(packed: Tensor, group_scales: Tensor) -> _Product:
    """Group by group an integer product, with the scales of its group."""
    codes, scales = _unpacked4(packed, group_scales)
    if codes.device.type != "cpu" or integer_path() != "onednn":
        return _grouped(codes, scales)
    zeros = torch.zeros(codes.shape[0], dtype=torch.int32)
    weights = [
        torch.ops.onednn.qlinear_prepack(codes[:, start : start + GROUP].contiguous(), None)
        for start in range(0, codes.shape[1], GROUP)
    ]
    by_group = scales.T.contiguous()

    def product(q: Tensor) -> Tensor:
        rows = _unsigned(_padded(q, len(weights) * GROUP))
        groups = rows.view(-1, len(weights), GROUP).transpose(0, 1).contiguous()
        out = torch.zeros(q.shape[0], zeros.shape[0])
        for index, weight in enumerate(weights):
            out += _onednn(groups[index], weight, by_group[index], zeros)
        return out

    return product


def _unpacked4(packed: Tensor, group_scales: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [N K] and scales float32 [N G] of whole blocks, taken a few blocks at a time."""
    count, depth = packed.shape[0], packed.shape[1] // 8
    codes = packed.new_empty((COLUMNS * count, depth), dtype=torch.int8)
    step = max(1, _UNPACKED // max(1, COLUMNS * depth))
    for start in range(0, count, step):
        part = packed[start : start + step]
        rows = COLUMNS * part.shape[0]
        codes[COLUMNS * start : COLUMNS * start + rows] = kernels.unpack4(part, rows, depth)
    return codes, kernels.unpack4_scales(group_scales, COLUMNS * count)


def _grouped(codes: Tensor, scales: Tensor) -> _Product:
    """The product with int4 codes that are turned into float32, a few channels at a time.

    Args:
        codes: int8 [N K], K whole groups.
        scales: float32 [N G].
    """

    def product(q: Tensor) -> Tensor:
        wide = _padded(q, codes.shape[1]).float()
        out = wide.new_empty(wide.shape[0], codes.shape[0])
        step = max(COLUMNS, _WIDENED // max(1, codes.shape[1]))
        for start in range(0, codes.shape[0], step):
            part = slice(start, start + step)
            out[:, part] = F.linear(wide, values4(codes[part], scales[part]))
        return out

    return product


def _padded(q: Tensor, depth: int) -> Tensor:
    """Codes with zeros behind them, [M depth]."""
    return F.pad(q, (0, max(0, depth - q.shape[1])))[:, :depth]


def _unsigned(q: Tensor) -> Tensor:
    """Codes + 128 as uint8: oneDNN's fast form takes unsigned activations, 128 is their zero."""
    return q.contiguous().view(torch.uint8).bitwise_xor(128)


def _product_once(codes: Tensor, scale: Tensor) -> _Product:
    """The product with codes that are used as they lie."""
    if codes.device.type == "cpu" and codes.shape[0] and integer_path() is not None:
        return lambda q: _INT_MM(q, codes.T).float() * scale
    return lambda q: _widened(q, codes) * scale


def _onednn(unsigned: Tensor, weight: Tensor, scale: Tensor, zeros: Tensor) -> Tensor:
    """oneDNN's product of codes from :func:`_unsigned` with prepacked weights."""
    return torch.ops.onednn.qlinear_pointwise(
        *(unsigned, 1.0, 128, weight, scale, zeros, None, 1.0, 0, torch.float32, "none", [], "")
    )


def _widened(q: Tensor, codes: Tensor) -> Tensor:
    """The product in float32, a block of channels at a time."""
    wide = q.float()
    step = max(COLUMNS, _WIDENED // max(1, codes.shape[1]))
    out = wide.new_empty(wide.shape[0], codes.shape[0])
    for start in range(0, codes.shape[0], step):
        part = codes[start : start + step].float()
        out[:, start : start + step] = F.linear(wide, part)
    return out


@cache
def integer_path() -> str | None:
    """How int8 is multiplied on this processor: "onednn", "int_mm", or None for in float32.

    What is there is tried on the sums that overflow where 16 bits are all that an instruction has,
    as on older processors.
    """
    codes = torch.full((32, 64), 127, dtype=torch.int8)
    codes[1::2] = -127
    q = torch.full((2, 64), 127, dtype=torch.int8)
    q[1] = -127
    expected = q.double() @ codes.double().T
    ones, zeros = torch.ones(32), torch.zeros(32, dtype=torch.int32)
    tries: dict[str, Callable[[], Tensor]] = {
        "onednn": lambda: _onednn(
            _unsigned(q), torch.ops.onednn.qlinear_prepack(codes, None), ones, zeros
        ),
        "int_mm": lambda: _INT_MM(q, codes.T),
    }
    for name, product in tries.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                if torch.equal(product().double(), expected):
                    return name
            except (RuntimeError, AttributeError, TypeError):
                continue  # an older torch, or one built without oneDNN
    return None
