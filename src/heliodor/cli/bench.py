"""Measure how fast this library is on this machine, beside other engines and the machine's limits.

For example:

  heliodor bench --size tiny
  heliodor bench --json bench.json --llama-bench build/bin/llama-bench
  heliodor bench --json bench.json --parts llama,files

Weights are random, at full size and made in memory, unless --model names a model. Engines take
turns in one run; shown are medians of ratios, the lowest and the highest beside them, with the
floor and the aim of each and whether it is reached. Peers take part where they are: transformers
(in the repository's development environment) and llama.cpp (--llama-bench and the package gguf).
Parts: ceilings, first (first token and decoding), head, batch, llama, files (memory and loading),
bfloat16, nextdit. With --json FILE what was measured is added to what is there, part by part.

Quantising takes minutes: "--parts prepare --keep FOLDER" does it before, and later runs with the
same --keep find the files. The size 3b-224 needs 17 GiB of memory, and for "files" and "llama" 5 GB
of disk.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliodor.cli.options import UsageError, positive
from heliodor.cli.output import emit, say

if TYPE_CHECKING:
    import torch

    from heliodor.bench.networks import Settings
    from heliodor.models.paligemma import PaliGemma

__all__ = ["PARTS", "add_arguments", "run"]

PARTS = ("prepare", "ceilings", "first", "head", "batch", "llama", "files", "bfloat16", "nextdit")
_OTHER_NAMES = {"decode": "first", "accuracy": "first", "memory": "files", "load": "files"}
_SIZES = ("tiny", "3b-224", "3b-448", "paligemma2-3b-224")
_STDOUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what = parser.add_argument_group("what is measured")
    what.add_argument("--model", help="a model, as the other commands take it, and its own weights")
    what.add_argument(
        "--size", choices=_SIZES, default="3b-224", help="shapes of random weights (3b-224)"
    )
    what.add_argument("--parts", default=",".join(PARTS[1:]), help="some of them, by comma")
    what.add_argument(
        "--dtype",
        choices=["float32", "none"],
        default="float32",
        help="whether our unquantised engine takes part (float32)",
    )
    what.add_argument(
        "--quantize", default="int8,int4", help="recipes of ours by comma, or none (int8,int4)"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--repetitions", type=positive, default=5, help="turns of each engine (5)")
    how.add_argument("--steps", type=positive, default=16, help="tokens decoded a turn (16)")
    how.add_argument("--threads", type=positive, help="of all engines; torch's number by default")
    how.add_argument("--seed", type=int, default=0, help="of weights and prompt")
    how.add_argument("--peers", metavar="FOLDER", help="benchmarks/peers of the repository")
    how.add_argument("--llama-bench", metavar="PROGRAM", help="of llama.cpp")
    how.add_argument("--keep", metavar="FOLDER", help="for quantised networks of later runs, 5 GB")
    how.add_argument("--scratch", metavar="FOLDER", help="for large files, removed afterwards")
    parser.add_argument(
        "--json",
        nargs="?",
        const=_STDOUT,
        metavar="FILE",
        help="print JSON instead of the table, or add it to a file and print the table",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, part by part; 0 whatever the verdicts are, 1 where a part broke down."""
    parts = _parts(args.parts)
    from heliodor.bench import record
    from heliodor.bench import run as running

    settings, source = _settings(args)
    path = None if args.json in (None, _STDOUT) else Path(args.json)
    found = running.start(settings, args.model or "random")
    found = record.merged(None if path is None else record.read(path), found)

    def keep(name: str, part: dict[str, Any]) -> None:
        found["parts"][name] = part
        if path is not None:
            record.write(record.finished(found), path)

    running.run(settings, parts, say=say, keep=keep, source=source)
    if args.json == _STDOUT:
        emit(record.finished(found))
    else:
        print(record.table(found))
    return 1 if any("failed" in found["parts"][name] for name in parts) else 0


def _parts(text: str) -> list[str]:
    names = [_OTHER_NAMES.get(name.strip(), name.strip()) for name in text.split(",")]
    if unknown := [name for name in names if name not in PARTS]:
        raise UsageError(f"--parts {','.join(unknown)}: there are {', '.join(PARTS)}")
    return names


def _settings(
    args: argparse.Namespace,
) -> tuple[Settings, Callable[[torch.dtype], PaliGemma] | None]:
    """What to measure, and where the weights come from if they are not random."""
    import torch

    import heliodor
    from heliodor.bench.engines import find_peers
    from heliodor.bench.networks import Settings
    from heliodor.bench.sizes import SIZES, size_of

    def load(dtype: torch.dtype) -> PaliGemma:
        return heliodor.load(args.model, dtype=dtype).model

    size = SIZES[args.size] if args.model is None else size_of(_config(args.model), args.model)
    schemes = [name.strip() for name in args.quantize.split(",") if name.strip() != "none"]
    settings = Settings(
        size=size,
        schemes=tuple([args.dtype, *schemes] if args.dtype != "none" else schemes),
        repetitions=args.repetitions,
        steps=args.steps,
        threads=args.threads or torch.get_num_threads(),
        seed=args.seed,
        peers=find_peers(args.peers),
        llama_bench=_program(args.llama_bench),
        keep=_kept(args),
        scratch=Path(args.scratch or tempfile.gettempdir()),
    )
    return settings, None if args.model is None else load


def _config(source: str) -> Any:
    """The shapes of a model by name; its weights stay where they are."""
    import heliodor

    return heliodor.load(source).model.config


def _kept(args: argparse.Namespace) -> Path | None:
    if args.keep is None:
        return None
    if args.model is not None:
        raise UsageError("--keep is for random weights; a model has its own file")
    folder = Path(args.keep)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _program(text: str | None) -> Path | None:
    if text is None:
        return None
    if not Path(text).is_file():
        raise UsageError(f"--llama-bench {text}: there is no such program")
    return Path(text)
