"""Write a checkpoint as a folder in another format or type.

For example:

  heliodor convert tiny my-tiny
  heliodor convert google/paligemma-3b-mix-224 paligemma-bf16 --save-dtype bfloat16

What is written appears whole or not at all; a target that exists is left alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from heliodor.cli.options import UsageError, add_json, add_loading, load_model
from heliodor.cli.output import emit, say, whole

__all__ = ["add_arguments", "run"]

FORMATS = ("transformers",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="the shipped 'tiny', a folder, a hub id")
    parser.add_argument("target", metavar="OUT", help="the folder to write")
    parser.add_argument("--format", choices=FORMATS, default="transformers", help="what to write")
    parser.add_argument(
        "--save-dtype",
        choices=["float32", "bfloat16", "float16"],
        help="type of the weights in the file (default: as in memory)",
    )
    add_json(parser)
    add_loading(parser.add_argument_group("model"))


def run(args: argparse.Namespace) -> int:
    """Load, save beside the target, move into place."""
    target = Path(args.target)
    if target.exists():
        raise UsageError(f"{target} exists; remove it or name another")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent} to write into")
    model = load_model(args)
    with whole(target) as partial:
        model.save(partial, format=args.format, dtype=args.save_dtype)
    say(f"wrote {target}")
    if args.json:
        emit({"path": str(target), "format": args.format})
    return 0
