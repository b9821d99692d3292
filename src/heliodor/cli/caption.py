"""Describe a picture in one sentence.

For example:

  heliodor caption garden.png
  heliodor caption garden.png --lang fr
"""

from __future__ import annotations

import argparse

from heliodor.cli.options import add_images, add_json, add_model
from heliodor.cli.output import for_each_picture

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_images(parser)
    parser.add_argument("--lang", default="en", help="language code, such as en or ja")
    add_json(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Print each picture's caption."""
    return for_each_picture(
        args,
        lambda model, picture: model.caption(picture, lang=args.lang),
        lambda answer: [answer.text],
    )
