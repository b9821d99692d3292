"""Answer a question about a picture.

For example:

  heliodor ask garden.png "What is left of the tulip?"
"""

from __future__ import annotations

import argparse

from heliodor.cli.options import add_images, add_json, add_model
from heliodor.cli.output import for_each_picture

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_images(parser)
    parser.add_argument("question", help="the question, last")
    parser.add_argument("--lang", default="en", help="language of the answer")
    add_json(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Print the answer for each picture."""
    return for_each_picture(
        args,
        lambda model, picture: model.ask(picture, args.question, lang=args.lang),
        lambda answer: [answer.text],
    )
