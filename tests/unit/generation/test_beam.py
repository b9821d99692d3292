"""Beam search against trying every sequence, and against the algorithm on plain lists."""

from __future__ import annotations

import math

import pytest
import torch
from tests.reference.decoding import Toy, beam, best_of_all

from heliodor.errors import GenerationError, InputError
from heliodor.generation import Beam, Finish, Plan, generate

EOS = 1


@pytest.mark.parametrize("seed", range(8))
def test_a_beam_of_every_sequence_finds_the_most_likely_one(seed: int):
    model = Toy(4, seed=seed, sharpness=5.0)
    prompts = [seed, seed + 50]
    rows = Beam(3**3).search(model, *model.prefill(prompts), max_new_tokens=4, eos=EOS)
    for prompt, row in zip(prompts, rows, strict=True):
        tokens, total = best_of_all(model.logprobs_after(prompt), vocabulary=4, eos=EOS, depth=4)
        assert row.tokens == tokens
        assert sum(row.logprobs) == pytest.approx(total, abs=1e-5)
        assert row.finish is Finish.STOP


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(6))
def test_a_small_beam_does_what_the_algorithm_on_lists_does(seed: int, size: int):
    model = Toy(9, seed=seed, sharpness=8.0)
    prompts = [seed + 10 * row for row in range(6)]
    rows = Beam(size).search(model, *model.prefill(prompts), max_new_tokens=7, eos=EOS)
    for prompt, row in zip(prompts, rows, strict=True):
        tokens, total = beam(
            model.logprobs_after(prompt), vocabulary=9, eos=EOS, depth=7, size=size
        )
        assert row.tokens == tokens
        assert sum(row.logprobs) == pytest.approx(total, abs=1e-5)


def test_the_cases_are_ones_where_beams_of_different_sizes_disagree():
    """Were all answers the same, the test above would say little."""
    differing = 0
    for seed in range(6):
        model = Toy(9, seed=seed, sharpness=8.0)
        prompts = [seed + 10 * row for row in range(6)]
        answers = {
            tuple(
                row.tokens
                for row in Beam(size).search(
                    model, *model.prefill(prompts), max_new_tokens=7, eos=EOS
                )
            )
            for size in (1, 2, 3, 5)
        }
        differing += len(answers) > 1
    assert differing >= 3


def test_forbidden_rows_take_no_part():
    model = Toy(9, seed=3, sharpness=8.0)
    forbidden = torch.zeros(9, dtype=torch.bool)
    forbidden[[0, 4, 8]] = True
    (row,) = Beam(3).search(
        model, *model.prefill([5]), max_new_tokens=6, eos=EOS, forbidden=forbidden
    )
    after = model.logprobs_after(5, forbidden=[0, 4, 8])
    tokens, total = beam(after, vocabulary=9, eos=EOS, depth=6, size=3)
    assert row.tokens == tokens
    assert sum(row.logprobs) == pytest.approx(total, abs=1e-5)


def test_no_length_penalty_so_a_longer_sequence_of_lower_probability_loses():
    """eos now has 0.4; going on 0.6, then eos 0.5, so 0.3: less in sum, though more per token."""

    class Fixed:
        def step(self, tokens: torch.Tensor, cache: object) -> torch.Tensor:
            return torch.tensor([[0.0, 0.5, 0.5]]).log().expand(len(tokens), -1)

    class Rows:
        def select(self, rows: torch.Tensor) -> Rows:
            return self

    first = torch.tensor([[0.0, 0.4, 0.6]]).log()
    (row,) = Beam(2).search(Fixed(), first, Rows(), max_new_tokens=8, eos=EOS)
    assert row.tokens == (EOS,)
    assert row.logprobs == (pytest.approx(math.log(0.4)),)


def test_search_stops_once_no_live_sequence_can_win():
    model = Toy(9, seed=0, sharpness=1.0)
    logits, cache = model.prefill([0])
    logits[:, EOS] += 30  # eos at once is all but certain
    (row,) = Beam(3).search(model, logits, cache, max_new_tokens=50, eos=EOS)
    assert row.tokens == (EOS,)
    assert model.calls == 0


def test_a_row_gives_the_same_alone_and_in_a_batch():
    model = Toy(9, seed=2, sharpness=8.0)
    prompts = [1, 2, 3, 4]
    together = Beam(3).search(model, *model.prefill(prompts), max_new_tokens=7, eos=EOS)
    alone = [
        Beam(3).search(model, *model.prefill([prompt]), max_new_tokens=7, eos=EOS)[0]
        for prompt in prompts
    ]
    assert together == alone


def test_without_any_way_to_end_the_best_live_sequence_is_returned():
    model = Toy(5, seed=0)
    forbidden = torch.tensor([False, True, False, False, False])
    (row,) = Beam(1).search(
        model, *model.prefill([9]), max_new_tokens=5, eos=EOS, forbidden=forbidden
    )
    plan = Plan(max_new_tokens=5, stop=frozenset({EOS}), forbidden=forbidden)
    (greedy,) = generate(model, *model.prefill([9]), plan)
    assert (row.tokens, row.finish) == (greedy.tokens, Finish.LENGTH)


def test_bad_arguments_are_refused():
    model = Toy(5, seed=0)
    with pytest.raises(InputError, match=r"Beam\(size=0\); at least 1 live sequence"):
        Beam(0)
    with pytest.raises(InputError, match=r"max_new_tokens=0"):
        Beam(2).search(model, *model.prefill([0]), max_new_tokens=0, eos=EOS)
    with pytest.raises(InputError, match=r"eos 5 is outside the vocabulary of 5 ids"):
        Beam(2).search(model, *model.prefill([0]), max_new_tokens=2, eos=5)


def test_logits_that_are_not_finite_name_the_example():
    model = Toy(5, seed=0)
    logits, cache = model.prefill([0, 1])
    logits[1, 2] = math.nan
    with pytest.raises(GenerationError, match=r"examples \[1\] at new token 0 .*dtype='bfloat16'"):
        Beam(2).search(model, logits, cache, max_new_tokens=2, eos=EOS)
