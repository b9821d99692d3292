"""The native kernels, tensors in and tensors out: products of int8 activations with packed weights.

Legend: M rows, K channels in, N channels out; K4 and N16 are K/4 and N/16 rounded up.

The packed layouts are those of :mod:`heliodor.quant.layouts`.

**Activations** are quantised row by row as they come: codes ``rint(x * (127 / max|x|))``, scale
``max|x| / 127``. A row whose largest magnitude is below 1.5e-36 counts as zeros. A row that holds
NaN or infinity gets the scale NaN, and every number computed from it is NaN.

The functions that compute need the library: ask ``available()`` first. They use as many threads as
``torch.get_num_threads()`` says.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from heliodor.errors import InputError
from heliodor.quant.layouts import (
    expect,
    expect_size,
    pack4,
    pack4_scales,
    pack8,
    unpack4,
    unpack4_scales,
    unpack8,
    up_to,
)
from heliodor.quant.native import library

__all__ = [
    "Rows",
    "available",
    "geglu_quantise",
    "linear4",
    "linear8",
    "linear_bf16",
    "linear_f16",
    "norm_quantise",
    "pack4",
    "pack4_scales",
    "pack8",
    "product4",
    "product8",
    "quantise_rows",
    "unpack4",
    "unpack4_scales",
    "unpack8",
]

Rows = tuple[int, int] | Tensor | None
"""Which output channels: a range whose ends are multiples of 16 (or N), int64 ids [R], or all."""

_DEEPEST = 131_072  # the largest K whose int8 sums stay inside an int32


def available() -> str | None:
    """The path in use: "avx512-amx", "avx512-vnni", "avx2", "neon", "plain" (portable C), or None.

    None means torch. The environment variable ``HELIODOR_KERNELS`` chooses a path, or "torch".
    """
    opened = library()
    return None if opened is None else opened.heliodor_processor().decode()


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x float32 [M K] -> codes int8 [M 4*K4], scales float32 [M], sums of codes int32 [M]."""
    return _quantise(0, x)


