"""Files that are not what they should be: honest ones, ways to damage them, and a full reading.

The fuzz tests draw with hypothesis, ``benchmarks/fuzz.py`` with a seed and many more cases.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from tests import tiny

from heliodor.checkpoints import NativeCheckpoint
from heliodor.checkpoints.npz import NpzFile
from heliodor.checkpoints.tensors import Tensors, open_tensors
from heliodor.errors import HeliodorError

SAFETENSORS = save(
    {
        "a": torch.arange(6.0).reshape(2, 3),
        "b.weight": torch.arange(4, dtype=torch.int16),
        "c": torch.tensor(1.5, dtype=torch.bfloat16),
        "d": torch.zeros(0, 2),
    },
    metadata={"format": "pt"},
)
"""An honest file of every kind of tensor."""

_LONGEST = 4000  # bytes of a message
_MUCH = 2**24  # values; what a file of a few hundred bytes cannot hold uncompressed


def _packed(pack: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    arrays: dict[str, Any] = {
        "params/a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.asfortranarray(np.ones((3, 2), np.float16)),
        "c": np.float64(2),
        "d": np.zeros((0, 4), np.int32),
    }
    pack(file, **arrays)
    return file.getvalue()


NPZ = (_packed(np.savez), _packed(np.savez_compressed))
"""An honest archive, stored and deflated."""


@cache
def native() -> bytes:
    """An honest native file of a small PaliGemma with its codec."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.safetensors"
        tiny.vlm().save(path, format="native")
        return path.read_bytes()


def changed(data: bytes, changes: Iterable[tuple[float, int]]) -> bytes:
    """Other bytes at some places, given as shares of the length below 1."""
    found = bytearray(data)
    for place, value in changes:
        found[int(place * len(found))] = value
    return bytes(found)


def spliced(data: bytes, start: float, end: float, piece: bytes) -> bytes:
    """A piece in place of, or beside, what stands between two shares of the length."""
    return data[: int(start * len(data))] + piece + data[int(end * len(data)) :]


def changed_at_marks(data: bytes, place: int, value: bytes) -> bytes:
    """Other bytes near one of zip's and npy's marks, where lengths, offsets and types stand."""
    marks = [n for n in range(len(data)) if data[n : n + 2] in (b"PK", b"\x93N")]
    start = marks[place % len(marks)] + place // len(marks) % 130
    found = bytearray(data)
    found[start : start + len(value)] = value
    return bytes(found[: len(data)])


def with_header(header: Mapping[str, Any], data: bytes) -> bytes:
    """A safetensors file that says what one likes."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def with_array(fields: Mapping[str, Any], data: bytes, method: int) -> bytes:
    """An npz of one array that says what one likes."""
    text = repr(dict(fields)).encode()
    whole = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("w.npy", whole)
    return file.getvalue()


def with_strings(data: bytes, changes: Mapping[str, str]) -> bytes:
    """A native file with other strings in its head."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] |= changes
    return with_header(header, data[8 + size :])


def read_tensors(tensors: Tensors) -> None:
    """Touch every byte that a safetensors header lets one touch."""
    for name in tensors:
        value = tensors.read(name)
        entry = tensors.entry(name)
        assert (value.dtype, tuple(value.shape)) == (entry.dtype, entry.shape)
        value.reshape(-1).view(torch.uint8).sum()
        if value.is_floating_point() and value.dtype.itemsize > 1:
            tensors.copy(name, torch.empty(entry.shape))


def read_safetensors(path: Path) -> None:
    """All of a file."""
    read_tensors(open_tensors(path))


def read_index(index: object) -> Callable[[Path], None]:
    """All of a folder whose one shard is the file that is given, and whose index says this."""

    def read(path: Path) -> None:
        path.rename(path.with_name("one.safetensors"))
        (path.parent / "model.safetensors.index.json").write_text(json.dumps(index))
        read_tensors(open_tensors(path.parent))

    return read


def read_npz(path: Path) -> None:
    """Touch every byte that an archive's directory lets one touch, in every way."""
    file = NpzFile(path)
    for name, entry in file.entries.items():
        if np.prod([float(size) for size in entry.shape]) > _MUCH:
            continue
        value = file.read(name)
        assert (value.dtype, tuple(value.shape)) == (entry.dtype, entry.shape)
        if entry.shape and value.numel():
            assert sum(len(block) for block in file.blocks(name, 2)) == entry.shape[0]
            assert tuple(file.part(name, (entry.shape[0] - 1,)).shape) == entry.shape[1:]
        file.release(name)


def read_native(path: Path) -> None:
    """Everything that a native file can be asked for; the first refusal, if any, at the end."""
    checkpoint = NativeCheckpoint(path=path, source="x")
    refusals: list[HeliodorError] = []
    for ask in (
        checkpoint.config,
        checkpoint.load,
        checkpoint.processor,
        checkpoint.tokenizer,
        checkpoint.mask_codec,
    ):
        try:
            ask()
        except HeliodorError as error:
            refusals.append(error)
    assert all(map(_is_readable, refusals))
    if refusals:
        raise refusals[0]


def refusal(
    data: bytes, read: Callable[[Path], object], name: str = "model.safetensors"
) -> HeliodorError | None:
    """The library's error at a file of these bytes, None if it was read; others escape."""
    found: HeliodorError | None = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            read(path)
        except HeliodorError as error:
            found = error
    assert found is None or _is_readable(found)
    return found


def _is_readable(error: HeliodorError) -> bool:
    """A message that can be printed, and that does not fill the screen."""
    return 0 < len(str(error).encode()) < _LONGEST
