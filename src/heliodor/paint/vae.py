"""Pictures to latents and back: diffusers' AutoencoderKL, which only compresses.

It rests and computes in float32 or bfloat16. In float16 the published one overflows to NaN, which
is a black picture once it is saved; so float16 is refused, and what comes out is checked.

B pictures, C latent channels, h and w of latents, H and W of pictures: ``factor`` times as many.
Source: ``stabilityai/sdxl-vae``; diffusers ``autoencoder_kl.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heliodor.errors import ConfigError, ImageError, PaintingError
from heliodor.image import ImageSource, open_image

__all__ = ["Autoencoder", "RoundTrip", "cut_to", "decoding_work", "psnr", "to_pictures"]

TILED_FROM = 1024
"""Sides longer than this are decoded in tiles of it, with a quarter of overlap."""

_LARGEST = 255.0
_FLOAT = 4  # bytes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RoundTrip:
    """A picture as an autoencoder gives it back.

    Attributes:
        original: the picture that went in: cut to multiples of what a latent covers.
        picture: what came out.
        psnr: peak signal-to-noise ratio of both in dB; infinite if they are equal.
        latents: float32 [C h w], scaled as the transformer sees them.
    """

    original: Image.Image = field(repr=False)
    picture: Image.Image = field(repr=False)
    psnr: float
    latents: Tensor = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """``{"size", "psnr", "latent_size", "latent_mean", "latent_std"}``, in JSON's own types."""
        return {
            "size": list(self.picture.size),
            "psnr": self.psnr if math.isfinite(self.psnr) else None,
            "latent_size": list(self.latents.shape),
            "latent_mean": float(self.latents.mean()),
            "latent_std": float(self.latents.std()),
        }


