"""Tensors into safetensors files, a piece at a time.

Nothing is gathered first: the header is known from names, shapes and types alone, and each tensor
is then converted and written some megabytes at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Self

import torch
from torch import Tensor

from heliodor.checkpoints.files import Replacement, to_json
from heliodor.checkpoints.header import STEM
from heliodor.checkpoints.tensors import DTYPES
from heliodor.checkpoints.weights import Weight, loses_range
from heliodor.errors import CheckpointError

SHARD_SIZE = 5 * 10**9
"""Bytes of a shard by default, as in the official repositories."""

_BLOCK = 64
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A tensor to be written: its name there, its source, its type there."""

    name: str
    source: Weight
    dtype: torch.dtype

    @classmethod
    def of(cls, name: str, source: Tensor | Weight, dtype: torch.dtype | None) -> Self:
        """A tensor in memory or in another file; None keeps its type."""
        weight = Weight.of(name, source) if isinstance(source, Tensor) else source
        return cls(name=name, source=weight, dtype=dtype or weight.dtype)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.source.count * self.dtype.itemsize


def write_tensors(
    new: Replacement,
    tensors: Mapping[str, Tensor] | Mapping[str, Weight],
    dtype: torch.dtype | None,
    max_shard_size: int,
    *,
    stem: str = STEM,
) -> None:
    """Write ``model.safetensors``, or shards and their index where one file would be too large.

    A shard grows up to ``max_shard_size`` bytes; a single tensor beyond that has one to itself.
    Weights that stood in the folder before are removed with the replacement.

    Args:
        new: the save under way.
        tensors: by the names to write, in the order to write.
        dtype: of all of them in the file; None keeps each one's own.
        max_shard_size: bytes.
        stem: what the files are called in place of ``model``.

    Raises:
        CheckpointError: a value that the type cannot hold.
    """
    planned = [Planned.of(name, source, dtype) for name, source in tensors.items()]
    shards = _divide(planned, max_shard_size)
    names = _shard_names(len(shards), stem)
    index = f"{stem}.safetensors.index.json"
    divided = (p.name for p in new.folder.glob(f"{stem}-*-of-*.safetensors"))
    for stale in (f"{stem}.safetensors", index, *divided):
        new.remove_afterwards(stale)
    for name, shard in zip(names, shards, strict=True):
        with new.open(name) as file:
            write_file(file, shard, {})
    if len(shards) > 1:
        new.write(index, _index(names, shards))


def _divide(planned: Sequence[Planned], limit: int) -> list[list[Planned]]:
    shards: list[list[Planned]] = [[]]
    filled = 0
    for tensor in planned:
        if shards[-1] and filled + tensor.size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.size
    return shards


def _shard_names(count: int, stem: str) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def _index(names: Sequence[str], shards: Sequence[Sequence[Planned]]) -> bytes:
    tensors = [tensor for shard in shards for tensor in shard]
    return to_json(
        {
            "metadata": {
                "total_parameters": sum(tensor.source.count for tensor in tensors),
                "total_size": sum(tensor.size for tensor in tensors),
            },
            "weight_map": {
                tensor.name: name
                for name, shard in zip(names, shards, strict=True)
                for tensor in shard
            },
        }
    )


def write_file(file: BinaryIO, tensors: Sequence[Planned], metadata: Mapping[str, str]) -> None:
    """One safetensors file, its tensors on their natural boundaries.

    Codes come first, in blocks of 64 bytes on multiples of 64, as processors load them; then wide
    types before narrow ones.

    Args:
        file: opened for writing.
        tensors: what to write.
        metadata: the header's free strings, beside ``{"format": "pt"}``.

    Raises:
        CheckpointError: a value that its type in the file cannot hold.
    """
    ordered = sorted(tensors, key=lambda tensor: (not _is_blocks(tensor), -tensor.dtype.itemsize))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    place = 0
    for tensor in ordered:
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.source.shape),
            "data_offsets": [place, place + tensor.size],
        }
        place += tensor.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % _BLOCK)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in ordered:
        _write_tensor(file, tensor)


def _is_blocks(tensor: Planned) -> bool:
    """Whether bytes are codes in whole blocks; what follows them stays on a boundary."""
    return tensor.dtype == torch.uint8 and tensor.size % _BLOCK == 0


def _write_tensor(file: BinaryIO, tensor: Planned) -> None:
    narrows = loses_range(tensor.source.dtype, tensor.dtype)
    for stored in tensor.source.pieces():
        piece = torch.empty(stored.shape, dtype=tensor.dtype)  # with strides of its own
        piece.copy_(stored)
        if narrows and not torch.isfinite(piece).all():
            raise CheckpointError(
                f"{tensor.name} holds values that {tensor.dtype} cannot: save as bfloat16 or "
                "float32"
            )
        file.write(piece.view(torch.uint8).numpy().data)
