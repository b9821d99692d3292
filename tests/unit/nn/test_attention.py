"""Attention: both branches against numpy and against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.reference.attention import attend as reference
from torch import Tensor
from torch.nn import functional as F

from heliodor.nn import attention
from heliodor.nn.attention import attend, merge_heads, split_heads

HEADS = [(4, 4), (4, 2), (4, 1), (6, 2)]
MASKS = ["none", "rows", "keys"]


def tensors(heads: int, groups: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(3)
    shapes = [(2, heads, 5, 6), (2, groups, 7, 6), (2, groups, 7, 6)]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes]


def make_mask(kind: str) -> Tensor | None:
    if kind == "none":
        return None
    shape = (2, 1, 5, 7) if kind == "rows" else (2, 1, 1, 7)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(4)) < 0.5
    mask[..., 2] = True  # a query that sees nothing has no answer
    return mask


def branch(monkeypatch: pytest.MonkeyPatch, *, fused: bool) -> None:
    """Choose the branch for a call that records gradients too."""
    monkeypatch.setattr(attention.torch, "is_grad_enabled", lambda: not fused)
    monkeypatch.setattr(attention, "_FEW", 0)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("heads", "groups"), HEADS)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "products"])
def test_it_equals_the_formula(
    monkeypatch: pytest.MonkeyPatch, heads: int, groups: int, kind: str, *, fused: bool
) -> None:
    q, k, v = tensors(heads, groups)
    mask = make_mask(kind)
    branch(monkeypatch, fused=fused)
    with torch.no_grad():
        found = attend(q, k, v, mask)
    expected = reference(q.numpy(), k.numpy(), v.numpy(), None if mask is None else mask.numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


# Scores reach about 5: the first cap bends them, the second holds nearly all of them.
@pytest.mark.parametrize("cap", [None, 3.0, 0.5])
@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("grad", [True, False])
def test_scale_and_cap_are_those_of_the_formula(
    kind: str, scale: float | None, cap: float | None, *, grad: bool
) -> None:
    q, k, v = tensors(6, 2)
    mask = make_mask(kind)
    with torch.set_grad_enabled(grad):
        found = attend(q, k, v, mask, scale=scale, cap=cap)
    arrays = q.numpy(), k.numpy(), v.numpy(), None if mask is None else mask.numpy()
    expected = reference(*arrays, scale=scale, cap=cap)
    # scores under a cap pass through float32, the others stay in float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12 if cap is None else 2e-6)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("room", [1, 70, 200])
def test_a_long_prompt_is_taken_in_pieces_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch, kind: str, room: int
) -> None:
    q, k, v = tensors(4, 2)  # 40 scores of a query position over all rows and heads
    mask = make_mask(kind)
    with torch.no_grad():
        whole = attend(q, k, v, mask, cap=2.0)
        seen: list[int] = []
        products = attention._attend_in_products

        def counted(q: Tensor, *rest: Any) -> Tensor:
            seen.append(q.shape[2])
            return products(q, *rest)

        monkeypatch.setattr(attention, "_SCORES", room)
        monkeypatch.setattr(attention, "_attend_in_products", counted)
        torch.testing.assert_close(attend(q, k, v, mask, cap=2.0), whole, rtol=0, atol=1e-12)
    assert seen == {1: [1] * 5, 70: [1] * 5, 200: [3, 2]}[room]


def test_capped_scores_beyond_float16_are_at_their_cap() -> None:
    """Products near 400,000 are infinite in float16."""
    q, k, v = (x.half() for x in tensors(4, 2))
    q, k = q * 300, k * 300
    with torch.no_grad():
        scores = q[:, :1] @ k[:, :1].transpose(2, 3)
        assert not bool(scores.isfinite().all()), "the plain product was to overflow"
        found = attend(q, k, v, None, scale=1 / 16, cap=50.0)
    q, k, v = (x.double() for x in (q, k, v))
    expected = reference(q.numpy(), k.numpy(), v.numpy(), None, scale=1 / 16, cap=50.0)
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=0, atol=4e-3)


def test_a_query_that_sees_nothing_spoils_nothing() -> None:
    q, k, v = tensors(4, 2)
    mask = torch.ones(2, 1, 5, 7, dtype=torch.bool)
    mask[1, 0, 3] = False
    with torch.no_grad():
        assert bool(attend(q, k, v, mask, cap=2.0).isfinite().all())


def gradients(heads: int, groups: int, mask: Tensor | None) -> list[Tensor]:
    leaves = q, k, v = [x.requires_grad_() for x in tensors(heads, groups)]
    out = attend(q, k, v, mask)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=out.dtype)
    return list(torch.autograd.grad((out * weight).sum(), leaves))


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("heads", "groups"), HEADS)
def test_both_branches_have_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch, heads: int, groups: int, kind: str
) -> None:
    with monkeypatch.context() as patched:
        branch(patched, fused=True)
        fused = gradients(heads, groups, make_mask(kind))
    with monkeypatch.context() as patched:
        branch(patched, fused=False)
        products = gradients(heads, groups, make_mask(kind))
    for one, other in zip(fused, products, strict=True):
        assert float(one.abs().max()) > 0.1
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", MASKS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    q, k, v = (x[:1, :, :4].clone().requires_grad_() for x in tensors(4, 2))
    mask = make_mask(kind)
    if mask is not None:
        mask = mask[:1, :, :4, :4]
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, mask), (q, k, v))


def test_gradients_pass_through_the_cap() -> None:
    leaves = q, k, v = [x.requires_grad_() for x in tensors(4, 2)]
    out = attend(q, k, v, make_mask("rows"), scale=0.7, cap=1.5)
    found = torch.autograd.grad(out.sum(), leaves)
    wide = [x.repeat_interleave(4 // x.shape[1], dim=1) for x in leaves]
    scores = 1.5 * torch.tanh(0.7 * wide[0] @ wide[1].transpose(2, 3) / 1.5)
    mask = make_mask("rows")
    assert mask is not None
    out = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ wide[2]
    for one, other in zip(found, torch.autograd.grad(out.sum(), leaves), strict=True):
        assert float(one.abs().max()) > 0.01
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_hidden_key_has_no_influence() -> None:
    q, k, v = tensors(4, 1)
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[..., 5] = False
    with torch.no_grad():
        before = attend(q, k, v, mask)
        k[:, :, 5], v[:, :, 5] = 1e3, -1e3
        torch.testing.assert_close(attend(q, k, v, mask), before, rtol=0, atol=0)


@pytest.mark.parametrize(("queries", "grad", "times"), [(5, True, 0), (8, False, 0), (9, False, 1)])
def test_training_and_few_queries_leave_the_fused_kernel(
    monkeypatch: pytest.MonkeyPatch, queries: int, times: int, *, grad: bool
) -> None:
    calls: list[int] = []
    fused = F.scaled_dot_product_attention

    def counted(*args: Tensor, **options: Tensor | None) -> Tensor:
        calls.append(1)
        return fused(*args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    _, k, v = tensors(4, 2)
    q = torch.randn(2, 4, queries, 6, generator=torch.manual_seed(8), dtype=k.dtype)
    with torch.set_grad_enabled(grad):
        found = attend(q, k, v, None)
    assert len(calls) == times
    expected = reference(q.numpy(), k.numpy(), v.numpy(), None)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_result_keeps_the_type_of_the_queries(dtype: torch.dtype, *, grad: bool) -> None:
    q, k, v = tensors(4, 2, dtype)
    with torch.set_grad_enabled(grad):
        found = attend(q, k, v, make_mask("rows"))
    assert found.dtype == dtype
    assert bool(found.isfinite().all())


def test_heads_are_consecutive_channels() -> None:
    x = torch.arange(24).view(1, 2, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (1, 3, 2, 4)
    assert heads[0, 1, 1].tolist() == [16, 17, 18, 19]
    assert torch.equal(merge_heads(heads), x)
