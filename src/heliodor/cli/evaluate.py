"""Measure a model on held-out examples.

For example:

  heliodor evaluate tiny
  heliodor evaluate tiny --tasks caption,detect --examples 50
  heliodor evaluate painter --model runs/painter/painter

Prints one table and writes the same as JSON. Beside each figure stand its bootstrap interval, the
score of the most frequent answer, and the score of the same model shown a blank picture.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from heliodor.cli.evaluate_painter import add_painting, evaluate
from heliodor.cli.options import UsageError, add_json, add_loading, load_model, positive
from heliodor.cli.output import emit, say, whole

__all__ = ["add_arguments", "run"]

TASKS = ("caption", "ask", "detect", "segment", "read", "document")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="MODEL",
        help="the shipped 'tiny', a folder, a hub id; or "
        "'painter', for the painter that --model names",
    )
    parser.add_argument("--model", default="tiny", help="the same, as the other commands take it")
    parser.add_argument(
        "--tasks", default=",".join(TASKS), help=f"some of {','.join(TASKS)} (default: all)"
    )
    parser.add_argument(
        "--examples", type=positive, help="held-out examples a task (default: 500; painter: 300)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the held-out examples")
    parser.add_argument(
        "--out",
        metavar="FILE.json",
        default="heliodor-evaluation.json",
        help="where the JSON goes (default: heliodor-evaluation.json)",
    )
    add_json(parser)
    add_loading(parser.add_argument_group("model"))
    add_painting(parser.add_argument_group("painter"))


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write the JSON."""
    tasks = tuple(task.strip() for task in args.tasks.split(","))
    if unknown := [task for task in tasks if task not in TASKS]:
        raise UsageError(f"--tasks: no task '{unknown[0]}'; there are {', '.join(TASKS)}")
    target = Path(args.out)
    if not target.parent.is_dir():
        raise UsageError(f"--out {args.out}: there is no folder {target.parent}")
    if args.source == "painter":
        return evaluate(args, target)
    from heliodor.teach import evals

    model = load_model(args, args.source or args.model)
    report = evals.run(
        model, tasks=tasks, examples=args.examples or 500, seed=args.seed, progress=say
    )
    record = {"model": args.source or args.model, **report.to_dict()}
    with whole(target) as partial:
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if args.json:
        emit(record)
    else:
        print(report.table())
    say(f"wrote {target}")
    return 0
