"""Arguments that several commands share, and how a model is loaded from them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import heliodor

if TYPE_CHECKING:
    from PIL.Image import Image

    from heliodor.see.vlm import VisionLanguageModel

__all__ = [
    "UsageError",
    "add_images",
    "add_json",
    "add_loading",
    "add_model",
    "load_model",
    "positive",
    "read_picture",
]


class UsageError(Exception):
    """Arguments that parse but cannot go together: exit code 2, with the command's usage."""


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    parser.add_argument(
        "--json", action="store_true", help="print JSON on stdout, one object a line"
    )


def add_images(parser: argparse.ArgumentParser) -> None:
    """Declare the pictures, the first positional argument."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a picture file, several, or - for stdin"
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare which model to use and how to hold it."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="tiny",
        help="the shipped 'tiny' (default), a folder, an .npz, a native file, or a hub id",
    )
    add_loading(group)


def add_loading(group: argparse._ArgumentGroup) -> None:  # pyright: ignore[reportPrivateUsage]
    """Declare the options that `load_model` hands to `heliodor.load`."""
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
    group.add_argument("--adapter", metavar="FOLDER", help="a LoRA adapter to merge")
    group.add_argument("--tokenizer", metavar="FILE", help="where the model's folder has none")
    group.add_argument("--codec", metavar="FILE.npz", help="mask codec, where the folder has none")


def load_model(args: argparse.Namespace, source: str | None = None) -> VisionLanguageModel:
    """The model that the arguments name; what was not given keeps `heliodor.load`'s default."""
    names = ("dtype", "quantize", "device", "revision", "adapter", "tokenizer", "codec")
    found = {name: getattr(args, name, None) for name in names}
    given = {name: value for name, value in found.items() if value is not None}
    return heliodor.load(args.model if source is None else source, **given)


def read_picture(source: str) -> Image:
    """A picture as upright RGB; ``-`` reads it from stdin."""
    from heliodor.image import open_image

    return open_image(sys.stdin.buffer.read() if source == "-" else source)


def positive(text: str) -> int:
    """An argparse type: a whole number above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return number
