"""What the commands share that use a SigLIP pair."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import heliodor
from heliodor.cli.options import positive

if TYPE_CHECKING:
    from heliodor.see.pair import ImageTextModel

__all__ = ["add_pair", "load_pair"]


def add_pair(parser: argparse.ArgumentParser) -> None:
    """Declare which pair to use, how to hold it, and how much it takes at once."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="tiny",
        help="a folder in transformers layout, a big_vision .npz, or a hub id such as "
        "google/siglip-base-patch16-224; default 'tiny', where one is shipped",
    )
    group.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="type of the weights in memory"
    )
    group.add_argument(
        "--quantize",
        choices=["int8", "int4"],
        help="store the weights in so many bits, quantised while they are read",
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    group.add_argument("--revision", help="branch, tag or commit of a hub id")
    group.add_argument(
        "--tokenizer", metavar="FILE", help="spiece.model or tokenizer.json, for an .npz"
    )
    group.add_argument(
        "--batch", type=positive, default=16, metavar="N", help="so many at once (default: 16)"
    )


def load_pair(args: argparse.Namespace) -> ImageTextModel:
    """The pair that the arguments name; what was not given keeps `load_siglip`'s default."""
    names = ("dtype", "quantize", "device", "revision", "tokenizer")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return heliodor.load_siglip(args.model, **given)
