"""Show what a painter's autoencoder keeps of a picture: there and back, with PSNR.

For example:

  heliodor vae photo.png
  heliodor vae photo.png --draw there-and-back.png --model stabilityai/sdxl-vae

Each line holds the size, the size of its latents, and the peak signal-to-noise ratio in dB, with
tabs between them. --draw writes the picture and what came back side by side.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from heliodor.cli.options import add_images, add_json, read_picture
from heliodor.cli.output import emit, picture_target, report, save_picture
from heliodor.errors import InputError

if TYPE_CHECKING:
    from heliodor.paint import Autoencoder, RoundTrip

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_images(parser)
    parser.add_argument("--draw", metavar="OUT", help="write both side by side")
    add_json(parser)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="tiny",
        help="the shipped painter's (default), a folder of diffusers' AutoencoderKL or of a "
        "pipeline, or a hub id",
    )
    group.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="default: float32"
    )
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")


def run(args: argparse.Namespace) -> int:
    """Encode and decode each picture, and print how much came back."""
    from heliodor.paint import contact_sheet, load_vae

    target = None if args.draw is None else picture_target(args.draw, len(args.images))
    model: Autoencoder | None = None
    code = 0
    for source in args.images:
        try:
            picture = read_picture(source)
            if model is None:
                model = load_vae(args.model, dtype=args.dtype, device=args.device)
            found = model.round_trip(picture)
        except InputError as error:
            report(error, source)
            code = 1
            continue
        if target is not None:
            save_picture(contact_sheet([found.original, found.picture], columns=2), target)
        if args.json:
            emit({"image": source, **found.to_dict()})
        else:
            print(_line(source, found, named=len(args.images) > 1), flush=True)
    return code


def _line(source: str, found: RoundTrip, *, named: bool) -> str:
    channels, height, width = found.latents.shape
    psnr = f"{found.psnr:.2f} dB" if math.isfinite(found.psnr) else "equal"
    size = f"{found.picture.width}x{found.picture.height}"
    fields = [size, f"{width}x{height}x{channels}", psnr]
    return "\t".join([source, *fields] if named else fields)
