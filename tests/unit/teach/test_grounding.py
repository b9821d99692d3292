"""What lies in the patches as a lesson, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.reference import training as slow
from tests.unit.teach import small

from heliodor.models.pair import SiglipPair, SiglipPairConfig, SiglipTextConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.teach import grounding
from heliodor.teach.data.collate import collate
from heliodor.teach.data.concepts import load_concepts
from heliodor.teach.data.coverage import EDGES, KINDS, THINGS
from heliodor.teach.data.example import Example
from heliodor.teach.data.palette import COLOURS
from heliodor.teach.grounding import (
    GroundedBatch,
    GroundedPair,
    GroundedPaliGemma,
    GroundingObjective,
    patch_loss,
    quieten,
)
from heliodor.teach.log import joined

TEXT = SiglipTextConfig(vocab_size=2560, length=12, width=16, depth=1, num_heads=2, mlp_width=32)
LETTERS = THINGS + len(COLOURS)


def pair() -> GroundedPair:
    return tiny.filled(GroundedPair(SiglipPairConfig(vision=small.vision(32), text=TEXT)))


def paligemma() -> GroundedPaliGemma:
    config = PaliGemmaConfig(vision=small.vision(), language=small.language(), image_token=3712)
    return tiny.filled(GroundedPaliGemma(config))


def objective(**changes: Any) -> GroundingObjective:
    settings: dict[str, Any] = {
        "model": pair(),
        "tokenizer": small.tokenizer(),
        "size": 32,
        "images": 6,
        "singles": 0.5,
        "lines": 0.2,
        "seed": 3,
    }
    return GroundingObjective(**(settings | changes))


def cover(seed: int, pictures: int, places: int) -> torch.Tensor:
    """Now and then something, and every third patch full of one thing, or half full."""
    rng = np.random.default_rng(seed)
    shape = (pictures, places, KINDS + EDGES)
    found = rng.integers(1, 60, shape) * (rng.random(shape) < 0.1)
    found[..., KINDS:] = rng.integers(0, 256, (pictures, places, EDGES))
    for index, patch in enumerate(found.reshape(-1, KINDS + EDGES)):
        if index % 3 == 0:
            patch[rng.integers(THINGS)] = 200 if index % 2 else 110
    return torch.tensor(found, dtype=torch.uint8)


def loop(logits: torch.Tensor, shares: torch.Tensor) -> dict[str, float]:
    """The figures of `patch_loss`, and its result as "loss"."""
    values = logits.double().numpy().reshape(-1, KINDS + EDGES)
    wanted = shares.double().numpy().reshape(-1, KINDS + EDGES) / 255
    away, right = [], []
    for row, share in zip(values, wanted, strict=True):
        thing = int(share[:THINGS].argmax())
        if share[thing] > 0.25:
            away += [abs(1 / (1 + math.exp(-row[KINDS + i])) - share[KINDS + i]) for i in range(4)]
        if share[thing] > 0.6:
            right.append(int(row[:THINGS].argmax()) == thing)
    figures = {
        "patch": slow.share_loss(values[:, :KINDS], wanted[:, :KINDS]),
        "edges": sum(away) / max(1, len(away)),
        "top1": sum(right) / max(1, len(right)),
    }
    return figures | {"loss": figures["patch"] + 5 * figures["edges"]}


def test_the_loss_of_patches_is_that_of_a_plain_loop() -> None:
    shares = cover(1, 3, 8)
    logits = torch.randn(3, 8, KINDS + EDGES, generator=torch.Generator().manual_seed(0)) * 2
    full = (shares[..., :THINGS] > 153).any(-1).nonzero()
    picture, place = full[0].tolist()
    logits[picture, place, shares[picture, place, :THINGS].argmax()] = 9.0  # one is right
    loss, figures = patch_loss(logits, shares)
    wanted = loop(logits, shares)
    assert len(full) > 2
    assert 0 < wanted["top1"] < 1
    assert float(loss) == pytest.approx(wanted.pop("loss"), rel=1e-5)
    assert figures == pytest.approx(wanted, rel=1e-5)


def test_where_no_thing_is_only_the_kinds_count() -> None:
    """Letters alone: undecided layers pay one bit a kind."""
    shares = torch.zeros(1, 4, KINDS + EDGES, dtype=torch.uint8)
    shares[0, 1, LETTERS:KINDS] = 255
    loss, figures = patch_loss(torch.zeros(1, 4, KINDS + EDGES), shares)
    assert float(loss) == pytest.approx(KINDS * math.log(2), rel=1e-5)
    assert (figures["edges"], figures["top1"]) == (0.0, 0.0)


def test_the_pairs_loss_is_of_patches_and_a_tenth_of_pictures() -> None:
    lesson = objective()
    batch = lesson.batch(0)
    loss, figures = lesson.loss(batch)
    model = lesson.model
    pixels = batch.pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        images, texts = model.embed_images(pixels), model.embed_texts(batch.tokens)
        scale, bias = float(model.logit_scale.exp()), float(model.logit_bias)
        whole = (images @ texts.T).double().numpy() * scale + bias
        patches = model.vision(pixels) @ model.covers.weight.T + model.covers.bias
    shown = batch.cover[..., : len(batch.tokens)].numpy().max(1) > 0
    by_picture = slow.share_loss(whole, shown.astype(float))
    wanted = loop(patches, batch.cover)
    assert loss.item() == pytest.approx(wanted.pop("loss") + 0.1 * by_picture, rel=1e-5)
    assert figures == pytest.approx(wanted | {"picture": by_picture}, rel=1e-5)
    assert 0 < shown.sum() < shown.size


def test_a_grounded_pair_compares_pictures_with_texts_as_any_pair_does() -> None:
    model = pair()
    plain = tiny.filled(SiglipPair(model.config))
    kept = model.state_dict()
    plain.load_state_dict({name: kept[name] for name in plain.state_dict()})
    pixels, tokens = torch.randn(2, 3, 32, 32), torch.randint(0, 2560, (3, 12))
    with torch.no_grad():
        assert torch.equal(model(pixels, tokens), plain(pixels, tokens))


def test_texts_are_the_names_of_the_first_columns() -> None:
    """In any language, the colours in English; each ended and filled up by <eos>."""
    words = small.tokenizer()
    batch = objective(images=1).batch(0)
    assert batch.tokens.shape == (LETTERS, 12)
    texts = [words.decode(row[: row.index(words.eos)]) for row in batch.tokens.tolist()]
    assert all(set(row[row.index(words.eos) :]) == {words.eos} for row in batch.tokens.tolist())
    names = [concept.name for concept in load_concepts()]
    english = [found == name for found, name in zip(texts[:THINGS], names, strict=True)]
    assert 0.3 < np.mean(english) < 0.75
    assert texts[THINGS:] == [colour.name for colour in COLOURS]


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    def content(seed: int, step: int) -> list[Any]:
        batch = objective(seed=seed, images=3).batch(step)
        return [batch.pixels.tolist(), batch.tokens.tolist(), batch.cover.tolist()]

    assert content(3, 1) == content(3, 1)
    assert content(3, 1) != content(3, 2)
    assert content(3, 1) != content(4, 1)


def test_shares_say_whether_words_single_things_or_scenes_are_drawn() -> None:
    (words,) = {*map(tuple, kinds(objective(lines=1.0, singles=0.0)))}
    assert words == (False, True)
    (things,) = {*map(tuple, kinds(objective(lines=0.0, singles=1.0)))}
    assert things == (True, False)
    mixed = kinds(objective(lines=0.5, singles=0.25, images=40))
    assert 10 < sum(letters for _, letters in mixed) < 30


def kinds(lesson: GroundingObjective) -> list[list[bool]]:
    """Of every picture, whether it shows things and whether letters."""
    shares = lesson.batch(0).cover
    things = shares[..., :THINGS].amax((1, 2)) > 0
    letters = shares[..., LETTERS:KINDS].amax((1, 2)) > 0
    return torch.stack([things, letters], -1).tolist()


def test_looks_grow_along_the_ramp_and_scenes_keep_to_their_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []

    def noting(render: Callable[..., Any]) -> Callable[..., Any]:
        def draw(*args: Any, **settings: Any) -> Any:
            asked.append(settings)
            return render(*args, **settings)

        return draw

    for name in ("render_single", "render_scene"):
        monkeypatch.setattr(grounding, name, noting(getattr(grounding, name)))
    for singles in (0.0, 1.0):
        lesson = objective(
            images=1, lines=0.0, singles=singles, ramp=10, strength=0.8, most=2, styles=("noto",)
        )
        asked.clear()
        for step in (0, 5, 10, 30):
            lesson.batch(step)
        assert [call["strength"] for call in asked] == pytest.approx([0.08, 0.44, 0.8, 0.8])
        assert {call["styles"] for call in asked} == {("noto",)}
        assert {call.get("most") for call in asked} == {2 if singles == 0.0 else None}
    asked.clear()
    objective(images=1, lines=0.0, singles=1.0, ramp=0).batch(0)
    assert asked[0]["strength"] == 1.0


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_hold_every_picture_with_its_cover_and_all_names(parts: int) -> None:
    lesson = objective(images=7)
    batch = lesson.batch(0)
    cut = lesson.divide(batch, parts)
    assert len(cut) == parts
    assert torch.equal(torch.cat([part.pixels for _, part in cut]), batch.pixels)
    assert torch.equal(torch.cat([part.cover for _, part in cut]), batch.cover)
    assert all(torch.equal(part.tokens, batch.tokens) for _, part in cut)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_add_up_in_loss_in_figures_and_in_every_gradient(parts: int) -> None:
    """Things own uneven numbers of patches, in some pictures none; the edges' part was off once.

    A bias of the keys moves no softmax, so its gradient is rounding of its neighbours': differences
    are measured by the largest gradient too.
    """
    lesson = objective()
    shares = cover(5, 7, 16)
    shares[0, :, :KINDS] = 0
    shares[1, :9, 3] = 220
    pixels = torch.randint(256, (7, 32, 32, 3), generator=torch.Generator().manual_seed(1))
    batch = replace(lesson.batch(0), pixels=pixels.to(torch.uint8), cover=shares)
    counts = (shares[..., :THINGS].amax(-1) > 0.25 * 255).sum(1)
    assert counts[0] == 0
    assert len(set(counts.tolist())) > 2

    def learnt(cut: list[tuple[float, GroundedBatch]]) -> tuple[dict[str, torch.Tensor], Any]:
        lesson.model.zero_grad()
        total, told = 0.0, []
        for share, part in cut:
            loss, figures = lesson.loss(part)
            (loss * share).backward()
            total += share * loss.item()
            told.append((share, figures))
        grads = {
            n: p.grad.clone() for n, p in lesson.model.named_parameters() if p.grad is not None
        }
        return grads, {"loss": total} | joined(told)

    whole, said = learnt([(1.0, batch)])
    cut = lesson.divide(batch, parts)
    assert len(cut) > 1
    found, told = learnt(cut)
    assert told == pytest.approx(said, rel=1e-5)
    assert {"patch", "edges", "top1", "picture"} < said.keys()
    largest = max(float(grad.abs().max()) for grad in whole.values())
    assert found.keys() == whole.keys()
    for name, grad in whole.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-5, atol=1e-6 * largest, msg=name)


def test_a_pair_has_nothing_to_read() -> None:
    assert objective().samples() == []


@pytest.mark.parametrize("build", [pair, paligemma])
def test_a_quiet_layer_says_the_same_of_every_patch_and_little(build: Callable[[], Any]) -> None:
    model = build()
    quieten(model.covers)
    size = model.config.vision.image_size
    with torch.no_grad():
        said = model.covers(model.vision(torch.randn(2, 3, size, size)))
    assert torch.equal(said, said[:1, :1].expand_as(said))
    chance = said.sigmoid()[0, 0]
    assert chance[:KINDS].tolist() == pytest.approx([1 / (1 + KINDS)] * KINDS, rel=1e-5)
    assert chance[KINDS:].tolist() == [0.5] * EDGES


def test_the_plain_model_gives_equal_logits_and_has_no_such_layer() -> None:
    model = paligemma()
    plain = model.plain()
    assert type(plain) is PaliGemma
    assert set(model.state_dict()) - set(plain.state_dict()) == {"covers.weight", "covers.bias"}
    pixels, tokens = torch.randn(2, 3, 16, 16), torch.randint(0, 3000, (2, 9))
    prefix = torch.tensor([4, 6])
    with torch.no_grad():
        wanted = model(tokens, model.encode_images(pixels), prefix)
        found = plain(tokens, plain.encode_images(pixels), prefix)
    assert torch.equal(found, wanted)
    assert found.std() > 0.1


def test_a_look_gives_image_tokens_and_what_lies_in_their_patches() -> None:
    model = paligemma()
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        features, patches = model.look(pixels)
        wanted = model.vision(pixels) @ model.covers.weight.T + model.covers.bias
        assert torch.equal(features, model.encode_images(pixels))
    torch.testing.assert_close(patches, wanted, rtol=1e-5, atol=1e-5)


class TestBesideAnswers:
    def batch(self) -> tuple[Any, torch.Tensor]:
        """Four pictures, of which the second and the last tell what lies in their patches."""
        shares = cover(4, 2, 4)
        examples: list[Example] = [small.noise(np.random.default_rng(i)) for i in range(4)]
        for index, known in zip((1, 3), shares.numpy(), strict=True):
            examples[index] = replace(examples[index], cover=known)
        return collate(examples, small.tokenizer()), shares

    def test_what_lies_in_known_patches_is_added_by_its_weight(self) -> None:
        batch, shares = self.batch()
        model = paligemma()
        plain = replace(small.objective(), model=model.plain())
        answers, tasks = plain.loss(batch)
        lesson = replace(small.objective(), model=model, grounding=0.3)
        loss, figures = lesson.loss(batch)
        pixels = batch.pixels[[1, 3]].permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            wanted = loop(model.look(pixels)[1], shares)
        beside = 0.3 * wanted.pop("loss")
        assert beside > 1
        assert loss.item() == pytest.approx(answers.item() + beside, rel=1e-5)
        assert figures == pytest.approx(wanted | dict(tasks), rel=1e-5)

    def test_its_gradient_reaches_the_tower_and_not_the_decoder(self) -> None:
        batch, _ = self.batch()
        model = paligemma()
        lesson = replace(small.objective(), model=model, grounding=1e6)
        lesson.loss(batch)[0].backward()
        tower = model.vision.patch.weight.grad
        decoder = model.language.embedding.weight.grad
        assert tower is not None
        assert decoder is not None
        assert float(tower.norm()) > 1e3 * float(decoder.norm())

    def test_apart_the_tower_learns_from_its_patches_only(self) -> None:
        """The loss is the same; at weight zero nothing reaches the tower, all else learns as
        before."""
        batch, _ = self.batch()
        found: dict[bool, dict[str, torch.Tensor | None]] = {}
        losses = []
        for apart in (False, True):
            model = paligemma()
            lesson = replace(small.objective(), model=model, grounding=0.0, apart=apart)
            loss, _ = lesson.loss(batch)
            loss.backward()
            losses.append(loss.item())
            found[apart] = {name: p.grad for name, p in model.named_parameters()}
        assert losses[0] == losses[1]
        for name, gradient in found[True].items():
            before = found[False][name]
            assert before is not None
            if name.startswith("vision."):
                assert gradient is None or not gradient.any(), name
            else:
                assert gradient is not None
                torch.testing.assert_close(gradient, before, rtol=1e-5, atol=1e-8)
        patch = found[False]["vision.patch.weight"]
        assert patch is not None
        assert patch.any()

    def test_a_model_without_the_layer_learns_answers_alone(self) -> None:
        batch, _ = self.batch()
        lesson = replace(small.objective(), grounding=0.3)
        silent = replace(batch, cover=torch.zeros(0, 0, 0), covered=batch.covered[:0])
        assert torch.equal(lesson.loss(batch)[0], lesson.loss(silent)[0])
        assert set(lesson.loss(batch)[1]) == {"ask", "caption"}

    def test_pictures_that_tell_nothing_add_nothing(self) -> None:
        batch = small.objective().batch(0)
        model = paligemma()
        lesson = replace(small.objective(), model=model, grounding=0.3)
        plain = replace(small.objective(), model=model.plain())
        assert lesson.loss(batch)[0].item() == pytest.approx(plain.loss(batch)[0].item(), rel=1e-6)


def test_a_batch_is_three_tensors_of_one_length() -> None:
    batch = objective().batch(2)
    assert isinstance(batch, GroundedBatch)
    assert batch.pixels.shape == (6, 32, 32, 3)
    assert batch.cover.shape == (6, 16, KINDS + EDGES)
    assert batch.pixels.dtype == batch.cover.dtype == torch.uint8
