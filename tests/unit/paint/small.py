"""A painter of small networks with random weights, whose every branch matters."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from tests.painting import SMALL, nextdit
from tests.tiny import filled, gemma, tokenizer

from heliodor.models.gemma import GemmaConfig
from heliodor.paint.painter import Painter
from heliodor.paint.sources import from_networks
from heliodor.paint.text import PromptEncoder
from heliodor.paint.vae import Autoencoder

VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [8, 8, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "scaling_factor": 0.13025,
    "sample_size": 64,
}


def kind() -> Any:
    """diffusers' class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import AutoencoderKL
    return AutoencoderKL


@cache
def autoencoder(seed: int = 3) -> Autoencoder:
    """Of SDXL's form, eight pixels a latent."""
    torch.manual_seed(seed)
    return Autoencoder(filled(kind()(**VAE), seed))


@cache
def encoder() -> PromptEncoder:
    """A Gemma as wide as the transformer's captions, over the shipped vocabulary."""
    words = tokenizer()
    config = GemmaConfig(
        vocab_size=words.vocab_size,
        width=32,
        depth=3,
        num_heads=4,
        num_kv_heads=1,
        head_dim=8,
        mlp_width=48,
    )
    return PromptEncoder(gemma(config, seed=5), words)


def painter(*, with_vae: bool = True, memory: Any = "auto", seed: int = 0) -> Painter:
    """All three."""
    config = replace(SMALL, caption_width=32)
    sources = from_networks(
        text=encoder(),
        transformer=nextdit(config, seed=seed),
        vae=autoencoder() if with_vae else None,
        name="small",
    )
    return Painter(sources, memory=memory)
