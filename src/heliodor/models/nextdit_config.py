"""Shapes of Next-DiT: what a configuration says, and the published sizes by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from heliodor.errors import ConfigError

_WIDEST_CONDITION = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class NextDiTConfig:
    """Shape of a Next-DiT; the defaults are the released 2B model with grouped queries.

    Attributes:
        in_channels: of the latent, and of the velocity.
        patch_size: side of a patch in latent pixels.
        width: channels of the residual stream.
        depth: layers.
        num_heads: query heads, which together are ``width`` wide.
        num_kv_heads: key-value heads, a divisor of ``num_heads``.
        mlp_width: channels between the MLP's projections; see :func:`mlp_width`.
        caption_width: channels of the text encoder's features.
        norm_eps: added to the mean square in RMS norms.
        qk_norm: whether queries and keys are normalised.
        learns_sigma: whether twice the channels come out; the second half is not used.
        sample_size: side of the latents trained on; attention and positions are scaled beyond it.
        rope_base: wave length base of the positions.
    """

    in_channels: int = 4
    patch_size: int = 2
    width: int = 2304
    depth: int = 24
    num_heads: int = 32
    num_kv_heads: int = 8
    mlp_width: int = 6144
    caption_width: int = 2048
    norm_eps: float = 1e-5
    qk_norm: bool = True
    learns_sigma: bool = True
    sample_size: int = 128
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        """Refuse shapes that no Next-DiT can have."""
        counts = (self.in_channels, self.patch_size, self.width, self.depth, self.num_heads)
        counts += (self.num_kv_heads, self.mlp_width, self.caption_width, self.sample_size)
        if min(counts) < 1:
            raise ConfigError(f"sizes are {counts}; expected each to be at least 1")
        if self.width % self.num_heads or self.head_dim % 4:
            raise ConfigError(
                f"width {self.width} over {self.num_heads} heads is {self.width / self.num_heads} "
                "channels a head; expected a multiple of 4, two axes of paired channels"
            )
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"{self.num_heads} query heads do not divide among {self.num_kv_heads} "
                "key-value heads"
            )
        if self.sample_size < 2 * self.patch_size:
            raise ConfigError(
                f"sample_size is {self.sample_size}; expected at least two patches of "
                f"{self.patch_size}"
            )

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.width // self.num_heads

    @property
    def condition_width(self) -> int:
        """Channels of the vector that modulates every layer."""
        return min(self.width, _WIDEST_CONDITION)

    @property
    def out_channels(self) -> int:
        """Channels that the last layer writes."""
        return self.in_channels * (2 if self.learns_sigma else 1)

    @property
    def native_patches(self) -> int:
        """Patches of a square picture at the size trained for."""
        return (self.sample_size // self.patch_size) ** 2


def mlp_width(width: int, *, multiple_of: int = 256, multiplier: float | None = None) -> int:
    """8/3 of the width, times ``multiplier``, rounded up to a multiple."""
    inner = int(8 * width / 3)
    if multiplier is not None:
        inner = int(multiplier * inner)
    return multiple_of * -(-inner // multiple_of)


NEXTDIT_2B_GQA = NextDiTConfig()
"""Lumina-Next-SFT and Lumina-Next-T2I as of 29 May 2024."""
NEXTDIT_2B = replace(NEXTDIT_2B_GQA, num_kv_heads=32)
NEXTDIT_2B_16_CHANNELS = replace(NEXTDIT_2B_GQA, in_channels=16)
"""For the VAE of Stable Diffusion 3, as the training script offers."""
NEXTDIT_600M = NextDiTConfig(
    width=1536, depth=16, num_heads=32, num_kv_heads=32, mlp_width=mlp_width(1536)
)
"""This and the next two have the shapes of the published ImageNet models, with captions where
those have class labels: no weights of these are published."""
NEXTDIT_3B = replace(NEXTDIT_600M, width=3072, depth=32, mlp_width=mlp_width(3072))
NEXTDIT_7B = replace(NEXTDIT_600M, width=4096, depth=32, mlp_width=mlp_width(4096))

PUBLISHED: dict[str, NextDiTConfig] = {
    "Alpha-VLLM/Lumina-Next-SFT": NEXTDIT_2B_GQA,
    "Alpha-VLLM/Lumina-Next-T2I": NEXTDIT_2B_GQA,
    "Alpha-VLLM/Lumina-Next-SFT-diffusers": NEXTDIT_2B_GQA,
}
"""Shapes by hub id."""