def norm_quantise(
    x: Tensor, weight: Tensor, eps: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise and quantise without writing the normalised rows.

    Args:
        x: float32 [M K].
        weight: float32 [K], what the normalised row is multiplied with: for Gemma's norm 1 + scale.
        eps: Added to the mean square or the variance.
        bias: float32 [K] makes it a layer norm; None an RMS norm.

    Returns:
        As ``quantise_rows``.
    """
    expect_size("weight", expect("weight", weight, torch.float32, 1), x.shape[-1:])
    if bias is None:
        return _quantise(1, x, weight=weight, eps=eps)
    expect_size("bias", expect("bias", bias, torch.float32, 1), x.shape[-1:])
    return _quantise(2, x, weight=weight, bias=bias, eps=eps)


def geglu_quantise(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise ``gelu_tanh(gate) * up``: both float32 [M K], the result as ``quantise_rows``."""
    expect_size("up", expect("up", up, torch.float32, 2), gate.shape)
    return _quantise(3, gate, other=up)


def product8(
    q: Tensor,
    scales: Tensor,
    sums: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    rows: Rows = None,
) -> Tensor:
    """Quantised rows times int8 weights.

    Args:
        q: int8 [M S], S at least 4*K4, zeros beyond K.
        scales: float32 [M].
        sums: int32 [M].
        packed: uint8 [16*N16, 4*K4] from ``pack8``.
        scale: float32 [N], one a channel out.
        bias: float32 [N] or None.
        rows: Which channels out.

    Returns:
        float32 [M N], or one column for each of the channels asked for.
    """
    _expect_codes(q)
    m, n = q.shape[0], scale.shape[0]
    expect_size("scales", expect("scales", scales, torch.float32, 1), (m,))
    expect_size("sums", expect("sums", sums, torch.int32, 1), (m,))
    expect("packed", packed, torch.uint8, 2)
    depth = packed.shape[1]
    if depth > min(q.shape[1], _DEEPEST) or depth % 4:
        raise InputError(
            f"packed holds {depth} channels in, codes have {q.shape[1]}: expected a multiple of 4, "
            f"no more than the codes and {_DEEPEST}"
        )
    expect_size("packed", packed, (up_to(n, 16), depth))
    _expect_channels(scale, bias, n)
    choice = _Channels.of(rows, n)
    out = torch.empty((m, choice.width), dtype=torch.float32)
    status = _opened().heliodor_product8(
        *(q.data_ptr(), q.stride(0), scales.data_ptr(), sums.data_ptr()),
        *(packed.data_ptr(), scale.data_ptr(), _pointer(bias)),
        *(out.data_ptr(), choice.width, m, n, depth),
        *(choice.first, _pointer(choice.blocks), choice.count, torch.get_num_threads()),
    )
    _remember(status)
    return choice.pick(out)


def linear8(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None = None, rows: Rows = None
) -> Tensor:
    """``x W^T + b`` with int8 weights and rows quantised on the way.

    Args:
        x: float32 [M K].
        packed: uint8 [16*N16, 4*K4] from ``pack8``.
        scale: float32 [N], one a channel out.
        bias: float32 [N] or None.
        rows: Which channels out.

    Returns:
        float32 [M N], or one column for each of the channels asked for.
    """
    return product8(*quantise_rows(x), packed, scale, bias, rows)


def product4(
    q: Tensor,
    scales: Tensor,
    sums: Tensor,
    packed: Tensor,
    group_scales: Tensor,
    bias: Tensor | None = None,
    rows: Rows = None,
    *,
    channels: int | None = None,
) -> Tensor:
    """Quantised rows times int4 weights.

    Args:
        q: int8 [M S], zeros beyond K.
        scales: float32 [M].
        sums: int32 [M]; not used, so that both products take the same rows.
        packed: uint8 [N16, 512 * G] from ``pack4``.
        group_scales: bfloat16 [N16, 16 * G] from ``pack4_scales``.
        bias: float32 [N] or None.
        rows: Which channels out.
        channels: N; None takes the length of the bias, or else 16 * N16.

    Returns:
        float32 [M N], or one column for each of the channels asked for.
    """
    del sums
    _expect_codes(q)
    expect_size("scales", expect("scales", scales, torch.float32, 1), (q.shape[0],))
    expect("packed", packed, torch.uint8, 2)
    blocks, depth = packed.shape[0], packed.shape[1] // 8
    if packed.shape[1] % 512 or not depth - 64 < q.shape[1]:
        raise InputError(
            f"packed holds {packed.shape[1]} bytes a block, codes {q.shape[1]} channels: expected "
            f"512 bytes for every 64 channels"
        )
    expect("group_scales", group_scales, torch.bfloat16, 2)
    expect_size("group_scales", group_scales, (blocks, depth // 4))
    n = channels if channels is not None else 16 * blocks if bias is None else len(bias)
    if up_to(n, 16) != 16 * blocks:
        raise InputError(f"{n} channels out do not fill the {blocks} blocks of 16 of packed")
    if bias is not None:
        expect_size("bias", expect("bias", bias, torch.float32, 1), (n,))
    choice = _Channels.of(rows, n)
    out = torch.empty((q.shape[0], choice.width), dtype=torch.float32)
    status = _opened().heliodor_product4(
        *(q.data_ptr(), q.stride(0), scales.data_ptr(), packed.data_ptr()),
        *(group_scales.data_ptr(), _pointer(bias), out.data_ptr(), choice.width),
        *(q.shape[0], n, depth, choice.first, _pointer(choice.blocks), choice.count),
        torch.get_num_threads(),
    )
    _remember(status)
    return choice.pick(out)


def linear4(
    x: Tensor,
    packed: Tensor,
    group_scales: Tensor,
    bias: Tensor | None = None,
    rows: Rows = None,
    *,
    channels: int | None = None,
) -> Tensor:
    """``x W^T + b`` with int4 weights and rows quantised on the way.

    Args:
        x: float32 [M K].
        packed: uint8 [N16, 512 * G] from ``pack4``.
        group_scales: bfloat16 [N16, 16 * G] from ``pack4_scales``.
        bias: float32 [N] or None.
        rows: Which channels out.
        channels: N; None takes the length of the bias, or else 16 * N16.

    Returns:
        float32 [M N], or one column for each of the channels asked for.
    """
    return product4(*quantise_rows(x), packed, group_scales, bias, rows, channels=channels)


def linear_bf16(x: Tensor, weight: Tensor, bias: Tensor | None = None, rows: Rows = None) -> Tensor:
    """``x W^T + b`` with weights that stay in bfloat16, each widened to float32 as it is read.

    Products and sums are float32, in another order than torch's.

    Args:
        x: float32 [M K].
        weight: bfloat16 [N K].
        bias: float32 [N] or None.
        rows: Which channels out; a range may start and end anywhere.

    Returns:
        float32 [M N], or one column for each of the channels asked for.
    """
    return _floats(0, x, expect("weight", weight, torch.bfloat16, 2), bias, rows)


def linear_f16(x: Tensor, weight: Tensor, bias: Tensor | None = None, rows: Rows = None) -> Tensor:
    """``linear_bf16`` for weights in float16."""
    return _floats(1, x, expect("weight", weight, torch.float16, 2), bias, rows)


def _floats(kind: int, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Rows) -> Tensor:
    m, (n, k) = expect("x", x, torch.float32, 2).shape[0], weight.shape
    expect_size("x", x, (m, k))
    if bias is not None:
        expect_size("bias", expect("bias", bias, torch.float32, 1), (n,))
    ids: Tensor | None = None
    if isinstance(rows, tuple):
        if not 0 <= rows[0] <= rows[1] <= n:
            raise InputError(f"rows {rows} of {n} channels: expected a <= b, both in 0..{n}")
        weight = weight[rows[0] : rows[1]]
        bias = None if bias is None else bias[rows[0] : rows[1]]
    elif rows is not None:
        ids = _ids(rows, n)
    out = torch.empty((m, weight.shape[0] if ids is None else len(ids)), dtype=torch.float32)
    status = _opened().heliodor_floats(
        *(kind, x.data_ptr(), weight.data_ptr(), _pointer(ids), _pointer(bias), out.data_ptr()),
        *(m, out.shape[1], k, torch.get_num_threads()),
    )
    _remember(status)
    return out


def _ids(rows: Tensor, n: int) -> Tensor:
    """The ids themselves, if they name channels."""
    expect("rows", rows, torch.int64, 1)
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < n:
        raise InputError(f"rows hold ids outside 0..{n - 1}: they name output channels")
    return rows


@dataclass(frozen=True, slots=True)
class _Channels:
    """Blocks of 16 output channels to compute, and which of their columns were asked for."""

    first: int
    count: int
    width: int
    blocks: Tensor | None = None
    columns: Tensor | None = None

    @classmethod
    def of(cls, rows: Rows, n: int) -> _Channels:
        if rows is None:
            return cls(0, up_to(n, 16) // 16, n)
        if isinstance(rows, tuple):
            a, b = rows
            if not 0 <= a <= b <= n or a % 16 or (b % 16 and b != n):
                raise InputError(
                    f"rows {rows} of {n} channels: expected a <= b, multiples of 16 or {n}, "
                    f"or ids as a tensor for single channels"
                )
            return cls(a // 16, (b - a + 15) // 16, b - a)
        block = _ids(rows, n) // 16
        wanted = torch.zeros(up_to(n, 16) // 16, dtype=torch.bool)
        wanted[block] = True
        blocks = wanted.nonzero()[:, 0]
        columns = (wanted.cumsum(0) - 1)[block] * 16 + rows % 16
        return cls(0, len(blocks), 16 * len(blocks), blocks.to(torch.int32), columns)

    def pick(self, out: Tensor) -> Tensor:
        return out if self.columns is None else out[:, self.columns]


def _quantise(
    kind: int,
    x: Tensor,
    *,
    other: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    expect("x", x, torch.float32, 2)
    m, k = x.shape
    q = torch.empty((m, _stride(k)), dtype=torch.int8)[:, : up_to(k, 4)]
    scales = torch.empty(m, dtype=torch.float32)
    sums = torch.empty(m, dtype=torch.int32)
    status = _opened().heliodor_quantise(
        *(kind, x.data_ptr(), k, _pointer(other), k, _pointer(weight), _pointer(bias), eps),
        *(m, k, q.data_ptr(), q.stride(0), scales.data_ptr(), sums.data_ptr()),
        torch.get_num_threads(),
    )
    _remember(status)
    return q, scales, sums


def _expect_codes(q: Tensor) -> None:
    """Rows of codes may lie apart."""
    if q.dim() != 2 or q.stride(1) != 1 or q.stride(0) < q.shape[1]:
        expect("q", q, torch.int8, 2)
    expect("q", q[:0], torch.int8, 2)


def _stride(k: int) -> int:
    """Bytes from a row of codes to the next: whole lines of a cache, and no power of two.

    Sixteen rows that are multiples of 4 KiB apart would share few places of the cache.
    """
    lines = up_to(k, 64)
    return lines + 64 if lines and lines % 1024 == 0 else lines


def _opened() -> ctypes.CDLL:
    opened = library()
    if opened is None:
        raise RuntimeError("the native kernels are not built: ask kernels.available() first")
    return opened


def _remember(status: int) -> None:
    if status != 0:
        raise MemoryError("no memory left for the scratch space of a kernel")


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _expect_channels(scale: Tensor, bias: Tensor | None, n: int) -> None:
    expect("scale", scale, torch.float32, 1)
    if bias is not None:
        expect_size("bias", expect("bias", bias, torch.float32, 1), (n,))
