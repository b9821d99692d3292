"""Shapes with a name: the published sizes and the small ones trained here."""

from __future__ import annotations

from dataclasses import replace

from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemmaConfig
from heliodor.models.siglip import SiglipVisionConfig

GEMMA2_2B = GemmaConfig(
    width=2304,
    depth=26,
    num_heads=8,
    num_kv_heads=4,
    head_dim=256,
    mlp_width=9216,
    sandwich=True,
    query_scale=256**-0.5,
    attention_cap=50.0,
    final_cap=30.0,
    window=4096,
)
"""Gemma 2 with PaliGemma's 1,216 more rows: 257,216. Alone it has 256,000."""

GEMMA2_9B = replace(GEMMA2_2B, width=3584, depth=42, num_heads=16, num_kv_heads=8, mlp_width=14336)
GEMMA2_27B = replace(
    GEMMA2_2B,
    width=4608,
    depth=46,
    num_heads=32,
    num_kv_heads=16,
    head_dim=128,
    mlp_width=36864,
    query_scale=144**-0.5,
)
"""Its queries are scaled by the width a head would have if heads filled the model: 4608 / 32."""


def paligemma(language: GemmaConfig, image_size: int) -> PaliGemmaConfig:
    """One of the published models: SigLIP so400m with patches of 14 pixels before a decoder."""
    vision = SiglipVisionConfig(image_size=image_size)
    return PaliGemmaConfig(vision=vision, language=language)


PALIGEMMA_3B_224 = paligemma(GemmaConfig(), 224)
PALIGEMMA_3B_448 = paligemma(GemmaConfig(), 448)
PALIGEMMA_3B_896 = paligemma(GemmaConfig(), 896)

_SECOND = {"3b": GEMMA2_2B, "10b": GEMMA2_9B, "28b": GEMMA2_27B}

PUBLISHED: dict[str, PaliGemmaConfig] = {
    "google/paligemma-3b-pt-224": PALIGEMMA_3B_224,
    "google/paligemma-3b-pt-448": PALIGEMMA_3B_448,
    "google/paligemma-3b-pt-896": PALIGEMMA_3B_896,
    "google/paligemma-3b-mix-224": PALIGEMMA_3B_224,
    "google/paligemma-3b-mix-448": PALIGEMMA_3B_448,
    **{
        f"google/paligemma2-{size}-{kind}-{pixels}": paligemma(language, pixels)
        for size, language in _SECOND.items()
        for kind, sizes in (("pt", (224, 448, 896)), ("mix", (224, 448)))
        for pixels in sizes
    },
    "google/paligemma2-3b-ft-docci-448": paligemma(GEMMA2_2B, 448),
    "google/paligemma2-10b-ft-docci-448": paligemma(GEMMA2_9B, 448),
}
"""Shapes by hub id: of PaliGemma 1 the models for all purposes, of PaliGemma 2 all."""

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
