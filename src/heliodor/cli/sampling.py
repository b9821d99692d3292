"""Options that say how tokens are chosen, and the sampler that they describe."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import heliodor
from heliodor.cli.options import UsageError, positive
from heliodor.errors import InputError

if TYPE_CHECKING:
    from heliodor.generation import Beam, Sampler

__all__ = ["add_sampling", "beam_from", "sampler_from"]


def add_sampling(
    parser: argparse.ArgumentParser, *, most: int, beam: bool
) -> argparse._ArgumentGroup:  # pyright: ignore[reportPrivateUsage]
    """Declare the options.

    Args:
        parser: of the command.
        most: new tokens at most where nothing else is asked for.
        beam: whether the command can search.
    """
    group = parser.add_argument_group("sampling")
    add = group.add_argument
    add("--max-new-tokens", type=positive, default=most, help="at most so many tokens")
    add("--temperature", type=float, help="sample; below 1 sharper, above 1 flatter")
    add("--top-k", type=positive, help="sample among the k likeliest tokens")
    add("--top-p", type=float, help="sample among the likeliest, up to this mass")
    if beam:
        add("--beam", type=positive, help="search with so many beams")
    add("--seed", type=int, default=0, help="of the sampler; same seed, same text")
    return group


def beam_from(args: argparse.Namespace) -> Beam | None:
    """The search that the options ask for, None if none.

    Raises:
        UsageError: options that exclude each other.
    """
    if args.beam is None:
        return None
    _check_one_way(args, ("top_k", "top_p", "beam"))
    if args.temperature is not None:
        raise UsageError("--beam searches, it does not sample: leave --temperature out")
    return heliodor.Beam(args.beam)


def sampler_from(args: argparse.Namespace) -> Sampler:
    """The sampler that the options describe; without any of them the likeliest token is taken.

    Raises:
        UsageError: options that exclude each other, or a number out of range.
    """
    _check_one_way(args, ("top_k", "top_p"))
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


def _check_one_way(args: argparse.Namespace, names: tuple[str, ...]) -> None:
    ways = [name for name in names if getattr(args, name) is not None]
    if len(ways) > 1:
        given = " and ".join("--" + name.replace("_", "-") for name in ways)
        raise UsageError(f"{given} are different ways to choose: give one")
