"""Where two heads look, against attention computed step by step, and what the lesson does."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from tests import tiny
from tests.unit.teach import small
from tests.unit.teach.test_collate import LETTERS
from torch import Tensor

from heliodor.models.gemma import GemmaLayer
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.nn.mask import Masks
from heliodor.teach.data.collate import collate
from heliodor.teach.data.coverage import EDGES, KINDS
from heliodor.teach.data.example import Example, Spot, Turn
from heliodor.teach.grounding import GroundedPaliGemma
from heliodor.teach.pointing import Pointed, Pointing
from heliodor.teach.together import hidden_together, places, sight

PLACES = 4  # patches of a picture of 16 pixels


def deep(depth: int, cap: float | None = None) -> PaliGemmaConfig:
    language = replace(small.language(), depth=depth, attention_cap=cap)
    return PaliGemmaConfig(vision=small.vision(), language=language, image_token=3712)


def turn_of(suffix: str, *spots: Spot, spelled: bool = False) -> Turn:
    return Turn(task="read", prompt="ab", suffix=suffix, spelled=spelled, spots=spots)


def example(*turns: Turn, seed: int = 0, told: bool = True) -> Example:
    image = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    cover = np.zeros((PLACES, KINDS + EDGES), np.uint8)
    return Example(image=image, turns=turns, cover=cover if told else None)


def turned(x: np.ndarray, position: int, base: float) -> np.ndarray:
    """RoPE of one head's vector as a product of complex numbers."""
    half = len(x) // 2
    angle = position / base ** (np.arange(half) / half)
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * angle)
    return np.concatenate((z.real, z.imag))


def weights_of(
    model: PaliGemma, layer: int, x: Tensor, positions: Tensor, mask: Tensor, query: int
) -> np.ndarray:
    """The first head's weights over all positions of the first row, one product at a time."""
    config = model.config.language
    block = cast("GemmaLayer", model.language.layers[layer])
    attention = block.attention
    normed = block.pre_attention_norm(x)[0].double().numpy()
    wide = config.head_dim
    first_q = attention.q.weight[:wide].double().numpy()
    first_k = attention.k.weight[:wide].double().numpy()
    q = turned(first_q @ normed[query], int(positions[0, query]), config.rope_base)
    scores = np.full(len(normed), -np.inf)
    for key in range(len(normed)):
        if mask[0, 0, query, key]:
            k = turned(first_k @ normed[key], int(positions[0, key]), config.rope_base)
            score = q @ k * (attention.scale or wide**-0.5)
            cap = config.attention_cap
            scores[key] = score if cap is None else cap * np.tanh(score / cap)
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


@pytest.mark.parametrize(("depth", "layers"), [(5, (1, 3)), (3, (1, 1)), (1, (0, 0))])
@pytest.mark.parametrize("cap", [None, 2.0])
@torch.no_grad()
def test_shares_are_those_of_attention_step_by_step(
    depth: int, layers: tuple[int, int], cap: float | None
) -> None:
    model = tiny.filled(PaliGemma(deep(depth, cap)), seed=9)
    pointing = Pointing(model)
    assert pointing.layers == layers
    spots = (Spot(start=0, stop=1, patches=(2,)), Spot(start=2, stop=4, patches=(0, 3)))
    batch = collate([example(turn_of("abcd", *spots), turn_of("ba"))], LETTERS, together=True)
    (rows,) = batch.groups
    assert batch.pointed() == 1
    width = model.config.language.width
    features = torch.randn(1, PLACES, width, generator=torch.Generator().manual_seed(1))
    with pointing.watch():
        hidden_together(model, rows.tokens, features, rows.turn, rows.asked)
        found = pointing.pointed(rows.spot, batch.spots)
    x = model.join(features, rows.tokens)
    positions = torch.cat((torch.arange(PLACES)[None], PLACES + places(rows.turn)), 1)
    mask = sight(rows.turn, rows.asked, PLACES)
    loss, upper = 0.0, 0.0
    where = {4: (2,), 6: (0, 3), 7: (0, 3)}  # behind <bos> a b \n
    shares = np.zeros(0)
    for token, patches in where.items():
        for layer, query in zip(layers, (token, token - 1), strict=True):
            inner = model.language(x, positions, Masks(full=mask, local=mask), depth=layer)
            shares = weights_of(model, layer, inner, positions, mask, PLACES + query)
            loss -= np.log(shares[list(patches)].sum())
        upper += float(shares[list(patches)].sum())
    assert found.count == 1
    assert float(found.loss) == pytest.approx(loss / 3, rel=2e-5)
    assert found.share == pytest.approx(upper / 3, rel=2e-5)


