"""The zip archive that an npz is: where its arrays lie, checked, and how they unpack.

Nothing that the archive says of itself is believed before it is checked: a member lies inside the
file and over no other, is neither locked nor compressed beyond what deflate can do, and holds as
many bytes as its array's type and shape ask for.

Format: APPNOTE.TXT of PKWARE; its directory is read with the standard library.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

import torch

from heliodor.checkpoints.mapped import MappedFile
from heliodor.checkpoints.npy import MAX_HEADER, NpyHeader, read_npy_header
from heliodor.errors import FileFormatError

_MAX_ENTRIES = 100_000
_MAX_RATIO = 1032  # to one: deflate cannot compress further
_LOCAL = struct.Struct("<4s22xHH")  # of a member's own header: its mark, the lengths of two texts
_FED = 2**18  # compressed bytes fed at a time
_MOST = 2**18  # unpacked bytes given at a time
_UNREADABLE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, struct.error, EOFError, OSError, MemoryError),
    *(ValueError, NotImplementedError, RuntimeError, OverflowError, LookupError),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NpzEntry:
    """An array of the archive.

    Attributes:
        dtype, shape: of the array.
        fortran: whether its first axis is the one that runs fastest.
        begin, end: bytes of the file in which the member lies, its array's header included.
        header: bytes of the array's header, unpacked.
        size: bytes of header and values, unpacked.
        deflated: whether the bytes are compressed.
        crc: checksum of the unpacked bytes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    fortran: bool
    begin: int
    end: int
    header: int
    size: int
    deflated: bool
    crc: int


def read_directory(file: MappedFile) -> dict[str, NpzEntry]:
    """The arrays of an archive by name, without ``.npy``, in the order in which they lie.

    Raises:
        FileFormatError: no zip archive, truncated, locked, compressed in another way than deflate,
            or it says what cannot be; or an array is of a type that is not read.
    """
    members, directory = _members(file)
    entries: dict[str, NpzEntry] = {}
    reached = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        name = member.filename.removesuffix(".npy")
        where = f"{file.path}: {name[:100]!r}"
        if not member.filename.endswith(".npy") or not name:
            raise FileFormatError(f"{where} is no .npy array: this is not an npz of weights")
        if name in entries:
            raise FileFormatError(f"{where} is in the archive twice")
        entry = _entry(file, member, where)
        if member.header_offset < reached or entry.end > directory:
            raise FileFormatError(
                f"{where} overlaps with what lies beside it: truncated or damaged"
            )
        reached = entry.end
        entries[name] = entry
    return entries


def inflated(file: MappedFile, entry: NpzEntry, name: str) -> Iterator[bytes]:
    """The unpacked bytes of a compressed member, some megabytes at a time.

    Raises:
        FileFormatError: they are damaged, not as many as promised, or of another checksum.
    """
    where = f"{file.path}: {name[:100]!r}"
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    size, crc = 0, 0
    for begin in range(entry.begin, entry.end, _FED):
        packed = file.read(begin, min(entry.end, begin + _FED))
        while packed:
            try:
                part = unpacker.decompress(packed, _MOST)
            except zlib.error as error:
                raise FileFormatError(f"{where} cannot be unpacked: {error}") from error
            packed = unpacker.unconsumed_tail
            size, crc = size + len(part), zlib.crc32(part, crc)
            if size > entry.size or (unpacker.eof and unpacker.unused_data):
                raise FileFormatError(f"{where} unpacks to more than its {entry.size} bytes")
            yield part
        file.release(begin, min(entry.end, begin + _FED))
    if size != entry.size or not unpacker.eof or crc != entry.crc:
        raise FileFormatError(
            f"{where} unpacks to {size} of {entry.size} bytes, or its checksum is wrong: "
            "damaged, fetch the file again"
        )


def _members(file: MappedFile) -> tuple[list[zipfile.ZipInfo], int]:
    """The members and where the directory begins."""
    try:
        with zipfile.ZipFile(cast("IO[bytes]", file.stream())) as archive:
            members, start = archive.infolist(), archive.start_dir
    except _UNREADABLE as error:
        raise FileFormatError(
            f"{file.path} cannot be read as an npz ({str(error)[:200]}): truncated, a piece "
            "missing, or another format"
        ) from error
    if len(members) > _MAX_ENTRIES:
        raise FileFormatError(
            f"{file.path} holds {len(members)} arrays; no checkpoint has over {_MAX_ENTRIES}"
        )
    return members, start


def _entry(file: MappedFile, member: zipfile.ZipInfo, where: str) -> NpzEntry:
    """A member's place and its array's header."""
    if member.flag_bits & 0x41:
        raise FileFormatError(f"{where} is encrypted: unlock the archive first")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FileFormatError(
            f"{where} is compressed by method {member.compress_type}; numpy knows 0 (none) and "
            "8 (deflate)"
        )
    deflated = member.compress_type == zipfile.ZIP_DEFLATED
    begin = _data_begin(file, member, where)
    limit = _MAX_RATIO * member.compress_size if deflated else member.compress_size
    if not member.file_size <= limit or not (deflated or member.file_size == limit):
        raise FileFormatError(
            f"{where} claims to unpack from {member.compress_size} to {member.file_size} "
            "bytes, which cannot be"
        )
    end = begin + member.compress_size
    if end > file.size:
        raise FileFormatError(
            f"{where} ends at byte {end}, the file at {file.size}: truncated download?"
        )
    header = _array_header(file, begin, end, deflated=deflated, where=where)
    if header.size != member.file_size:
        raise FileFormatError(
            f"{where} of shape {list(header.shape)} and type {header.dtype} takes "
            f"{header.size} bytes, but {member.file_size} are there"
        )
    return NpzEntry(
        dtype=header.dtype,
        shape=header.shape,
        fortran=header.fortran,
        begin=begin,
        end=end,
        header=header.length,
        size=member.file_size,
        deflated=deflated,
        crc=member.CRC,
    )


def _data_begin(file: MappedFile, member: zipfile.ZipInfo, where: str) -> int:
    """Where a member's bytes begin: behind its own header, which must be there."""
    start = member.header_offset
    head = file.read(start, start + _LOCAL.size) if start >= 0 else b""
    if len(head) < _LOCAL.size:
        raise FileFormatError(f"{where} begins at byte {start}, outside the file: truncated?")
    mark, name, extra = cast("tuple[bytes, int, int]", _LOCAL.unpack(head))
    begin = start + _LOCAL.size
    spelling = "utf-8" if member.flag_bits & 0x800 else "cp437"
    expected = member.orig_filename.encode(spelling, "replace")
    if mark != b"PK\x03\x04" or file.read(begin, begin + name) != expected:
        raise FileFormatError(f"{where} is not where the directory says: damaged")
    return begin + name + extra


def _array_header(
    file: MappedFile, begin: int, end: int, *, deflated: bool, where: str
) -> NpyHeader:
    head = file.read(begin, min(end, begin + MAX_HEADER))
    if deflated:
        try:
            head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, MAX_HEADER)
        except zlib.error as error:
            raise FileFormatError(f"{where} cannot be unpacked: {error}") from error
    return read_npy_header(head, where)
