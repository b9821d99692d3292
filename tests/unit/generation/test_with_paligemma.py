"""The engine on the real network and its key-value cache, against uncached forward passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.reference.decoding import NextLogprobs, beam, log_softmax

from heliodor.generation import Beam, Plan, generate
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.models.siglip import SiglipVisionConfig

EOS, VOCABULARY = 1, 24
PROMPTS = [[2, 5, 6, 7, 3], [2, 9, 3]]


@pytest.fixture(scope="module")
def model() -> PaliGemma:
    torch.manual_seed(0)
    network = PaliGemma(
        PaliGemmaConfig(
            vision=SiglipVisionConfig(
                image_size=8, patch_size=4, width=8, depth=1, num_heads=2, mlp_width=16
            ),
            language=GemmaConfig(
                vocab_size=VOCABULARY,
                width=16,
                depth=2,
                num_heads=2,
                num_kv_heads=1,
                head_dim=8,
                mlp_width=32,
            ),
            image_token=None,
        )
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # large enough that each part matters
            parameter.normal_(std=0.35)
        network.language.embedding.weight.mul_(0.3)  # else a tied table repeats its last token
        network.language.norm.scale.add_(12.0)  # confident enough for long sequences to win
    return network


@pytest.fixture
def features(model: PaliGemma) -> torch.Tensor:
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        return model.encode_images(pixels)


def prefill(model: PaliGemma, features: torch.Tensor):
    width = max(len(prompt) for prompt in PROMPTS)
    tokens = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    with torch.no_grad():
        return model.prefill(tokens=tokens, features=features, valid=tokens != 0)


def uncached(model: PaliGemma, features: torch.Tensor, row: int) -> NextLogprobs:
    def after(tokens: tuple[int, ...]) -> np.ndarray:
        prompt = PROMPTS[row]
        with torch.no_grad():
            logits = model(
                tokens=torch.tensor([[*prompt, *tokens]]),
                features=features[row : row + 1],
                prefix=torch.tensor([len(prompt)]),
            )
        return log_softmax(logits[0, -1].numpy())

    return after


def test_greedy_with_a_cache_is_the_argmax_without_one(model: PaliGemma, features: torch.Tensor):
    plan = Plan(max_new_tokens=10, stop=frozenset({EOS}))
    rows = generate(model, *prefill(model, features), plan)
    for number, row in enumerate(rows):
        after = uncached(model, features, number)
        for place, (token, logprob) in enumerate(zip(row.tokens, row.logprobs, strict=True)):
            expected = after(row.tokens[:place])
            assert token == expected.argmax()
            assert logprob == pytest.approx(expected[token], abs=1e-4)


def test_beam_search_reorders_the_cache_as_it_reorders_sequences(
    model: PaliGemma, features: torch.Tensor
):
    rows = Beam(3).search(model, *prefill(model, features), max_new_tokens=5, eos=EOS)
    for number, row in enumerate(rows):
        after = uncached(model, features, number)
        tokens, total = beam(after, vocabulary=VOCABULARY, eos=EOS, depth=5, size=3)
        assert row.tokens == tokens
        assert sum(row.logprobs) == pytest.approx(total, abs=1e-3)
    assert any(len(row.tokens) > 2 for row in rows)
