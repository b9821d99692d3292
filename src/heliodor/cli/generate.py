"""Continue any prompt about a picture, with any sampler.

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

if TYPE_CHECKING:
    from heliodor.generation.sampler import Sampler

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
        return _stream(args)
    return for_each_picture(
        args,
        lambda model, picture: model.generate(
            [picture], [args.prompt], max_new_tokens=args.max_new_tokens, sampler=sampler
        )[0],
        lambda generation: [generation.text],
    )


def _sampler(args: argparse.Namespace) -> Sampler:
    """The sampler that the options describe; ways that exclude each other are refused."""
    if args.top_k and args.top_p:
        raise UsageError("--top-k and --top-p are two ways to sample: give one")
    temperature = 1.0 if args.temperature is None else args.temperature
    if temperature <= 0:
        raise UsageError("--temperature must be above 0; leave it out to take the likeliest token")
    if args.top_k:
        return heliodor.TopK(k=args.top_k, temperature=temperature)
    if args.top_p is not None:
        if not 0 < args.top_p <= 1:
            raise UsageError("--top-p is a share of probability: above 0, at most 1")
        return heliodor.TopP(p=args.top_p, temperature=temperature)
    if args.temperature is not None:
        return heliodor.Temperature(temperature=temperature)
    return heliodor.Greedy()
