"""Products of the native kernels, on every path this processor has, against plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import kernels as plainly
from torch import Tensor

from heliodor.errors import InputError
from heliodor.quant import kernels, native

pytestmark = pytest.mark.skipif(kernels.available() is None, reason="no native library was built")

PATHS = ("avx512-amx", "avx512-vnni", "avx2", "neon", "plain")


def choose(name: str) -> bool:
    library = native.library()
    return library is not None and library.heliodor_choose(name.encode()) == 0


HERE = [name for name in PATHS if choose(name)]
BEST = HERE[0] if HERE else ""
if BEST:
    choose(BEST)


@pytest.fixture(params=HERE)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    assert choose(request.param)
    assert kernels.available() == request.param
    yield request.param
    choose(BEST)


def random_case(m: int, n: int, k: int, seed: int, low: int, high: int) -> tuple[Tensor, Tensor]:
    """X float32 [m k] whose rows differ in size, codes int8 [n k]."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.logspace(-12, 12, m)[torch.randperm(m, generator=generator)]
    x = torch.randn(m, k, generator=generator) * size[:, None]
    codes = torch.randint(low, high + 1, (n, k), generator=generator, dtype=torch.int8)
    return x, codes


def check8(x: Tensor, codes: Tensor, *, biased: bool) -> None:
    n = codes.shape[0]
    scale = torch.rand(n) + 0.1
    bias = torch.randn(n) if biased else None
    got = kernels.linear8(x, kernels.pack8(codes), scale, bias)
    q, scales, _ = plainly.rows(x.numpy())
    expected = plainly.product8(
        q, scales, codes.numpy(), scale.numpy(), None if bias is None else bias.numpy()
    )
    np.testing.assert_array_equal(got.numpy(), expected)


def check4(x: Tensor, codes: Tensor, *, biased: bool) -> None:
    n, k = codes.shape
    group_scales = (torch.rand(n, -(-k // 64)) + 0.1).to(torch.bfloat16)
    bias = torch.randn(n) if biased else None
    packed, packed_scales = kernels.pack4(codes), kernels.pack4_scales(group_scales)
    got = kernels.linear4(x, packed, packed_scales, bias, channels=n)
    q, scales, _ = plainly.rows(x.numpy())
    expected = plainly.product4(
        *(q, scales, codes.numpy(), group_scales.float().numpy()),
        None if bias is None else bias.numpy(),
    )
    np.testing.assert_array_equal(got.numpy(), expected)


CHECKS = {8: (check8, -128, 127), 4: (check4, -8, 7)}

# Every tail: K around multiples of 4 and 64 and beyond one pass, N around 16 and 64, every number
# of rows that has a tile of its own, and more than one row part.
SHAPES = [
    *((m, 70, 67) for m in range(1, 20)),
    *((3, n, 64) for n in (1, 15, 16, 17, 33, 63, 64, 65, 129)),
    *((2, 19, k) for k in (1, 2, 3, 4, 5, 60, 63, 65, 127, 128, 129, 1000)),
    *((m, 40, 4100) for m in (1, 5, 14)),
    *((m, 18, 8200) for m in (7, 13)),
    *((m, n, 70) for m in (1, 3, 8) for n in (1100, 2101)),
    *((m, 48, k) for m in (16, 17, 31, 32, 33, 47, 100) for k in (60, 64, 68, 130, 1028)),
    *((m, n, 2116) for m in (16, 40) for n in (16, 80, 100)),
    (120, 50, 70),
    (800, 17, 9),
]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_products_equal_numpy_to_the_bit(path: str, bits: int, m: int, n: int, k: int) -> None:
    check, low, high = CHECKS[bits]
    x, codes = random_case(m, n, k, m * 7919 + n * 31 + k, low, high)
    check(x, codes, biased=(m + n + k) % 2 == 0)


@pytest.mark.parametrize("bits", [8, 4])
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 100),
    st.integers(1, 300),
    st.integers(0, 2**31),
)
def test_any_shape_equals_numpy(bits: int, m: int, n: int, k: int, seed: int) -> None:
    check, low, high = CHECKS[bits]
    x, codes = random_case(m, n, k, seed, low, high)
    for name in HERE:
        assert choose(name)
        check(x, codes, biased=seed % 2 == 0)
    choose(BEST)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 1), (13, 1), (17, 16)])
