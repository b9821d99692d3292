"""Builders of small models with random weights: seconds count, and every tensor must matter."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from heliodor import zoo
from heliodor.checkpoints import open_checkpoint
from heliodor.checkpoints.transformers import TransformersCheckpoint
from heliodor.image import ImageProcessor
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.models.maskcodec import MaskCodec, MaskCodecConfig
from heliodor.models.pair import SiglipPair, SiglipPairConfig, SiglipTextConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.models.siglip import SiglipVision, SiglipVisionConfig
from heliodor.see.vlm import VisionLanguageModel
from heliodor.text import Tokenizer

Network = TypeVar("Network", bound=nn.Module)

VISION = SiglipVisionConfig(
    image_size=32, patch_size=8, width=24, depth=2, num_heads=3, mlp_width=40
)
LANGUAGE = GemmaConfig(
    vocab_size=48,
    width=32,
    depth=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    mlp_width=56,
    norm_eps=1e-5,
    rope_base=700.0,
    context=512,
)
LANGUAGE2 = replace(
    LANGUAGE,
    sandwich=True,
    query_scale=9.0**-0.5,
    attention_cap=1.5,
    final_cap=1.0,
    window=4,
)
"""Gemma 2: four heads of twelve channels are wider than the model, both caps bite, and the window
is shorter than any prompt with a picture."""
TEXT = SiglipTextConfig(vocab_size=40, length=7, width=24, depth=2, num_heads=4, mlp_width=36)


def filled(network: Network, seed: int = 0) -> Network:
    """Random numbers of such a size that no branch drowns in another; norms are not neutral.

    A tensor of zeros or ones, as a fresh network holds many, would hide that it is not used.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if parameter.ndim == 1:
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.3 * noise)
            elif name.endswith("position"):
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
    return network.eval()


def siglip(config: SiglipVisionConfig = VISION, seed: int = 0) -> SiglipVision:
    """An image tower."""
    return filled(SiglipVision(config), seed)


def gemma(config: GemmaConfig = LANGUAGE, seed: int = 0) -> Gemma:
    """A decoder."""
    return filled(Gemma(config), seed)


def pair(vision: SiglipVisionConfig = VISION, text: SiglipTextConfig = TEXT) -> SiglipPair:
    """Two towers."""
    return filled(SiglipPair(SiglipPairConfig(vision=vision, text=text)))


def paligemma(
    *,
    vision: SiglipVisionConfig = VISION,
    language: GemmaConfig = LANGUAGE,
    image_token: int | None = 45,
    seed: int = 0,
) -> PaliGemma:
    """The whole network; ids from ``image_token`` on are padding rows of the table."""
    config = PaliGemmaConfig(vision=vision, language=language, image_token=image_token)
    return filled(PaliGemma(config), seed)


@cache
def tokenizer() -> Tokenizer:
    """The shipped one."""
    return Tokenizer.from_file(zoo.TOKENIZER)


def mask_codec(seed: int = 0) -> MaskCodec:
    """A codec of few channels; its masks are noise, half of it inside."""
    config = MaskCodecConfig(widths=(4, 6, 8, 10), code_width=12, num_blocks=1)
    codec = filled(MaskCodec(config), seed).requires_grad_(requires_grad=False)
    codec.codebook.mul_(10.0)
    for parameter in codec.decoder.parameters():
        if parameter.ndim > 1:
            parameter.mul_(2.0)
    middle = codec.decode(torch.arange(128).view(8, 16)).median()
    codec.decoder[-1].get_parameter("bias").sub_(middle)
    return codec


def vlm(
    *,
    vision: SiglipVisionConfig = VISION,
    context: int = 512,
    seed: int = 0,
    codec: MaskCodec | Path | None = None,
) -> VisionLanguageModel:
    """A model one can talk to, with random weights and the shipped tokenizer.

    It is confident, and its table does not only repeat the last token, so that texts differ.
    """
    words = tokenizer()
    language = replace(
        LANGUAGE, vocab_size=words.vocab_size + 7, rope_base=10000.0, context=context
    )
    model = paligemma(vision=vision, language=language, image_token=words.image_token, seed=seed)
    with torch.no_grad():
        model.language.embedding.weight.mul_(0.3)
        model.language.norm.scale.add_(6.0)
    return VisionLanguageModel(
        model=model,
        tokenizer=words,
        processor=ImageProcessor(size=vision.image_size),
        codec=mask_codec() if codec is None else codec,
    )


def picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Coloured noise of ``size`` (width, height), coarse enough to survive resizing."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)


def pixels(batch: int, config: SiglipVisionConfig = VISION, seed: int = 0) -> torch.Tensor:
    """Noise [B 3 S S] in -1..1."""
    random = torch.Generator().manual_seed(seed)
    size = config.image_size
    return torch.rand(batch, 3, size, size, generator=random) * 2 - 1


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest expected magnitude."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def opened(folder: Path) -> TransformersCheckpoint:
    """The PaliGemma in transformers layout that lies in a folder."""
    found = open_checkpoint(folder)
    assert isinstance(found, TransformersCheckpoint)
    return found
