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

import heliodor
from heliodor.cli.options import (
    UsageError,
    add_images,
    add_json,
    add_model,
    load_model,
    positive,
    read_picture,
)
from heliodor.cli.output import for_each_picture
from heliodor.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from heliodor.generation import Beam, Sampler
    from heliodor.see.vlm import Generation, VisionLanguageModel

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_images(parser)
    parser.add_argument("prompt", help="the prompt, last")
    group = parser.add_argument_group("sampling")
    group.add_argument("--max-new-tokens", type=positive, default=64, help="at most so many tokens")
    group.add_argument("--temperature", type=float, help="sample; below 1 sharper, above 1 flatter")
    group.add_argument("--top-k", type=positive, help="sample among the k likeliest tokens")
    group.add_argument("--top-p", type=float, help="sample among the likeliest, up to this mass")
    group.add_argument("--beam", type=positive, help="search with so many beams")
    group.add_argument("--seed", type=int, default=0, help="of the sampler; same seed, same text")
    group.add_argument("--stream", action="store_true", help="print the text as it comes")
    add_json(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Print each picture's continuation."""
    sampler = _sampler(args)
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


def _sampler(args: argparse.Namespace) -> Sampler | Beam:
    """The sampler that the options describe; ways that exclude each other are refused."""
    ways = [name for name in ("top_k", "top_p", "beam") if getattr(args, name) is not None]
    if len(ways) > 1:
        given = " and ".join("--" + name.replace("_", "-") for name in ways)
        raise UsageError(f"{given} are different ways to choose: give one")
    if args.beam is not None:
        if args.temperature is not None:
            raise UsageError("--beam searches, it does not sample: leave --temperature out")
        return heliodor.Beam(args.beam)
    heat = 1.0 if args.temperature is None else args.temperature
    try:
        if args.top_k is not None:
            return heliodor.TopK(args.top_k, heat)
        if args.top_p is not None:
            return heliodor.TopP(args.top_p, heat)
        if args.temperature is not None:
            return heliodor.Temperature(heat)
    except InputError as error:
        raise UsageError(str(error)) from error
    return heliodor.Greedy()
