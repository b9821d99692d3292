"""Quantise a model, its codes found on your own pictures.

For example:

  heliodor quantize tiny -o tiny-int4.safetensors --scheme int4 --calibrate photos
  heliodor quantize google/paligemma-3b-mix-224 -o mix.safetensors --scheme mixed --calibrate photos
  heliodor quantize mine -o mine.safetensors --calibrate scans --prompts prompts.txt --samples 128

The pictures should be like those that the model will see; a quarter of them (32 at most) is held
out, and the report says how often the quantised model's next token is the float model's on these.
Finished blocks are kept in FILE.work: after a kill, the same command with --resume goes on.
Without pictures, 'heliodor convert --quantize' takes the nearest codes.
"""

from __future__ import annotations

import argparse
import re

from heliodor.cli.options import UsageError, add_json, load_model, positive
from heliodor.cli.output import emit, say

__all__ = ["add_arguments", "run"]

SCHEMES = ("int8", "int4", "mixed")
METHODS = ("both", "scaling", "rounding", "nearest")
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", metavar="MODEL", help="the shipped 'tiny', a folder, an .npz, a file, a hub id"
    )
    parser.add_argument(
        "-o", "--out", required=True, metavar="FILE.safetensors", help="the file to write"
    )
    parser.add_argument(
        "--calibrate", required=True, metavar="FOLDER", help="pictures, in folders of it too"
    )
    parser.add_argument("--scheme", choices=SCHEMES, default="int4", help="bits (default: int4)")
    parser.add_argument(
        "--prompts", metavar="FILE", help="prompts, one a line (default: some of every task)"
    )
    parser.add_argument(
        "--samples", type=positive, default=64, help="pairs of picture and prompt (default: 64)"
    )
    parser.add_argument(
        "--budget",
        type=size,
        metavar="SIZE",
        help="with --scheme mixed: bytes for the decoder's layers, such as 1.1GB or 900MiB "
        "(default: a tenth more than int4 takes)",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="both",
        help="what is searched: factors of channels (scaling), codes that make up for each "
        "other's errors (rounding), both, or the nearest codes (default: both)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was killed")
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    add_json(parser)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="type of the weights in memory"
    )
    group.add_argument("--revision", help="branch, tag or commit of a hub id")
    group.add_argument("--adapter", metavar="FOLDER", help="a LoRA adapter to merge first")
    group.add_argument("--tokenizer", metavar="FILE", help="where the model's folder has none")
    group.add_argument("--codec", metavar="FILE.npz", help="mask codec, where the folder has none")
    parser.set_defaults(device=None)


def size(text: str) -> int:
    """An argparse type: bytes, such as ``1.1GB``, ``900MiB`` or ``1200000``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].lower() not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text} is no size; write 1.1GB or 900MiB")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def run(args: argparse.Namespace) -> int:
    """Calibrate, write, and say what it cost."""
    if args.budget is not None and args.scheme != "mixed":
        raise UsageError(f"--budget chooses layers for --scheme mixed, not for {args.scheme}")
    from heliodor.see.calibration import Settings, calibrate
    from heliodor.see.calibration.run import check_output
    from heliodor.see.calibration.samples import find_pictures, read_prompts

    settings = Settings(
        scheme=args.scheme, method=args.method, samples=args.samples, budget=args.budget
    )
    check_output(args.out, force=args.force, resume=args.resume)  # before a model is loaded
    find_pictures(args.calibrate, settings.held_out, settings.samples)
    read_prompts(args.prompts)
    report = calibrate(
        load_model(args, args.source),
        args.out,
        args.calibrate,
        settings=settings,
        prompts=args.prompts,
        resume=args.resume,
        force=args.force,
        progress=say,
    )
    if args.json:
        emit(report.to_dict())
    else:
        print(report.table())
    say(f"wrote {report.path}")
    return 0
