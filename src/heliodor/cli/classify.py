"""Say how well each of some labels fits a picture, with a SigLIP pair.

For example:

  heliodor classify garden.png --labels "a bee,a tulip" --model google/siglip-base-patch16-224
  heliodor classify *.jpg --labels cat,dog --top 1 --json --model my-siglip

Each line holds label and score, with a tab between them, the best first. A score says how probable
it is that the label's sentence and the picture belong together, whatever the other labels are:
scores do not sum to 1, and all may be low.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from heliodor.cli.options import UsageError, add_images, add_json, positive, read_picture
from heliodor.cli.output import emit, report
from heliodor.cli.pair import add_pair, load_pair
from heliodor.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from heliodor.see.labels import Classification, LabelSet
    from heliodor.see.pair import ImageTextModel

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_images(parser)
    parser.add_argument(
        "--labels", required=True, metavar="A,B", help="the labels, with commas between them"
    )
    parser.add_argument(
        "--template",
        metavar="TEXT",
        help="sentence with {} where the label goes (default: 'This is a photo of {}.'); "
        "'{}' takes labels as they are",
    )
    parser.add_argument("--top", type=positive, metavar="K", help="print the best K labels alone")
    add_json(parser)
    add_pair(parser)


def run(args: argparse.Namespace) -> int:
    """Print the labels of each picture."""
    names = [name.strip() for name in args.labels.split(",")]
    if not all(names):
        raise UsageError(f"--labels {args.labels!r}: a label is empty")
    code = 0
    pair: ImageTextModel | None = None
    labels: LabelSet | None = None
    for start in range(0, len(args.images), args.batch):
        sources, pictures = _open(args.images[start : start + args.batch])
        if len(sources) < len(args.images[start : start + args.batch]):
            code = 1
        if not sources:
            continue
        if pair is None or labels is None:  # now that a picture could be read
            pair = load_pair(args)
            template = {} if args.template is None else {"template": args.template}
            labels = pair.label_set(names, **template)
        found = pair.classify_batch(pictures, labels)
        for source, result in zip(sources, found, strict=True):
            _print(args, source, result[: args.top])
    return code


def _open(sources: Sequence[str]) -> tuple[list[str], list[Image]]:
    """The pictures that can be opened; the others are reported."""
    opened: dict[int, Image] = {}
    for index, source in enumerate(sources):
        try:
            opened[index] = read_picture(source)
        except InputError as error:
            report(error, source)
    return [sources[index] for index in opened], list(opened.values())


def _print(args: argparse.Namespace, source: str, result: Classification) -> None:
    if args.json:
        emit({"image": source, **result.to_dict()})
        return
    for item in result:
        line = f"{item.label}\t{item.score:.4f}"
        print(f"{source}\t{line}" if len(args.images) > 1 else line, flush=True)
