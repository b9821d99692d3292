"""Continue any prompt about a picture, with any sampler.

For example:

  heliodor generate garden.png "caption en"
  heliodor generate garden.png "describe en" --top-p 0.9 --temperature 0.7 --seed 1
  heliodor generate garden.png "ocr" --stream

The prompt goes to the model as it stands; the other commands write theirs for you. Without a
sampler the likeliest token is taken at each step.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from heliodor.cli.options import (
    UsageError,
    add_images,
    add_json,
    add_model,
    load_model,
    read_picture,
)
from heliodor.cli.output import for_each_picture
from heliodor.cli.sampling import add_sampling, beam_from, sampler_from

if TYPE_CHECKING:
    from PIL.Image import Image

    from heliodor.generation import Beam, Sampler
    from heliodor.see.vlm import Generation, VisionLanguageModel

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_images(parser)
    parser.add_argument("prompt", help="the prompt, last")
    group = add_sampling(parser, most=64, beam=True)
    group.add_argument("--stream", action="store_true", help="print the text as it comes")
    add_json(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Print each picture's continuation."""
    sampler = beam_from(args) or sampler_from(args)
    if args.stream:
        return _stream(args, sampler)

    def work(model: VisionLanguageModel, picture: Image) -> Generation:
        (found,) = model.generate(
            [picture],
            [args.prompt],
            max_new_tokens=args.max_new_tokens,
            sampler=sampler,
            seed=args.seed,
        )
        return found

    return for_each_picture(args, work, lambda generation: [generation.text])


def _stream(args: argparse.Namespace, sampler: Sampler | Beam) -> int:
    """Print the text of one picture as it comes."""
    if args.json or args.beam or len(args.images) > 1:
        raise UsageError("--stream takes one picture, and neither --json nor --beam")
    picture = read_picture(args.images[0])
    model = load_model(args)
    pieces = model.stream(
        picture,
        args.prompt,
        max_new_tokens=args.max_new_tokens,
        sampler=sampler,
        seed=args.seed,
    )
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0
