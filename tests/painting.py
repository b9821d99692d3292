"""Small random painting transformers, and the same in diffusers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from heliodor.checkpoints.lumina_keys import DIFFUSERS_SELF
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NextDiTConfig

SMALL = NextDiTConfig(
    width=48,
    depth=2,
    num_heads=6,
    num_kv_heads=2,
    mlp_width=64,
    caption_width=20,
    sample_size=16,
)
"""Six heads of eight channels, three to a key-value head; pictures of 8 x 8 patches."""


def nextdit(config: NextDiTConfig = SMALL, seed: int = 0) -> NextDiT:
    """A network with numbers in every tensor, so large that each changes the velocity."""
    random = torch.Generator().manual_seed(seed)
    model = NextDiT(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if parameter.ndim == 1:
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.4 * noise)
            else:
                parameter.copy_(noise * 1.5 * parameter.shape[-1] ** -0.5)
    return model


def theirs(model: NextDiT) -> Any:
    """diffusers' network with the weights of ours."""
    from diffusers.models.transformers.lumina_nextdit2d import LuminaNextDiT2DModel

    config = model.config
    made = LuminaNextDiT2DModel(
        sample_size=config.sample_size,
        patch_size=config.patch_size,
        in_channels=config.in_channels,
        hidden_size=config.width,
        num_layers=config.depth,
        num_attention_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        multiple_of=config.mlp_width,
        ffn_dim_multiplier=config.mlp_width / int(8 * config.width / 3),
        norm_eps=config.norm_eps,
        learn_sigma=config.learns_sigma,
        qk_norm=config.qk_norm,
        cross_attention_dim=config.caption_width,
    )
    state = model.state_dict()
    keys = DIFFUSERS_SELF
    made.load_state_dict(
        {name: state[keys.to_ours(name) or keys.to_tied(name) or ""] for name in made.state_dict()}
    )
    return made.eval()


def noise(*shape: int, seed: int = 3) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def captions(*lengths: int, width: int = 20, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Features [B L S] with garbage behind each caption's end, and their mask int64 [B L]."""
    longest = max(lengths)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    return noise(len(lengths), longest, width, seed=seed) * 3.0, mask
