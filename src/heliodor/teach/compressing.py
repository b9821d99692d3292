"""Teaching a painter's autoencoder: what comes out resembles what went in, edges too.

The network is diffusers' AutoencoderKL. Its loss on pixels in -1..1, for B pictures:

    mean |error| + squares * mean error^2 + edges * mean |difference of neighbouring errors|
    + kl * mean over latents of (m^2 + s^2 - 1 - log s^2) / 2

The terms of edges, across and down, keep outlines sharp, on which recognition rests; the last term
is so light that it only keeps latents from drifting. Latents are sampled, m + s * noise, with noise
that the batch brings, so that a step is the same in any process.

B pictures, H and W pixels, C latent channels, h and w of latents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heliodor.teach.data.painting import paint_scene
from heliodor.teach.data.splits import Split, scene_rng

__all__ = [
    "CompressLoss",
    "CompressObjective",
    "PictureBatch",
    "encode",
    "held_out_scenes",
    "latent_scale",
    "pixels_of",
    "round_trip_psnr",
]

_PURPOSE = 40  # the streams of these scenes, apart from those of other tasks
_GROUP = 32  # pictures at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureBatch:
    """What a step learns from.

    Attributes:
        pixels: uint8 [B H W 3].
        noise: float32 [B C h w], standard normal.
    """

    pixels: Tensor
    noise: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressLoss:
    """Weights of the terms beside the mean absolute error."""

    squares: float = 1.0
    edges: float = 0.5
    kl: float = 5e-4

    def __call__(
        self, found: Tensor, wanted: Tensor, mean: Tensor, logvar: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts.

        Args:
            found: float [B 3 H W], in -1..1 as far as it is right.
            wanted: the same, of the picture.
            mean: [B C h w], of the posterior.
            logvar: [B C h w], of the posterior.
        """
        error = found.float() - wanted
        across = (error[..., 1:] - error[..., :-1]).abs().mean()
        down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        mean, logvar = mean.float(), logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
        square = error.square().mean()
        loss = error.abs().mean() + self.squares * square
        loss = loss + self.edges * 0.5 * (across + down) + self.kl * kl
        psnr = 10.0 * math.log10(4.0 / max(float(square.detach()), 1e-12))
        return loss, {"psnr": psnr, "kl": float(kl.detach())}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CompressObjective:
    """Scenes, whole or cut, through the autoencoder and back.

    Attributes:
        model: diffusers' network.
        channels: of its latents.
        factor: pixels of a side that one latent stands for.
        pictures: of a batch of cuts; a batch of whole pictures holds as many pixels.
        size: side of a picture in pixels.
        crop: side of a cut, a multiple of ``factor``: most steps learn from cuts, which are cheap.
        whole_from: the step from which pictures are whole, as they will be painted.
        strength: how much looks vary.
        seed: of everything drawn.
        loss: weights of its terms.
        held_out: uint8 [N H W 3], pictures to measure on while the run lasts.
    """

    model: nn.Module
    channels: int
    factor: int
    pictures: int
    size: int
    crop: int
    whole_from: int
    strength: float
    seed: int
    loss_terms: CompressLoss = field(default_factory=CompressLoss)
    held_out: Tensor = field(repr=False, default_factory=lambda: torch.empty(0))

    def batch(self, step: int) -> PictureBatch:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, step])
        whole = step >= self.whole_from or self.crop >= self.size
        count = max(1, self.pictures * self.crop**2 // self.size**2) if whole else self.pictures
        side = self.size if whole else self.crop
        cuts = [self._cut(rng, side) for _ in range(count)]
        small = side // self.factor
        noise = rng.standard_normal((count, self.channels, small, small), np.float32)
        return PictureBatch(pixels=torch.as_tensor(np.stack(cuts)), noise=torch.as_tensor(noise))

    def _cut(self, rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
        image = paint_scene(rng, size=self.size, strength=self.strength).image
        top, left = (int(place) for place in rng.integers(0, self.size - side + 1, 2))
        return image[top : top + side, left : left + side]

    def loss(self, batch: PictureBatch) -> tuple[Tensor, Mapping[str, float]]:
        """The loss; the PSNR of the batch in dB and the divergence."""
        network: Any = self.model
        wanted = pixels_of(batch.pixels)
        posterior = network.encode(wanted, return_dict=False)[0]
        latents = posterior.mean + torch.exp(0.5 * posterior.logvar) * batch.noise
        found = network.decode(latents, return_dict=False)[0]
        return self.loss_terms(found, wanted, posterior.mean, posterior.logvar)

    def divide(self, batch: PictureBatch, parts: int) -> Sequence[tuple[float, PictureBatch]]:
        """Cut a batch between pictures."""
        count = len(batch.pixels)
        edges = [count * part // parts for part in range(parts + 1)]
        return [
            ((end - start) / count, _rows(batch, start, end))
            for start, end in pairwise(edges)
            if start < end
        ]

    def samples(self) -> list[str]:
        """How well the held-out pictures come back."""
        found = round_trip_psnr(self.model, self.held_out)
        return [f"held out: PSNR {sum(found) / len(found):.2f} dB, worst {min(found):.2f}"]


def _rows(batch: PictureBatch, start: int, end: int) -> PictureBatch:
    return PictureBatch(pixels=batch.pixels[start:end], noise=batch.noise[start:end])


def _groups(pictures: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(pictures), _GROUP):
        yield pictures[start : start + _GROUP]


def pixels_of(pictures: Tensor) -> Tensor:
    """Uint8 [B H W 3] -> float32 [B 3 H W] in -1..1."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def held_out_scenes(count: int, *, size: int, strength: float, first: int = 0) -> Tensor:
    """Scenes that training never draws: uint8 [count H W 3]."""
    scenes = [
        paint_scene(
            scene_rng(Split.LAYOUTS, first + number, _PURPOSE),
            size=size,
            split=Split.LAYOUTS,
            strength=strength,
        ).image
        for number in range(count)
    ]
    return torch.as_tensor(np.stack(scenes))


@torch.no_grad()
def encode(network: Any, pictures: Tensor) -> Tensor:
    """Means of the posteriors, not scaled: uint8 [B H W 3] -> float32 [B C h w]."""
    parts = [
        network.encode(pixels_of(part), return_dict=False)[0].mean.float()
        for part in _groups(pictures)
    ]
    return torch.cat(parts)


@torch.no_grad()
def round_trip_psnr(network: Any, pictures: Tensor) -> list[float]:
    """Peak signal-to-noise ratio of each picture in dB: uint8 [N H W 3] through and back.

    What comes out is cut to 0..1 and rounded to eight bits, as it is shown.
    """
    found: list[float] = []
    for part in _groups(pictures):
        back: Tensor = network.decode(encode(network, part), return_dict=False)[0].float()
        shown = ((back / 2 + 0.5).clamp(0.0, 1.0) * 255.0).round().permute(0, 2, 3, 1)
        squares = (shown - part.float()).square().mean((1, 2, 3)).double()
        found += [10.0 * math.log10(255.0**2 / max(float(each), 1e-12)) for each in squares]
    return found


def latent_scale(network: Any, pictures: Tensor) -> float:
    """What latents are multiplied by to have a standard deviation of one.

    Args:
        network: the autoencoder.
        pictures: uint8 [N H W 3], typical ones.
    """
    latents = encode(network, pictures)
    return 1.0 / float(latents.std())
