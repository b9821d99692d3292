"""Keys and values in 8 bits, and slots that are made once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests import tiny
from torch import Tensor

from heliodor.errors import InputError
from heliodor.models.causal import CausalGemma
from heliodor.nn.cache import Kept, KVCache
from heliodor.nn.slots import FloatSlots, Int8Slots


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales by plain numpy: every head and slot by its largest magnitude."""
    array = x.numpy()
    scale = np.abs(array).max(-1, keepdims=True) / np.float32(127)
    return np.rint(array / np.where(scale == 0, 1, scale)), scale


def test_codes_and_scales_are_those_of_each_head_and_slot() -> None:
    first = noise(2, 3, 5, 8) * torch.tensor([1e-3, 1.0, 50.0, 0.0, 1e6])[:, None]
    slots = Int8Slots.of(first)
    new = noise(2, 3, 2, 8, seed=1)
    read = slots.write(5, new)
    codes, scale = rounded(torch.cat((first, new), dim=2))
    np.testing.assert_array_equal(slots.codes[:, :, :7].numpy(), codes)
    np.testing.assert_allclose(slots.scale[:, :, :7].numpy(), scale, rtol=1e-6)
    np.testing.assert_allclose(read.numpy(), codes * scale, rtol=1e-6)
    error = (read - torch.cat((first, new), dim=2)).abs().numpy()
    assert (error <= scale * 0.5001).all()
    assert error.max() > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_read_as_nan(bad: float) -> None:
    first = noise(1, 2, 3, 4)
    first[0, 1, 2, 3] = bad
    read = Int8Slots.of(first).write(3, noise(1, 2, 1, 4))
    broken = read.isnan()
    assert broken[0, 1, 2, 3]
    assert not broken[0, 0].any()
    assert not broken[0, 1, [0, 1, 3]].any()


@pytest.mark.parametrize("kind", [FloatSlots, Int8Slots.of])
def test_slots_grow_and_rows_are_copies(kind: type[FloatSlots]) -> None:
    slots = kind(noise(2, 1, 3, 4))
    before = slots.write(3, noise(2, 1, 1, 4, seed=1)).clone()
    assert slots.room >= 4
    chosen = slots.select(torch.tensor([1, 1, 0]))
    slots.reserve(4, 300)
    assert slots.room == 300
    read = slots.write(4, noise(2, 1, 1, 4, seed=2))
    assert torch.equal(read[:, :, :4], before)
    other = chosen.write(4, noise(3, 1, 1, 4, seed=3))
    assert torch.equal(other[:, :, :4], before[[1, 1, 0]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_is_read_has_the_type_of_what_came(dtype: torch.dtype) -> None:
    slots = Int8Slots.of(noise(1, 1, 2, 4).to(dtype))
    assert slots.write(2, noise(1, 1, 1, 4).to(dtype)).dtype == dtype


def test_an_unknown_way_to_keep_is_refused() -> None:
    with pytest.raises(InputError, match="kept as 'int4'; say 'float' or 'int8'"):
        KVCache(torch.ones(1, 2, dtype=torch.bool), kv="int4")  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------- in a decoder

TOKENS = torch.tensor([[2, 9, 31, 7, 3, 12], [2, 40, 11, 6, 3, 30]])
VALID = torch.tensor([[True] * 6, [False] * 2 + [True] * 4])
STEPS = torch.randint(3, 40, (9, 2), generator=torch.manual_seed(2))


def written(kv: Kept, room: int) -> tuple[list[Tensor], KVCache]:
    """Logits of prefill and of nine steps, and the cache behind them."""
    run = CausalGemma(tiny.gemma())
    logits, cache = run.prefill(TOKENS, VALID, kv=kv, room=room)
    return [logits] + [run.step(tokens, cache) for tokens in STEPS], cache


@torch.no_grad()
def test_eight_bits_are_near_and_prefill_is_untouched() -> None:
    exact, whole = written("float", 0)
    near, small = written("int8", 9)
    assert torch.equal(near[0], exact[0])
    errors = [tiny.relative_error(a, b) for a, b in zip(near[1:], exact[1:], strict=True)]
    assert 1e-5 < max(errors) < 0.02
    # heads of 12 numbers: 12 bytes and a scale for 48; blocks of 64 slots where no room was made
    assert small.nbytes * 48 * (6 + 64 + 1) == whole.nbytes * 16 * (6 + 9)


@pytest.mark.parametrize("kv", ["float", "int8"])
@torch.no_grad()
def test_slots_that_are_made_once_are_never_moved(kv: Kept) -> None:
    run = CausalGemma(tiny.gemma())
    expected, _ = written(kv, 0)
    logits, cache = run.prefill(TOKENS, VALID, kv=kv, room=len(STEPS))
    found = [logits]
    stores = (*cache._keys, *cache._values)
    before = [part.data_ptr() for store in stores for part in store.parts]
    before.append(cache._valid.data_ptr())
    found += [run.step(tokens, cache) for tokens in STEPS]
    after = [part.data_ptr() for store in stores for part in store.parts]
    assert [*after, cache._valid.data_ptr()] == before
    assert all(store.room == 6 + 9 for store in stores)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_chosen_rows_and_rollbacks_work_in_eight_bits() -> None:
    run = CausalGemma(tiny.gemma())
    _, cache = run.prefill(TOKENS, VALID, kv="int8", room=4)
    other = cache.select(torch.tensor([1, 0]))
    run.step(STEPS[0], cache)
    first = run.step(STEPS[1], cache)
    cache.retain([0, 0], 2)
    run.step(STEPS[0], cache)
    assert torch.equal(run.step(STEPS[1], cache), first)
    run.step(STEPS[0].flip(0), other)
    torch.testing.assert_close(run.step(STEPS[1].flip(0), other).flip(0), first)
