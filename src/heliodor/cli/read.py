"""Read the text in a picture.

For example:

  heliodor read sign.png
"""

from __future__ import annotations

import argparse

from heliodor.cli.options import add_images, add_json, add_model
from heliodor.cli.output import for_each_picture

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_images(parser)
    add_json(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Print the text of each picture."""
    return for_each_picture(
        args,
        lambda model, picture: model.read(picture),
        lambda answer: answer.text.splitlines() or [""],
    )
