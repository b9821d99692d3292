"""Weights to codes and back, some megabytes at a time.

N output channels, K input channels, G groups of 64 along K. ``encode`` is what every quantised
tensor comes from, in memory or on its way to a file, so that both are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from heliodor.errors import InputError
from heliodor.quant import kernels
from heliodor.quant.scheme import COLUMNS, GROUP, Scheme

__all__ = ["codes4", "codes8", "decode", "encode", "encode_pieces", "pack", "take_rows", "values4"]

_CHUNK = 2**18  # weights at a time: they and what is computed of them stay in the cache
_EXTREMES = (6.8, 7.4, 8.6)
"""Codes that the largest weight of a group may get: 8 uses all codes and rounds the others
coarsely, less cuts nothing off, more cuts the largest. Which is best depends on the group."""


def encode(weight: Tensor, scheme: Scheme) -> dict[str, Tensor]:
    """The tensors that stand for a weight, as :meth:`Scheme.parts` describes them.

    Args:
        weight: [N K] of any float type, on any device, strided as it may be.
        scheme: how it is stored.

    Returns:
        Tensors on the CPU.

    Raises:
        InputError: a weight that is NaN or infinite.
    """
    return encode_pieces((weight,), (weight.shape[0], weight.shape[1]), scheme)


def encode_pieces(
    pieces: Iterable[Tensor], shape: tuple[int, int], scheme: Scheme
) -> dict[str, Tensor]:
    """The same for a weight that comes in blocks of rows, each of which is let go when it is coded.

    Args:
        pieces: [n K] in order, n a multiple of ``COLUMNS`` in all but the last.
        shape: (N, K).
        scheme: how it is stored.

    Raises:
        InputError: a weight that is NaN or infinite, or pieces that do not make up the shape.
    """
    rows, width = shape
    parts = {
        name: torch.empty(part, dtype=getattr(torch, dtype))
        for name, (dtype, part) in scheme.parts(rows, width).items()
    }
    step = max(1, _CHUNK // (COLUMNS * max(1, width))) * COLUMNS
    done = 0
    for piece in pieces:
        if done % COLUMNS or piece.shape[1] != width or done + len(piece) > rows:
            raise InputError(
                f"a piece of {list(piece.shape)} came after {done} rows of {rows} by {width}: "
                f"expected so many channels, and multiples of {COLUMNS} rows but for the last"
            )
        for start in range(0, len(piece), step):
            part = piece[start : start + step].detach().to("cpu", torch.float32).contiguous()
            _put(parts, done + start, rows, pack(*_codes(part, scheme), scheme))
        done += len(piece)
    if done != rows:
        raise InputError(f"{done} rows came of {rows}")
    return parts


def _codes(weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    return codes8(weight) if scheme.bits == 8 else codes4(weight)


def _put(parts: dict[str, Tensor], start: int, rows: int, found: dict[str, Tensor]) -> None:
    """Packed rows from ``start`` on in their place; a line holds a row or ``COLUMNS`` of them."""
    for name, part in found.items():
        first = start if parts[name].shape[0] >= rows else start // COLUMNS
        parts[name][first : first + part.shape[0]] = part


def pack(codes: Tensor, scale: Tensor, scheme: Scheme) -> dict[str, Tensor]:
    """Codes and their scales as the kernels read them.

    Args:
        codes: int8 [N K], for int4 in -8..7.
        scale: float32 [N] for int8; for int4 [N G], rounded to bfloat16 here.
        scheme: whose codes they are.
    """
    if scheme.bits == 8:
        return {"packed": kernels.pack8(codes), "scale": scale}
    return {"packed": kernels.pack4(codes), "scale": kernels.pack4_scales(scale)}


def codes8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest codes: weight float32 [N K] -> int8 [N K], scale float32 [N].

    Raises:
        InputError: a weight that is NaN or infinite.
    """
    scale = _largest(weight) / 127
    codes = (weight / torch.where(scale > 0, scale, 1)[:, None]).round_().clamp_(-127, 127)
    return codes.to(torch.int8), scale


