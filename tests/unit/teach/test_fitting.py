"""The layer for patches, and the words for them, fitted to a tower that stays as it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests import tiny
from tests.unit.teach import small

from heliodor.errors import DataError
from heliodor.models.paligemma import PaliGemmaConfig
from heliodor.teach.data.coverage import EDGES, KINDS
from heliodor.teach.data.example import Example
from heliodor.teach.fitting import fit_covers, fit_names
from heliodor.teach.grounding import GroundedPaliGemma, patch_loss, quieten
from heliodor.teach.naming import naming_loss, words_for
from heliodor.teach.pairing import pixels_in


def shades(count: int) -> Iterator[Example]:
    """Patches of one of three shades, each of a kind of its own: a linear layer can tell them."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        kinds = rng.integers(3, size=(4, 4))
        image = np.kron(60 + 60 * kinds, np.ones((8, 8)))[..., None].repeat(3, -1)
        cover = np.zeros((16, KINDS + EDGES), np.uint8)
        cover[np.arange(16), kinds.ravel()] = 255
        cover[:, KINDS:] = 128
        yield Example(image=image.astype(np.uint8), turns=(), cover=cover)


@pytest.fixture
def model() -> GroundedPaliGemma:
    config = PaliGemmaConfig(vision=small.vision(32), language=small.language(), image_token=3712)
    made = tiny.filled(GroundedPaliGemma(config))
    quieten(made.covers)
    return made


def told(model: GroundedPaliGemma) -> float:
    examples = list(shades(40))
    pixels = pixels_in(torch.as_tensor(np.stack([example.image for example in examples])))
    covers = [example.cover for example in examples if example.cover is not None]
    cover = torch.as_tensor(np.stack(covers))
    with torch.no_grad():
        return patch_loss(model.look(pixels)[1], cover)[1]["top1"]


def test_the_layer_tells_kinds_afterwards_and_nothing_else_moved(model: GroundedPaliGemma) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert told(model) < 0.6
    figures = fit_covers(model, shades(40), steps=300)
    assert told(model) > 0.9
    assert figures["top1"] > 0.9
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("covers."), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_image_tokens_name_what_they_show_afterwards_and_nothing_else_moved(
    model: GroundedPaliGemma,
) -> None:
    words = words_for(small.tokenizer())
    cover = torch.as_tensor(np.stack([e.cover for e in shades(40) if e.cover is not None]))
    pixels = pixels_in(torch.as_tensor(np.stack([e.image for e in shades(40)])))

    def unnamed() -> float:
        with torch.no_grad():
            seen = model.encode_images(pixels).float()
        return naming_loss(model.language, seen, cover, words)[1]["named"]

    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert unnamed() > 5
    figures = fit_names(model, shades(40), words, steps=400, rate=3e-2)
    assert unnamed() < 0.5
    assert figures["named"] == pytest.approx(unnamed(), abs=0.1)
    moved = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == {"projector.weight", "projector.bias", "language.embedding.weight"}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_blank_pictures_cannot_teach_names(model: GroundedPaliGemma) -> None:
    cover = np.zeros((16, KINDS + EDGES), np.uint8)
    blank = Example(image=np.zeros((32, 32, 3), np.uint8), turns=(), cover=cover)
    with pytest.raises(DataError, match="nothing to name"):
        fit_names(model, [blank], words_for(small.tokenizer()))


def test_pictures_without_a_cover_are_passed_over_and_none_at_all_is_an_error(
    model: GroundedPaliGemma,
) -> None:
    bare = Example(image=np.zeros((32, 32, 3), np.uint8), turns=())
    with pytest.raises(DataError, match="nothing to fit"):
        fit_covers(model, [bare])
    mixed = fit_covers(model, [bare, *shades(20), bare], steps=20)
    quieten(model.covers)
    assert fit_covers(model, shades(20), steps=20) == mixed
