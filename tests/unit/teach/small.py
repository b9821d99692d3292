"""A PaliGemma of 70,000 parameters, pictures of noise, and runs of a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.models.siglip import SiglipVisionConfig
from heliodor.teach.answering import AnswerObjective
from heliodor.teach.data.example import Example, Turn
from heliodor.teach.init import initialise
from heliodor.teach.loop import Run
from heliodor.teach.optim import AdamConfig, Schedule
from heliodor.teach.recipes import siglip, tiny
from heliodor.text import Tokenizer
from heliodor.zoo import TOKENIZER

TOWER = SiglipVisionConfig(
    image_size=224, patch_size=16, width=16, depth=1, num_heads=2, mlp_width=32
)
TEXT = replace(siglip.TEXT, width=16, depth=1, num_heads=2, mlp_width=32)
"""What :func:`shrink` puts in the place of tiny's towers."""

WORDS = ("cat", "dog", "a red car", "two bees and a flower", "tree")


def vision(image_size: int = 16) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        image_size=image_size, patch_size=8, width=16, depth=1, num_heads=2, mlp_width=32
    )


def language(vocab_size: int = 3776) -> GemmaConfig:
    return GemmaConfig(
        vocab_size=vocab_size,
        width=16,
        depth=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_width=32,
    )


def paligemma(seed: int = 0, image_size: int = 16) -> PaliGemma:
    config = PaliGemmaConfig(vision=vision(image_size), language=language(), image_token=3712)
    model = PaliGemma(config)
    initialise(model, seed)
    return model


def preset(vocab_size: int, image_token: int, image_size: int) -> PaliGemmaConfig:
    """In the place of tiny's preset."""
    return PaliGemmaConfig(
        vision=replace(TOWER, image_size=image_size),
        language=language(vocab_size),
        image_token=image_token,
    )


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the recipes build networks of 16 channels."""
    monkeypatch.setattr(siglip, "TINY_VISION", TOWER)
    monkeypatch.setattr(siglip, "TEXT", TEXT)
    monkeypatch.setattr(tiny, "tiny", preset)


def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(TOKENIZER)


def noise(rng: np.random.Generator) -> Example:
    """A picture of noise with one or two turns."""
    image = rng.integers(0, 256, (16, 16, 3), np.uint8)
    turns = [
        Turn(task="caption", prompt="caption en", suffix=WORDS[int(rng.integers(len(WORDS)))]),
        Turn(task="ask", prompt="answer en what?", suffix=WORDS[int(rng.integers(len(WORDS)))]),
    ]
    return Example(image=image, turns=tuple(turns[: int(rng.integers(1, 3))]))


def objective(seed: int = 7, images: int = 3, shown: int = 0) -> AnswerObjective:
    return AnswerObjective(
        model=paligemma(),
        tokenizer=tokenizer(),
        sources=((1.0, noise),),
        images=images,
        seed=seed,
        shown=[noise(np.random.default_rng(index)) for index in range(shown)],
    )


def run(steps: int = 8, **changes: object) -> Run:
    settings: dict[str, object] = {
        "name": "small",
        "adam": AdamConfig(rate=1e-2, decay=1e-3),
        "schedule": Schedule(steps=steps, warmup=2),
        "workers": 0,
        "log_every": 1,
    }
    return Run(**(settings | changes))  # pyright: ignore[reportArgumentType]


def state_files(workdir: Path) -> dict[str, bytes]:
    """The weights file of every state, by the state's name."""
    return {
        path.parent.name: path.read_bytes()
        for path in sorted(workdir.glob("state-*/model.safetensors"))
    }
