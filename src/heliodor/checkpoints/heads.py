"""Names, types and shapes of the tensors in a checkpoint's files, from their heads alone.

Importing this module loads no torch. What is missing or broken is told, not raised: this is for
saying what is wrong with a folder.
"""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.header import SIZES, STEM, read_header
from heliodor.checkpoints.variants import variants_in, weight_names
from heliodor.errors import CheckpointError, FileFormatError

NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""safetensors' names of types as torch calls them."""

_NPY = {"V2": "bfloat16", "f2": "float16", "f4": "float32", "f8": "float64"}
_LONGEST_HEAD = 2**16  # bytes of an npy header; numpy's own are about a hundred


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """A tensor as its file's head describes it."""

    dtype: str
    shape: tuple[int, ...]
    size: int

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    """What the files of a checkpoint hold.

    Attributes:
        tensors: by the files' names.
        files: the names of the files that are there.
        missing: files and tensors that are promised and not there.
        broken: what is wrong with files that are there.
        metadata: strings of the one safetensors file, empty for several.
    """

    tensors: dict[str, Head]
    files: list[str]
    missing: list[str] = field(default_factory=list[str])
    broken: list[str] = field(default_factory=list[str])
    metadata: dict[str, str] = field(default_factory=dict[str, str])


def folder_heads(folder: Path, *, stem: str = STEM) -> Heads:
    """The weights in a folder, be they one file or shards; a variant's where there are no others.

    Args:
        folder: in transformers' or diffusers' layout.
        stem: what its files are called in place of ``model``.
    """
    plain = any((folder / name).is_file() for name in weight_names(stem))
    variants = [] if plain else variants_in(folder, stem)
    single, index = weight_names(stem, variants[0] if variants else None)
    if (folder / single).is_file():
        return file_heads([folder / single])
    if not (folder / index).is_file():
        return Heads(tensors={}, files=[], missing=[single])
    promised: Any = read_json(folder / index).get("weight_map")
    if not isinstance(promised, dict):
        return Heads(tensors={}, files=[], broken=[f"{index} has no weight_map"])
    shards = {str(shard) for shard in cast("dict[str, object]", promised).values()}
    paths = [folder / Path(shard).name for shard in sorted(shards)]
    found = file_heads(path for path in paths if path.is_file())
    lost = [f"{path.name} (a shard)" for path in paths if not path.is_file()]
    names = cast("dict[str, object]", promised).keys()
    lost += [name for name in names if name not in found.tensors]
    strange = [f"{index} says nothing of {name}" for name in found.tensors if name not in names]
    return Heads(
        tensors=found.tensors, files=found.files, missing=lost, broken=found.broken + strange
    )


def file_heads(paths: Iterable[Path]) -> Heads:
    """The tensors of some safetensors files."""
    found = Heads(tensors={}, files=[])
    for path in paths:
        found.files.append(path.name)
        try:
            header = read_header(path)
        except FileFormatError as error:
            found.broken.append(str(error))
            continue
        found.metadata.update(header.metadata)
        found.tensors.update(
            {
                name: Head(
                    dtype=NAMES[slot.kind],
                    shape=slot.shape,
                    size=math.prod(slot.shape) * SIZES[slot.kind],
                )
                for name, slot in header.slots.items()
            }
        )
    return found


def npz_heads(path: Path) -> Heads:
    """The arrays of an npz, or of the pieces of one."""
    if not (path.is_file() and path.suffix == ".npz"):
        return _piece_heads(path)
    try:
        with zipfile.ZipFile(path) as archive:
            tensors = {
                member.filename.removesuffix(".npy"): _array_head(archive, member)
                for member in archive.infolist()
            }
    except CheckpointError as error:
        return Heads(tensors={}, files=[path.name], broken=[str(error)])
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        return Heads(tensors={}, files=[path.name], broken=[f"{path} is no npz: {error}"])
    return Heads(tensors=tensors, files=[path.name])


def _array_head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Head:
    from numpy.lib import format as npy  # noqa: PLC0415 - for npz files alone

    with archive.open(member) as file:
        read = {
            (1, 0): npy.read_array_header_1_0,
            (2, 0): npy.read_array_header_2_0,
        }.get(npy.read_magic(file))
        if read is None:
            raise FileFormatError(f"{member.filename} is in a version of npy that is not read")
        shape, _, dtype = read(file, max_header_size=_LONGEST_HEAD)
    kind = dtype.str.lstrip("<>=|")
    size = math.prod(shape) * dtype.itemsize
    return Head(dtype=_NPY.get(kind, dtype.name), shape=tuple(shape), size=size)


def _piece_heads(path: Path) -> Heads:
    # The only reader of pieces maps them for torch.
    from heliodor.checkpoints.mapped import find_pieces  # noqa: PLC0415
    from heliodor.checkpoints.npz import NpzFile  # noqa: PLC0415

    try:
        files = [piece.name for piece in find_pieces(path)]
        entries = NpzFile(path).entries
    except FileFormatError as error:
        return Heads(tensors={}, files=[path.name], broken=[str(error)])
    tensors = {
        name: Head(
            dtype=str(entry.dtype).removeprefix("torch."),
            shape=entry.shape,
            size=math.prod(entry.shape) * entry.dtype.itemsize,
        )
        for name, entry in entries.items()
    }
    return Heads(tensors=tensors, files=files)


def counts(heads: Heads, missing: Sequence[str], wrong: Sequence[str]) -> dict[str, Any]:
    """What is told of every checkpoint's tensors, files and faults."""
    dtypes = Counter(head.dtype for head in heads.tensors.values())
    lost = list(dict.fromkeys(missing))
    broken = [*heads.broken, *dict.fromkeys(wrong)]
    return {
        "precision": next(iter(dtypes), None) if len(dtypes) < 2 else "mixed",
        "parameters": sum(head.count for head in heads.tensors.values()),
        "bytes": sum(head.size for head in heads.tensors.values()),
        "tensors": len(heads.tensors),
        "dtypes": dict(dtypes),
        "files": heads.files,
        "complete": not lost and not broken and bool(heads.tensors),
        "missing": lost,
        "broken": broken,
    }


def compared(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Head], told: Callable[[str], str]
) -> tuple[list[str], list[str]]:
    """The tensors that are missing, and what is wrong with shapes.

    Args:
        wanted: shapes by our names.
        found: heads by our names.
        told: our name -> the file's.
    """
    missing = [told(name) for name in wanted if name not in found]
    wrong = [
        f"{told(name)} is {list(found[name].shape)}, where {list(shape)} belongs"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    return missing, wrong
