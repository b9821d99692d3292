"""The native kernels, tensors in and tensors out: products of int8 activations with packed weights.

Legend: M rows, K channels in, N channels out; K4 and N16 are K/4 and N/16 rounded up.

**Packed int8**, the same on every processor: code + 128 as uint8, in the order
``[N16][K4][16 channels out][4 channels in]``, padding holds 128. A tensor of it has the shape
``[16 * N16, 4 * K4]``, whose rows mean nothing.

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
from torch.nn import functional as F

from heliodor.errors import InputError
from heliodor.quant.native import library

__all__ = [
    "Rows",
    "available",
    "geglu_quantise",
    "linear8",
    "norm_quantise",
    "pack8",
    "product8",
    "quantise_rows",
    "unpack8",
]

Rows = tuple[int, int] | Tensor | None
"""Which output channels: a range whose ends are multiples of 16 (or N), int64 ids [R], or all."""

_DEEPEST = 131_072  # the largest K whose int8 sums stay inside an int32


def available() -> str | None:
    """The path in use: "avx512-vnni", "avx2", "neon", "plain" (portable C), or None for torch.

    The environment variable ``HELIODOR_KERNELS`` chooses one of them, or "torch".
    """
    opened = library()
    return None if opened is None else opened.heliodor_processor().decode()


def pack8(codes: Tensor) -> Tensor:
    """int8 codes [N K] -> packed uint8 [16 * N16, 4 * K4]."""
    _expect("codes", codes, torch.int8, 2)
    n, k = codes.shape
    padded = F.pad(codes, (0, -k % 4, 0, -n % 16))
    blocks = padded.view(-1, 16, padded.shape[1] // 4, 4).permute(0, 2, 1, 3).contiguous()
    return blocks.view(torch.uint8).bitwise_xor_(128).view(padded.shape)


def unpack8(packed: Tensor, n: int, k: int) -> Tensor:
    """Packed uint8 -> the codes, int8 [n k], contiguous."""
    _expect("packed", packed, torch.uint8, 2)
    _expect_size("packed", packed, (_up(n, 16), _up(k, 4)))
    blocks = packed.view(-1, _up(k, 4) // 4, 16, 4).permute(0, 2, 1, 3).bitwise_xor(128)
    return blocks.reshape(packed.shape)[:n, :k].contiguous().view(torch.int8)


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
    _expect_size("weight", _expect("weight", weight, torch.float32, 1), x.shape[-1:])
    if bias is None:
        return _quantise(1, x, weight=weight, eps=eps)
    _expect_size("bias", _expect("bias", bias, torch.float32, 1), x.shape[-1:])
    return _quantise(2, x, weight=weight, bias=bias, eps=eps)


def geglu_quantise(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise ``gelu_tanh(gate) * up``: both float32 [M K], the result as ``quantise_rows``."""
    _expect_size("up", _expect("up", up, torch.float32, 2), gate.shape)
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
    _expect("q", q, torch.int8, 2)
    m, n = q.shape[0], scale.shape[0]
    _expect_size("scales", _expect("scales", scales, torch.float32, 1), (m,))
    _expect_size("sums", _expect("sums", sums, torch.int32, 1), (m,))
    _expect("packed", packed, torch.uint8, 2)
    depth = packed.shape[1]
    if depth > min(q.shape[1], _DEEPEST) or depth % 4:
        raise InputError(
            f"packed holds {depth} channels in, codes have {q.shape[1]}: expected a multiple of 4, "
            f"no more than the codes and {_DEEPEST}"
        )
    _expect_size("packed", packed, (_up(n, 16), depth))
    _expect_channels(scale, bias, n)
    choice = _Channels.of(rows, n)
    out = torch.empty((m, choice.width), dtype=torch.float32)
    status = _opened().heliodor_product8(
        *(q.data_ptr(), q.shape[1], scales.data_ptr(), sums.data_ptr()),
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
            return cls(0, _up(n, 16) // 16, n)
        if isinstance(rows, tuple):
            a, b = rows
            if not 0 <= a <= b <= n or a % 16 or (b % 16 and b != n):
                raise InputError(
                    f"rows {rows} of {n} channels: expected a <= b, multiples of 16 (b may be {n}); "
                    f"pass ids as a tensor for single channels"
                )
            return cls(a // 16, (b - a + 15) // 16, b - a)
        _expect("rows", rows, torch.int64, 1)
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < n:
            raise InputError(f"rows hold ids outside 0..{n - 1}: they name output channels")
        blocks, place = torch.unique(rows // 16, return_inverse=True)
        columns = place * 16 + rows % 16
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
    _expect("x", x, torch.float32, 2)
    m, k = x.shape
    q = torch.empty((m, _up(k, 4)), dtype=torch.int8)
    scales = torch.empty(m, dtype=torch.float32)
    sums = torch.empty(m, dtype=torch.int32)
    status = _opened().heliodor_quantise(
        *(kind, x.data_ptr(), k, _pointer(other), k, _pointer(weight), _pointer(bias), eps),
        *(m, k, q.data_ptr(), q.shape[1], scales.data_ptr(), sums.data_ptr()),
        torch.get_num_threads(),
    )
    _remember(status)
    return q, scales, sums


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


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _expect_channels(scale: Tensor, bias: Tensor | None, n: int) -> None:
    _expect("scale", scale, torch.float32, 1)
    if bias is not None:
        _expect_size("bias", _expect("bias", bias, torch.float32, 1), (n,))


def _expect(name: str, tensor: Tensor, dtype: torch.dtype, dimensions: int) -> Tensor:
    if tensor.dtype != dtype or tensor.dim() != dimensions or tensor.device.type != "cpu":
        raise InputError(
            f"{name} is {tensor.dtype} of shape {list(tensor.shape)} on {tensor.device}: "
            f"expected {dtype} of {dimensions} dimensions on the CPU"
        )
    if not tensor.is_contiguous():
        raise InputError(f"{name} of shape {list(tensor.shape)} is not contiguous: .contiguous()")
    return tensor


def _expect_size(name: str, tensor: Tensor, size: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(size):
        raise InputError(f"{name} has the shape {list(tensor.shape)}, expected {list(size)}")