def codes4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of least squared error: weight float32 [N K] -> int8 [N K], scale float32 [N G].

    Each group's largest weight is tried at several codes, positive and negative ends alike (a scale
    may be negative: there are codes to -8, but only to 7). The best one's scale is then fitted to
    the codes, and the codes to it. Scales are multiples of bfloat16's steps.

    Raises:
        InputError: a weight that is NaN or infinite.
    """
    _largest(weight)
    rows, width = weight.shape
    groups = -(-width // GROUP)
    padded = torch.nn.functional.pad(weight, (0, groups * GROUP - width)).view(rows, groups, GROUP)
    extreme = padded.gather(-1, padded.abs().argmax(-1, keepdim=True))
    best = _storable(extreme / -8)
    least = _error4(padded, best)
    for code in _EXTREMES:
        scale = _storable(extreme / -code)
        error = _error4(padded, scale)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    codes = _nearest4(padded, best)
    fitted = (codes * padded).sum(-1, keepdim=True) / codes.square().sum(-1, keepdim=True)
    fitted = _storable(torch.where(fitted.isfinite(), fitted, best))
    best = torch.where(_error4(padded, fitted) < least, fitted, best)
    codes = _nearest4(padded, best).to(torch.int8).view(rows, groups * GROUP)
    return codes[:, :width].contiguous(), best[..., 0]


def values4(codes: Tensor, scale: Tensor) -> Tensor:
    """What int4 codes stand for: int8 [N K], scale [N G] -> float32 [N K]."""
    width = codes.shape[1]
    wide = scale.float().repeat_interleave(GROUP, dim=1)[:, :width]
    return codes.float() * wide


def decode(parts: dict[str, Tensor], scheme: Scheme, rows: int, width: int) -> Tensor:
    """The weight that its tensors stand for, float32 [N K], N = ``rows``, K = ``width``."""
    if scheme.bits == 8:
        return kernels.unpack8(parts["packed"], rows, width).float() * parts["scale"][:, None]
    codes = kernels.unpack4(parts["packed"], rows, width)
    return values4(codes, kernels.unpack4_scales(parts["scale"], rows))


def take_rows(packed: Tensor, scale: Tensor, ids: Tensor, width: int) -> Tensor:
    """Some rows of an int8 weight: ids int64 [...] -> float32 [... K], K = ``width``."""
    steps = packed.shape[1] // 4
    blocks = packed.view(-1, steps, COLUMNS, 4)
    flat = ids.reshape(-1)
    codes = blocks[flat // COLUMNS, :, flat % COLUMNS].reshape(flat.shape[0], -1)[:, :width]
    values = (codes.float() - 128) * scale[flat][:, None]
    return values.view(*ids.shape, width)


def _largest(weight: Tensor) -> Tensor:
    """The largest magnitude of each row, [N K] -> [N]."""
    if weight.shape[1] == 0:
        return weight.new_zeros(weight.shape[0])
    largest = weight.abs().amax(-1)
    if not bool(largest.isfinite().all()):
        raise InputError(
            "a weight is NaN or infinite and has no code: the checkpoint is broken, or of a type "
            "that was too narrow for it"
        )
    return largest


def _storable(scale: Tensor) -> Tensor:
    """The nearest scale that bfloat16 holds; 1 for a group of zeros."""
    rounded = scale.to(torch.bfloat16).float()
    return torch.where(rounded == 0, 1.0, rounded)


def _nearest4(groups: Tensor, scale: Tensor) -> Tensor:
    return (groups / scale).round_().clamp_(-8, 7)


def _error4(groups: Tensor, scale: Tensor) -> Tensor:
    """Squared error of each group, [N G 64], [N G 1] -> [N G 1]."""
    return (_nearest4(groups, scale).mul_(scale) - groups).square_().sum(-1, keepdim=True)