def test_the_largest_sums_do_not_overflow(path: str, m: int, n: int) -> None:
    # 131,072 products of 127 and -128 sum to -2,130,706,432; the deepest that is allowed
    k = 131_072
    for code in (-128, 127):
        x, codes = torch.ones(m, k), torch.full((n, k), code, dtype=torch.int8)
        out = kernels.linear8(x, kernels.pack8(codes), torch.ones(n))
        expected = np.float32(code * 127 * k) * (np.float32(1) / np.float32(127))
        np.testing.assert_array_equal(out.numpy(), np.full((m, n), expected))
    few = torch.full((1, 640), -8, dtype=torch.int8)
    x4 = torch.full((m, 640), -3.0)
    out4 = kernels.linear4(
        x4, kernels.pack4(few), kernels.pack4_scales(torch.ones(1, 10)), channels=1
    )
    expected = np.float32(8 * 127 * 640) * (np.float32(3) / np.float32(127))
    np.testing.assert_array_equal(out4.numpy(), np.full((m, 1), expected))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_that_is_not_finite_is_nan_and_its_neighbours_are_not(path: str, bits: int) -> None:
    check, low, high = CHECKS[bits]
    for broken in (float("nan"), float("inf"), -float("inf")):
        for m in (1, 3, 14):
            x, codes = random_case(m, 20, 70, m, low, high)
            x[m // 2, 69] = broken
            check(x, codes, biased=True)  # the reference's NaN in the same row, and no other
    scales = kernels.quantise_rows(torch.tensor([[1.0, float("nan")], [1.0, 2.0]]))[1]
    assert scales.isnan().tolist() == [True, False]


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_denormals_and_huge_values(path: str, bits: int) -> None:
    check, low, high = CHECKS[bits]
    x, codes = random_case(8, 20, 70, 5, low, high)
    x[0] = 0.0
    x[1] = 1e-40
    x[2] *= 1.6e-36 / x[2].abs().max()
    x[3] *= 1.4e-36 / x[3].abs().max()
    x[4, 0] = torch.finfo(torch.float32).max
    x[5, 1] = -torch.finfo(torch.float32).max
    check(x, codes, biased=True)


def select(whole: Tensor, rows: kernels.Rows) -> Tensor:
    return whole[:, rows[0] : rows[1]] if isinstance(rows, tuple) else whole[:, rows]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("m", [1, 9, 15])
@pytest.mark.parametrize(
    "rows",
    [
        *((0, 160), (16, 160), (0, 167), (160, 167), (48, 48), (64, 128)),
        torch.tensor([3]),
        torch.tensor([166, 0, 17, 166, 18]),
        torch.arange(167),
        torch.tensor([], dtype=torch.int64),
    ],
)
def test_some_channels_are_those_of_the_whole(
    path: str, bits: int, m: int, rows: kernels.Rows
) -> None:
    x, codes = random_case(m, 167, 100, 3, *CHECKS[bits][1:])
    bias = torch.randn(167)
    product: Callable[[kernels.Rows], Tensor]
    if bits == 8:
        packed, scale = kernels.pack8(codes), torch.rand(167)
        product = lambda some: kernels.linear8(x, packed, scale, bias, some)  # noqa: E731
    else:
        packed, scales = kernels.pack4(codes), kernels.pack4_scales(torch.rand(167, 2))
        product = lambda some: kernels.linear4(x, packed, scales, bias, some)  # noqa: E731
    torch.testing.assert_close(product(rows), select(product(None), rows), rtol=0, atol=0)


def test_no_rows_and_no_memory_touched() -> None:
    packed = kernels.pack8(torch.ones(20, 7, dtype=torch.int8))
    assert kernels.linear8(torch.empty(0, 7), packed, torch.ones(20)).shape == (0, 20)


def test_packing_is_the_documented_order_and_goes_back() -> None:
    codes = torch.randint(-128, 128, (19, 9), dtype=torch.int8)
    packed = kernels.pack8(codes)
    assert packed.shape == (32, 12)
    flat = packed.flatten()
    for n, k in ((0, 0), (5, 3), (15, 8), (18, 7)):
        at = ((n // 16 * 3 + k // 4) * 16 + n % 16) * 4 + k % 4
        assert flat[at] == int(codes[n, k]) + 128
    assert int((flat == 128).sum()) >= 32 * 12 - 19 * 9
    assert torch.equal(kernels.unpack8(packed, 19, 9), codes)


def test_packing_int4_is_the_documented_order_and_goes_back() -> None:
    codes = torch.randint(-8, 8, (19, 70), dtype=torch.int8)
    packed = kernels.pack4(codes)
    assert packed.shape == (2, 1024)
    for n, k in ((0, 0), (5, 6), (15, 69), (18, 44)):
        line, i, high = k // 8, k % 4, k % 8 // 4
        byte = int(packed[n // 16, (line * 16 + n % 16) * 4 + i])
        assert (byte >> 4 if high else byte & 15) == int(codes[n, k]) + 8
    assert torch.equal(kernels.unpack4(packed, 19, 70), codes)
    scales = torch.randn(19, 2).to(torch.bfloat16)
    assert kernels.pack4_scales(scales)[1].view(2, 16)[1, 2] == scales[18, 1]
    assert torch.equal(kernels.unpack4_scales(kernels.pack4_scales(scales), 19), scales.float())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.zeros(2, 8, dtype=torch.float64)}, "x is torch.float64"),
        ({"x": torch.zeros(8)}, r"of shape \[8\]"),
        ({"x": torch.zeros(8, 2).T}, "not contiguous"),
        ({"x": torch.zeros(2, 4)}, "packed holds 8 channels in"),
        ({"packed": torch.zeros(32, 8, dtype=torch.uint8)}, r"packed has the shape \[32, 8\]"),
        ({"packed": torch.zeros(16, 8)}, "packed is torch.float32"),
        ({"scale": torch.zeros(5, dtype=torch.float16)}, "scale is torch.float16"),
        ({"bias": torch.zeros(6)}, r"bias has the shape \[6\], expected \[5\]"),
        ({"rows": (0, 4)}, "multiples of 16 or 5"),
        ({"rows": (16, 5)}, "multiples of 16 or 5"),
        ({"rows": torch.tensor([5])}, r"outside 0\.\.4"),
        ({"rows": torch.tensor([-1])}, r"outside 0\.\.4"),
        ({"rows": torch.tensor([0.5])}, "rows is torch.float32"),
    ],
)
def test_what_cannot_be_multiplied_is_refused(change: dict[str, Tensor], says: str) -> None:
    given_right = {
        "x": torch.zeros(2, 8),
        "packed": torch.zeros(16, 8, dtype=torch.uint8),
        "scale": torch.zeros(5),
    }
    kernels.linear8(**given_right)  # as it stands it works
    with pytest.raises(InputError, match=says):
        kernels.linear8(**{**given_right, **change})


def test_int4_shapes_that_do_not_fit_are_refused() -> None:
    x = torch.zeros(1, 64)
    packed, scales = kernels.pack4(torch.zeros(20, 64, dtype=torch.int8)), torch.ones(20, 1)
    packed_scales = kernels.pack4_scales(scales)
    assert kernels.linear4(x, packed, packed_scales, channels=20).shape == (1, 20)
    with pytest.raises(InputError, match="512 bytes for every 64"):
        kernels.linear4(x[:, :60].contiguous(), packed[:, :500].contiguous(), packed_scales)
    with pytest.raises(InputError, match="codes 64 channels"):
        kernels.linear4(x, packed.repeat(1, 2), kernels.pack4_scales(scales.repeat(1, 2)))
    with pytest.raises(InputError, match="33 channels out do not fill the 2 blocks"):
        kernels.linear4(x, packed, packed_scales, channels=33)
    with pytest.raises(InputError, match="group_scales has the shape"):
        kernels.linear4(x, packed, packed_scales.repeat(1, 2))
