"""Torch's products against the native ones: the same codes, the same sums, float32's rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heliodor.errors import InputError
from heliodor.quant import kernels, torch_products
from heliodor.quant.pack import codes4, codes8, pack
from heliodor.quant.products import engine, products
from heliodor.quant.scheme import INT4, INT8

native = pytest.mark.skipif(kernels.available() is None, reason="no native library was built")
PATHS = ["onednn", "int_mm", None]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(found: Tensor, expected: Tensor) -> bool:
    return tiny_error(found, expected) < 2e-6


def tiny_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    largest = expected.abs().max() if expected.numel() else torch.tensor(1.0)
    return float((found - expected).abs().max() / largest) if expected.numel() else 0.0


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Each way to multiply integers that this processor has, and the one without any."""
    if request.param is not None and torch_products.integer_path() != "onednn":
        pytest.skip("this processor has no exact integer product")
    monkeypatch.setattr(torch_products, "integer_path", lambda: request.param)
    return request.param


@native
@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 7), width=st.integers(1, 90), seed=st.integers(0, 99), data=st.data())
def test_rows_get_the_same_codes(rows: int, width: int, seed: int, data: st.DataObject) -> None:
    x = noise(rows, width, seed=seed) * 10.0 ** data.draw(st.integers(-42, 37))
    for value in data.draw(st.lists(st.sampled_from([0.0, torch.nan, torch.inf, -1e38]))):
        x[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, width - 1))] = value
    ours, theirs = torch_products.quantise_rows(x), kernels.quantise_rows(x)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one.nan_to_num(nan=7), other.nan_to_num(nan=7))


@native
@pytest.mark.parametrize("largest", [1e-42, 1.4e-37, 1.49e-36, 1.51e-36, 3e-36])
def test_rows_next_to_nothing_count_as_nothing(largest: float) -> None:
    """Where a scale would be denormal it is 0; above, codes are as ever."""
    x = torch.tensor([[largest, -largest / 4, 0.0, 0.0]])
    for codes, scales, _ in (torch_products.quantise_rows(x), kernels.quantise_rows(x)):
        seen = [127, -32, 0, 0] if largest > 1.5e-36 else [0] * 4
        assert codes.tolist() == [seen]
        assert float(scales) == pytest.approx(largest / 127 if largest > 1.5e-36 else 0.0)


@native
def test_norms_and_gates_differ_by_their_last_bit_alone() -> None:
    x, up, weight, bias = noise(5, 70), noise(5, 70, seed=1), noise(70, seed=2), noise(70, seed=3)
    for one, other in (
        (torch_products.norm_quantise(x, weight, 1e-6), kernels.norm_quantise(x, weight, 1e-6)),
        (
            torch_products.norm_quantise(x, weight, 1e-6, bias),
            kernels.norm_quantise(x, weight, 1e-6, bias),
        ),
        (torch_products.geglu_quantise(x, up), kernels.geglu_quantise(x, up)),
    ):
        assert int((one[0].int() - other[0].int()).abs().max()) <= 1
        assert float((one[0] != other[0]).float().mean()) < 0.02
        assert near(one[1], other[1])


@native
@pytest.mark.parametrize(("rows", "width"), [(16, 64), (48, 100), (40, 67), (5, 3)])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_products_are_the_native_ones(path: str | None, rows: int, width: int, count: int) -> None:
    x, bias = noise(count, width), noise(rows, seed=4)
    ids = torch.tensor([rows - 1, 0, rows // 2, 0])
    eight = pack(*codes8(noise(rows, width, seed=1)), INT8)
    four = pack(*codes4(noise(rows, width, seed=1)), INT4)
    for chosen in (None, (0, min(16, rows)), (rows // 16 * 16, rows), ids):
        for offset in (bias, None):
            found = torch_products.linear8(x, eight["packed"], eight["scale"], offset, chosen)
            expected = kernels.linear8(x, eight["packed"], eight["scale"], offset, chosen)
            assert near(found, expected)
            found = torch_products.linear4(
                x, four["packed"], four["scale"], offset, chosen, channels=rows
            )
            expected = kernels.linear4(
                x, four["packed"], four["scale"], offset, chosen, channels=rows
            )
            assert near(found, expected)


def test_the_sums_of_codes_are_exact(path: str | None) -> None:
    """The largest codes, as many as K has: what 16 bits, or one of float32's 24, would not hold."""
    q = torch.full((3, 512), 127, dtype=torch.int8)
    q[1] = -127
    q[2, ::2] = -127
    codes = torch.full((20, 512), 127, dtype=torch.int8)
    codes[3, 1::2] = -127
    codes[4] = -127
    expected = q.numpy().astype(np.int64) @ codes.numpy().astype(np.int64).T
    parts = pack(codes, torch.ones(20), INT8)
    zeros = torch.zeros(3, dtype=torch.int32)
    found = torch_products.product8(q, torch.ones(3), zeros, parts["packed"], parts["scale"])
    assert np.array_equal(found.numpy(), expected)


def test_a_tensor_that_changes_is_prepared_anew(path: str | None) -> None:
    parts = pack(*codes8(noise(20, 64)), INT8)
    x = noise(2, 64, seed=5)
    before = torch_products.linear8(x, parts["packed"], parts["scale"])
    other = pack(*codes8(noise(20, 64, seed=1)), INT8)
    parts["packed"].copy_(other["packed"])
    found = torch_products.linear8(x, parts["packed"], parts["scale"])
    assert not torch.equal(found, before)
    assert torch.equal(found, torch_products.linear8(x, other["packed"].clone(), parts["scale"]))


def test_what_is_prepared_goes_with_its_tensor() -> None:
    count = len(torch_products._PREPARED)
    parts = pack(*codes8(noise(20, 64)), INT8)
    torch_products.linear8(noise(2, 64), parts["packed"], parts["scale"])
    assert len(torch_products._PREPARED) == count + 1
    del parts
    assert len(torch_products._PREPARED) <= count


def test_an_integer_product_that_overflows_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on processors whose instruction adds two products in 16 bits."""

    def saturating(q: Tensor, codes: Tensor) -> Tensor:
        unsigned = q.int() + 128
        pairs = unsigned[:, :, None] * codes.int()[None]
        sums = pairs.view(q.shape[0], -1, 2, codes.shape[1]).sum(2).clamp(-32768, 32767).sum(1)
        return sums - 128 * codes.int().sum(0)

    def absent(*_: object) -> Tensor:
        raise RuntimeError("no such operator")

    probe: Callable[[], str | None] = torch_products.integer_path.__wrapped__
    monkeypatch.setattr(torch_products, "_onednn", absent)
    exact = probe()
    assert exact in ("int_mm", None)
    monkeypatch.setattr(torch_products, "_INT_MM", saturating)
    assert probe() is None
    monkeypatch.setattr(torch_products, "_INT_MM", lambda q, codes: q.int() @ codes.int())
    assert probe() == "int_mm"
    monkeypatch.setattr(torch_products, "_INT_MM", absent)
    assert probe() is None


def test_the_engine_is_named() -> None:
    found = engine()
    assert found["path"] == (kernels.available() or "torch")
    assert found["threads"] == torch.get_num_threads()
    work = products(torch.device("cpu"))
    assert work is (torch_products if found["path"] == "torch" else kernels)
    assert products(torch.device("meta")) is torch_products


@native
def test_the_native_face_refuses_what_it_cannot_read() -> None:
    parts = pack(*codes8(noise(20, 64)), INT8)
    with pytest.raises(InputError):
        kernels.linear8(noise(2, 64).double(), parts["packed"], parts["scale"])
