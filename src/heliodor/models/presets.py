"""Shapes with a name: the published sizes and the small ones trained here."""

from __future__ import annotations

from dataclasses import replace

from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemmaConfig
from heliodor.models.siglip import SiglipVisionConfig

PALIGEMMA_3B_224 = PaliGemmaConfig()
PALIGEMMA_3B_448 = replace(
    PALIGEMMA_3B_224, vision=replace(PALIGEMMA_3B_224.vision, image_size=448)
)
PALIGEMMA_3B_896 = replace(
    PALIGEMMA_3B_224, vision=replace(PALIGEMMA_3B_224.vision, image_size=896)
)

TINY_VISION = SiglipVisionConfig(
    image_size=224, patch_size=16, width=256, depth=8, num_heads=4, mlp_width=1024
)


def tiny(vocab_size: int, image_token: int, image_size: int = 224) -> PaliGemmaConfig:
    """The shipped small model's shape, for a tokenizer of the given size.

    Args:
        vocab_size: rows of the embedding table.
        image_token: id of ``<image>``.
        image_size: side of the square picture in pixels.
    """
    language = GemmaConfig(
        vocab_size=vocab_size,
        width=256,
        depth=5,
        num_heads=4,
        num_kv_heads=1,
        head_dim=64,
        mlp_width=768,
        context=2048,
    )
    vision = replace(TINY_VISION, image_size=image_size)
    return PaliGemmaConfig(vision=vision, language=language, image_token=image_token)
