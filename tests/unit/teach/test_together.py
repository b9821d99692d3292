"""Several turns in one row against each turn alone, and against plain loops over positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import tiny
from tests.unit.teach import small

from heliodor.errors import TrainingError
from heliodor.models.paligemma import PaliGemma
from heliodor.teach.data.collate import Rows, collate
from heliodor.teach.data.example import Example, Turn
from heliodor.teach.together import hidden_together, places, sight

WORDS = small.tokenizer()


def examples() -> list[Example]:
    """Three pictures with one, two and three turns of several lengths."""
    rng = np.random.default_rng(3)
    turns = [
        Turn(task="ask", prompt="answer en what is it?", suffix="a red car"),
        Turn(task="caption", prompt="caption en", suffix="two bees and a flower on a tree"),
        Turn(task="ask", prompt="answer en how many?", suffix=""),
    ]
    return [
        Example(image=rng.integers(0, 256, (16, 16, 3), np.uint8), turns=tuple(turns[:count]))
        for count in (1, 2, 3)
    ]


def random_model() -> PaliGemma:
    return tiny.filled(small.paligemma(), seed=5)


def seen_in_loops(rows: Rows, images: int) -> np.ndarray:
    batch, length = rows.turn.shape
    mask = np.zeros((batch, images + length, images + length), bool)
    for row in range(batch):
        for query in range(images + length):
            for key in range(images + length):
                if key < images:
                    mask[row, query, key] = True
                elif query >= images:
                    q, k = query - images, key - images
                    same = rows.turn[row, q] == rows.turn[row, k]
                    mask[row, query, key] = bool(same) and (k <= q or bool(rows.asked[row, k]))
    return mask


def test_everything_sees_the_picture_and_a_turn_sees_itself_alone() -> None:
    (rows,) = collate(examples(), WORDS, together=True).groups
    found = sight(rows.turn, rows.asked, 4)
    np.testing.assert_array_equal(found[:, 0].numpy(), seen_in_loops(rows, 4))


def test_every_turn_counts_its_positions_from_behind_the_picture() -> None:
    turn = torch.tensor([[0, 0, 0, 1, 1, 2, -1, -1], [0, 1, 1, 1, 1, -1, -1, -1]])
    assert places(turn).tolist() == [[0, 1, 2, 0, 1, 0, 0, 1], [0, 0, 1, 2, 3, 0, 1, 2]]


@torch.no_grad()
def test_a_turn_among_others_is_as_if_it_stood_alone() -> None:
    """The image tokens see no prompt in either case: each turn is run as a row of its own."""
    model = random_model()
    batch = collate(examples(), WORDS, together=True)
    (rows,) = batch.groups
    features = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(1))[rows.image]
    whole = hidden_together(model, rows.tokens, features, rows.turn, rows.asked)
    compared = 0
    for row, tasks in enumerate(rows.tasks):
        for number in range(len(tasks)):
            mine = rows.turn[row] == number
            alone = hidden_together(
                model,
                rows.tokens[row, mine][None],
                features[row][None],
                torch.zeros(1, int(mine.sum()), dtype=torch.int64),
                rows.asked[row, mine][None],
            )
            torch.testing.assert_close(whole[row, mine], alone[0], rtol=1e-4, atol=1e-5)
            compared += 1
    assert compared == 6


@torch.no_grad()
def test_only_what_the_picture_sees_differs_from_the_model_itself() -> None:
    """One layer, so that image tokens are only keys: the same values; two layers, others."""
    (rows,) = collate(examples()[:1], WORDS, together=True).groups
    features = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(2))
    model = random_model()
    found = hidden_together(model, rows.tokens, features, rows.turn, rows.asked)
    wanted = model.hidden(rows.tokens, features, rows.prefix)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    config = replace(model.config, language=replace(small.language(), depth=2))
    deeper = tiny.filled(PaliGemma(config), seed=6)
    found = hidden_together(deeper, rows.tokens, features, rows.turn, rows.asked)
    wanted = deeper.hidden(rows.tokens, features, rows.prefix)
    assert (found - wanted).abs().max() > 1e-2


def test_the_loss_weighs_pictures_alike_however_many_turns_they_have() -> None:
    """The mean over pictures of the mean over their turns, each turn's loss computed alone."""
    lesson = replace(small.objective(), model=random_model(), together=True)
    drawn = examples()
    each: list[list[float]] = []
    for example in drawn:
        alone = [replace(example, turns=(turn,)) for turn in example.turns]
        batches = [collate([one], WORDS, together=True) for one in alone]
        each.append([lesson.loss(batch)[0].item() for batch in batches])
    loss, figures = lesson.loss(collate(drawn, WORDS, together=True))
    assert loss.item() == pytest.approx(np.mean([np.mean(turns) for turns in each]), rel=1e-5)
    asked = [each[0][0], each[1][0], each[2][0], each[2][2]]
    assert figures["ask"] == pytest.approx(np.mean(asked), rel=1e-5)
    assert figures["caption"] == pytest.approx((each[1][1] + each[2][1]) / 2, rel=1e-5)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_turns_together_add_up(parts: int) -> None:
    lesson = replace(small.objective(), model=random_model(), together=True)
    batch = collate([*examples(), *examples()], WORDS, together=True)
    cut = lesson.divide(batch, parts)
    assert len(cut) == parts
    total = sum(share * lesson.loss(part)[0].item() for share, part in cut)
    assert total == pytest.approx(lesson.loss(batch)[0].item(), rel=1e-6)


def test_a_row_beyond_the_window_is_an_error() -> None:
    (rows,) = collate(examples(), WORDS, together=True).groups
    config = small.paligemma().config
    narrow = PaliGemma(replace(config, language=replace(config.language, window=20)))
    features = torch.zeros(3, 4, 16)
    with pytest.raises(TrainingError, match=r"a row of \d+ tokens, the model's window is 20"):
        hidden_together(narrow, rows.tokens, features, rows.turn, rows.asked)