class Autoencoder:
    """An AutoencoderKL and how its latents are scaled.

    Attributes:
        module: the network of diffusers.
        channels: of a latent.
        widths: channels of its blocks, the finest first.
        factor: pixels of a side that one latent stands for.
        scale: latents are multiplied by it for the transformer.
        shift: and this is taken from them before.
    """

    def __init__(self, module: Any) -> None:
        """Wrap a network; :func:`heliodor.paint.painter.load_vae` loads one.

        Args:
            module: an ``AutoencoderKL`` of diffusers.

        Raises:
            ConfigError: it rests in float16, or normalises latents in a way that is not known.
        """
        self.module = module.eval().requires_grad_(requires_grad=False)
        config = module.config
        if self.dtype == torch.float16:
            raise ConfigError(
                "an autoencoder in float16 overflows to black pictures: load it as bfloat16, "
                "which takes the same room, or as float32"
            )
        if getattr(config, "latents_mean", None) is not None:
            raise ConfigError(
                "the autoencoder has latents_mean, which Lumina-Next's does not: expected one "
                "with scaling_factor alone, such as stabilityai/sdxl-vae"
            )
        self.channels: int = config.latent_channels
        self.widths: list[int] = list(config.block_out_channels)
        self.factor: int = 2 ** (len(self.widths) - 1)
        self.scale: float = config.scaling_factor
        self.shift: float = getattr(config, "shift_factor", None) or 0.0

    @property
    def dtype(self) -> torch.dtype:
        """In which it rests and computes."""
        return next(self.module.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where it rests."""
        return next(self.module.parameters()).device

    @torch.no_grad()
    def encode(
        self, pictures: Sequence[Image.Image], sources: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        """Pictures of one size, its sides multiples of ``factor`` -> float32 [B C h w].

        Args:
            pictures: RGB.
            sources: of random numbers, one a picture, to sample from the posterior as the
                reference does; None for its mean.

        Raises:
            PaintingError: NaN came out.
        """
        rows = [self._encode_one(each) for each in pictures]
        found: list[Tensor] = []
        for row, (mean, spread) in enumerate(rows):
            if sources is not None:
                noise = torch.randn(mean.shape, generator=sources[row])
                mean = mean + spread * noise.to(mean.device)  # noqa: PLW2901 - the sample
            found.append((mean - self.shift) * self.scale)
        return self._checked(torch.stack(found), "encoding")

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Float32 [B C h w] -> float32 [B 3 H W] in 0..1, one picture at a time.

        Raises:
            PaintingError: NaN came out.
        """
        side = max(latents.shape[2:]) * self.factor
        self._tile(on=side > TILED_FROM)
        inner = (latents / self.scale + self.shift).to(self.device, self.dtype)
        rows = [self.module.decode(row[None], return_dict=False)[0] for row in inner]
        return self._checked(torch.cat(rows).float(), "decoding").div(2).add(0.5).clamp(0.0, 1.0)

    def round_trip(self, picture: ImageSource) -> RoundTrip:
        """Encode a picture by the mean of its posterior, and decode it again.

        Args:
            picture: of any size; what is over a multiple of ``factor`` is cut, half a side.

        Raises:
            ImageError: smaller than one latent.
            PaintingError: NaN came out.
        """
        original = cut_to(open_image(picture), self.factor)
        latents = self.encode([original])
        (found,) = to_pictures(self.decode(latents))
        return RoundTrip(
            original=original, picture=found, psnr=psnr(original, found), latents=latents[0].cpu()
        )

    def _encode_one(self, picture: Image.Image) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a picture's posterior, float32 [C h w]."""
        pixels = torch.tensor(np.array(picture.convert("RGB"), dtype=np.float32))
        pixels = pixels.permute(2, 0, 1)[None] / (_LARGEST / 2) - 1.0
        self._tile(on=max(picture.size) > TILED_FROM)
        posterior = self.module.encode(pixels.to(self.device, self.dtype), return_dict=False)[0]
        return posterior.mean[0].float(), posterior.std[0].float()

    def _tile(self, *, on: bool) -> None:
        self.module.use_tiling = on
        self.module.tile_sample_min_size = TILED_FROM
        self.module.tile_latent_min_size = TILED_FROM // self.factor

    def _checked(self, found: Tensor, what: str) -> Tensor:
        if not bool(torch.isfinite(found).all()):
            raise PaintingError(
                f"{what} came to NaN or infinity in {self.dtype}: load the autoencoder as "
                "float32; if it is, the latents are broken"
            )
        return found


def decoding_work(widths: Sequence[int], latent: tuple[int, int]) -> int:
    """Bytes that decoding one picture needs beside the weights, an estimate.

    The finest block needs most: about four tensors of the channels that come in and one of those
    that go out. What is larger than a tile is decoded in tiles.

    Args:
        widths: channels of the blocks, the finest first.
        latent: height and width of the latent.
    """
    factor = 2 ** (len(widths) - 1)
    coming = [*widths[1:], widths[-1]]
    height, width = (min(side * factor, TILED_FROM) for side in latent)
    levels = [
        (4 * before + after) * height * width // 4**level
        for level, (before, after) in enumerate(zip(coming, widths, strict=True))
    ]
    pixels = 3 * latent[0] * latent[1] * factor**2
    return _FLOAT * (max(levels) + 2 * pixels)


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """Float32 [B 3 H W] in 0..1 -> pictures; a value is rounded, as diffusers does."""
    rows = (pixels.permute(0, 2, 3, 1).cpu() * _LARGEST).round().to(torch.uint8).numpy()
    return [Image.fromarray(row) for row in rows]


def cut_to(picture: Image.Image, multiple: int) -> Image.Image:
    """The middle of a picture whose sides are multiples of a number.

    Raises:
        ImageError: a side shorter than it.
    """
    width, height = (side - side % multiple for side in picture.size)
    if not width or not height:
        raise ImageError(
            f"the picture has {picture.width}x{picture.height} pixels; expected at least "
            f"{multiple}x{multiple}"
        )
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Peak signal-to-noise ratio of two pictures of one size, in dB; infinite for equal ones."""
    a, b = (np.asarray(each.convert("RGB"), dtype=np.float64) for each in (first, second))
    error = float(((a - b) ** 2).mean())
    return math.inf if error == 0 else 10.0 * math.log10(_LARGEST**2 / error)
