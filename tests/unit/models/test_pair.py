"""SigLIP as a pair; transformers is compared with in tests/parity."""

from __future__ import annotations

import math

import pytest
import torch
from tests import tiny

from heliodor.models.pair import SiglipPair, SiglipPairConfig

TOKENS = torch.tensor([[3, 4, 5, 1, 1, 1, 1], [9, 8, 7, 6, 5, 4, 1], [3, 4, 5, 1, 1, 1, 2]])


def fresh() -> SiglipPair:
    return SiglipPair(SiglipPairConfig(vision=tiny.VISION, text=tiny.TEXT))


@torch.no_grad()
def test_logits_are_scaled_cosines() -> None:
    model = tiny.pair()
    pixels = tiny.pixels(2)
    images, texts = model.embed_images(pixels), model.embed_texts(TOKENS)
    assert images.shape == (2, 24)
    assert texts.shape == (3, 24)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    cosines = torch.tensor([[float(i @ t) for t in texts] for i in images])
    expected = cosines * math.exp(float(model.logit_scale)) + float(model.logit_bias)
    found = model(pixels, TOKENS)
    assert found.shape == (2, 3)
    torch.testing.assert_close(found, expected)


def test_training_starts_where_the_paper_starts() -> None:
    model = fresh()
    assert model.logit_scale.exp().item() == pytest.approx(10.0)
    assert model.logit_bias.item() == -10.0


@torch.no_grad()
def test_the_last_position_speaks_and_sees_every_other() -> None:
    model = tiny.pair()
    before = model.embed_texts(TOKENS[:1])
    for place in range(7):
        changed = TOKENS[:1].clone()
        changed[0, place] = 20
        assert float((model.embed_texts(changed) - before).abs().max()) > 1e-3, place


@torch.no_grad()
def test_images_and_texts_do_not_influence_their_neighbours() -> None:
    model = tiny.pair()
    pixels = tiny.pixels(3)
    together = model(pixels, TOKENS)
    for row in range(3):
        for column in range(3):
            alone = model(pixels[row : row + 1], TOKENS[column : column + 1])
            assert float(alone) == pytest.approx(float(together[row, column]), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_narrow_weights_give_what_float32_gives_on_them(dtype: torch.dtype) -> None:
    narrow = tiny.pair().to(dtype)
    wide = tiny.pair()
    wide.load_state_dict({name: value.float() for name, value in narrow.state_dict().items()})
    found = narrow(tiny.pixels(2), TOKENS)
    assert found.dtype == torch.float32
    # the probe and the positions are added, not multiplied: no widening could differ
    assert torch.equal(found, wide(tiny.pixels(2), TOKENS))
