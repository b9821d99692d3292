"""Tensors in safetensors files, read lazily.

Files are mapped, not read: a tensor costs memory when it is looked at. What a file says of itself
is checked first, by :mod:`~heliodor.checkpoints.header`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.header import STEM, parse_header
from heliodor.checkpoints.variants import chosen_names, variants_in
from heliodor.checkpoints.weights import Weight, check_readable
from heliodor.errors import FileFormatError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The format's names of the types that torch can hold."""

_CHUNK = 16 * 2**20  # bytes compared at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Where a tensor lies: bytes ``begin`` to ``end`` of its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """One safetensors file: its header checked, its tensors mapped.

    Attributes:
        path: the file.
        entries: what the header says, by name.
        metadata: the header's free strings, usually ``{"format": "pt"}``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                header = parse_header(file, path)
                self._map = mmap.mmap(file.fileno(), header.size, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise FileFormatError(f"{path} cannot be read: {error.strerror or error}") from error
        self.metadata = header.metadata
        self.entries = {
            name: Entry(dtype=DTYPES[s.kind], shape=s.shape, begin=s.begin, end=s.end)
            for name, s in header.slots.items()
        }

    def read(self, name: str) -> Tensor:
        """A tensor that looks into the mapped file; writing to it never reaches the file."""
        entry = self.entries[name]
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=entry.dtype)
        count = entry.end - entry.begin
        raw = torch.frombuffer(self._map, dtype=torch.uint8, offset=entry.begin, count=count)
        if entry.begin % entry.dtype.itemsize:
            raw = raw.clone()  # another writer's file, its tensors not on their natural boundary
        return raw.view(entry.dtype).reshape(entry.shape)

    def release(self, name: str) -> None:
        """Tell the system that the pages of a tensor will not be needed again."""
        entry = self.entries[name]
        begin = -(-entry.begin // mmap.PAGESIZE) * mmap.PAGESIZE
        length = entry.end // mmap.PAGESIZE * mmap.PAGESIZE - begin
        if length > 0 and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED, begin, length)


class Tensors:
    """The tensors of a checkpoint, over one file or many shards."""

    def __init__(self, place: Path, files: dict[str, TensorFile]) -> None:
        self.place = place
        self._files = files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def entry(self, name: str) -> Entry:
        """Type, shape and place of a tensor."""
        return self._files[name].entries[name]

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._files[name].path

    def read(self, name: str) -> Tensor:
        """A tensor, not copied: it looks into the mapped file."""
        return self._files[name].read(name)

    def weight(self, name: str) -> Weight:
        """A tensor to be read later."""
        entry, file = self.entry(name), self._files[name]
        return Weight(
            name=name,
            dtype=entry.dtype,
            shape=entry.shape,
            read=partial(file.read, name),
            release=partial(file.release, name),
        )

    def check_readable(self) -> None:
        """Refuse tensors of a type that is no weight's.

        Raises:
            FileFormatError: there is one.
        """
        for name in self:
            check_readable(name, self.entry(name).dtype, self.file(name))

    def copy(self, name: str, target: Tensor) -> None:
        """Copy a tensor into ``target``; see :meth:`Weight.copy_to`."""
        self.weight(name).copy_to(target)

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors hold the same values, some megabytes at a time."""
        if self.entry(name).shape != self.entry(other).shape:
            return False
        one, two = self.read(name).view(-1), self.read(other).view(-1)
        step = max(1, _CHUNK // max(1, one.element_size()))
        same = all(
            torch.equal(one[start : start + step], two[start : start + step].to(one.dtype))
            for start in range(0, one.numel(), step)
        )
        self._files[name].release(name)
        self._files[other].release(other)
        return same


def open_tensors(place: str | Path, *, stem: str = STEM, variant: str | None = None) -> Tensors:
    """Open the weights of a folder, or one safetensors file.

    In a folder ``model.safetensors`` counts before ``model.safetensors.index.json`` and the shards
    it names, as in transformers.

    Args:
        place: the folder or file.
        stem: what a folder's files are called in place of ``model``.
        variant: such as "fp16", which is read where it is there; see
            :mod:`~heliodor.checkpoints.variants`.

    Raises:
        FileFormatError: no weights there, a shard that is absent or broken, or an index that
            says other than the shards.
        InputError: a variant that is no plain word.
    """
    place = Path(place)
    if not place.is_dir():
        file = TensorFile(place)
        return Tensors(place, dict.fromkeys(file.entries, file))
    single, index = (place / name for name in chosen_names(place, stem, variant))
    if single.exists():
        file = TensorFile(single)
        return Tensors(place, dict.fromkeys(file.entries, file))
    if index.exists():
        return _open_shards(index)
    raise FileFormatError(_no_weights(place, stem, single.name, index.name))


def _no_weights(folder: Path, stem: str, single: str, index: str) -> str:
    variants = variants_in(folder, stem)
    others = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".npz"})
    message = f"{folder} holds no {single} and no {index}"
    if variants:
        message += f", only those of a variant: ask for variant='{variants[0]}'"
    elif others:
        message += f"; {others[0]} is not read, save the checkpoint as safetensors"
    return message


def _open_shards(index: Path) -> Tensors:
    """The shards that an index names, each holding exactly what the index says."""
    folder = index.parent
    weight_map: Any = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FileFormatError(f'{index} has no "weight_map" of tensor names to shard names')
    promised: dict[str, set[str]] = {}
    for name, shard in cast("dict[str, Any]", weight_map).items():
        promised.setdefault(_shard_name(shard, name, index), set()).add(name)
    files: dict[str, TensorFile] = {}
    for shard, names in sorted(promised.items()):
        if not (folder / shard).is_file():
            raise FileFormatError(f"{index} names the shard {shard}, which is not in the folder")
        file = TensorFile(folder / shard)
        _check_shard(file, names, index)
        files |= dict.fromkeys(file.entries, file)
    return Tensors(folder, files)


def _shard_name(shard: object, name: str, index: Path) -> str:
    """A plain file name; anything that could lead out of the folder is refused."""
    if not isinstance(shard, str) or not shard.endswith(".safetensors"):
        raise FileFormatError(f"{index} maps {name} to {shard!r}, which is no safetensors file")
    if shard != Path(shard).name or "\\" in shard or ":" in shard or "\0" in shard:
        raise FileFormatError(f"{index} maps {name} to {shard!r}, which is outside the folder")
    return shard


def _check_shard(file: TensorFile, promised: set[str], index: Path) -> None:
    absent = sorted(promised - file.entries.keys())
    if absent:
        raise FileFormatError(
            f"{index} says that {file.path.name} holds {absent[0]}, but it does not "
            f"({len(absent)} such)"
        )
    extra = sorted(file.entries.keys() - promised)
    if extra:
        raise FileFormatError(
            f"{file.path} holds {extra[0]}, of which {index.name} says nothing or another shard "
            f"({len(extra)} such)"
        )
