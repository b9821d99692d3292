"""Small files read with limits, and files replaced whole or not at all.

A save never harms what is on disk: everything is written under temporary names beside its target
(:class:`Replacement`), and only when all of it is safely down are the old files replaced.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from heliodor.errors import CheckpointError, ConfigError, FileFormatError

MAX_JSON_BYTES = 64 * 2**20
"""No configuration or shard index is anywhere near this long; a tokenizer.json is half of it."""


def parse_json_object(text: bytes, *, source: str) -> dict[str, Any]:
    """One JSON object, strictly: UTF-8, no key twice, no NaN.

    Args:
        text: the bytes.
        source: what they came from, for messages.

    Raises:
        FileFormatError: not JSON, not an object, nested too deeply, or a key given twice.
    """
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except RecursionError as error:
        raise FileFormatError(f"{source} is nested too deeply to be read as JSON") from error
    except ValueError as error:
        raise FileFormatError(f"{source} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise FileFormatError(
            f"{source} holds a JSON {type(value).__name__} where an object was expected"
        )
    return cast("dict[str, Any]", value)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ConfigError: there is no such file.
        FileFormatError: it is unreadable, too long, or not a JSON object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise FileFormatError(
                f"{path} is {size} bytes long; a JSON file of a checkpoint has at most "
                f"{MAX_JSON_BYTES}"
            )
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.parent} has no {path.name}: give a folder in transformers layout"
        ) from error
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_json_object(text, source=str(path))


def to_json(value: dict[str, Any]) -> bytes:
    """UTF-8 JSON, indented by two, keys sorted as transformers sorts them, a final newline."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is given twice")
        found[key] = value
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Replacement:
    """A set of files of one folder, replaced together at the end or not at all.

        with Replacement(folder) as new:
            with new.open("config.json") as file:
                file.write(text)
            new.remove_afterwards("stale.json")

    On leaving the block without an exception the temporary files are renamed to their names in
    the order in which they were opened, and only then are stale files removed. On any exception
    (a full disk, Ctrl-C) the temporary files are removed and the folder is as it was; a folder that
    did not exist is removed again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._created: list[Path] = []
        self._pending: dict[str, Path] = {}
        self._stale: list[str] = []

    def __enter__(self) -> Self:
        missing = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"the folder {self.folder} cannot be made: {error.strerror or error}"
            ) from error
        self._created = missing
        return self

    def open(self, name: str) -> BinaryIO:
        """A new file to write, which becomes ``folder/name`` at the end."""
        path = self.folder / f".{name}.{secrets.token_hex(4)}.partial"
        file = path.open("xb")
        self._pending[name] = path
        return file

    def write(self, name: str, content: bytes) -> None:
        """A whole small file."""
        with self.open(name) as file:
            file.write(content)

    def remove_afterwards(self, name: str) -> None:
        """Remove ``folder/name`` once the new files stand, unless it is one of them."""
        self._stale.append(name)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._commit()
            elif isinstance(error, OSError):
                raise CheckpointError(
                    f"saving to {self.folder} failed, nothing there was changed: "
                    f"{error.strerror or error}"
                ) from error
        except OSError as failure:
            raise CheckpointError(
                f"saving to {self.folder} failed: {failure.strerror or failure}"
            ) from failure
        finally:
            self._discard()

    def _commit(self) -> None:
        for path in self._pending.values():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        stale = set(self._stale) - self._pending.keys()
        for name in list(self._pending):
            self._pending[name].replace(self.folder / name)
            del self._pending[name]
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
        self._created = []
        sync_folder(self.folder)

    def _discard(self) -> None:
        for path in self._pending.values():
            path.unlink(missing_ok=True)
        self._pending = {}
        for folder in self._created:
            try:
                folder.rmdir()
            except OSError:
                return


def sync_folder(folder: Path) -> None:
    """Make the renames themselves durable, where the system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
