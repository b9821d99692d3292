"""Weights in bfloat16 and float16 by the native kernels, through whole networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from tests import tiny

from heliodor.nn import linear
from heliodor.quant import kernels
from heliodor.quant.stored import accelerate

pytestmark = pytest.mark.skipif(
    kernels.available() not in ("avx512-amx", "avx512-vnni", "avx2", "neon"),
    reason="no native kernels",
)
NARROW = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    kept = dict(linear._kernels)
    yield
    linear._kernels.clear()
    linear._kernels.update(kept)


@pytest.mark.parametrize("dtype", NARROW)
@torch.no_grad()
def test_prefill_and_steps_are_those_of_float32_on_the_rounded_weights(dtype: torch.dtype) -> None:
    narrow = tiny.paligemma().to(dtype)
    wide = copy.deepcopy(narrow).float()
    tokens = torch.tensor([[2, 9, 31, 7, 3], [2, 40, 11, 6, 3]])
    valid = torch.ones_like(tokens, dtype=torch.bool)
    calls: list[int] = []
    assert accelerate()
    native = linear._kernels[dtype]

    def counted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        calls.append(len(x))
        return native(x, weight, bias)

    linear.offer(dtype, counted)
    found, expected = (
        [logits, model.step(tokens[:, 1], cache), model.step(tokens[:, 2], cache, rows=(5, 40))]
        for model in (narrow, wide)
        for features in [model.encode_images(tiny.pixels(2))]
        for logits, cache in [model.prefill(tokens, features, valid)]
    )
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert tiny.relative_error(one, other) < 1e-5
    # 27 products of the tower and its end, 21 of the decoder a pass, its head each time
    assert len(calls) == 1 + 2 * 6 + 1 + 3 * (3 * 7 + 1)
    assert set(calls) == {32, 2 * (16 + 5), 2}


@pytest.mark.parametrize("dtype", NARROW)
def test_gradients_do_not_go_through_the_kernels(dtype: torch.dtype) -> None:
    accelerate()
    weight = torch.randn(5, 4, generator=torch.manual_seed(0)).to(dtype).requires_grad_()
    x = torch.randn(3, 4, generator=torch.manual_seed(1))
    linear.product(x, weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.float(), x.sum(0).expand(5, 4), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("named", [None, "plain"])
def test_without_vectors_torch_widens_blocks(
    monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    accelerate()
    monkeypatch.setattr(kernels, "available", lambda: named)
    assert not accelerate()
    assert linear._kernels == {}
