"""Find things in a picture: a box, a mask and a score for each.

For example:

  heliodor segment garden.png bee --draw mask.png

Each line holds label, score, the box as x0 y0 x1 y1 in pixels of the picture, with tabs between
the three. --json adds the masks.
"""

from __future__ import annotations

import argparse

from heliodor.cli.detect import add_finding, find

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_finding(parser)


def run(args: argparse.Namespace) -> int:
    """Print the boxes found in each picture; the masks go into the drawing and the JSON."""
    return find(args, lambda model, picture: model.segment(picture, args.labels))
