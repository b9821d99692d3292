"""Losses against plain loops, worked rows and transformers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.reference import training as slow

from heliodor.teach.losses import (
    Nearness,
    binary_loss,
    predicts_answer,
    sigmoid_loss,
    turn_losses,
)


def told(rows: list[list[tuple[int, int]]], positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns and asked marks of rows of turns of (asked, answered) tokens."""
    turn = torch.full((len(rows), positions), -1)
    asked = torch.zeros(len(rows), positions, dtype=torch.bool)
    for row, turns in enumerate(rows):
        place = 0
        for number, (prompt, answer) in enumerate(turns):
            turn[row, place : place + prompt + answer] = number
            asked[row, place : place + prompt] = True
            place += prompt + answer
    return turn, asked


def test_the_newline_predicts_the_first_answer_token_and_the_last_word_predicts_eos() -> None:
    r"""Rows: "<bos> a \n | b c <eos>", "<bos> \n | <eos>", "<bos> a b c \n | d e <eos>"."""
    found = predicts_answer(*told([[(3, 3)], [(2, 1)], [(5, 3)]], 8))
    assert found.int().tolist() == [
        [0, 0, 1, 1, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 0],
    ]


def test_no_turn_predicts_the_next_ones_prompt() -> None:
    r"""Row: "<bos> \n | a <eos>", "<bos> a \n | <eos>", "<bos> \n" cut off before its answer."""
    (found,) = predicts_answer(*told([[(2, 2), (3, 1), (2, 0)]], 12))
    assert found.int().tolist() == [0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("length", range(2, 7))
def test_exactly_the_tokens_behind_the_prefix_are_predicted(length: int) -> None:
    for prefix in range(1, length):
        (row,) = predicts_answer(*told([[(prefix, length - prefix)]], 7))
        predicted = [place + 1 for place in range(7) if row[place]]
        assert predicted == list(range(prefix, length))


def test_a_turn_is_the_mean_over_its_own_tokens() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 6, 5)) * 3
    rows = [([0, 1, 2, 3, 4, 1], 2), ([0, 3, 4], 2), ([0, 1, 2, 3], 1)]
    tokens = torch.zeros(3, 6, dtype=torch.int64)
    for index, (ids, _) in enumerate(rows):
        tokens[index, : len(ids)] = torch.tensor(ids)
    turn, asked = told([[(start, len(ids) - start)] for ids, start in rows], 6)
    chosen = predicts_answer(turn, asked)

    targets = tokens.roll(-1, dims=1)[chosen]
    number = torch.arange(3)[:, None].expand(3, 6)[chosen]
    found = turn_losses(torch.tensor(logits)[chosen], targets, number, 3)

    wanted = [slow.answer_loss(logits[i], ids, start) for i, (ids, start) in enumerate(rows)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)


def test_a_long_answer_counts_as_much_as_a_short_one() -> None:
    """One token of probability 1/4 and three of 1/2: 1.5 bits by turn, 1.25 bits by token."""
    half, quarter = [0.0, 0.0, -1e9, -1e9], [0.0] * 4
    logits = torch.tensor([quarter, half, half, half])
    turns = turn_losses(logits, torch.tensor([2, 0, 1, 0]), torch.tensor([0, 1, 1, 1]), 2)
    bits = turns / math.log(2)
    assert bits.tolist() == pytest.approx([2.0, 1.0])
    assert float(bits.mean()) == pytest.approx(1.5)
    by_token = (2 + 1 + 1 + 1) / 4
    assert float(bits.mean()) != pytest.approx(by_token)


def test_a_turn_without_answer_costs_nothing_and_divides_by_nothing() -> None:
    turns = turn_losses(torch.zeros(1, 8), torch.tensor([3]), torch.tensor([1]), 3)
    assert turns.tolist() == pytest.approx([0.0, math.log(8), 0.0])


def test_the_sigmoid_loss_counts_every_pair() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(5, 5)) * 4
    same = np.eye(5, dtype=bool)
    same[0, 3] = same[4, 1] = True
    found = sigmoid_loss(torch.tensor(logits), torch.tensor(same))
    assert float(found) == pytest.approx(slow.pair_loss(logits, same), rel=1e-12)
    without_repeats = sigmoid_loss(torch.tensor(logits), torch.eye(5, dtype=torch.bool))
    assert float(without_repeats) != pytest.approx(float(found), rel=1e-3)


def test_undecided_scores_cost_one_bit_a_text() -> None:
    found = sigmoid_loss(torch.zeros(6, 6), torch.eye(6, dtype=torch.bool))
    assert float(found) == pytest.approx(6 * math.log(2))


