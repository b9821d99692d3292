"""A coarse copy of the head: its bounds hold, and what it leaves out could not have been chosen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny
from tests.reference.decoding import nucleus
from torch import Tensor, nn

from heliodor.errors import ConfigError
from heliodor.generation import (
    Decoded,
    GemmaReader,
    Greedy,
    HeadScan,
    Plan,
    PromptLookup,
    Sampler,
    Temperature,
    TopK,
    TopP,
    generate,
)
from heliodor.generation import sampler as samplers
from heliodor.models.causal import CausalGemma
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.nn.linear import Rows, scores
from heliodor.quant import kernels
from heliodor.quant.linear import QuantEmbedding

PATHS = ["native", "torch"]
EOS = 1


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(kernels, "available", lambda: None)
    elif kernels.available() is None:
        pytest.skip("the native library is not built")
    return request.param


def table_of(weight: Tensor) -> nn.Embedding:
    table = nn.Embedding(weight.shape[0], weight.shape[1])
    table.weight = nn.Parameter(weight, requires_grad=False)
    return table


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def outliers(seed: int) -> tuple[Tensor, Tensor]:
    """Channels and rows that are a hundred times larger than the others, rows of zeros."""
    weight, hidden = drawn(seed, 203, 72), drawn(seed + 1, 5, 72)
    weight[7] *= 100.0
    weight[:, 3] *= 30.0
    weight[[0, 50, 202]] = 0.0
    hidden[:, 11] *= 100.0
    hidden[1] *= 1e-20
    hidden[2] = 0.0
    return weight, hidden


def ties(seed: int) -> tuple[Tensor, Tensor]:
    """Small whole numbers, exact in float32 however they are added, and many equal rows."""
    random = torch.Generator().manual_seed(seed)
    kinds = torch.randint(-9, 10, (40, 64), generator=random).float()
    weight = kinds[torch.randint(0, 40, (400,), generator=random)]
    return weight, torch.randint(-9, 10, (6, 64), generator=random).float()


def near_ties(seed: int) -> tuple[Tensor, Tensor]:
    """The best rows differ by steps that a copy of 8 bits cannot see, and are exact in float32."""
    weight, hidden = ties(seed)
    best = (hidden[0] @ weight.T).argmax()
    weight[100:140] = weight[best]
    weight[100:140, 0] += torch.arange(40) * 2.0**-9 * hidden[0, 0].sign()
    return weight, hidden


CASES = {"outliers": outliers, "ties": ties, "near ties": near_ties}


# ----------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("case", CASES)
def test_every_logit_lies_within_its_bounds(case: str, bits: int, path: str) -> None:
    weight, hidden = CASES[case](3)
    bounds = HeadScan.of(table_of(weight), bits).bounds(hidden)
    true = hidden.double().numpy() @ weight.double().numpy().T
    computed = scores(hidden, table_of(weight)).numpy()
    for values in (true, computed):
        assert (bounds.lower.numpy() <= values).all()
        assert (values <= bounds.upper.numpy()).all()
    gap = (bounds.upper - bounds.lower).numpy()
    reach = np.linalg.norm(hidden, axis=1)[:, None] * np.linalg.norm(weight, axis=1)
    assert (gap <= reach * {8: 0.12, 4: 0.8}[bits] + 1e-30).all(), "bounds that say nothing"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tables_of_half_precision_are_bounded_too(dtype: torch.dtype, path: str) -> None:
    table = table_of(drawn(5, 130, 48).to(dtype))
    hidden = drawn(6, 3, 48)
    bounds = HeadScan.of(table).bounds(hidden)
    computed = scores(hidden, table)
    assert bool(((bounds.lower <= computed) & (computed <= bounds.upper)).all())


def test_a_table_of_eight_bits_is_bounded_by_four(path: str) -> None:
    weight, hidden = outliers(9)
    table = QuantEmbedding.from_embedding(table_of(weight))
    bounds = HeadScan.of(table, 4).bounds(hidden)
    computed = table.head(hidden)
    assert bool(((bounds.lower <= computed) & (computed <= bounds.upper)).all())
    with pytest.raises(ConfigError, match="got bits=8; expected 8 or 4, and 4 for a table of 8"):
        HeadScan.of(table, 8)
    with pytest.raises(ConfigError, match="got bits=5"):
        HeadScan.of(table_of(weight), 5)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    rows=st.integers(1, 90),
    width=st.integers(1, 150),
    spread=st.floats(0.0, 3.0),
    bits=st.sampled_from([8, 4]),
)
def test_bounds_hold_for_any_table(
    seed: int, rows: int, width: int, spread: float, bits: int
) -> None:
    weight = drawn(seed, rows, width) * torch.exp(spread * drawn(seed + 1, rows, width))
    hidden = drawn(seed + 2, 2, width) * torch.exp(spread * drawn(seed + 3, 2, width))
    bounds = HeadScan.of(table_of(weight), bits).bounds(hidden)
    true = hidden.double() @ weight.double().T
    assert bool(((bounds.lower <= true) & (true <= bounds.upper)).all())


# ----------------------------------------------------------------------------------- what is left


def narrowed(
    weight: Tensor, hidden: Tensor, sampler: Sampler, **changes: object
) -> tuple[Tensor, ...] | None:
    table = table_of(weight)
    scan = dataclasses.replace(HeadScan.of(table), **changes)
    found = scan.narrow(hidden, sampler, None, lambda ids: scores(hidden, table, ids))
    return None if found is None else found.ids


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_whatever_could_win_is_left(case: str, seed: int, path: str) -> None:
    weight, hidden = CASES[case](seed)
    if case == "outliers":
        hidden = hidden[[0, 3, 4]]  # rows of nothing make every token a winner
        weight[7] *= 0.01
    logits = hidden.double() @ weight.double().T
    for each, row in zip(hidden, logits, strict=True):
        ids = narrowed(weight, each[None], Greedy())
        if ids is not None:
            assert set((row == row.max()).nonzero()[:, 0].tolist()) <= set(ids[0].tolist())
        best = narrowed(weight, each[None], TopK(5))
        if best is not None:
            fifth = row.topk(5).values[-1]
            assert set((row >= fifth).nonzero()[:, 0].tolist()) <= set(best[0].tolist())


def test_few_rows_are_left_of_many(path: str) -> None:
    weight, hidden = drawn(1, 4000, 256), drawn(2, 6, 256)
    greedy, several = narrowed(weight, hidden, Greedy()), narrowed(weight, hidden, TopK(20))
    assert greedy is not None
    assert several is not None
    assert max(map(len, greedy)) < 20
    assert max(map(len, several)) < 80
    assert min(map(len, several)) >= 20


def test_where_nothing_is_certain_the_whole_head_is_wanted(path: str) -> None:
    flat = torch.ones(64, 16)
    assert narrowed(flat, torch.ones(1, 16), Greedy()) is None
    weight, hidden = drawn(1, 4000, 256), drawn(2, 1, 256)
    assert narrowed(weight, hidden, Temperature(1.0)) is None
    assert narrowed(weight, hidden * float("nan"), Greedy()) is None
    assert narrowed(weight, hidden, Greedy()) is not None
    assert narrowed(weight, hidden, Greedy(), cap=30.0) is not None  # logits reach 50
    assert narrowed(weight, hidden, Greedy(), cap=5.0) is None  # and here they touch the cap
    assert narrowed(weight, hidden / 5, TopP(0.9), cap=30.0) is None


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9, 0.97])
def test_a_nucleus_is_found_whole_or_not_at_all(p: float, path: str) -> None:
    weight = drawn(1, 3000, 128)
    found = 0
    for seed in range(12):
        hidden = drawn(seed, 1, 128) * 0.5
        logits = scores(hidden, table_of(weight))[0].double()
        order = logits.sort(descending=True)
        reached = order.values.softmax(0).cumsum(0)
        expected = order.indices[: int((reached < p).sum()) + 1].sort().values
        ids = narrowed(weight, hidden, TopP(p))
        if ids is not None:
            found += 1
            assert ids[0].tolist() == expected.tolist()
    assert found >= 4


# ------------------------------------------------------------------------------------ decode runs

LANGUAGE = dataclasses.replace(tiny.LANGUAGE, vocab_size=1000)
CAPPED = dataclasses.replace(tiny.LANGUAGE2, vocab_size=1000, final_cap=30.0)
PROMPTS = torch.tensor([[2, 5, 60, 7], [2, 9, 3, 411], [2, 700, 5, 6]])


def run(
    gemma: Gemma, scan: HeadScan | None, plan: Plan, counts: list[int] | None = None
) -> list[Decoded]:
    class Counting(GemmaReader):
        def logits(self, hidden: Tensor, rows: Rows = None) -> Tensor:
            found = super().logits(hidden, rows)
            if counts is not None:
                counts.append(found.shape[1])
            return found

    causal = CausalGemma(gemma)
    with torch.no_grad():
        hidden, cache = causal.read_prompt(PROMPTS, torch.ones_like(PROMPTS, dtype=torch.bool))
    draws = [torch.Generator().manual_seed(row) for row in range(3)]
    return generate(Counting(gemma, scan), hidden, cache, plan, generator=draws)


@pytest.mark.parametrize("config", [LANGUAGE, CAPPED], ids=["first", "capped"])
@pytest.mark.parametrize("sampler", [Greedy(), TopK(5, 1.3), TopP(0.7), Temperature(1.0)], ids=repr)
@pytest.mark.parametrize("guess", [None, PromptLookup(min_ngram=1)], ids=["plain", "guessing"])
def test_a_scanned_head_writes_what_the_whole_one_writes(
    config: GemmaConfig, sampler: Sampler, guess: PromptLookup | None, path: str
) -> None:
    forbidden = torch.zeros(1000, dtype=torch.bool)
    forbidden[:50] = True
    plan = Plan(
        max_new_tokens=24,
        stop=frozenset({EOS}),
        sampler=sampler,
        forbidden=forbidden,
        speculate=guess,
    )
    for seed in range(2):
        gemma = tiny.gemma(config, seed)
        with torch.no_grad():
            gemma.norm.scale.add_(3.0)
        counts: list[int] = []
        whole = run(gemma, None, plan)
        scan = HeadScan.of(gemma.embedding, cap=gemma.config.final_cap)
        scanned = run(gemma, scan, plan, counts)
        for one, other in zip(scanned, whole, strict=True):
            assert (one.tokens, one.finish) == (other.tokens, other.finish)
            assert one.logprobs == pytest.approx(other.logprobs, abs=2e-5)
        if isinstance(sampler, Greedy | TopK):
            assert counts.count(1000) <= 3, "the whole head was read for nearly every token"


# --------------------------------------------------------------------------- a cap and a nucleus

CAPS = [2.0, 6.0, 20.0]
"""Of logits that reach 11: the highest become 2.0, 5.7 and 10.0."""
NUCLEI = [TopP(0.2), TopP(0.5), TopP(0.95, 0.5)]


def confident(cap: float, seed: int) -> Gemma:
    gemma = tiny.gemma(dataclasses.replace(CAPPED, final_cap=cap), seed)
    with torch.no_grad():
        gemma.norm.scale.add_(3.0)
    return gemma


def scanning(gemma: Gemma) -> GemmaReader:
    reader = GemmaReader.scanning(gemma)
    assert reader.scan is not None
    assert reader.scan.cap == gemma.config.final_cap
    return reader


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("sampler", NUCLEI, ids=repr)
def test_behind_a_cap_each_token_of_a_nucleus_keeps_its_share(
    sampler: TopP, cap: float, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers just inside both ends of a token's share of [0, 1) draw that token.

    The shares are those that plain numpy gives the capped logits; without the cap they are others.
    """
    gemma = confident(cap, 0)
    with torch.no_grad():
        hidden, cache = CausalGemma(gemma).read_prompt(
            PROMPTS[1:2], torch.ones(1, 4, dtype=torch.bool)
        )
    free = hidden[0].double().numpy() @ gemma.embedding.weight.detach().double().numpy().T
    shares = nucleus(cap * np.tanh(free / cap), sampler.p, sampler.t)
    assert np.abs(nucleus(free, sampler.p, sampler.t) - shares).max() > 1e-3
    ends = shares.cumsum()
    tokens = np.flatnonzero(shares > 1e-4)
    assert shares[tokens].sum() > 0.99
    points = np.stack([ends[tokens] - shares[tokens] + 1e-5, ends[tokens] - 1e-5]).ravel()
    rows = len(points)
    monkeypatch.setattr(samplers, "_uniform", lambda count, generator: torch.as_tensor(points))
    plan = Plan(max_new_tokens=1, stop=frozenset(), sampler=sampler)
    same = cache.select(torch.zeros(rows, dtype=torch.long))
    found = generate(scanning(gemma), hidden.repeat(rows, 1), same, plan)
    assert [row.tokens[0] for row in found] == [*tokens.tolist(), *tokens.tolist()]


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("sampler", NUCLEI, ids=repr)
@pytest.mark.parametrize("guess", [None, PromptLookup(min_ngram=1)], ids=["plain", "guessing"])
def test_behind_a_cap_a_seed_gives_the_text_that_the_whole_head_gives(
    sampler: TopP, cap: float, guess: PromptLookup | None, path: str
) -> None:
    plan = Plan(max_new_tokens=16, stop=frozenset({EOS}), sampler=sampler, speculate=guess)
    texts: set[tuple[int, ...]] = set()
    for seed in range(2):
        gemma = confident(cap, seed)
        whole = run(gemma, None, plan)
        for one, other in zip(run(gemma, scanning(gemma).scan, plan), whole, strict=True):
            assert (one.tokens, one.finish) == (other.tokens, other.finish)
            assert one.logprobs == pytest.approx(other.logprobs, abs=2e-5)
            texts.add(one.tokens)
    assert len(texts) == 6
