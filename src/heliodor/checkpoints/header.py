"""The head of a safetensors file, read and checked; no tensor is touched.

Eight bytes of header length (little endian), a JSON header, and the tensors' bytes one behind the
other. The header says for each name ``{"dtype", "shape", "data_offsets"}``, and none of it is
believed before it is checked: the tensors must tile the rest of the file exactly.

Importing this module loads no torch. Format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from heliodor.checkpoints.files import parse_json_object
from heliodor.errors import FileFormatError

STEM = "model"
"""What transformers calls the files of weights."""
SINGLE = f"{STEM}.safetensors"
INDEX = f"{STEM}.safetensors.index.json"
SIZES: dict[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""The format's names of types, and the bytes of a value."""

_MAX_HEADER = 100_000_000  # bytes; the limit of the format's own library
_MAX_AXES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """Where a tensor lies: bytes ``begin`` to ``end`` of its file; its type as the format says."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a file says of itself.

    Attributes:
        slots: by tensor name.
        metadata: the header's free strings, usually ``{"format": "pt"}``.
        size: of the whole file in bytes.
    """

    slots: dict[str, Slot]
    metadata: dict[str, str]
    size: int


def read_header(path: Path) -> Header:
    """The checked head of a file.

    Raises:
        FileFormatError: it cannot be read, or what it says is not what the file is.
    """
    try:
        with path.open("rb") as file:
            return parse_header(file, path)
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}") from error


def parse_header(file: BinaryIO, path: Path) -> Header:
    """The checked head of an open file; ``path`` is for messages."""
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise FileFormatError(f"{path} is {size} bytes long: no safetensors file")
    length = int.from_bytes(file.read(8), "little")
    if length > min(_MAX_HEADER, size - 8):
        raise FileFormatError(
            f"{path} promises a header of {length} bytes; the file has {size - 8} behind its "
            f"first eight, and a header at most {_MAX_HEADER}: truncated, or no safetensors file"
        )
    values = parse_json_object(file.read(length), source=f"the header of {path}")
    metadata = _metadata(values.pop("__metadata__", {}), path)
    start = 8 + length
    slots = {name: _slot(name, value, start, path) for name, value in values.items()}
    _check_tiling(slots, start, size, path)
    return Header(slots=slots, metadata=metadata, size=size)


def _metadata(value: object, path: Path) -> dict[str, str]:
    pairs = cast("dict[str, object]", value) if isinstance(value, dict) else {"": value}
    strings = {name: text for name, text in pairs.items() if isinstance(text, str)}
    if strings.keys() != pairs.keys():
        raise FileFormatError(f"the __metadata__ of {path} must map strings to strings")
    try:
        "".join((*strings, *strings.values())).encode()
    except UnicodeEncodeError as error:
        raise FileFormatError(
            f"the __metadata__ of {path} holds half a surrogate pair, which is no text"
        ) from error
    return strings


def _slot(name: str, value: object, start: int, path: Path) -> Slot:
    """One tensor's place, its type, shape and byte count agreeing."""
    where = f"{path}: tensor {name[:100]!r}"
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise FileFormatError(f"{where} must have dtype, shape and data_offsets, nothing else")
    kind: Any = fields["dtype"]
    if not isinstance(kind, str) or kind not in SIZES:
        raise FileFormatError(f"{where} has the type {kind!r}; known are {', '.join(SIZES)}")
    shape = _numbers(fields["shape"])
    if shape is None or len(shape) > _MAX_AXES or math.prod(n or 1 for n in shape) >= 2**60:
        raise FileFormatError(f"{where} has a bad shape: {str(fields['shape'])[:100]}")
    offsets = _numbers(fields["data_offsets"])
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FileFormatError(f"{where} has bad offsets: {str(fields['data_offsets'])[:100]}")
    needed = math.prod(shape) * SIZES[kind]
    if offsets[1] - offsets[0] != needed:
        raise FileFormatError(
            f"{where} of shape {list(shape)} and type {kind} takes {needed} bytes, but "
            f"its offsets span {offsets[1] - offsets[0]}"
        )
    return Slot(kind=kind, shape=shape, begin=start + offsets[0], end=start + offsets[1])


def _numbers(value: object) -> tuple[int, ...] | None:
    """A list of counts that fit 63 bits, or None."""
    if not isinstance(value, list):
        return None
    items = cast("list[object]", value)
    numbers = tuple(v for v in items if type(v) is int and 0 <= v < 2**63)
    return numbers if len(numbers) == len(items) else None


def _check_tiling(slots: dict[str, Slot], start: int, size: int, path: Path) -> None:
    """The tensors must follow one another from the header to the end of the file."""
    reached, before = start, "the header"
    for name, slot in sorted(slots.items(), key=lambda item: (item[1].begin, item[1].end)):
        if slot.end > size:
            raise FileFormatError(
                f"{path}: tensor {name[:100]!r} ends at byte {slot.end}, the file at {size}: "
                "truncated download?"
            )
        if slot.begin != reached:
            what = "overlaps with" if slot.begin < reached else "leaves a hole behind"
            raise FileFormatError(f"{path}: tensor {name[:100]!r} {what} {before}")
        reached, before = slot.end, repr(name[:100])
    if reached != size:
        raise FileFormatError(
            f"{path} has {size - reached} bytes behind its last tensor that no tensor claims"
        )
