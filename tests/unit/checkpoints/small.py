"""A folder in transformers layout with random weights, which an npz can express too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import tiny

from heliodor.checkpoints.transformers import save
from heliodor.image import ImageProcessor, Resize
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemmaConfig
from heliodor.models.siglip import SiglipVisionConfig

ALL = ("tokenizer", "padding")
TABLE = "language_model.model.embed_tokens.weight"
WEIGHTS = "model.safetensors"
VISION = SiglipVisionConfig(
    image_size=16, patch_size=4, width=12, depth=2, num_heads=3, mlp_width=20
)
LANGUAGE = GemmaConfig(width=16, depth=2, num_heads=4, num_kv_heads=2, head_dim=6, mlp_width=24)
LANGUAGE2 = replace(LANGUAGE, sandwich=True, attention_cap=50.0, final_cap=30.0, window=4096)


def made(folder: Path, language: GemmaConfig = LANGUAGE, **options: Any) -> Path:
    """A folder in transformers layout with random weights that an npz can express too."""
    words = tiny.tokenizer()
    config = PaliGemmaConfig(
        vision=VISION,
        language=replace(language, vocab_size=words.vocab_size + 7),
        image_token=words.image_token,
    )
    model = tiny.paligemma(vision=VISION, language=config.language, image_token=words.image_token)
    assert model.config == config
    processor = ImageProcessor(size=16, resize=Resize.BIG_VISION)
    save(model, words, processor, folder, **options)
    return folder
