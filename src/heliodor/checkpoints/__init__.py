"""Checkpoints: weights, configuration and tokenizer, from and to files.

    checkpoint = open_checkpoint("google/paligemma-3b-mix-224", revision="bfloat16")
    model = checkpoint.load(dtype="float32")

``keymap`` pairs tensor names, ``tensors`` and ``shards`` read and write safetensors, ``config``
reads and writes config.json, ``transformers`` puts them together, ``hub`` downloads.
"""

from __future__ import annotations

import re
from pathlib import Path

from heliodor.checkpoints.transformers import TransformersCheckpoint
from heliodor.errors import ConfigError, InputError

__all__ = ["TransformersCheckpoint", "open_checkpoint"]

_LONGEST = 4096  # letters of a path, on the systems we know
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def open_checkpoint(source: str | Path, *, revision: str | None = None) -> TransformersCheckpoint:
    """Find a checkpoint by folder or hub id; what exists on disk counts first.

    Args:
        source: a folder in transformers layout, or a hub id such as
            ``google/paligemma-3b-mix-224``.
        revision: branch, tag or commit, for hub ids alone.

    Raises:
        ConfigError: neither a folder nor a hub id, or a file of a format that is not read.
        HubError: the download failed.
        InputError: a revision of something that is not on the hub.
    """
    path, name = Path(source).expanduser(), str(source)
    if not name or len(name) > _LONGEST:
        raise ConfigError(f"the checkpoint's name is {len(name)} letters long; give a folder or id")
    if path.is_dir():
        if revision is not None:
            raise InputError(
                f"{name} is a folder, which has no revision {revision!r}: leave revision out"
            )
        return TransformersCheckpoint(folder=path, source=name)
    if path.suffix == ".npz":
        raise ConfigError(f"{name}: big_vision's .npz files cannot be read yet; give a folder")
    if path.is_file():
        raise ConfigError(f"{name} is a file; give the folder that holds it and config.json")
    if isinstance(source, Path) or not _HUB_ID.fullmatch(name):
        raise ConfigError(
            f"{name} does not exist; expected a folder, or a hub id such as "
            "google/paligemma-3b-mix-224"
        )
    from heliodor.checkpoints import hub  # noqa: PLC0415 - a third of a second, for downloads alone

    return TransformersCheckpoint(folder=hub.resolve(name, revision=revision), source=name)
