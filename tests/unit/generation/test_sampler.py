"""Samplers against numpy: which tokens stay in, with which probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tests.reference.decoding import log_softmax, nucleus

from heliodor.errors import InputError
from heliodor.generation import Greedy, Sampler, Temperature, TopK, TopP

LOGITS = np.array([1.0, -0.5, 2.0, 0.3, -4.0, 1.4, 0.3, 0.9], dtype=np.float32)
DRAWS = 20_000


def frequencies(sampler: Sampler, logits: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    rows = torch.from_numpy(logits).expand(draws, -1)
    tokens = sampler.sample(rows, torch.Generator().manual_seed(7))
    return np.bincount(tokens.numpy(), minlength=len(logits))


def assert_drawn_from(counts: np.ndarray, probabilities: np.ndarray) -> None:
    """With a right sampler this fails for one seed in a thousand; the seed is fixed."""
    assert counts[probabilities == 0].sum() == 0
    kept = probabilities > 0
    if kept.sum() == 1:
        return  # every draw fell on the one token there is
    assert chisquare(counts[kept], counts.sum() * probabilities[kept]).pvalue > 1e-3


def test_greedy_takes_the_most_likely_token_and_the_first_among_equals():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 3.0, -math.inf], [-math.inf, -1.0, -1.0]])
    assert Greedy().sample(logits).tolist() == [1, 0, 1]


@pytest.mark.parametrize("t", [0.5, 1.0, 2.0])
def test_temperature_draws_from_the_softmax_of_logits_over_t(t: float):
    assert_drawn_from(frequencies(Temperature(t), LOGITS), np.exp(log_softmax(LOGITS / t)))


@pytest.mark.parametrize(("k", "t"), [(1, 1.0), (3, 1.0), (3, 2.0), (99, 1.0)])
def test_top_k_draws_from_the_k_most_likely_tokens(k: int, t: float):
    probabilities = np.exp(log_softmax(LOGITS / t))
    probabilities[np.argsort(-LOGITS)[k:]] = 0
    assert_drawn_from(frequencies(TopK(k, t), LOGITS), probabilities / probabilities.sum())


def test_top_k_keeps_tokens_that_equal_the_kth():
    counts = frequencies(TopK(5), LOGITS)  # tokens 3 and 6 share fifth place
    assert set(np.flatnonzero(counts)) == {0, 2, 3, 5, 6, 7}


@pytest.mark.parametrize(("p", "t"), [(0.01, 1.0), (0.5, 1.0), (0.9, 1.0), (0.9, 3.0), (1.0, 1.0)])
def test_top_p_draws_from_the_numpy_nucleus(p: float, t: float):
    assert_drawn_from(frequencies(TopP(p, t), LOGITS), nucleus(LOGITS, p, t))


def test_top_p_stops_at_the_token_that_reaches_p_exactly():
    logits = np.array([1.0, 3.0, 0.0], dtype=np.float32)
    p = float(torch.tensor([3.0, 1.0, 0.0]).softmax(-1, dtype=torch.float64)[0])
    assert set(np.flatnonzero(frequencies(TopP(p), logits))) == {1}
    assert set(np.flatnonzero(frequencies(TopP(np.nextafter(p, 1)), logits))) == {0, 1}


def test_a_draw_of_exactly_zero_takes_the_first_token_that_is_possible(
    monkeypatch: pytest.MonkeyPatch,
):
    def zeros(count: int, **_: object) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.float64)

    monkeypatch.setattr(torch, "rand", zeros)
    logits = torch.tensor([[-math.inf, 0.0, 0.0]])
    assert Temperature(1.0).sample(logits).tolist() == [1]


@given(
    st.lists(st.integers(-24, 24), min_size=1, max_size=9),
    st.integers(1, 99),
    st.sampled_from([0.5, 1.0, 2.0]),
)
@settings(max_examples=80, deadline=None)
def test_top_p_keeps_exactly_the_tokens_of_the_numpy_nucleus(
    eighths: list[int], percent: int, t: float
):
    logits = np.array(eighths, dtype=np.float32) / 8
    p = percent / 100 + 0.0037  # off the round numbers, where the last bit would decide
    kept = set(np.flatnonzero(nucleus(logits, p, t)))
    drawn = set(np.flatnonzero(frequencies(TopP(p, t), logits, draws=3_000)))
    assert drawn <= kept
    likely = np.flatnonzero(nucleus(logits, p, t) > 0.01)  # missed with odds below 1e-13
    assert set(likely) <= drawn


@pytest.mark.parametrize("sampler", [Temperature(1e-6), TopK(5, 1e-6), TopP(0.99, 1e-6)])
def test_a_temperature_near_zero_gives_what_greedy_gives(sampler: Sampler):
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(1)) * 4
    got = sampler.sample(logits, torch.Generator().manual_seed(2))
    assert torch.equal(got, Greedy().sample(logits))


def test_the_smallest_temperature_does_not_overflow():
    logits = torch.tensor([[80.0, 90.0, -90.0]])
    assert Temperature(1e-38).sample(logits, torch.Generator().manual_seed(0)).tolist() == [1]


@pytest.mark.parametrize("sampler", [Temperature(5.0), TopK(4), TopP(1.0)])
def test_a_token_ruled_out_is_never_drawn(sampler: Sampler):
    logits = LOGITS.copy()
    logits[[0, 2, 7]] = -np.inf
    counts = frequencies(sampler, logits)
    assert counts[[0, 2, 7]].sum() == 0
    assert counts.sum() == DRAWS


def test_a_seed_reproduces_and_another_seed_differs():
    logits = torch.zeros(64, 100)
    drawn = [Temperature(1.0).sample(logits, torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_row_with_its_own_generator_draws_the_same_alone_and_in_a_batch():
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    seeds = range(5)
    together = TopP(0.95).sample(logits, [torch.Generator().manual_seed(s) for s in seeds])
    alone = [TopP(0.95).sample(logits[s : s + 1], torch.Generator().manual_seed(s)) for s in seeds]
    assert together.tolist() == [int(token) for token in alone]


def test_one_generator_too_few_is_refused():
    with pytest.raises(InputError, match=r"2 generators for 3 rows; pass one for all or one for"):
        Temperature(1.0).sample(torch.zeros(3, 4), [torch.Generator(), torch.Generator()])


@pytest.mark.parametrize("t", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_above_zero_is_refused(t: float):
    for build in (lambda: Temperature(t), lambda: TopK(3, t), lambda: TopP(0.5, t)):
        with pytest.raises(InputError, match=r"finite number above 0 .*use Greedy"):
            build()


@pytest.mark.parametrize("p", [0.0, -0.1, 1.01, math.nan])
def test_a_top_p_outside_its_range_is_refused(p: float):
    with pytest.raises(InputError, match=r"above 0 and at most 1"):
        TopP(p)


def test_a_top_k_of_no_token_is_refused():
    with pytest.raises(InputError, match=r"k=0; it needs at least 1 token"):
        TopK(0)
