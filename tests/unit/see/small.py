"""A picture, labels, and a model that says what a test tells it to."""

from __future__ import annotations

import math

import pytest
from tests import tiny
from tests.scripted import read_prompt, say

from heliodor.see.vlm import VisionLanguageModel

PICTURE = tiny.picture(1, (400, 300))
LABELS = ["bee", "red flower", "蜂"]


def script(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, text: str, *, chance: float = 0.9
) -> None:
    """Make every row say ``text`` and <eos>, each token with probability ``chance``."""
    tokens = model.tokenizer.encode_suffix(text)
    rest = math.log((1 - chance) / (model.model.config.num_predicted - 3) / chance)
    say(monkeypatch, tokens, model.model.config.language.vocab_size, rest=rest)
    monkeypatch.setattr(model.model, "read_prompt", read_prompt)
