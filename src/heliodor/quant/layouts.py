"""How quantised weights lie in memory, the same for every processor and in files.

Legend: K channels in, N channels out; K4 and N16 are K/4 and N/16 rounded up, G is K/64 rounded up.

**Packed int8**, the same on every processor: code + 128 as uint8, in the order
``[N16][K4][16 channels out][4 channels in]``, padding holds 128. A tensor of it has the shape
``[16 * N16, 4 * K4]``, whose rows mean nothing.

**Packed int4**: codes -8..7 stored as code + 8, two in a byte, in the order
``[N16][G][8 lines][16 channels out][4 bytes]``, G groups of 64 channels in. Byte i of line l holds
channel 8l + i in its low half and channel 8l + i + 4 in its high half; padding holds code 0. A
tensor of it has the shape ``[N16, 512 * G]``. The scales of the groups are bfloat16
``[N16][G][16 channels out]``, as a tensor ``[N16, 16 * G]``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from heliodor.errors import InputError

__all__ = [
    "expect",
    "expect_size",
    "pack4",
    "pack4_scales",
    "pack8",
    "unpack4",
    "unpack4_scales",
    "unpack8",
    "up_to",
]


def pack8(codes: Tensor) -> Tensor:
    """int8 codes [N K] -> packed uint8 [16 * N16, 4 * K4]."""
    expect("codes", codes, torch.int8, 2)
    n, k = codes.shape
    padded = F.pad(codes, (0, -k % 4, 0, -n % 16))
    blocks = padded.view(-1, 16, padded.shape[1] // 4, 4).permute(0, 2, 1, 3).contiguous()
    return blocks.view(torch.uint8).bitwise_xor_(128).view(padded.shape)


def unpack8(packed: Tensor, n: int, k: int) -> Tensor:
    """Packed uint8 -> the codes, int8 [n k], contiguous."""
    expect("packed", packed, torch.uint8, 2)
    expect_size("packed", packed, (up_to(n, 16), up_to(k, 4)))
    blocks = packed.view(-1, up_to(k, 4) // 4, 16, 4).permute(0, 2, 1, 3).bitwise_xor(128)
    return blocks.reshape(packed.shape)[:n, :k].contiguous().view(torch.int8)


def pack4(codes: Tensor) -> Tensor:
    """int8 codes in -8..7 [N K] -> packed uint8 [N16, 512 * G]."""
    expect("codes", codes, torch.int8, 2)
    n, k = codes.shape
    padded = F.pad(codes, (0, -k % 64, 0, -n % 16))
    lines = padded.view(-1, 16, padded.shape[1] // 8, 2, 4).permute(3, 0, 2, 1, 4)
    nibbles = (lines + 8).view(torch.uint8)
    packed = nibbles[0] | (nibbles[1] << 4)
    return packed.reshape(padded.shape[0] // 16, padded.shape[1] * 8)


def unpack4(packed: Tensor, n: int, k: int) -> Tensor:
    """Packed uint8 -> the codes, int8 [n k], contiguous."""
    expect("packed", packed, torch.uint8, 2)
    expect_size("packed", packed, (up_to(n, 16) // 16, up_to(k, 64) * 8))
    lines = packed.view(-1, up_to(k, 64) // 8, 16, 4)
    nibbles = torch.stack((lines & 15, lines >> 4), dim=3).permute(0, 2, 1, 3, 4)
    codes = nibbles.reshape(up_to(n, 16), up_to(k, 64)).view(torch.int8) - 8
    return codes[:n, :k].contiguous()


def pack4_scales(scales: Tensor) -> Tensor:
    """Scales [N G] of any float type -> bfloat16 [N16, 16 * G], rounded to nearest."""
    n, groups = scales.shape
    padded = F.pad(scales.to(torch.bfloat16), (0, 0, 0, -n % 16))
    return padded.view(-1, 16, groups).transpose(1, 2).reshape(-1, 16 * groups)


def unpack4_scales(scales: Tensor, n: int) -> Tensor:
    """Packed scales -> float32 [n G]."""
    expect("scales", scales, torch.bfloat16, 2)
    groups = scales.shape[1] // 16
    return scales.view(-1, groups, 16).transpose(1, 2).reshape(-1, groups)[:n].float()


def up_to(count: int, multiple: int) -> int:
    """``count`` rounded up to a multiple."""
    return -(-count // multiple) * multiple


def expect(name: str, tensor: Tensor, dtype: torch.dtype, dimensions: int) -> Tensor:
    """The tensor itself, if it has this dtype and so many dimensions, on the CPU, contiguous.

    Raises:
        InputError: It has not; opens with ``name``.
    """
    if tensor.dtype != dtype or tensor.dim() != dimensions or not tensor.is_cpu:
        raise InputError(
            f"{name} is {tensor.dtype} of shape {list(tensor.shape)} on {tensor.device}: "
            f"expected {dtype} of {dimensions} dimensions on the CPU"
        )
    if not tensor.is_contiguous():
        raise InputError(f"{name} of shape {list(tensor.shape)} is not contiguous: .contiguous()")
    return tensor


def expect_size(name: str, tensor: Tensor, size: tuple[int, ...]) -> None:
    """Raise InputError, opening with ``name``, unless the tensor has this shape."""
    if tensor.shape != size:
        raise InputError(f"{name} has the shape {list(tensor.shape)}, expected {list(size)}")
