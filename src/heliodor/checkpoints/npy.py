r"""The header of one array in numpy's ``.npy`` format.

``\x93NUMPY``, a version, the length of a text and the text, a Python literal such as
``{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }``; then the values. A type of Python
objects would be a pickle, which can run code when read: it is refused. bfloat16 has no name in the
format; the arrays of the package ml_dtypes, which JAX uses, are written as two bytes without a
meaning, ``<V2`` or ``|V2``.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from typing import Any, cast

import torch

from heliodor.errors import FileFormatError

MAX_HEADER = 4096
"""Bytes of a header that are read; numpy writes 128."""

_MAGIC = b"\x93NUMPY"
_MAX_AXES = 32
_GROWTH = 21  # digits that numpy leaves for the first axis
_BFLOAT16 = "<V2"
_TYPES: dict[str, torch.dtype] = {
    "<f8": torch.float64,
    "<f4": torch.float32,
    "<f2": torch.float16,
    _BFLOAT16: torch.bfloat16,
    "|V2": torch.bfloat16,
    "V2": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "<i8": torch.int64,
    "<i4": torch.int32,
    "<i2": torch.int16,
    "|i1": torch.int8,
    "|u1": torch.uint8,
    "|b1": torch.bool,
}
_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in reversed(_TYPES.items())}


@dataclass(frozen=True, kw_only=True, slots=True)
class NpyHeader:
    """What the header says: the array's type and shape, and how long the header itself is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    fortran: bool
    length: int

    @property
    def size(self) -> int:
        """Bytes of header and values."""
        return self.length + math.prod(self.shape) * self.dtype.itemsize


def read_npy_header(data: bytes, where: str) -> NpyHeader:
    """Read the head of an array.

    Args:
        data: the first bytes, :data:`MAX_HEADER` of them where there are so many.
        where: file and name, for messages.

    Raises:
        FileFormatError: no such header, a type that is not read (objects above all), a shape that
            no array has.
    """
    width = {1: 2, 2: 4, 3: 4}.get(data[6] if len(data) > 6 else 0)
    if not data.startswith(_MAGIC) or width is None:
        raise FileFormatError(f"{where} does not begin as a .npy array: damaged, or another format")
    length = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    if length > min(len(data), MAX_HEADER):
        raise FileFormatError(
            f"{where} promises a header of {length} bytes; there are {len(data)}, and a header of "
            f"more than {MAX_HEADER} is not read: truncated or damaged"
        )
    values = _literal(data[8 + width : length], where)
    if values.keys() != {"descr", "fortran_order", "shape"}:
        raise FileFormatError(f"{where}: its header must have descr, fortran_order and shape")
    fortran = values["fortran_order"]
    if not isinstance(fortran, bool):
        raise FileFormatError(f"{where}: fortran_order must be True or False")
    return NpyHeader(
        dtype=_type(values["descr"], where),
        shape=_shape(values["shape"], where),
        fortran=fortran,
        length=length,
    )


def write_npy_header(dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    """The header that numpy writes for such an array in C order, byte by byte.

    Room is left for the first axis to grow, and the values begin at a multiple of 64 bytes.
    """
    text = f"{{'descr': '{_NAMES[dtype]}', 'fortran_order': False, 'shape': {shape}, }}"
    if shape:
        text += " " * (_GROWTH - len(str(shape[0])))
    text += " " * (64 - (len(text) + 11) % 64) + "\n"
    return _MAGIC + b"\x01\x00" + len(text).to_bytes(2, "little") + text.encode("ascii")


def _literal(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = ast.literal_eval(text.decode("latin-1").strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        value = None
    if not isinstance(value, dict):
        raise FileFormatError(f"{where}: its header is not the description of an array")
    return cast("dict[str, Any]", value)


def _type(descr: object, where: str) -> torch.dtype:
    if isinstance(descr, str) and descr in _TYPES:
        return _TYPES[descr]
    if isinstance(descr, str) and "O" in descr:
        raise FileFormatError(
            f"{where} holds pickled Python objects, which can run code when read: refused. Save "
            "the weights as plain arrays"
        )
    raise FileFormatError(
        f"{where} has the type {str(descr)[:60]!r}; known are {', '.join(_TYPES)}"
    )


def _shape(value: object, where: str) -> tuple[int, ...]:
    items = list(cast("tuple[object, ...]", value)) if isinstance(value, tuple) else [None]
    sizes = tuple(item for item in items if type(item) is int and 0 <= item < 2**60)
    if len(sizes) != len(items) or len(sizes) > _MAX_AXES:
        raise FileFormatError(f"{where} has a bad shape: {str(items)[:100]}")
    if math.prod(size or 1 for size in sizes) >= 2**60:
        raise FileFormatError(f"{where} has a shape too large for any file: {str(items)[:100]}")
    return sizes
