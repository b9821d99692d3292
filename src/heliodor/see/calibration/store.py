"""Finished blocks, in a folder beside the file that is to be written.

    model.safetensors.work/
        run.json            what the run was asked for; another run does not go on from it
        harm.json           of "mixed": what each layer's rounding does to its block
        000.safetensors     the first block: its quantised layers, its folded norms, its report

Every file appears whole or not at all, so that a run that was killed can go on from the last one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from heliodor.checkpoints.files import Replacement, read_json, to_json
from heliodor.checkpoints.header import read_header
from heliodor.checkpoints.shards import Planned, write_file
from heliodor.checkpoints.tensors import open_tensors
from heliodor.errors import CheckpointError, InputError

__all__ = ["Store"]

_RUN, _HARM, _REPORT = "run.json", "harm.json", "heliodor.report"


class Store:
    """The work folder of one run.

    Attributes:
        folder: where it lies.
    """

    def __init__(self, output: Path) -> None:
        """Beside a file to be written; nothing is made yet."""
        self.folder = output.with_name(f"{output.name}.work")

    def exists(self) -> bool:
        """Whether a run has left something to go on from."""
        return (self.folder / _RUN).is_file()

    def open(self, run: Mapping[str, Any], *, resume: bool) -> int:
        """Make the folder, or find it again.

        Args:
            run: what decides what the blocks will be, in JSON's own types.
            resume: whether to go on with what is there; otherwise it is thrown away.

        Returns:
            How many blocks are finished.

        Raises:
            CheckpointError: the folder cannot be written.
            InputError: the run that left it was asked for something else, or it is no such folder.
        """
        if self.folder.exists() and not self.exists():
            if not self.folder.is_dir() or any(self.folder.iterdir()):
                raise InputError(
                    f"{self.folder} is in the way and is not from a calibration: move it, or give "
                    "another output"
                )
        elif self.folder.exists() and resume:
            self._check_same(run)
            return self._finished()
        elif self.folder.exists():
            self.remove()
        with Replacement(self.folder) as new:
            new.write(_RUN, to_json(dict(run)))
        return 0

    def _check_same(self, run: Mapping[str, Any]) -> None:
        before = read_json(self.folder / _RUN)
        now = json.loads(to_json(dict(run)))
        other = sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
        if other:
            raise InputError(
                f"the run in {self.folder} had another {', '.join(other)}: give what it was given, "
                "or leave out --resume to begin anew"
            )

    def _finished(self) -> int:
        count = 0
        while self._block(count).is_file():
            count += 1
        return count

    def _block(self, index: int) -> Path:
        return self.folder / f"{index:03d}.safetensors"

    def write_block(
        self, index: int, tensors: Mapping[str, Tensor], report: Mapping[str, Any]
    ) -> None:
        """A finished block: its tensors by their names in the network, and its report."""
        planned = [Planned.of(name, tensor, None) for name, tensor in tensors.items()]
        path = self._block(index)
        with Replacement(self.folder) as new, new.open(path.name) as file:
            write_file(file, planned, {_REPORT: json.dumps(report)})

    def read_block(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What :meth:`write_block` wrote; the tensors stay mapped from the file.

        Raises:
            FileFormatError: the file is broken.
        """
        path = self._block(index)
        tensors = open_tensors(path)
        report = json.loads(read_header(path).metadata[_REPORT])
        return {name: tensors.read(name) for name in tensors}, report

    def write_harm(self, harm: Mapping[str, Any]) -> None:
        """What the search for sensitive layers found."""
        with Replacement(self.folder) as new:
            new.write(_HARM, to_json(dict(harm)))

    def read_harm(self) -> dict[str, Any] | None:
        """The same; None if the search is not finished."""
        path = self.folder / _HARM
        return read_json(path) if path.is_file() else None

    def remove(self) -> None:
        """The folder, with all in it.

        Raises:
            CheckpointError: the system refused.
        """
        try:
            shutil.rmtree(self.folder)
        except OSError as error:
            raise CheckpointError(
                f"{self.folder} cannot be removed: {error.strerror or error}"
            ) from error
