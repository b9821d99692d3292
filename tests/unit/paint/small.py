"""A painter of small networks with random weights, whose every branch matters."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tests.painting import SMALL, nextdit
from tests.tiny import filled, gemma, tokenizer

from heliodor.checkpoints.diffusers_transformer import save_transformer
from heliodor.checkpoints.language import save_language
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
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
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


def write_folder(folder: Path, *, pipeline: str = "LuminaText2ImgPipeline", seed: int = 0) -> Path:
    """The same painter as a folder of diffusers, under the name that the published one has."""
    save_transformer(nextdit(replace(SMALL, caption_width=32), seed=seed), folder / "transformer")
    save_language(encoder().model, tokenizer(), folder / "text_encoder")
    tokenizer().save_as_gemma(folder / "tokenizer")
    autoencoder().module.save_pretrained(folder / "vae")
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.29.0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "GemmaModel"],
        "tokenizer": ["transformers", "GemmaTokenizerFast"],
        "transformer": ["diffusers", "LuminaNextDiT2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder
