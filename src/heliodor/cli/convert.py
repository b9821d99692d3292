"""Write a checkpoint in another format or type.

For example:

  heliodor convert tiny my-tiny
  heliodor convert google/paligemma-3b-mix-224 paligemma-bf16 --dtype bfloat16
  heliodor convert tiny tiny.heliodor.safetensors
  heliodor convert google/paligemma-3b-pt-224 pt_224.npz --drop tokenizer,padding,processor
  heliodor convert google/paligemma-3b-pt-224 mine --adapter path/to/lora
  heliodor convert google/paligemma-3b-mix-224 mix-int8.safetensors --quantize int8
  heliodor convert consolidated.00-of-01.safetensors painter --dtype bfloat16
  heliodor convert painter official --format lumina --drop text_encoder,vae

The target's name says the format: .npz is big_vision's, .safetensors is the native single file,
anything else a folder in transformers layout. Painters are written into folders: diffusers', or
with --format lumina the official one. What would be lost is refused and named. What is
written is read back and compared, and appears whole or not at all.
"""

from __future__ import annotations

import argparse
import sys
import time

from heliodor.cli.options import UsageError, add_json
from heliodor.cli.output import emit, say

__all__ = ["add_arguments", "run"]

_PAUSE = 0.2  # seconds between two lines of progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", metavar="FROM", help="the shipped 'tiny', a folder, an .npz, a file, a hub id"
    )
    parser.add_argument("target", metavar="TO", help="what to write; its name says the format")
    parser.add_argument(
        "--format",
        choices=("transformers", "big_vision", "native", "diffusers", "lumina"),
        help="what to write (default: what TO says)",
    )
    parser.add_argument(
        "--dtype",
        "--save-dtype",
        choices=["float32", "bfloat16", "float16"],
        help="type of the weights in the file (default: each tensor's own)",
    )
    parser.add_argument(
        "--quantize",
        choices=["int8", "int4"],
        help="store the weights in so many bits; TO is a .safetensors file",
    )
    parser.add_argument("--tokenizer", metavar="FILE", help="where FROM carries none")
    parser.add_argument("--adapter", metavar="FOLDER", help="a LoRA adapter to merge on the way")
    parser.add_argument(
        "--drop",
        metavar="WHAT,...",
        default="",
        help="leave behind what TO cannot hold: tokenizer, padding, codec, processor, context; "
        "of a painter text_encoder, vae, scheduler",
    )
    parser.add_argument(
        "--merge",
        choices=["self", "caption"],
        help="of a painter: which queries count where diffusers' two copies differ",
    )
    parser.add_argument("--variant", metavar="NAME", help="of diffusers' file names, as fp16")
    parser.add_argument("--force", action="store_true", help="replace TO if it is a checkpoint")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was written."""
    from heliodor import zoo
    from heliodor.checkpoints.convert import convert
    from heliodor.errors import InputError

    tell = _Teller()
    try:
        done = convert(
            zoo.TINY if args.source == "tiny" else args.source,
            args.target,
            format=args.format,
            dtype=args.dtype,
            tokenizer=args.tokenizer,
            adapter=args.adapter,
            quantize=args.quantize,
            drop=[word for word in args.drop.split(",") if word],
            force=args.force,
            revision=args.revision,
            progress=tell,
            merge=args.merge,
            variant=args.variant,
        )
    except InputError as error:
        raise UsageError(str(error)) from error
    finally:
        tell.close()
    left = f", without {', '.join(done.dropped)}" if done.dropped else ""
    say(f"wrote {done.path} ({done.format}, {done.tensors} tensors, each read back){left}")
    if args.json:
        emit(
            {
                "path": str(done.path),
                "format": done.format,
                "tensors": done.tensors,
                "dropped": list(done.dropped),
            }
        )
    return 0


class _Teller:
    """One line on stderr that says how far the work is; a line a stage where stderr is a file."""

    def __init__(self) -> None:
        self._stage = ""
        self._last = 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say how far it is, not too often."""
        if stage != self._stage:
            self.close()
            self._stage, self._last = stage, 0.0
            if not self._live:
                say(f"{stage} {total:,} values")
        now = time.monotonic()
        if self._live and (now - self._last >= _PAUSE or done == total):
            self._last = now
            print(f"\r{stage} {done / max(1, total):4.0%}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line."""
        if self._live and self._stage:
            print(file=sys.stderr)
        self._stage = ""
