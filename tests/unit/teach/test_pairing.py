"""Pictures and texts of SigLIP training: what is said, what it fits, how it is scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference import training as slow
from tests.unit.teach import small

from heliodor.models.pair import SiglipPair, SiglipPairConfig, SiglipTextConfig
from heliodor.teach import pairing
from heliodor.teach.data.concepts import load_concepts
from heliodor.teach.data.palette import COLOURS
from heliodor.teach.data.scenes import Scene
from heliodor.teach.init import initialise
from heliodor.teach.pairing import PairBatch, PairObjective, pixels_in

LENGTH = 12
NAMES = {concept.name: concept.id for concept in load_concepts()}
COLOUR_NAMES = {colour.name for colour in COLOURS}


def pair() -> SiglipPair:
    text = SiglipTextConfig(
        vocab_size=2560, length=LENGTH, width=16, depth=1, num_heads=2, mlp_width=32
    )
    model = SiglipPair(SiglipPairConfig(vision=small.vision(48), text=text))
    initialise(model, 0)
    return model


def objective(**changes: Any) -> PairObjective:
    settings: dict[str, Any] = {
        "model": pair(),
        "tokenizer": small.tokenizer(),
        "size": 48,
        "images": 24,
        "singles": 0.5,
        "seed": 3,
    }
    return PairObjective(**(settings | changes))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Scene]:
    """The scenes that batches were drawn from, in order."""
    scenes: list[Scene] = []

    def noting(render: Callable[..., Scene]) -> Callable[..., Scene]:
        def draw(*args: Any, **settings: Any) -> Scene:
            scenes.append(render(*args, **settings))
            return scenes[-1]

        return draw

    for name in ("render_single", "render_scene"):
        monkeypatch.setattr(pairing, name, noting(getattr(pairing, name)))
    return scenes


def read_back(text: str) -> list[tuple[int, str | None]] | None:
    """Concepts and colours of an English text; None if it is cut or in another language."""
    said: list[tuple[int, str | None]] = []
    for part in text.split(" and "):
        first, _, rest = part.partition(" ")
        colour, name = (first, rest) if rest in NAMES and first in COLOUR_NAMES else (None, part)
        if name not in NAMES:
            return None
        said.append((NAMES[name], colour))
    return said


def test_a_text_fits_a_picture_that_shows_all_it_says(drawn: list[Scene]) -> None:
    batch = objective(images=40).batch(0)
    words = small.tokenizer()
    texts = [read_back(words.decode(row)) for row in batch.tokens.tolist()]
    kept = [index for index, said in enumerate(texts) if said is not None]
    assert len(kept) > 20
    assert len(drawn) == 40
    for image, scene in enumerate(drawn):
        things = [(thing.concept.id, thing.colour) for thing in scene.things]
        for text in kept:
            fits = all(
                any(c == concept and colour in (None, k) for c, k in things)
                for concept, colour in texts[text] or []
            )
            assert bool(batch.same[image, text]) is fits, (image, text)


def test_every_picture_has_its_text_and_pixels(drawn: list[Scene]) -> None:
    batch = objective().batch(1)
    assert batch.same.diagonal().all()
    assert not batch.same.all()
    assert batch.pixels.dtype == torch.uint8
    for picture, scene in zip(batch.pixels.numpy(), drawn, strict=True):
        np.testing.assert_array_equal(picture, scene.image)


def test_singles_is_the_share_of_pictures_of_one_thing(drawn: list[Scene]) -> None:
    objective(singles=1.0, images=30).batch(0)
    assert {len(scene.things) for scene in drawn} == {1}
    drawn.clear()
    objective(singles=0.0, images=30).batch(0)
    assert max(len(scene.things) for scene in drawn) > 2


def test_texts_have_one_length_and_a_sticky_end() -> None:
    """SigLIP's texts are filled up with <eos>, which the last position always is."""
    tokens = objective().batch(2).tokens
    assert tokens.shape == (24, LENGTH)
    for row in tokens.tolist():
        assert row[-1] == 1
        first = row.index(1)
        assert row[first:] == [1] * (LENGTH - first)
        assert first > 0


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    def content(step: int, seed: int = 3) -> list[object]:
        batch = objective(images=4, seed=seed).batch(step)
        return [batch.pixels.tolist(), batch.tokens.tolist(), batch.same.tolist()]

    assert content(5) == content(5)
    assert content(5) != content(6)
    assert content(5) != content(5, seed=4)


def test_loss_and_top1_are_those_of_the_networks_logits() -> None:
    train = objective(images=6)
    batch = train.batch(0)
    loss, figures = train.loss(batch)
    with torch.no_grad():
        scores = train.model(batch.pixels.permute(0, 3, 1, 2) / 127.5 - 1, batch.tokens)
    logits, same = scores.double().numpy(), batch.same.numpy()
    assert loss.item() == pytest.approx(slow.pair_loss(logits, same), rel=1e-5)
    right = [same[row, logits[row].argmax()] for row in range(6)]
    assert figures == {"top1": pytest.approx(np.mean(right))}


def test_a_second_right_text_counts_as_right() -> None:
    train = objective(images=6)
    batch = train.batch(0)
    everything = PairBatch(
        pixels=batch.pixels, tokens=batch.tokens, same=torch.ones(6, 6, dtype=torch.bool)
    )
    assert train.loss(everything)[1] == {"top1": 1.0}


def test_a_batch_of_pairs_stays_whole() -> None:
    """Every picture is compared with every text: parts would not add up."""
    train = objective(images=4)
    batch = train.batch(0)
    assert train.divide(batch, 2) == [(1.0, batch)]


def test_bytes_become_minus_one_to_one() -> None:
    image = torch.zeros(1, 2, 3, 3, dtype=torch.uint8)
    image[0, 1, 2] = torch.tensor([0, 51, 255], dtype=torch.uint8)
    pixels = pixels_in(image)
    assert pixels.shape == (1, 3, 2, 3)
    assert pixels[0, :, 1, 2].tolist() == pytest.approx([-1.0, -0.6, 1.0])
    assert pixels[0, :, 0, 0].tolist() == [-1.0] * 3
