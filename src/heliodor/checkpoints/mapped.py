"""A file mapped into memory, be it whole or in pieces.

Very large checkpoints come as ``x.npz.part0``, ``x.npz.part1``, ... which are meant to be joined
with ``cat``. Here they are read as one file where they lie: no joined copy is made.
"""

from __future__ import annotations

import io
import mmap
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from heliodor.errors import FileFormatError

_PIECE = re.compile(
    r"(?P<stem>.+)\.part[._-]?(?P<number>\d{1,6}|[a-z]{1,4})([._-]?of[._-]?(?P<count>\d{1,6}))?"
)


def find_pieces(path: Path) -> list[Path]:
    """The files that hold the content of ``path``, in order: itself, or its pieces.

    Args:
        path: a file; or the name that the joined file would have, its pieces lying beside it; or
            one of the pieces.

    Returns:
        At least one path; ``[path]`` where there are no pieces, whether it exists or not.

    Raises:
        FileFormatError: a piece is missing, or two have the same number.
    """
    given = _PIECE.fullmatch(path.name)
    stem = given["stem"] if given else path.name
    if (path.is_file() and not given) or not path.parent.is_dir():
        return [path]
    found: list[tuple[str, str | None, Path]] = []
    for other in path.parent.iterdir():
        piece = _PIECE.fullmatch(other.name)
        if piece is not None and piece["stem"] == stem and other.is_file():
            found.append((piece["number"], piece["count"], other))
    if not found:
        return [path]
    _check_numbers([number for number, _, _ in found], {count for _, count, _ in found}, path)
    if found[0][0].isdigit():
        return [piece for _, _, piece in sorted(found, key=lambda entry: int(entry[0]))]
    return [piece for _, _, piece in sorted(found)]


def _check_numbers(numbers: list[str], counts: set[str | None], path: Path) -> None:
    """Numbers count from 0 or 1 without a gap; letters (as ``split`` gives them) are all alike."""
    if all(number.isdigit() for number in numbers):
        values = sorted(int(number) for number in numbers)
        gaps = [n for n in range(values[0], values[0] + len(values)) if n not in values]
        promised = {int(count) for count in counts if count is not None} or {len(values)}
        if values[0] in (0, 1) and not gaps and promised == {len(values)}:
            return
        what = f"piece {gaps[0]} is missing or another is given twice" if gaps else "some miss"
        raise FileFormatError(
            f"{path} lies in {len(values)} pieces numbered {values[0]} to {values[-1]}, of which "
            f"{what}: fetch all pieces into one folder"
        )
    if any(number.isdigit() for number in numbers) or len({len(n) for n in numbers}) > 1:
        raise FileFormatError(
            f"the pieces of {path} are numbered in more than one way ({', '.join(numbers[:6])}): "
            "leave the pieces of one file in the folder"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """One mapped file and the place of its first byte in the whole."""

    start: int
    data: mmap.mmap


class MappedFile:
    """The bytes of a file or of its pieces, mapped: memory is taken when they are looked at.

    Attributes:
        path: what was asked for.
        size: bytes of all pieces together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._pieces: list[_Piece] = []
        for piece in find_pieces(path):
            data = _map(piece)
            self._pieces.append(_Piece(start=self.size, data=data))
            self.size += len(data)
        self._starts = [piece.start for piece in self._pieces]

    def _spans(self, begin: int, end: int) -> Iterator[tuple[mmap.mmap, int, int]]:
        """The pieces that bytes ``begin`` to ``end`` lie in, with the place inside each."""
        index = bisect_right(self._starts, begin) - 1
        while begin < end:
            piece = self._pieces[index]
            stop = min(end, piece.start + len(piece.data))
            yield piece.data, begin - piece.start, stop - piece.start
            begin, index = stop, index + 1

    def read(self, begin: int, end: int) -> bytes:
        """A copy of bytes ``begin`` to ``end``, cut off at the end of the file."""
        spans = self._spans(begin, min(end, self.size))
        return b"".join(data[start:stop] for data, start, stop in spans)

    def tensor(self, begin: int, end: int, alignment: int) -> Tensor:
        """Bytes ``begin`` to ``end`` as uint8 [end - begin], without a copy where that can be.

        What crosses from one piece to the next, or does not lie on a multiple of ``alignment``, is
        copied. Writing to the tensor never reaches the file.
        """
        spans = [
            torch.frombuffer(data, dtype=torch.uint8, offset=start, count=stop - start)
            for data, start, stop in self._spans(begin, end)
        ]
        if len(spans) == 1 and spans[0].data_ptr() % alignment == 0:
            return spans[0]
        if not spans:
            return torch.empty(0, dtype=torch.uint8)
        copied = torch.cat(spans)
        self.release(begin, end)
        return copied

    def release(self, begin: int, end: int) -> None:
        """Tell the system that the pages of these bytes will not be needed again."""
        for data, start, stop in self._spans(begin, end):
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            length = stop // mmap.PAGESIZE * mmap.PAGESIZE - first
            if length > 0 and hasattr(data, "madvise"):
                data.madvise(mmap.MADV_DONTNEED, first, length)

    def stream(self) -> io.RawIOBase:
        """A file object over all of it, for readers that want one."""
        return _Stream(self)


class _Stream(io.RawIOBase):
    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._place = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise ValueError("seeking to before the file's first byte")
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        stop = self._file.size if size < 0 else self._place + size
        data = self._file.read(self._place, stop) if self._place < self._file.size else b""
        self._place += len(data)
        return data


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise FileFormatError(f"{path} is empty: fetch the file again")
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}") from error
