"""Arrays in ``.npz`` files, read lazily and written a piece at a time.

An npz is a zip archive with one ``.npy`` file for each array. ``numpy.savez`` stores them as they
are: such an array is mapped, not read, and costs memory when it is looked at.
``numpy.savez_compressed`` deflates them: such an array is unpacked on the way, block by block. Both
may come in pieces (:mod:`~heliodor.checkpoints.mapped`), and beyond 4 GiB (zip64). What an archive
says of itself is checked first (:mod:`~heliodor.checkpoints.archive`).
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from heliodor.checkpoints.archive import NpzEntry, inflated, read_directory
from heliodor.checkpoints.files import Replacement
from heliodor.checkpoints.mapped import MappedFile
from heliodor.checkpoints.npy import write_npy_header
from heliodor.checkpoints.weights import loses_range
from heliodor.errors import CheckpointError

__all__ = ["NpzEntry", "NpzFile", "Source", "Stack", "write_npz"]

_CHUNK = 4 * 2**20  # bytes of values copied or written at a time


class NpzFile:
    """An npz, its directory and its arrays' headers checked, its values mapped.

    Attributes:
        path: what was asked for.
        entries: the arrays, by name without ``.npy``.
    """

    def __init__(self, path: str | Path) -> None:
        """Open an archive.

        Args:
            path: the file, or where its pieces lie (:func:`~heliodor.checkpoints.mapped.
                find_pieces`).

        Raises:
            FileFormatError: it cannot be read, is no zip archive, is truncated, locked, compressed
                in another way than deflate, or says what cannot be; or an array is of a type that
                is not read.
        """
        self.path = Path(path)
        self._file = MappedFile(self.path)
        self.entries = read_directory(self._file)
        self._cursors: dict[str, _Cursor] = {}

    def read(self, name: str) -> Tensor:
        """An array, in place where it is stored as it is and lies on its type's boundary.

        Writing to it never reaches the file. For large arrays see :meth:`blocks`.

        Raises:
            FileFormatError: compressed bytes that are damaged.
        """
        entry = self.entries[name]
        if entry.deflated:
            parts = _Bytes(inflated(self._file, entry, name))
            parts.skip(entry.header)
            values = torch.empty(entry.size - entry.header, dtype=torch.uint8)
            parts.fill(values)
            parts.finish()
        else:
            begin = entry.begin + entry.header
            values = self._file.tensor(begin, entry.end, entry.dtype.itemsize)
        return _shaped(values, entry.dtype, entry.shape, fortran=entry.fortran)

    def part(self, name: str, index: tuple[int, ...]) -> Tensor:
        """What lies at the first indices, such as one layer of an array that stacks them.

        Of a compressed array the row asked for last is kept, so that going through its first axis
        in order unpacks it once; an earlier row than that costs another start.

        Args:
            name: which array.
            index: of its first axes; () for the whole.

        Returns:
            The axes behind them; in place where :meth:`read` would be.

        Raises:
            FileFormatError: compressed bytes that are damaged.
        """
        entry = self.entries[name]
        if not index or entry.fortran or not math.prod(entry.shape):
            return self.read(name)[index]
        if not entry.deflated:
            begin, end = _span(entry, index)
            values = self._file.tensor(begin, end, entry.dtype.itemsize)
            return _shaped(values, entry.dtype, entry.shape[len(index) :])
        cursor = self._cursors.get(name)
        if cursor is None or cursor.index > index[0]:
            cursor = self._cursors[name] = _Cursor(self.blocks(name, 1))
        return cursor.advance(index[0])[index[1:]]

    def release(self, name: str, index: tuple[int, ...] = ()) -> None:
        """Tell the system that the pages of an array, or of a part, are not needed again."""
        entry = self.entries[name]
        if not entry.deflated:
            begin, end = _span(entry, () if entry.fortran else index)
            self._file.release(begin, end)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        """An array along its first axis, some rows at a time; memory is that of one block.

        A block is to be used before the next one is asked for: its pages are given back then.

        Args:
            name: which array, of at least one axis.
            rows: of one block, at least 1; the last may be shorter.

        Yields:
            [rows ...] in the array's type.

        Raises:
            FileFormatError: compressed bytes that are damaged.
        """
        entry = self.entries[name]
        if math.prod(entry.shape) == 0:
            yield torch.empty(entry.shape, dtype=entry.dtype)
        elif entry.fortran:
            whole = self.read(name)
            for start in range(0, entry.shape[0], rows):
                yield whole[start : start + rows]
        elif entry.deflated:
            yield from self._inflated_blocks(name, rows)
        else:
            yield from self._mapped_blocks(entry, rows)

    def copy(
        self,
        name: str,
        target: Tensor,
        index: tuple[int, ...] = (),
        place: tuple[int, int] = (0, 0),
    ) -> None:
        """Copy an array, or a part of it, converting to the target's type as it goes.

        Memory beside the target's is that of some megabytes, and of a compressed array's row.

        Args:
            name: which array.
            target: of the shape of array or part, any strides, any floating type, on any device.
            index: of the array's first axes, as for :meth:`part`.
            place: an axis of the part, along which the target may be shorter, and where on it the
                target begins.

        Raises:
            FileFormatError: compressed bytes that are damaged.
        """
        entry, (axis, first) = self.entries[name], place
        shape = entry.shape[len(index) :]
        whole = tuple(target.shape) == shape
        if not target.ndim or not target.numel() or not self.in_blocks(name, index, whole=whole):
            part = self.part(name, index)
            target.copy_(part if whole else part.narrow(axis, first, target.shape[axis]))
            return
        rows, start = max(1, _CHUNK // (math.prod(shape[1:]) * entry.dtype.itemsize)), 0
        taken = (first, first + len(target)) if axis == 0 else (0, len(target))
        mapped = self._mapped_blocks(entry, rows, index, taken)
        for block in self._inflated_blocks(name, rows) if entry.deflated else mapped:
            chosen = block.narrow(axis, first, target.shape[axis]) if axis else block
            target[start : start + len(block)].copy_(chosen)
            start += len(block)

    def in_blocks(self, name: str, index: tuple[int, ...], *, whole: bool) -> bool:
        """Whether :meth:`copy` goes through an array, or a piece of it, block by block."""
        entry = self.entries[name]
        return not (entry.fortran or (entry.deflated and (index or not whole)))

    def _mapped_blocks(
        self,
        entry: NpzEntry,
        rows: int,
        index: tuple[int, ...] = (),
        taken: tuple[int, int] | None = None,
    ) -> Iterator[Tensor]:
        """A stored array, or a part of it, or the rows taken of that, some rows at a time."""
        count, *rest = entry.shape[len(index) :]
        first, end_row = taken or (0, count)
        for start in range(first, end_row, rows):
            stop = min(start + rows, end_row)
            begin, end = _span(entry, (*index, start))[0], _span(entry, (*index, stop - 1))[1]
            values = self._file.tensor(begin, end, entry.dtype.itemsize)
            yield _shaped(values, entry.dtype, (stop - start, *rest))
            self._file.release(begin, end)

    def _inflated_blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        entry = self.entries[name]
        row = math.prod(entry.shape[1:]) * entry.dtype.itemsize
        parts = _Bytes(inflated(self._file, entry, name))
        parts.skip(entry.header)
        for start in range(0, entry.shape[0], rows):
            count = min(rows, entry.shape[0] - start)
            block = torch.empty(count * row, dtype=torch.uint8)
            parts.fill(block)
            yield _shaped(block, entry.dtype, (count, *entry.shape[1:]))
        parts.finish()


class _Cursor:
    """A place in an array that is unpacked row by row."""

    def __init__(self, rows: Iterator[Tensor]) -> None:
        self._rows = rows
        self.index = -1
        self._row = torch.empty(0)

    def advance(self, index: int) -> Tensor:
        """The row of an index not below that of the last call."""
        while self.index < index:
            self._row = next(self._rows)[0]
            self.index += 1
        return self._row


class _Bytes:
    """Takes as many bytes as are asked for from parts of any length, which suffice."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = memoryview(b"")

    def _take(self, most: int) -> memoryview:
        while not self._rest:
            self._rest = memoryview(next(self._parts))
        taken, self._rest = self._rest[:most], self._rest[most:]
        return taken

    def skip(self, count: int) -> None:
        """Pass over so many bytes."""
        while count:
            count -= len(self._take(count))

    def fill(self, target: Tensor) -> None:
        """Fill uint8 [n] with the next n bytes."""
        into, place = memoryview(cast("Any", target.numpy())), 0
        while place < len(into):
            taken = self._take(len(into) - place)
            into[place : place + len(taken)] = taken
            place += len(taken)

    def finish(self) -> None:
        """Go to the end, where the checksum is compared."""
        for _ in self._parts:
            pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """An array to write that is never whole in memory.

    Attributes:
        shape: of the array.
        parts: tensors that follow one another in it, in any shapes; called once.
    """

    shape: tuple[int, ...]
    parts: Callable[[], Iterator[Tensor]]


