"""Embeddings in files: ``.npy`` with its names beside it, or Parquet.

    x.npy           float32 [N D], numpy's format
    x.names.json    {"kind": "image" or "text", "model": ..., "names": [N names]}

    x.parquet       columns name (string) and embedding (list of D float32); kind and model in the
                    schema's metadata. Needs pyarrow: pip install 'heliodor[parquet]'

Rows are written as they come, so that a folder of any size fits in memory, and the file takes its
name only when it is whole.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from heliodor.checkpoints.files import Replacement, read_json, to_json
from heliodor.errors import FileFormatError, InputError, MissingExtraError

__all__ = ["VectorWriter", "Vectors", "check_target", "read_vectors", "writing"]

SUFFIXES = (".npy", ".parquet")
_HEADER = 128  # bytes of an npy's head, whatever the number of rows


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Vectors:
    """What a file holds.

    Attributes:
        names: of the pictures, or the texts themselves.
        values: unit vectors float32 [N D].
        kind: "image" or "text".
        model: where the model that made them came from.
    """

    names: tuple[str, ...]
    values: NDArray[np.float32] = field(repr=False)
    kind: str
    model: str


class VectorWriter(Protocol):
    """A file that grows."""

    def add(self, names: Sequence[str], values: NDArray[np.float32]) -> None:
        """Append rows: B names and float32 [B D]."""
        ...


def check_target(path: Path) -> None:
    """Refuse a file that could not be written, before any work is done.

    Raises:
        InputError: another suffix, or no such folder.
        MissingExtraError: Parquet without pyarrow.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} must end in {' or '.join(SUFFIXES)}: the suffix is the format")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    if path.suffix == ".parquet":
        _pyarrow()


@contextmanager
def writing(path: str | Path, *, width: int, kind: str, model: str) -> Generator[VectorWriter]:
    """Write a file row by row; without an exception it stands when the block is left.

    Args:
        path: ends in ``.npy`` or ``.parquet``; a file that lies there is replaced.
        width: D, numbers of a vector.
        kind: "image" or "text".
        model: where the model came from.

    Raises:
        CheckpointError: the disk refused; nothing there was changed.
        InputError, MissingExtraError: as :func:`check_target`.
    """
    path = Path(path)
    check_target(path)
    about = {"kind": kind, "model": model}
    with Replacement(path.parent) as new:
        with new.open(path.name) as file:
            if path.suffix == ".parquet":
                parquet = _ParquetWriter(file, width, about)
                try:
                    yield parquet
                finally:  # a writer left open would write to a closed file when it is collected
                    parquet.close()
                return
            npy = _NpyWriter(file, width)
            yield npy
            npy.close()
        new.write(_names_file(path).name, to_json({**about, "names": npy.names}))


def read_vectors(path: str | Path) -> Vectors:
    """Read what :func:`writing` wrote.

    Raises:
        FileFormatError: the file is broken, of another kind, or its names do not fit it.
        ConfigError: an npy without its names.
        InputError: another suffix.
        MissingExtraError: Parquet without pyarrow.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} must end in {' or '.join(SUFFIXES)}: the suffix is the format")
    names, values, about = _read_parquet(path) if path.suffix == ".parquet" else _read_npy(path)
    if values.ndim != 2 or values.dtype != np.float32 or len(values) != len(names):
        raise FileFormatError(
            f"{path} holds {values.dtype} {list(values.shape)} for {len(names)} names; expected "
            f"float32 [{len(names)} D]"
        )
    return Vectors(
        names=tuple(names),
        values=values,
        kind=str(about.get("kind", "")),
        model=str(about.get("model", "")),
    )


class _NpyWriter:
    """numpy's format 1.0, whose head is written again when the number of rows is known."""

    def __init__(self, file: BinaryIO, width: int) -> None:
        self.names: list[str] = []
        self._file = file
        self._width = width
        self._head()

    def add(self, names: Sequence[str], values: NDArray[np.float32]) -> None:
        """Append rows."""
        assert values.shape == (len(names), self._width), "a vector for each name"
        self.names += names
        self._file.write(np.ascontiguousarray(values, "<f4").data)

    def close(self) -> None:
        """Say how many rows there are."""
        self._file.seek(0)
        self._head()

    def _head(self) -> None:
        shape = (len(self.names), self._width)
        text = str({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
        padded = text.ljust(_HEADER - 11) + b"\n"
        self._file.write(b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded)


class _ParquetWriter:
    """One row group for each call."""

    def __init__(self, file: BinaryIO, width: int, about: dict[str, str]) -> None:
        self._arrow, parquet = _pyarrow()
        kind = self._arrow.list_(self._arrow.float32(), width)
        columns = [("name", self._arrow.string()), ("embedding", kind)]
        self._schema = self._arrow.schema(columns, metadata=about)
        self._writer = parquet.ParquetWriter(file, self._schema)

    def add(self, names: Sequence[str], values: NDArray[np.float32]) -> None:
        """Append rows."""
        flat = self._arrow.array(np.ascontiguousarray(values).reshape(-1))
        rows = self._arrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
        columns = [self._arrow.array(list(names), self._arrow.string()), rows]
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()


def _names_file(path: Path) -> Path:
    return path.with_suffix(".names.json")


def _read_npy(path: Path) -> tuple[list[str], NDArray[Any], dict[str, Any]]:
    about = read_json(_names_file(path))
    names: Any = about.get("names")
    if not isinstance(names, list):
        raise FileFormatError(f'{_names_file(path)} has no list of "names"')
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileFormatError(f"{path} cannot be read as an npy: {error}") from error
    return [str(name) for name in cast("list[Any]", names)], values, about


def _read_parquet(path: Path) -> tuple[list[str], NDArray[Any], dict[str, Any]]:
    _, parquet = _pyarrow()
    try:
        table = parquet.read_table(path, columns=["name", "embedding"]).combine_chunks()
        names: list[str] = table["name"].to_pylist()
        column = table["embedding"].combine_chunks()
        values = column.flatten().to_numpy().reshape(len(names), -1)
        metadata: dict[bytes, bytes] = table.schema.metadata or {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path} cannot be read as Parquet of embeddings: {error}") from error
    return names, values, {key.decode(): value.decode() for key, value in metadata.items()}


def _pyarrow() -> tuple[Any, Any]:
    """The package and its Parquet part.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "Parquet") from error
