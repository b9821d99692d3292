"""Several tokens a pass on the real network: tokens, log-probabilities, and exact distributions."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from tests import tiny
from tests.reference.decoding import Toy, ToyReader, log_softmax, nucleus
from torch import Tensor

from heliodor.generation import (
    ChoiceGrammar,
    Constraint,
    Decoded,
    DetectGrammar,
    GemmaReader,
    Greedy,
    Plan,
    PromptLookup,
    RepeatStop,
    Sampler,
    Temperature,
    TopP,
    generate,
)
from heliodor.generation import sampler as samplers
from heliodor.models.causal import CausalGemma
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.models.paligemma import PaliGemma
from heliodor.nn.cache import Kept, KVCache

EOS, PAD = 1, 0
PLAN = Plan(max_new_tokens=30, stop=frozenset({EOS}), pad=PAD)
TEXTS = [[2, 9, 8, 7, 9, 8], [2, 30], [2, 9, 8, 7, 6, 5, 4, 3, 9, 8, 7, 6]]
CONFIGS = {
    "first": dataclasses.replace(tiny.LANGUAGE, vocab_size=1120),
    "second": dataclasses.replace(tiny.LANGUAGE2, vocab_size=1120),
}
DETECT = DetectGrammar(
    loc_start=64, labels=((4, 5), (4, 6, 7, 8), (9,)), separator=(10, 11), eos=EOS, max_objects=3
)
RULES: list[Constraint | None] = [
    DETECT,
    None,
    ChoiceGrammar(choices=((4, 5, 6, 7), (4, 5, 9), (30,)), eos=EOS),
    RepeatStop(times=3),
]


def confident(config: GemmaConfig, seed: int) -> Gemma:
    """A decoder that repeats itself now and then, but not always."""
    gemma = tiny.gemma(config, seed)
    with torch.no_grad():
        gemma.norm.scale.add_(1.0)
    return gemma


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    tokens = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    valid = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return tokens, valid


class Stepping:
    """The network one token a pass, whole logits each time: what the loop is compared with."""

    def __init__(self, gemma: Gemma) -> None:
        self.causal = CausalGemma(gemma)

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        return self.causal.step(tokens, cache)


class Counting(GemmaReader):
    """Notes how many tokens of how many rows each pass read."""

    passes: list[tuple[int, int]]

    def read(self, tokens: Tensor, cache: KVCache) -> Tensor:
        self.passes.append((tokens.shape[0], tokens.shape[1]))
        return super().read(tokens, cache)


Counting.passes = []


CLOSE: dict[Kept, float] = {"float": 5e-5, "int8": 1e-3}
"""How near log-probabilities are: what lies between two codes of 8 bits may be rounded either way
once its passes are cut otherwise. Measured: 3e-4 by that, 1e-6 without."""


def beside(
    gemma: Gemma, texts: list[list[int]], sampler: Sampler, kv: Kept
) -> tuple[list[Decoded], list[Decoded]]:
    """What a Gemma writes one token a pass, and what it writes when it guesses."""
    plan = dataclasses.replace(PLAN, sampler=sampler)
    guessing = dataclasses.replace(plan, speculate=PromptLookup(min_ngram=1))
    causal, reader = CausalGemma(gemma), Counting(gemma)
    draws = [[torch.Generator().manual_seed(row) for row in range(4)] for _ in range(2)]
    with torch.no_grad():
        logits, cache = causal.prefill(*padded(texts), kv=kv)
        hidden, other = causal.read_prompt(*padded(texts), kv=kv)
    plain = generate(Stepping(gemma), logits, cache, plan, constraints=RULES, generator=draws[0])
    Counting.passes = []
    found = generate(
        reader, hidden, other, guessing, constraints=RULES, generator=draws[1], prompts=texts
    )
    return plain, found


@pytest.mark.parametrize("kv", CLOSE)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("sampler", [Greedy(), Temperature(0.7), TopP(0.8)], ids=repr)
def test_a_gemma_writes_the_same_however_its_passes_are_cut(
    config: str, sampler: Sampler, kv: Kept
) -> None:
    lengths: set[int] = set()
    taken: list[int] = []
    for seed in range(3):
        plain, found = beside(confident(CONFIGS[config], seed), [*TEXTS, TEXTS[seed]], sampler, kv)
        for one, two in zip(found, plain, strict=True):
            assert (one.tokens, one.finish) == (two.tokens, two.finish)
            assert one.logprobs == pytest.approx(two.logprobs, abs=CLOSE[kv])
            lengths.add(len(one.tokens))
        taken += [width for _, width in Counting.passes]
        assert len({rows for rows, _ in Counting.passes}) > 1
    assert len(lengths) > 4
    assert max(taken) > 2


@pytest.mark.parametrize("config", CONFIGS)
def test_eight_bits_move_what_is_written_more_than_the_cut_of_passes(config: str) -> None:
    """Or else the cache of 8 bits was not the one that was compared."""
    moved: list[float] = []
    for seed in range(3):
        gemma = confident(CONFIGS[config], seed)
        texts = [*TEXTS, TEXTS[seed]]
        exact, near = (beside(gemma, texts, Greedy(), kv)[1] for kv in CLOSE)
        for one, two in zip(exact, near, strict=True):
            if one.tokens == two.tokens:
                moved.append(max(map(abs, np.subtract(one.logprobs, two.logprobs))))
    assert max(moved) > 4 * CLOSE["int8"]


@pytest.mark.parametrize("kv", CLOSE)
@pytest.mark.parametrize("seed", range(3))
def test_pictures_and_padding_stay_where_they_are(seed: int, kv: Kept) -> None:
    language = dataclasses.replace(CONFIGS["second"], window=6)
    network = tiny.paligemma(language=language, image_token=None, seed=seed)
    with torch.no_grad():
        network.language.norm.scale.add_(1.0)
        pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        features = network.encode_images(pixels * 2 - 1)
        tokens, valid = padded(TEXTS)
        logits, cache = network.prefill(tokens, features, valid, kv=kv)
        hidden, other = network.read_prompt(tokens, features, valid, kv=kv)
    free = dataclasses.replace(PLAN, stop=frozenset())
    plain = generate(PlainPali(network), logits, cache, free)
    guessing = dataclasses.replace(free, speculate=PromptLookup(min_ngram=1))
    found = generate(GemmaReader(network.language), hidden, other, guessing, prompts=TEXTS)
    for one, two in zip(found, plain, strict=True):
        assert one.tokens == two.tokens
        assert one.logprobs == pytest.approx(two.logprobs, abs=CLOSE[kv])


class PlainPali:
    """A PaliGemma one token a pass."""

    def __init__(self, network: PaliGemma) -> None:
        self.network = network

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        return self.network.step(tokens, cache)


# ---------------------------------------------------------------------------------- distributions

VOCABULARY, DEPTH, EDGE = 3, 4, 1e-6


def probabilities(logits: np.ndarray, sampler: Sampler) -> np.ndarray:
    """What a sampler draws from, in plain numpy."""
    if isinstance(sampler, TopP):
        return nucleus(logits, sampler.p, sampler.t)
    assert isinstance(sampler, Temperature)
    return np.exp(log_softmax(logits / sampler.t))


@pytest.mark.parametrize("sampler", [Temperature(1.0), Temperature(2.5), TopP(0.85)], ids=repr)
def test_every_text_has_the_probability_it_has_without_guesses(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers that give a text fill a box as large as its probability, to within its edges.

    A text is a function of one number in [0, 1) a place. For every text of four tokens from three,
    numbers just inside both ends of each place's interval must give that text; between the ends
    nothing else can be, since a place's token only grows with its number. The boxes fill the whole
    space, so each text's probability is the product of the sampler's own.
    """
    numbers: list[float] = []
    asked: list[int] = []

    def scripted(rows: int, generator: object) -> Tensor:
        asked.append(rows)
        return torch.tensor([numbers[min(len(asked), DEPTH) - 1]], dtype=torch.float64)

    monkeypatch.setattr(samplers, "_uniform", scripted)
    toy = Toy(VOCABULARY, seed=1, sharpness=1.5)
    plan = Plan(
        max_new_tokens=DEPTH,
        stop=frozenset(),
        sampler=sampler,
        speculate=PromptLookup(min_ngram=1, num_tokens=3),
    )
    prompt = [0, 1, 2, 2, 1, 0, 0, 2, 1, 1, 2, 0]  # every token has something behind it
    total, saved, texts = 0.0, 0, 0
    for text in itertools.product(range(VOCABULARY), repeat=DEPTH):
        logits, cache = toy.prefill([5])
        ends: list[tuple[float, float]] = []
        for token in text:
            shares = probabilities(logits[0].double().numpy(), sampler)
            reached = shares.cumsum()
            ends.append((reached[token] - shares[token], reached[token]))
            logits = toy.step(torch.tensor([token]), cache)
        chance = float(np.prod([high - low for low, high in ends]))
        total += chance
        if chance < 1e-12:
            continue
        texts += 1
        for corner in itertools.product((0, 1), repeat=DEPTH):
            numbers[:] = [
                high - EDGE if side else low + EDGE
                for side, (low, high) in zip(corner, ends, strict=True)
            ]
            asked.clear()
            reader = ToyReader(toy)
            (row,) = generate(reader, *reader.prefill([5]), plan, prompts=[prompt])
            assert row.tokens == text
            saved += DEPTH - 1 - len(reader.passes)
    assert total == pytest.approx(1.0, abs=1e-6)
    assert texts > 10
    assert saved > 0, "no guess was ever right"
