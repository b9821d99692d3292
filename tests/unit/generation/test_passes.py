"""Several tokens a pass, part of the head, rows that leave: what is written stays the same."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from tests.reference.decoding import Toy, ToyReader

from heliodor.errors import GenerationError, InputError
from heliodor.generation import (
    ChoiceGrammar,
    Constraint,
    Decoded,
    DetectGrammar,
    Greedy,
    Plan,
    PromptLookup,
    RepeatStop,
    Sampler,
    Temperature,
    TopK,
    TopP,
    decode,
    generate,
)

LOC, SEG, EOS, PAD = 20, 1044, 1, 0
WORDS = (4, 5, 6)
SAMPLERS: list[Sampler] = [Greedy(), Temperature(1.3), TopK(4), TopP(0.8, 1.2)]
PROMPTS = [3, 14, 15, 92, 65]
PLAN = Plan(max_new_tokens=20, stop=frozenset({EOS}), pad=PAD)


def toy(vocabulary: int = 12, seed: int = 4) -> Toy:
    return Toy(vocabulary, seed=seed)


def seeded(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def detection(**changes: object) -> DetectGrammar:
    options = {
        "loc_start": LOC,
        "labels": ((4, 5), (4, 6, 7, 8), (9,)),
        "separator": (10, 11),
        "eos": EOS,
        "max_objects": 3,
    }
    return DetectGrammar(**{**options, **changes})


def both(
    model: Toy, plan: Plan, prompts: list[int], bound: Sequence[Constraint | None] | None = None
) -> tuple[list[Decoded], list[Decoded], ToyReader]:
    """What the plain decoder gives, what the reader gives, and the reader."""
    draws = [seeded(prompts), seeded(prompts)]
    plain = generate(model, *model.prefill(prompts), plan, constraints=bound, generator=draws[0])
    reader = ToyReader(model)
    read = generate(reader, *reader.prefill(prompts), plan, constraints=bound, generator=draws[1])
    return plain, read, reader


def assert_equal(found: list[Decoded], expected: list[Decoded]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.tokens, one.finish) == (other.tokens, other.finish)
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-6)


# ------------------------------------------------------------------------- rows leave, free text


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("seed", range(6))
def test_a_reader_writes_what_a_decoder_writes(sampler: Sampler, seed: int):
    plan = dataclasses.replace(PLAN, sampler=sampler)
    plain, read, reader = both(toy(seed=seed), plan, PROMPTS)
    assert read == plain
    sizes = [rows for rows, _ in reader.passes]
    assert sizes == sorted(sizes, reverse=True)
    lengths = [len(row.tokens) for row in plain]
    assert sizes == [sum(n > step for n in lengths) for step in range(1, max(lengths))]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("guess", [PromptLookup(min_ngram=1), PromptLookup(num_tokens=3)], ids=repr)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_guesses_change_nothing_that_is_written(sampler: Sampler, guess: PromptLookup, rows: int):
    taken = 0
    for seed in range(6):
        plan = dataclasses.replace(PLAN, sampler=sampler, max_new_tokens=40, stop=frozenset())
        model = toy(6, seed=seed)
        plain, _, plainly = both(model, plan, PROMPTS[:rows])
        guessing = dataclasses.replace(plan, speculate=guess)
        _, read, reader = both(model, guessing, PROMPTS[:rows])
        assert read == plain
        taken += len(plainly.passes) - len(reader.passes)
    assert taken > 0, "no guess was ever right"


def test_a_shared_generator_gives_each_place_the_same_number():
    plan = dataclasses.replace(PLAN, sampler=Temperature(1.5))
    model = toy()
    plain = generate(
        model, *model.prefill(PROMPTS), plan, generator=torch.Generator().manual_seed(7)
    )
    for rule in (None, PromptLookup(min_ngram=1)):
        reader = ToyReader(model)
        found = generate(
            reader,
            *reader.prefill(PROMPTS),
            dataclasses.replace(plan, speculate=rule),
            generator=torch.Generator().manual_seed(7),
        )
        assert found == plain


def test_guesses_come_from_the_prompt_too():
    saved = 0
    for prompt in PROMPTS:
        model = toy(24)
        plan = dataclasses.replace(PLAN, stop=frozenset(), speculate=PromptLookup())
        untold, told = ToyReader(model), ToyReader(model)
        (plain,) = generate(untold, *untold.prefill([prompt]), plan)
        (found,) = generate(told, *told.prefill([prompt]), plan, prompts=[plain.tokens])
        assert found == plain
        saved += len(untold.passes) - len(told.passes)
    assert saved > 20


def test_guesses_of_a_bounded_repeat_end_where_the_repeat_does():
    rule = RepeatStop(times=3)
    ends = set()
    for seed, prompt in itertools.product(range(8), PROMPTS):
        plan = dataclasses.replace(PLAN, max_new_tokens=12, stop=frozenset())
        guessing = dataclasses.replace(plan, speculate=PromptLookup(min_ngram=1))
        model = toy(8, seed=seed)
        plain, _, _ = both(model, plan, [prompt], [rule])
        _, read, _ = both(model, guessing, [prompt], [rule])
        assert read == plain
        ends.add(plain[0].finish)
    assert len(ends) == 2


# ------------------------------------------------------------------------------------- grammars


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("changes", [{}, {"seg_start": SEG}, {"max_objects": 1}], ids=repr)
def test_a_grammar_binds_readers_and_decoders_alike(sampler: Sampler, changes: dict[str, int]):
    plan = dataclasses.replace(PLAN, sampler=sampler, max_new_tokens=90)
    model = Toy(SEG + 128 + 6, seed=5, sharpness=0.7)
    grammars = [detection(**changes)] * len(PROMPTS)
    plain, read, reader = both(model, plan, PROMPTS, grammars)
    assert_equal(read, plain)
    assert max(len(row.tokens) for row in plain) >= 7 * grammars[0].max_objects
    assert any(tokens > 1 for _, tokens in reader.passes)


def test_forced_tokens_need_no_pass_of_their_own():
    model = Toy(SEG, seed=4, sharpness=0.7)
    grammar = detection(labels=((4, 5, 6),), allow_empty=False, duplicate_iou=None)
    plan = dataclasses.replace(PLAN, max_new_tokens=90)
    plain, read, reader = both(model, plan, [3], [grammar])
    assert_equal(read, plain)
    (row,) = read
    objects = row.tokens.count(6)
    assert objects == 3
    # four places and one choice (go on or end) an object; the first place is prefill's, and at the
    # third object's end there is no choice: its last pass is for log-probabilities alone
    assert len(reader.passes) == 5 * objects - 1
    quiet = dataclasses.replace(plan, logprobs=False)
    silent = ToyReader(model)
    (short,) = generate(silent, *silent.prefill([3]), quiet, constraints=[grammar])
    assert (short.tokens, short.logprobs, short.finish) == (row.tokens, (), row.finish)
    assert len(silent.passes) == len(reader.passes) - 1


def test_a_long_forced_text_is_read_in_pieces():
    said = tuple(2 + n % 9 for n in range(150))
    grammars = [ChoiceGrammar(choices=(said,), eos=EOS), ChoiceGrammar(choices=((5,),), eos=EOS)]
    plan = dataclasses.replace(PLAN, max_new_tokens=200)
    plain, read, reader = both(toy(), plan, [3, 14], grammars)
    assert_equal(read, plain)
    assert read[0].tokens == (*said, EOS)
    assert [shape for shape in reader.passes if shape[0] == 2] == [[2, 32]]
    assert len(reader.passes) < 6


def test_a_limit_falls_within_forced_tokens():
    said = tuple(2 + n % 9 for n in range(30))
    for limit in (1, 2, 7, 30, 31):
        plan = dataclasses.replace(PLAN, max_new_tokens=limit)
        plain, read, _ = both(toy(), plan, [3], [ChoiceGrammar(choices=(said,), eos=EOS)])
        assert_equal(read, plain)
        assert len(read[0].tokens) == limit


def test_free_and_bound_rows_share_a_pass():
    grammars = [None, ChoiceGrammar(choices=((7, 8, 3), (9, 3)), eos=EOS), RepeatStop(times=2)]
    guessing = dataclasses.replace(PLAN, speculate=PromptLookup(min_ngram=1))
    plain, _, _ = both(toy(), PLAN, PROMPTS[:3], grammars)
    _, read, _ = both(toy(), guessing, PROMPTS[:3], grammars)
    assert_equal(read, plain)


def test_only_what_a_grammar_allows_is_multiplied_until_scores_are_wanted():
    model = Toy(4096, seed=10, sharpness=0.7)
    grammar = detection(duplicate_iou=None)
    plan = dataclasses.replace(PLAN, max_new_tokens=90)
    _, read, reader = both(model, plan, [3], [grammar])
    whole = [rows for rows in reader.rows if rows > 1100]
    assert whole == [4096]  # one product for all log-probabilities together
    assert len(read[0].tokens) > 8
    silent = ToyReader(model)
    quiet = dataclasses.replace(plan, logprobs=False)
    generate(silent, *silent.prefill([3]), quiet, constraints=[grammar])
    assert max(silent.rows) < 1100


def test_scores_of_a_grammar_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch):
    model = Toy(4096, seed=10, sharpness=0.7)
    forbidden = torch.zeros(4096, dtype=torch.bool)
    forbidden[torch.arange(3000, 3500)] = True
    plan = dataclasses.replace(PLAN, max_new_tokens=90, forbidden=forbidden)
    plain, whole, _ = both(model, plan, PROMPTS, [detection()] * 5)
    monkeypatch.setattr("heliodor.generation.ledger._BLOCK", 1008)
    monkeypatch.setattr("heliodor.generation.ledger._WAITING", 3)
    _, blocks, reader = both(model, plan, PROMPTS, [detection()] * 5)
    assert_equal(whole, plain)
    assert_equal(blocks, plain)
    assert 4096 not in reader.rows


def test_a_grammar_of_scattered_and_unaligned_ids():
    for ids in ([2, 3, 70, 71, 300, 1000], [*range(130, 161), 500, 4095], [*range(900, 931)]):
        model = Toy(4096, seed=5, sharpness=1.5)
        grammar = ChoiceGrammar(choices=tuple((i, j) for i in ids for j in ids), eos=EOS)
        for sampler in SAMPLERS:
            plan = dataclasses.replace(PLAN, sampler=sampler)
            plain, read, reader = both(model, plan, PROMPTS, [grammar] * 5)
            assert_equal(read, plain)
            assert sorted(set(reader.rows))[-2] < 100


# -------------------------------------------------------------------------------------- streaming


@pytest.mark.parametrize("guess", [None, PromptLookup(min_ngram=1)], ids=repr)
def test_steps_of_a_reader_are_those_of_a_decoder(guess: PromptLookup | None):
    model = Toy(SEG, seed=2, sharpness=0.7)
    grammars = [detection(), None, ChoiceGrammar(choices=((4, 5, 6), (4, 7)), eos=EOS)]
    plan = dataclasses.replace(PLAN, speculate=guess, max_new_tokens=40)
    plain = list(decode(model, *model.prefill([3, 14, 15]), plan, constraints=grammars))
    reader = ToyReader(model)
    read = list(decode(reader, *reader.prefill([3, 14, 15]), plan, constraints=grammars))
    assert len(read) == len(plain) > 5
    for one, other in zip(read, plain, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-6)
        same = dataclasses.replace(one, logprobs=other.logprobs)
        assert same == other


def test_steps_without_scores_come_as_soon_as_they_are_certain():
    model = Toy(SEG, seed=4, sharpness=0.7)
    grammar = detection(labels=((4, 5, 6),), allow_empty=False)
    plan = dataclasses.replace(PLAN, max_new_tokens=90, logprobs=False)
    reader = ToyReader(model)
    steps = decode(reader, *reader.prefill([3]), plan, constraints=[grammar])
    written = [next(steps) for _ in range(7)]
    assert [step.tokens[0] for step in written[4:]] == [4, 5, 6]
    assert len(reader.passes) == 3  # for the second, third and fourth place
    assert {step.logprobs for step in written} == {()}


# ----------------------------------------------------------------------------------------- errors


def test_numbers_that_are_none_are_reported_even_where_nothing_was_chosen():
    model = toy()
    model._embedding[7] = math.nan
    reader = ToyReader(model)
    grammar = ChoiceGrammar(choices=((7, 8, 9),), eos=EOS)
    with pytest.raises(GenerationError, match=r"rows \[0\] at new token 1 are NaN"):
        generate(reader, *reader.prefill([3]), PLAN, constraints=[grammar])
    two = ChoiceGrammar(choices=((7, 8), (7, 9)), eos=EOS)
    with pytest.raises(GenerationError, match=r"rows \[0\] at new token 1 are NaN"):
        generate(reader, *reader.prefill([3]), PLAN, constraints=[two])


def test_what_a_reader_cannot_choose_is_refused():
    reader = ToyReader(toy())
    hidden, cache = reader.prefill([3])
    for choices in (((700,),), ((700,), (3,))):
        grammar = ChoiceGrammar(choices=choices, eos=EOS)
        with pytest.raises(InputError, match=r"allows token 700 but the model has 12 ids"):
            generate(reader, hidden, cache, PLAN, constraints=[grammar])
    forbidden = torch.zeros(12, dtype=torch.bool)
    forbidden[7] = True
    masked = dataclasses.replace(PLAN, forbidden=forbidden)
    grammar = ChoiceGrammar(choices=((7,),), eos=EOS)
    with pytest.raises(GenerationError, match=r"no token is left to choose from in rows \[0\]"):
        generate(reader, hidden, cache, masked, constraints=[grammar])
    with pytest.raises(InputError, match=r"decoding starts from \[B W\], the hidden states"):
        decode(reader, hidden[0], cache, PLAN)
    with pytest.raises(InputError, match=r"2 prompts for 1 rows"):
        decode(reader, hidden, cache, PLAN, prompts=[[1], [2]])
    with pytest.raises(InputError, match=r"num_tokens=0, min_ngram=2, max_ngram=4"):
        PromptLookup(num_tokens=0)
