"""The SigLIP image tower: a vision transformer without class token and without pooling.

B images, N patches, D width, P patch size. Source: arXiv 2303.15343; big_vision ``models/vit.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heliodor.errors import ConfigError
from heliodor.nn.attention import attend, merge_heads, split_heads
from heliodor.nn.linear import Linear, gelu, product, project
from heliodor.nn.norm import LayerNorm


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipVisionConfig:
    """Shape of an image tower; the defaults are those of So400m/14 at 224 pixels."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1152
    depth: int = 27
    num_heads: int = 16
    mlp_width: int = 4304
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse shapes that no tower can have."""
        if self.image_size < self.patch_size:
            raise ConfigError(
                f"image_size {self.image_size} is smaller than patch_size {self.patch_size}: "
                "a picture must hold at least one patch"
            )
        if self.width % self.num_heads:
            raise ConfigError(
                f"vision width {self.width} does not divide into {self.num_heads} heads"
            )

    @property
    def num_tokens(self) -> int:
        """Patches of one image, row by row from the top left."""
        return (self.image_size // self.patch_size) ** 2


class VisionAttention(nn.Module):
    """Multi-head attention in which every patch sees every patch; all projections have biases."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(width, width)
        self.k = Linear(width, width)
        self.v = Linear(width, width)
        self.out = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """X [B N D] -> [B N D]."""
        parts = project(x, (self.q, self.k, self.v))
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        return self.out(merge_heads(attend(q, k, v, mask=None)))


class VisionMLP(nn.Module):
    """D -> F -> D with the tanh form of GELU between."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.up = Linear(width, mlp_width)
        self.down = Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """X [B N D] -> [B N D]."""
        return self.down(gelu(self.up(x)))


class VisionBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.width, eps=config.norm_eps)
        self.attention = VisionAttention(config.width, config.num_heads)
        self.norm2 = LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = VisionMLP(config.width, config.mlp_width)

    def forward(self, x: Tensor) -> Tensor:
        """X float32 [B N D] -> float32 [B N D]."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SiglipVision(nn.Module):
    """The tower: patches, learned positions, blocks, final norm."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.position = nn.Parameter(torch.zeros(config.num_tokens, config.width))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.norm = LayerNorm(config.width, eps=config.norm_eps)

    def embed(self, pixels: Tensor) -> Tensor:
        """Cut into patches and project: pixels [B 3 H W] in -1..1 -> float32 [B N D].

        H and W that are no multiple of the patch lose their last rows and columns, as a convolution
        without padding does.
        """
        patch = self.config.patch_size
        batch, channels, height, width = pixels.shape
        rows, columns = height // patch, width // patch
        x = pixels[:, :, : rows * patch, : columns * patch]
        x = x.reshape(batch, channels, rows, patch, columns, patch)
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
        return product(x, self.patch.weight.flatten(1), self.patch.bias).float()

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B 3 H W] in -1..1 -> float32 [B N D], after the final norm."""
        x = self.embed(pixels) + self.position.float()
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
