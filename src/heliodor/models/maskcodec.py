"""The mask codec: a 64x64 mask to sixteen of 128 codes, and back.

PaliGemma writes a mask as sixteen ``<segNNN>`` tokens. They are no polygon: they are the 4x4 grid,
row by row, of code-book indices of a small VQ-VAE (AiT, arXiv 2301.02229) whose published weights
are ``vae-oid.npz``. This file is that network, in the sizes of its configuration.

Letters: B masks, D code width, K codes in the book, W1..W4 the four widths.

    encoder  1 -> W1 -> W2 -> W3 -> W4   4x4 convolutions of stride 2: 64 -> 32 -> 16 -> 8 -> 4
             residual blocks at W4, then 1x1 to D
    codes    the nearest of K rows, by squared distance
    decoder  1x1 D -> W4, residual blocks, W4 -> W4 -> W3 -> W2 -> W1, 1x1 to one channel
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from heliodor.errors import ConfigError, InputError

__all__ = ["CODES_PER_MASK", "CODE_GRID", "MASK_SIDE", "MaskCodec", "MaskCodecConfig"]

MASK_SIDE = 64
CODE_GRID = 4
CODES_PER_MASK = CODE_GRID * CODE_GRID


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskCodecConfig:
    """Sizes of a mask codec; the defaults are those of the published ``vae-oid.npz``."""

    widths: tuple[int, int, int, int] = (16, 32, 64, 128)
    code_width: int = 512
    num_codes: int = 128
    num_blocks: int = 2

    def __post_init__(self) -> None:
        sizes = (*self.widths, self.code_width, self.num_codes)
        if len(self.widths) != CODE_GRID or min(sizes) < 1 or self.num_blocks < 0:
            raise ConfigError(
                f"mask codec sizes must be four positive widths, a positive code width and number "
                f"of codes, and no negative number of blocks, not {self}"
            )


class ResidualBlock(nn.Module):
    """Three convolutions (3x3, 3x3, 1x1) added to their input; no activation after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """X [B W 4 4] -> [B W 4 4]."""
        return x + self.net(x)


def _encoder(config: MaskCodecConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise((1, *config.widths)):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    layers += [ResidualBlock(config.widths[-1]) for _ in range(config.num_blocks)]
    layers.append(nn.Conv2d(config.widths[-1], config.code_width, 1))
    return nn.Sequential(*layers)


def _decoder(config: MaskCodecConfig) -> nn.Sequential:
    top = config.widths[-1]
    layers: list[nn.Module] = [nn.Conv2d(config.code_width, top, 1), nn.ReLU()]
    layers += [ResidualBlock(top) for _ in range(config.num_blocks)]
    for before, after in pairwise((top, *reversed(config.widths))):
        layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    layers.append(nn.Conv2d(config.widths[0], 1, 1))
    return nn.Sequential(*layers)


class MaskCodec(nn.Module):
    """VQ-VAE over 64x64 masks. Sub-modules count their layers as the published file does."""

    def __init__(self, config: MaskCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.codebook = nn.Parameter(torch.randn(config.num_codes, config.code_width))
        self.decoder = _decoder(config)

    def features(self, masks: Tensor) -> Tensor:
        """Masks [B 1 64 64] in 0..1 -> [B 16 D], one vector per cell before rounding to a code."""
        if masks.ndim != 4 or masks.shape[1:] != (1, MASK_SIDE, MASK_SIDE):
            raise InputError(
                f"masks must be [B 1 {MASK_SIDE} {MASK_SIDE}], not {list(masks.shape)}: crop each "
                f"to its box and resize it first (heliodor.see.masks.crop_mask)"
            )
        centred = 2 * (masks.to(self.codebook.dtype) - 0.5)
        return self.encoder(centred).flatten(2).transpose(1, 2)

    def nearest(self, features: Tensor) -> Tensor:
        """Features [.. D] -> int64 [..]: the row of the code book at the least squared distance."""
        rows = self.codebook.float()
        distance = rows.square().sum(1) - 2 * (features.float() @ rows.T)  # |feature|^2 is constant
        return distance.argmin(-1)

    def render(self, vectors: Tensor) -> Tensor:
        """Vectors [B 16 D] -> mask values [B 64 64], roughly -1..1, above 0 inside the mask."""
        grid = vectors.transpose(1, 2).reshape(*vectors.shape[::2], CODE_GRID, CODE_GRID)
        return self.decoder(grid).squeeze(1)

    def encode(self, masks: Tensor) -> Tensor:
        """Masks [B 1 64 64] in 0..1 -> codes int64 [B 16] in 0..K-1, row by row.

        Raises:
            InputError: another shape.
        """
        return self.nearest(self.features(masks))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes int [B 16] in 0..K-1 -> mask values [B 64 64], roughly -1..1, above 0 inside.

        Raises:
            InputError: another shape, not integers, or a code outside the book.
        """
        if codes.ndim != 2 or codes.shape[1] != CODES_PER_MASK or codes.is_floating_point():
            raise InputError(
                f"codes must be integers [B {CODES_PER_MASK}], "
                f"not {codes.dtype} {list(codes.shape)}"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(self.codebook):
            raise InputError(
                f"codes must lie in 0..{len(self.codebook) - 1}, "
                f"not {int(codes.min())}..{int(codes.max())}"
            )
        return self.render(self.codebook[codes])
