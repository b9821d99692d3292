"""What image tokens say is held to the words for what the patches show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.unit.teach import small

from heliodor.teach.data.concepts import load_concepts
from heliodor.teach.data.coverage import (
    ALPHABET,
    EDGES,
    KINDS,
    LETTERS,
    THINGS,
    cover_letters,
    letter_of,
)
from heliodor.teach.data.language import LANGUAGES, colour_word
from heliodor.teach.data.palette import COLOURS
from heliodor.teach.data.reading import draw_reading
from heliodor.teach.naming import Words, naming_loss, words_for

TOKENIZER = small.tokenizer()
WORDS = words_for(TOKENIZER)
TEXTS = [TOKENIZER.decode([token]).strip() for token in WORDS.ids.tolist()]


def said(kind: int) -> dict[str, float]:
    """The words for a kind, with their shares."""
    shares = zip(TEXTS, WORDS.share[kind].tolist(), strict=True)
    return {text: share for text, share in shares if share > 0}


def test_every_kind_is_said_in_shares_of_one() -> None:
    assert WORDS.share.shape == (KINDS, len(WORDS.ids))
    torch.testing.assert_close(WORDS.share.sum(1), torch.ones(KINDS))
    assert (WORDS.ids.diff() > 0).all()
    assert "" not in TEXTS


@pytest.mark.parametrize("language", LANGUAGES)
def test_things_and_colours_are_said_in_every_language(language: str) -> None:
    for concept in load_concepts():
        pieces = TOKENIZER.encode(f" {concept.in_language(language)}")
        texts = {TOKENIZER.decode([piece]).strip() for piece in pieces} - {""}
        assert texts <= set(said(concept.id))
    for index, colour in enumerate(COLOURS):
        pieces = TOKENIZER.encode(colour_word(colour.name, language))
        assert {TOKENIZER.decode([piece]).strip() for piece in pieces} <= set(said(THINGS + index))


def test_half_of_a_thing_is_said_in_english() -> None:
    dog = next(concept for concept in load_concepts() if concept.name == "dog")
    expected = dict.fromkeys(WORDS.ids.tolist(), 0.0)
    for language in LANGUAGES:
        name = dog.in_language(language)
        pieces = [p for form in (name, f" {name}") for p in TOKENIZER.encode(form)]
        pieces = [piece for piece in pieces if TOKENIZER.decode([piece]).strip()]
        for piece in pieces:
            expected[piece] += (0.5 if language == "en" else 0.1) / len(pieces)
    torch.testing.assert_close(WORDS.share[dog.id], torch.tensor(list(expected.values())))


def test_letters_are_said_by_their_own_tokens_in_either_half() -> None:
    for half in (0, 1):
        for column in range(ALPHABET):
            kind = LETTERS + half * ALPHABET + column
            assert said(kind) == {chr(ord("!") + column): 1.0}
            assert letter_of(kind) == chr(ord("!") + column)
    reading = draw_reading(np.random.default_rng(3), size=224)
    shown = np.nonzero(cover_letters(reading, 16)[:, LETTERS:KINDS].max(0))[0]
    assert {letter_of(LETTERS + int(column)) for column in shown} <= set(reading.text)


def test_loss_is_the_divergence_written_out() -> None:
    decoder = small.paligemma().language
    rng = np.random.default_rng(5)
    cover = np.zeros((3, 4, KINDS + EDGES), np.uint8)
    cover[0, 0, [2, THINGS + 1]] = 200, 100
    cover[0, 1, 7] = 20  # too little to be told
    cover[0, 2, 9] = 255
    cover[2, 3, [LETTERS, LETTERS + ALPHABET + 4]] = 255, 128
    cover[..., KINDS:] = 90
    seen = torch.tensor(rng.normal(size=(3, 4, 16)), dtype=torch.float32, requires_grad=True)
    loss, figures = naming_loss(decoder, seen, torch.as_tensor(cover), WORDS)
    loss.backward()

    table = decoder.embedding.weight.detach().double().numpy()[WORDS.ids.numpy()]
    scale = decoder.norm.scale.detach().double().numpy()
    share = WORDS.share.double().numpy()

    def divergence(picture: int, patch: int) -> float:
        x = seen.detach()[picture, patch].double().numpy()
        x = x / np.sqrt((x**2).mean() + decoder.config.norm_eps) * (1.0 + scale)
        scores = table @ x
        log_chance = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
        shown = cover[picture, patch, :KINDS] / 255.0
        wanted = shown @ share / shown.sum()
        kept = wanted > 0
        return float((wanted[kept] * (np.log(wanted[kept]) - log_chance[kept])).sum())

    first = (divergence(0, 0) + divergence(0, 2)) / 2
    last = divergence(2, 3)
    assert loss.item() == pytest.approx((first + last) / 3, rel=1e-5)
    assert figures["named"] == pytest.approx((first + last) / 2, rel=1e-5)
    assert seen.grad is not None
    touched = seen.grad.abs().sum(-1) > 0
    assert touched.nonzero().tolist() == [[0, 0], [0, 2], [2, 3]]


def test_said_rightly_there_is_nothing_to_lose() -> None:
    decoder = small.paligemma().language
    words = Words(ids=torch.tensor([5, 9]), share=torch.eye(2).repeat(KINDS // 2 + 1, 1)[:KINDS])
    cover = torch.zeros(1, 1, KINDS + EDGES, dtype=torch.uint8)
    cover[0, 0, 0] = 255
    with torch.no_grad():
        decoder.embedding.weight[5] = 40.0
        decoder.embedding.weight[9] = -40.0
    right, _ = naming_loss(decoder, torch.ones(1, 1, 16), cover, words)
    wrong, _ = naming_loss(decoder, -torch.ones(1, 1, 16), cover, words)
    assert right.item() == pytest.approx(0.0, abs=1e-6)
    assert wrong.item() > 100


def test_pictures_that_show_nothing_teach_nothing() -> None:
    decoder = small.paligemma().language
    cover = torch.zeros(2, 4, KINDS + EDGES, dtype=torch.uint8)
    loss, figures = naming_loss(decoder, torch.ones(2, 4, 16, requires_grad=True), cover, WORDS)
    loss.backward()
    assert loss.item() == 0.0
    assert figures["named"] == 0.0
