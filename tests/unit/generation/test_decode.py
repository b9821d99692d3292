"""The decode generator on a toy model: rows, stops, masks, log-probabilities, laziness."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator

import numpy as np
import pytest
import torch
from tests.reference.decoding import Toy, log_softmax

from heliodor.errors import GenerationError, InputError
from heliodor.generation import (
    ChoiceGrammar,
    Finish,
    Greedy,
    Plan,
    RepeatStop,
    Sampler,
    Step,
    Temperature,
    TopK,
    TopP,
    decode,
    generate,
    score,
)

VOCABULARY, EOS, PAD = 12, 1, 0
PROMPTS = [3, 14, 15, 92, 65]
PLAN = Plan(max_new_tokens=20, stop=frozenset({EOS}), pad=PAD)
SAMPLERS = [Greedy(), Temperature(1.3), TopK(4), TopP(0.8, 1.2)]


def toy() -> Toy:
    return Toy(VOCABULARY, seed=4)  # greedy ends at lengths 2, 9, 20 (cut), 10 and 1


def plan(sampler: Sampler, **changes: object) -> Plan:
    return dataclasses.replace(PLAN, sampler=sampler, **changes)


def seeded(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_row_gives_the_same_alone_and_in_a_batch(sampler: Sampler):
    model = toy()
    together = generate(model, *model.prefill(PROMPTS), plan(sampler), generator=seeded(PROMPTS))
    for prompt, row in zip(PROMPTS, together, strict=True):
        alone = generate(model, *model.prefill([prompt]), plan(sampler), generator=seeded([prompt]))
        assert alone == [row]
    assert len({len(row.tokens) for row in together}) > 1  # the batch was ragged


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_streamed_steps_are_the_batch_result(sampler: Sampler):
    model = toy()
    steps = list(decode(model, *model.prefill(PROMPTS), plan(sampler), generator=seeded(PROMPTS)))
    rows = generate(model, *model.prefill(PROMPTS), plan(sampler), generator=seeded(PROMPTS))
    for number, row in enumerate(rows):
        streamed = [
            (step.tokens[number], step.logprobs[number]) for step in steps if step.emitted[number]
        ]
        assert streamed == list(zip(row.tokens, row.logprobs, strict=True))
        assert steps[-1].finish[number] == row.finish


def test_greedy_follows_the_argmax_of_logits_computed_from_scratch():
    model = toy()
    (row,) = generate(model, *model.prefill([14]), PLAN)
    after = model.logprobs_after(14)
    tokens: tuple[int, ...] = ()
    while EOS not in tokens and len(tokens) < PLAN.max_new_tokens:
        tokens = (*tokens, int(after(tokens).argmax()))
    assert row.tokens == tokens


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_reported_logprobs_are_the_models_own_whatever_the_sampler(sampler: Sampler):
    model = toy()
    (row,) = generate(model, *model.prefill([92]), plan(sampler), generator=seeded([5]))
    after = model.logprobs_after(92)
    expected = [after(row.tokens[:i])[token] for i, token in enumerate(row.tokens)]
    np.testing.assert_allclose(row.logprobs, expected, atol=1e-5)


def test_reported_logprobs_ignore_the_constraint():
    model = toy()
    grammar = ChoiceGrammar(choices=((7, 8), (9,)), eos=EOS)
    (row,) = generate(model, *model.prefill([3]), PLAN, constraints=[grammar])
    after = model.logprobs_after(3)
    expected = [after(row.tokens[:i])[token] for i, token in enumerate(row.tokens)]
    np.testing.assert_allclose(row.logprobs, expected, atol=1e-5)
    assert row.tokens in {(7, 8, EOS), (9, EOS)}


def test_forbidden_rows_are_never_produced_and_count_for_nothing_in_logprobs():
    model = toy()
    free = generate(model, *model.prefill(PROMPTS), PLAN)
    junk = sorted({token for row in free for token in row.tokens} - {EOS})[:3]
    forbidden = torch.zeros(VOCABULARY, dtype=torch.bool)
    forbidden[junk] = True
    masked = generate(model, *model.prefill(PROMPTS), plan(Greedy(), forbidden=forbidden))
    assert masked != free
    for prompt, row in zip(PROMPTS, masked, strict=True):
        assert not set(junk) & set(row.tokens)
        after = model.logprobs_after(prompt, forbidden=junk)
        expected = [after(row.tokens[:i])[token] for i, token in enumerate(row.tokens)]
        np.testing.assert_allclose(row.logprobs, expected, atol=1e-5)


def test_finished_rows_report_pad_and_zero_until_the_last_row_ends():
    model = toy()
    steps = list(decode(model, *model.prefill(PROMPTS), plan(Greedy(), pad=11)))
    rows = generate(model, *model.prefill(PROMPTS), PLAN)
    assert len(steps) == max(len(row.tokens) for row in rows)
    for number, row in enumerate(rows):
        after = steps[len(row.tokens) :]
        assert {(s.tokens[number], s.logprobs[number], s.emitted[number]) for s in after} <= {
            (11, 0.0, False)
        }
        assert [step.finish[number] for step in steps] == [None] * (len(row.tokens) - 1) + [
            row.finish
        ] * (len(after) + 1)


def test_finish_says_stop_or_length():
    model = toy()
    rows = generate(model, *model.prefill(PROMPTS), plan(Greedy(), max_new_tokens=4))
    assert {row.finish for row in rows} == {Finish.STOP, Finish.LENGTH}
    for row in rows:
        assert (row.tokens[-1] == EOS) == (row.finish is Finish.STOP)
        assert len(row.tokens) == 4 or row.finish is Finish.STOP


def test_a_stop_token_on_the_last_allowed_step_is_a_stop():
    model = toy()
    free = next(
        row for row in generate(model, *model.prefill(PROMPTS), PLAN) if row.finish == "stop"
    )
    prompt = PROMPTS[generate(model, *model.prefill(PROMPTS), PLAN).index(free)]
    exact = plan(Greedy(), max_new_tokens=len(free.tokens))
    assert generate(model, *model.prefill([prompt]), exact) == [free]


def test_any_of_several_stop_tokens_ends_a_row():
    model = toy()
    free = generate(model, *model.prefill([14]), PLAN)[0].tokens
    other = free[1]
    both = plan(Greedy(), stop=frozenset({EOS, other}))
    (row,) = generate(model, *model.prefill([14]), both)
    assert row.tokens == free[: free.index(other) + 1]
    assert row.finish is Finish.STOP


def test_free_and_bound_rows_share_a_batch():
    model = toy()
    grammar = ChoiceGrammar(choices=((7, 8), (9,)), eos=EOS)
    mixed = generate(model, *model.prefill([3, 3]), PLAN, constraints=[None, grammar])
    free = generate(model, *model.prefill([3]), PLAN)
    bound = generate(model, *model.prefill([3]), PLAN, constraints=[grammar])
    assert mixed == free + bound
    assert free != bound


def test_a_constraint_that_ends_a_row_trims_its_surplus():
    model = toy()
    logits, cache = model.prefill([3])
    plain = [token for token in range(VOCABULARY) if token != 5]
    forbidden = torch.zeros(VOCABULARY, dtype=torch.bool)
    forbidden[plain] = True
    only_five = plan(Greedy(), forbidden=forbidden)
    (row,) = generate(model, logits, cache, only_five, constraints=[RepeatStop(times=4)])
    assert (row.tokens, row.finish) == ((5,), Finish.CONSTRAINT)
    assert len(row.logprobs) == 1


def test_the_model_is_called_only_when_the_next_step_is_asked_for():
    model = toy()
    steps = decode(model, *model.prefill([3]), PLAN)
    next(steps)
    assert model.calls == 0
    next(steps)
    assert model.calls == 1
    assert isinstance(steps, Generator)
    steps.close()
    assert model.calls == 1


class Watching(Toy):
    """Remembers what it was fed and whether gradients were on."""

    fed: list[list[int]]
    grad: list[bool]

    def step(self, tokens, cache):
        self.fed.append(tokens.tolist())
        self.grad.append(torch.is_grad_enabled())
        return super().step(tokens, cache)


def test_the_model_is_fed_what_was_reported_without_gradients():
    model = Watching(VOCABULARY, seed=4)
    model.fed, model.grad = [], []
    with torch.enable_grad():
        steps = list(decode(model, *model.prefill(PROMPTS), plan(Greedy(), pad=11)))
        assert torch.is_grad_enabled()
    assert model.fed == [list(step.tokens) for step in steps[:-1]]
    assert any(11 in fed for fed in model.fed)
    assert not any(model.grad)


def test_the_last_step_needs_no_further_logits():
    model = toy()
    assert len(list(decode(model, *model.prefill([3]), plan(Greedy(), max_new_tokens=1)))) == 1
    assert model.calls == 0


def test_a_seed_reproduces_and_another_seed_differs():
    model = toy()
    hot = plan(Temperature(3.0))
    rows = [
        generate(model, *model.prefill(PROMPTS), hot, generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    ]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]


def test_half_precision_logits_are_taken_as_float32():
    logits = torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.bfloat16)
    _, cache = toy().prefill([3])
    short = Plan(max_new_tokens=1, stop=frozenset())
    (row,) = generate(toy(), logits, cache, short)
    assert row.tokens == (1,)
    assert row.logprobs[0] == pytest.approx(log_softmax(np.array([1.0, 3.0, 2.0]))[1], abs=1e-6)


class Breaking(Toy):
    """Gives a bad number in row 1 at its second step."""

    bad = math.nan

    def step(self, tokens, cache):
        logits = super().step(tokens, cache)
        if self.calls == 2:
            logits[1, 4] = self.bad
        return logits


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_logits_that_are_not_finite_name_row_step_and_dtype(bad: float, sampler: Sampler):
    model = Breaking(VOCABULARY, seed=4)
    model.bad = bad
    forever = plan(sampler, stop=frozenset())
    steps = decode(model, *model.prefill(PROMPTS), forever)
    assert len([next(steps), next(steps)]) == 2
    with pytest.raises(GenerationError, match=r"rows \[1\] at new token 2 .*dtype='bfloat16'"):
        next(steps)


def test_a_row_that_has_ended_may_break():
    model = Breaking(VOCABULARY, seed=4)
    grammar = ChoiceGrammar(choices=((7,),), eos=EOS)
    bound = [None, grammar, None, None, None]
    logits, cache = model.prefill(PROMPTS)
    forever = plan(Greedy(), stop=frozenset({EOS}), max_new_tokens=5)
    steps: list[Step] = list(decode(model, logits, cache, forever, constraints=bound))
    assert steps[1].finish[1] is Finish.STOP
    assert model.calls > 2


def test_a_grammar_whose_ids_are_all_forbidden_is_an_error():
    forbidden = torch.zeros(VOCABULARY, dtype=torch.bool)
    forbidden[7] = True
    model = toy()
    grammar = ChoiceGrammar(choices=((7,),), eos=EOS)
    masked = plan(Greedy(), forbidden=forbidden)
    with pytest.raises(GenerationError, match=r"no token is left to choose from in rows \[0\]"):
        generate(model, *model.prefill([3]), masked, constraints=[grammar])


def test_what_does_not_fit_is_refused_before_the_first_step():
    model = toy()
    logits, cache = model.prefill([3, 4])
    grammar = ChoiceGrammar(choices=((7,),), eos=EOS)
    with pytest.raises(InputError, match=r"1 constraints for 2 rows"):
        decode(model, logits, cache, PLAN, constraints=[grammar])
    with pytest.raises(InputError, match=r"shape \(12,\); decoding starts from \[B V\]"):
        decode(model, logits[0], cache, PLAN)
    with pytest.raises(InputError, match=r"forbidden covers 5 ids but the logits have 12"):
        decode(model, logits, cache, plan(Greedy(), forbidden=torch.zeros(5, dtype=torch.bool)))
    with pytest.raises(InputError, match=r"max_new_tokens=0; it must be at least 1"):
        plan(Greedy(), max_new_tokens=0)
    with pytest.raises(InputError, match=r"must be torch.bool \[V\]"):
        plan(Greedy(), forbidden=torch.zeros(5))


def test_a_grammar_of_another_vocabulary_is_refused():
    model = toy()
    grammar = ChoiceGrammar(choices=((700,),), eos=EOS)
    with pytest.raises(InputError, match=r"allows token 700 but the model has 12 ids"):
        generate(model, *model.prefill([3]), PLAN, constraints=[grammar])


def test_score_is_the_log_softmax_of_the_given_tokens():
    logits = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(0, 7, (2, 5), generator=torch.Generator().manual_seed(1))
    forbidden = torch.zeros(9, dtype=torch.bool)
    forbidden[7:] = True
    for mask, junk in ((None, []), (forbidden, [7, 8])):
        got = score(logits, tokens, mask)
        for row, place in np.ndindex(2, 5):
            expected = log_softmax(logits[row, place].numpy(), junk)[tokens[row, place]]
            assert float(got[row, place]) == pytest.approx(expected, abs=1e-6)


def test_score_agrees_with_what_decode_reported():
    model = toy()
    (row,) = generate(model, *model.prefill([3]), PLAN)
    logits, cache = model.prefill([3])
    later = [model.step(torch.tensor([token]), cache) for token in row.tokens[:-1]]
    got = score(torch.stack([logits, *later], dim=1), torch.tensor([row.tokens]))
    np.testing.assert_allclose(got[0].numpy(), row.logprobs, atol=1e-6)
