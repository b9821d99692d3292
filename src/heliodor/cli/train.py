"""Run a training recipe.

For example:

  heliodor train --list
  heliodor train tiny-siglip
  heliodor train tiny-siglip --resume
  heliodor train tiny-siglip steps=100 images=8 --workdir runs/try

A recipe is Python in heliodor.teach.recipes; its docstring states cost and result. name=value
changes one of its settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from heliodor.cli.options import UsageError, add_json
from heliodor.cli.output import emit, say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("recipe", nargs="?", help="its name; --list shows them")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings to change")
    parser.add_argument("--list", action="store_true", help="print the recipes' names and stop")
    parser.add_argument(
        "--workdir", metavar="FOLDER", help="checkpoints and log; runs/RECIPE by default"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Train, or list what there is to train."""
    overrides = _overrides(args.overrides)
    if args.recipe is None and not args.list:
        raise UsageError("name a recipe, or --list them")
    from heliodor.teach.recipes import RECIPES

    if args.list:
        for name, recipe in RECIPES.items():
            emit({"recipe": name, "summary": recipe.summary}) if args.json else print(
                f"{name:<16} {recipe.summary}"
            )
        return 0
    if args.recipe not in RECIPES:
        raise UsageError(f"no recipe '{args.recipe}'; there are {', '.join(RECIPES)}")
    workdir = Path(args.workdir or f"runs/{args.recipe}")
    say(f"{args.recipe}: checkpoints and log in {workdir}")
    RECIPES[args.recipe].run(workdir, overrides, resume=args.resume)
    if args.json:
        emit({"recipe": args.recipe, "workdir": str(workdir)})
    return 0


def _overrides(words: list[str]) -> dict[str, str]:
    overrides: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise UsageError(f"'{word}' is not of the form name=value")
        if name in overrides:
            raise UsageError(f"'{name}' is set twice")
        overrides[name] = value
    return overrides