Source = Tensor | Callable[[], Tensor] | Stack
"""What becomes an array: a tensor, what makes one when its turn comes, or a sequence of them."""


def write_npz(
    new: Replacement,
    filename: str,
    tensors: Mapping[str, Source],
    dtype: torch.dtype | None,
) -> None:
    """Write an npz as ``numpy.savez`` does, uncompressed, some megabytes at a time.

    Args:
        new: the save under way.
        filename: of the npz in its folder.
        tensors: by the names to write, in the order to write.
        dtype: of all floating arrays in the file; None keeps each one's own. bfloat16 is written
            as numpy writes the arrays of ml_dtypes, ``<V2``.

    Raises:
        CheckpointError: a value that the type cannot hold.
    """
    with (
        new.open(filename) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        for name, source in tensors.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _write_array(member, name, source, dtype)


def _write_array(member: IO[bytes], name: str, source: Source, dtype: torch.dtype | None) -> None:
    if isinstance(source, Stack):
        shape, parts = source.shape, source.parts()
    else:
        tensor = source if isinstance(source, Tensor) else source()
        shape, parts = tuple(tensor.shape), iter((tensor,))
    written: torch.dtype | None = None
    count = 0
    for part in parts:
        if written is None:
            written = dtype if dtype is not None and part.is_floating_point() else part.dtype
            member.write(write_npy_header(written, shape))
        _write_part(member, name, part.detach(), written)
        count += part.numel()
    assert written is not None, f"{name} has no parts"
    assert count == math.prod(shape), f"{name} has {count} values, its shape is {shape}"


def _write_part(member: IO[bytes], name: str, part: Tensor, dtype: torch.dtype) -> None:
    """One tensor in C order, whatever its strides."""
    if part.ndim == 0:
        part = part[None]
    row = max(1, math.prod(part.shape[1:]))
    if part.ndim > 1 and row * dtype.itemsize > _CHUNK:
        for inner in part:
            _write_part(member, name, inner, dtype)
        return
    narrows = loses_range(part.dtype, dtype)
    step = max(1, _CHUNK // (row * dtype.itemsize))
    for start in range(0, len(part), step):
        values = part[start : start + step].to(device="cpu", dtype=dtype).contiguous().reshape(-1)
        if narrows and not torch.isfinite(values).all():
            raise CheckpointError(
                f"{name} holds values that {dtype} cannot: save as bfloat16 or float32"
            )
        member.write(values.view(torch.uint8).numpy().data)


def _span(entry: NpzEntry, index: tuple[int, ...]) -> tuple[int, int]:
    """The bytes of a stored array's part at the first indices."""
    begin, size = entry.begin + entry.header, entry.size - entry.header
    for place, axis in zip(index, entry.shape, strict=False):
        size //= axis
        begin += place * size
    return begin, begin + size


def _shaped(
    values: Tensor, dtype: torch.dtype, shape: tuple[int, ...], *, fortran: bool = False
) -> Tensor:
    """Bytes as an array of a type and shape."""
    if not math.prod(shape):
        return torch.empty(shape, dtype=dtype)
    typed = values.view(dtype)
    if not fortran or not shape:
        return typed.reshape(shape)
    return typed.reshape(shape[::-1]).permute(*reversed(range(len(shape))))