def test_what_is_not_watched_is_not_kept_and_costs_no_pass() -> None:
    model = tiny.filled(PaliGemma(deep(2)), seed=9)
    tokens = torch.tensor([[2, 101, 10]])
    features = torch.zeros(1, PLACES, model.config.language.width)
    plain = model.hidden(tokens, features, torch.tensor([3]))
    pointing = Pointing(model)
    again = model.hidden(tokens, features, torch.tensor([3]))
    assert torch.equal(plain, again)
    with pytest.raises(KeyError):
        pointing.pointed(torch.tensor([[-1, 0, -1]]), torch.ones(1, PLACES, dtype=torch.bool))


def test_tokens_know_their_spots_and_straddled_ones_are_left_out() -> None:
    spots = (Spot(start=0, stop=2, patches=(1,)), Spot(start=3, stop=5, patches=(0, 2)))
    batch = collate([example(turn_of("ab cd", *spots))], LETTERS)
    assert batch.groups[0].spot.tolist() == [[-1, -1, -1, -1, 0, 0, 1, 1, 1, -1]]
    assert batch.spots.tolist() == [[False, True, False, False], [True, False, True, False]]
    untold = collate([example(turn_of("ab cd", *spots), told=False)], LETTERS)
    assert untold.pointed() == 0
    words = small.tokenizer()
    text = "a red car and a dog"
    whole = Spot(start=0, stop=9, patches=(0,))
    cut = Spot(start=0, stop=len("a re"), patches=(1,))
    batch = collate([example(turn_of(text, whole)), example(turn_of(text, cut))], words)
    (rows,) = batch.groups
    named = rows.tokens[0][rows.spot[0] >= 0].tolist()
    assert words.decode(named) == "a red car"
    assert words.encode("a re") != words.encode(text)[: len(words.encode("a re"))]
    assert (rows.spot[1] < 0).all()
    spelled = collate([example(turn_of(text, whole, spelled=True))], words)
    assert int((spelled.groups[0].spot >= 0).sum()) == len(words.spell("a red car"))


@torch.no_grad()
def test_a_row_of_many_tokens_counts_like_one_of_few() -> None:
    """Boxes and masks have many tokens a thing, readings few: each row's mean counts once."""
    model = tiny.filled(PaliGemma(deep(4)), seed=9)
    pointing = Pointing(model)
    spots = (Spot(start=0, stop=4, patches=(2,)), Spot(start=1, stop=2, patches=(0, 3)))
    turns = (turn_of("abcd", spots[0]), turn_of("ba", spots[1]))
    features = torch.ones(2, PLACES, model.config.language.width)
    features[:, 1:] *= -0.5

    def looked(*chosen: Turn) -> Pointed:
        batch = collate([example(turn) for turn in chosen], LETTERS, together=True)
        (rows,) = batch.groups
        with pointing.watch():
            seen = features[: len(chosen)]
            hidden_together(model, rows.tokens, seen, rows.turn, rows.asked)
            return pointing.pointed(rows.spot, batch.spots)

    both, *alone = looked(*turns), looked(turns[0]), looked(turns[1])
    assert (both.count, *(one.count for one in alone)) == (2, 1, 1)
    assert float(both.loss) == pytest.approx(sum(float(one.loss) for one in alone), rel=1e-5)
    assert both.share == pytest.approx(sum(one.share for one in alone), rel=1e-5)


def test_the_lesson_teaches_to_look() -> None:
    """The share on the right patches rises from chance to most of the weight."""
    model = tiny.filled(GroundedPaliGemma(deep(4)), seed=4)
    objective = replace(small.objective(), model=model, pointing=1.0, together=True)
    spots = tuple(Spot(start=i, stop=i + 1, patches=(i,)) for i in range(PLACES))
    batch = collate(
        [example(turn_of("abcd", *spots, spelled=True))], small.tokenizer(), together=True
    )
    optimiser = torch.optim.Adam(model.language.parameters(), lr=3e-3)
    figures: list[float] = []
    for _ in range(60):
        loss, found = objective.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        figures.append(found["pointed"])
    assert figures[0] < 0.5
    assert figures[-1] > 0.9
