"""SigLIP as a pair: image tower with a pooling head, text tower, scores by sigmoid.

B images, C texts, N patches, T text positions, D width. Source: arXiv 2303.15343; big_vision
``models/proj/image_text``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heliodor.errors import ConfigError
from heliodor.models.siglip import (
    SiglipVision,
    SiglipVisionConfig,
    VisionBlock,
    VisionMLP,
)
from heliodor.nn.attention import attend, merge_heads, split_heads
from heliodor.nn.linear import Linear
from heliodor.nn.norm import LayerNorm


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipTextConfig:
    """Shape of a text tower; the defaults are those of So400m.

    Attributes:
        length: positions; every text is padded or cut to exactly this many tokens.
        out_width: of the embedding, where it is not the tower's own width.
    """

    vocab_size: int = 32000
    length: int = 64
    width: int = 1152
    depth: int = 27
    num_heads: int = 16
    mlp_width: int = 4304
    norm_eps: float = 1e-6
    out_width: int | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that no tower can have."""
        if self.width % self.num_heads:
            raise ConfigError(
                f"text width {self.width} does not divide into {self.num_heads} heads"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipPairConfig:
    """Both towers; their embeddings have the image tower's width."""

    vision: SiglipVisionConfig = field(default_factory=SiglipVisionConfig)
    text: SiglipTextConfig = field(default_factory=SiglipTextConfig)

    def __post_init__(self) -> None:
        """Refuse towers whose embeddings cannot be compared."""
        if self.vision.width != (self.text.out_width or self.text.width):
            raise ConfigError(
                f"images are embedded in {self.vision.width} numbers, texts in "
                f"{self.text.out_width or self.text.width}: a pair needs one width"
            )


class PoolingHead(nn.Module):
    """Multi-head attention pooling: one learned query reads all patches."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.q = Linear(width, width)
        self.k = Linear(width, width)
        self.v = Linear(width, width)
        self.out = Linear(width, width)
        self.norm = LayerNorm(width, eps=config.norm_eps)
        self.mlp = VisionMLP(width, config.mlp_width)

    def forward(self, x: Tensor) -> Tensor:
        """X float32 [B N D], after the tower's final norm -> float32 [B D]."""
        probe = self.probe.expand(x.shape[0], -1, -1)
        q, k, v = self.q(probe), self.k(x), self.v(x)
        q, k, v = (split_heads(part, self.num_heads) for part in (q, k, v))
        y = self.out(merge_heads(attend(q, k, v, mask=None))).float()
        y = y + self.mlp(self.norm(y))
        return y[:, 0]


class SiglipText(nn.Module):
    """Text tower without any mask; the last position speaks for the text."""

    def __init__(self, config: SiglipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Parameter(torch.zeros(config.length, config.width))
        block = SiglipVisionConfig(
            width=config.width,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_width=config.mlp_width,
            norm_eps=config.norm_eps,
        )
        self.blocks = nn.ModuleList(VisionBlock(block) for _ in range(config.depth))
        self.norm = LayerNorm(config.width, eps=config.norm_eps)
        self.head = Linear(config.width, config.out_width or config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [C T], padded to exactly ``config.length`` -> float32 [C D]."""
        x = self.embedding(tokens).float() + self.position.float()
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, -1]).float()


class SiglipPair(nn.Module):
    """Two towers and the two numbers that turn cosines into logits."""

    def __init__(self, config: SiglipPairConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = SiglipVision(config.vision)
        self.pool = PoolingHead(config.vision)
        self.text = SiglipText(config.text)
        self.logit_scale = nn.Parameter(torch.tensor([math.log(10.0)]))
        self.logit_bias = nn.Parameter(torch.tensor([-10.0]))

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Pixels [B 3 H W] in -1..1 -> unit vectors float32 [B D]."""
        return F.normalize(self.pool(self.vision(pixels)), dim=-1)

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [C T] -> unit vectors float32 [C D]."""
        return F.normalize(self.text(tokens), dim=-1)

    def score(self, images: Tensor, texts: Tensor) -> Tensor:
        """Unit vectors [B D] and [C D] -> logits float32 [B C], for a sigmoid."""
        cosine = images @ texts.T
        return cosine * self.logit_scale.float().exp() + self.logit_bias.float()

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Logits of "this text belongs to this image", float32 [B C], for a sigmoid."""
        return self.score(self.embed_images(pixels), self.embed_texts(tokens))
