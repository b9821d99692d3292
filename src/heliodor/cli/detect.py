"""Find things in a picture: a box and a score for each.

For example:

  heliodor detect garden.png "bee ; tulip"
  heliodor detect garden.png "bee ; tulip" --draw boxes.png

Each line holds label, score, and the box as x0 y0 x1 y1 in pixels of the picture, with tabs
between the three.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from heliodor.cli.options import add_images, add_json, add_model
from heliodor.cli.output import for_each_picture, picture_target, save_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from heliodor.see.answers import Box, Detections, Segments
    from heliodor.see.vlm import VisionLanguageModel

__all__ = ["add_arguments", "add_finding", "find", "run"]

F = TypeVar("F", "Detections", "Segments")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_finding(parser)


def add_finding(parser: argparse.ArgumentParser) -> None:
    """Declare what `detect` and `segment` both take."""
    add_images(parser)
    parser.add_argument("labels", help="what to find, last; several with ' ; ' between them")
    parser.add_argument(
        "--draw", metavar="OUT.png", help="write the picture with what was found drawn on it"
    )
    add_json(parser)
    add_model(parser)


def describe(boxes: Iterable[Box]) -> Sequence[str]:
    """One line a box: label, score, corners in pixels."""
    return [
        f"{box.label}\t{box.score:.2f}\t{' '.join(f'{edge:.0f}' for edge in box.xyxy)}"
        for box in boxes
    ]


def find(args: argparse.Namespace, call: Callable[[VisionLanguageModel, Image], F]) -> int:
    """Print what `call` finds in each picture, and draw it if asked."""
    target = picture_target(args.draw, len(args.images)) if args.draw else None

    def work(model: VisionLanguageModel, picture: Image) -> F:
        found = call(model, picture)
        if target is not None:
            save_picture(found.draw(picture), target)
        return found

    return for_each_picture(args, work, describe)


def run(args: argparse.Namespace) -> int:
    """Print the boxes found in each picture."""
    return find(args, lambda model, picture: model.detect(picture, args.labels))
