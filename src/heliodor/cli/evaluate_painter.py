"""``heliodor evaluate painter``: paint held-out prompts and let the shipped model look."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import heliodor
from heliodor.cli.output import emit, say, whole

__all__ = ["PROMPTS", "add_painting", "evaluate"]

PROMPTS = 300


def add_painting(group: argparse._ArgumentGroup) -> None:  # pyright: ignore[reportPrivateUsage]
    """Declare how pictures are painted."""
    group.add_argument("--steps", type=int, default=20, help="of sampling (default: 20)")
    group.add_argument("--guidance", type=float, default=4.0, help="its scale (default: 4)")
    group.add_argument(
        "--solver", default="midpoint", help="midpoint, euler, heun or rk4 (default: midpoint)"
    )


def evaluate(args: argparse.Namespace, target: Path) -> int:
    """Paint, look, print the table, write the JSON to ``target``."""
    from heliodor.teach.evals.painting import evaluate_painter

    reader = None if args.model == "tiny" else "tiny"
    painter = heliodor.load_painter(args.model, dtype=args.dtype, text_encoder=reader)
    report = evaluate_painter(
        painter,
        heliodor.load("tiny"),
        painter.stages.use(painter.sources.vae).module,
        prompts=args.examples or PROMPTS,
        seed=args.seed,
        options={"steps": args.steps, "guidance": args.guidance, "solver": args.solver},
        progress=say,
    )
    record = {"painter": args.model, **report.to_dict()}
    with whole(target) as partial:
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if args.json:
        emit(record)
    else:
        print(report.table())
    say(f"wrote {target}")
    return 0