def test_large_scores_stay_finite() -> None:
    logits = torch.full((2, 2), 1e4)
    assert float(sigmoid_loss(logits, torch.eye(2, dtype=torch.bool))) == pytest.approx(1e4)


@pytest.mark.parity
def test_the_sigmoid_loss_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = transformers.SiglipConfig(
        text_config={**small, "vocab_size": 11, "max_position_embeddings": 4},
        vision_config={**small, "image_size": 8, "patch_size": 4},
    )
    model = transformers.SiglipModel(config).eval()
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-1.0)
        output = model(
            input_ids=torch.randint(0, 11, (3, 4)),
            pixel_values=torch.randn(3, 3, 8, 8),
            return_loss=True,
        )
    ours = sigmoid_loss(output.logits_per_image, torch.eye(3, dtype=torch.bool))
    assert float(ours) == pytest.approx(float(output.loss), rel=1e-6)
    assert float(ours) > 0.5


@pytest.mark.parametrize("spread", [0.4, 1.0, 2.3, 6.0])
def test_near_the_right_id_is_nearly_right(spread: float) -> None:
    """Every target among nine ids of fourteen, those at both ends included, in a plain loop."""
    logits = np.random.default_rng(2).normal(size=(9, 14)) * 3
    near = Nearness(first=3, count=9, spread=spread)
    found = near.losses(torch.tensor(logits), torch.arange(3, 12))
    wanted = [
        slow.near_loss(row.tolist(), target, first=3, count=9, spread=spread)
        for row, target in zip(logits, range(3, 12), strict=True)
    ]
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)


def test_a_target_at_the_edge_shares_with_one_side_only() -> None:
    """A spread of 2 from the first of ten ids on: five ids by hand, and none before them."""
    near = Nearness(first=4, count=10, spread=2.0)
    logits = torch.full((1, 14), -1e4)
    bell = [math.exp(-0.125 * away**2) for away in range(5)]
    logits[0, 4:9] = torch.tensor([math.log(value / sum(bell)) for value in bell])
    entropy = -sum(v / sum(bell) * math.log(v / sum(bell)) for v in bell)
    assert float(near.losses(logits, torch.tensor([4]))) == pytest.approx(entropy, rel=1e-5)


def test_a_narrow_bell_is_the_cross_entropy() -> None:
    rng = np.random.default_rng(3)
    logits, targets = torch.tensor(rng.normal(size=(7, 7)) * 4), torch.arange(7)
    found = Nearness(first=0, count=7, spread=0.05).losses(logits, targets)
    plain = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    assert found.tolist() == pytest.approx(plain.tolist(), rel=1e-9)
    wide = Nearness(first=0, count=7, spread=1.0).losses(logits, targets)
    assert (wide - plain).abs().min() > 1e-3


def test_only_ids_in_order_share_their_targets() -> None:
    """Two turns, of ids 0 and 7 beside places 2 to 5."""
    logits = np.random.default_rng(4).normal(size=(5, 8)) * 2
    targets = [0, 2, 5, 7, 4]
    turn = torch.tensor([0, 0, 0, 1, 1])
    near = Nearness(first=2, count=4, spread=1.5)
    found = turn_losses(torch.tensor(logits), torch.tensor(targets), turn, 2, near)
    each = [
        slow.near_loss(row.tolist(), t, first=2, count=4, spread=1.5)
        if 2 <= t < 6
        else slow.cross_entropy(row.tolist(), t)
        for row, t in zip(logits, targets, strict=True)
    ]
    assert found.tolist() == pytest.approx([sum(each[:3]) / 3, sum(each[3:]) / 2], rel=1e-6)


def test_no_target_among_the_ids_is_the_plain_loss() -> None:
    logits, targets = torch.randn(3, 8), torch.tensor([0, 7, 1])
    turn = torch.tensor([0, 0, 1])
    near = Nearness(first=2, count=4, spread=1.5)
    assert torch.equal(
        turn_losses(logits, targets, turn, 2, near), turn_losses(logits, targets, turn, 2)
    )


def test_shares_are_learnt_answer_by_answer() -> None:
    rng = np.random.default_rng(5)
    logits, shares = rng.normal(size=(2, 3, 4)) * 3, rng.random((2, 3, 4))
    shares[0, 0] = [0.0, 1.0, 0.5, 0.0]
    found = binary_loss(torch.tensor(logits), torch.tensor(shares))
    wanted = slow.share_loss(logits.reshape(6, 4), shares.reshape(6, 4))
    assert float(found) == pytest.approx(wanted, rel=1e-9)
