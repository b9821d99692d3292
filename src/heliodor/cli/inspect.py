"""Say what a checkpoint holds: shapes, size, types. No weight is read.

For example:

  heliodor inspect tiny
  heliodor inspect google/paligemma-3b-mix-224 --json
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

from heliodor import zoo
from heliodor.cli.options import add_json
from heliodor.cli.output import emit
from heliodor.errors import TokenizerError

__all__ = ["add_arguments", "describe", "run"]

ZOO = Path(zoo.__file__).parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", nargs="?", metavar="MODEL", help="the shipped 'tiny', a folder, a hub id"
    )
    parser.add_argument("--model", default="tiny", help="the same, as the other commands take it")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the description, a line a fact."""
    facts = describe(args.source or args.model, args.revision)
    if args.json:
        emit(facts)
        return 0
    for name, value in facts.items():
        if isinstance(value, dict):
            print(name)
            for inner, number in value.items():  # pyright: ignore[reportUnknownVariableType]
                print(f"  {inner:<16} {number}")
        else:
            print(f"{name:<18} {value}")
    return 0


def describe(source: str, revision: str | None = None) -> dict[str, Any]:
    """The facts about a checkpoint, from its configuration and its file headers.

    Args:
        source: the name of a shipped model, a folder in transformers layout, or a hub id.
        revision: branch, tag or commit of a hub id.

    Returns:
        ``folder``, ``parameters``, ``bytes`` of all tensors, ``dtypes`` with their number of
        tensors, ``files``, ``tokens`` of the tokenizer (None without one), and the fields of the
        configurations ``vision`` and ``language``.

    Raises:
        CheckpointError: there is no such checkpoint, or it is broken.
        HubError: it could not be downloaded.
    """
    from heliodor.checkpoints import open_checkpoint
    from heliodor.checkpoints.tensors import open_tensors

    shipped = ZOO / source
    place = shipped if source.isidentifier() and shipped.is_dir() else source
    checkpoint = open_checkpoint(place, revision=revision)
    config = checkpoint.config()
    tensors = open_tensors(checkpoint.folder)
    entries = [tensors.entry(name) for name in tensors]
    try:
        tokens = checkpoint.tokenizer().vocab_size
    except TokenizerError:
        tokens = None
    return {
        "folder": str(checkpoint.folder),
        "parameters": sum(math.prod(entry.shape) for entry in entries),
        "bytes": sum(entry.end - entry.begin for entry in entries),
        "dtypes": dict(Counter(str(entry.dtype).removeprefix("torch.") for entry in entries)),
        "files": sorted({tensors.file(name).name for name in tensors}),
        "tokens": tokens,
        "vision": dataclasses.asdict(config.vision),
        "language": dataclasses.asdict(config.language),
    }
