"""Quantised layers against numpy: codes times codes, times scales, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from heliodor.errors import ConfigError, InputError
from heliodor.nn.linear import Linear
from heliodor.quant import INT4, INT8, kernels, linear, torch_products
from heliodor.quant.linear import QuantEmbedding, QuantLinear4, QuantLinear8
from heliodor.quant.pack import codes4, codes8, encode_pieces, values4

Array = NDArray[np.float64]
SHAPES = [(16, 64), (17, 4), (1, 1), (40, 67), (33, 200)]
"""Channels out and in: whole blocks, tails of either, less than one block."""


@pytest.fixture(params=["native", "torch"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to multiply; the native one where it was built."""
    if request.param == "native":
        if kernels.available() is None:
            pytest.skip("no native library was built")
    else:
        monkeypatch.setattr(linear, "products", lambda _: torch_products)
    return request.param


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(rows: int, width: int, *, bias: bool = True, seed: int = 1) -> Linear:
    made = Linear(width, rows, bias=bias)
    with torch.no_grad():
        made.weight.copy_(noise(rows, width, seed=seed))
        if bias:
            made.bias.copy_(noise(rows, seed=seed + 1))
    return made


def rounded_rows(x: Tensor) -> Array:
    """What a layer sees of its input: each row in steps of its largest magnitude / 127."""
    rows = x.double().numpy()
    scale = np.abs(rows).max(-1, keepdims=True) / 127
    return np.where(scale > 0, np.rint(rows / np.where(scale > 0, scale, 1)), 0) * scale


def rounded8(weight: Tensor) -> Array:
    rows = weight.detach().double().numpy()
    scale = np.abs(rows).max(-1, keepdims=True) / 127
    return np.rint(rows / scale) * scale


def close(found: Tensor, expected: Array) -> bool:
    """Equal but for float32's rounding of scales and of one product."""
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    return bool(np.abs(found.double().numpy() - expected).max() <= 2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("rows", "width"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_int8_is_the_product_of_the_rounded_ones(
    rows: int,
    width: int,
    bias: bool,  # noqa: FBT001
) -> None:
    before = layer(rows, width, bias=bias)
    made = QuantLinear8.from_linear(before)
    x = noise(3, 2, width) * torch.tensor([1.0, 30.0, 1e-3])[:, None, None]
    expected = rounded_rows(x.view(6, width)) @ rounded8(before.weight).T
    expected += before.bias.detach().double().numpy() if bias else 0
    assert close(made(x).view(6, rows), expected)
    assert close(made.dequantised(), rounded8(before.weight))


@pytest.mark.parametrize(("rows", "width"), SHAPES)
@pytest.mark.parametrize("count", [1, 5])
def test_int4_is_the_product_with_what_its_codes_stand_for(
    rows: int, width: int, count: int
) -> None:
    before = layer(rows, width)
    made = QuantLinear4.from_linear(before)
    assert (made.packed.dtype, made.scale.dtype) == (torch.uint8, torch.bfloat16)
    x = noise(count, width)
    codes, scale = codes4(before.weight.detach())
    weight = np.repeat(scale.double().numpy(), 64, 1)[:, :width] * codes.double().numpy()
    assert close(made.dequantised(), weight)
    bias = before.bias.detach().double().numpy()
    assert close(made(x), rounded_rows(x) @ weight.T + bias)


def test_int4_codes_are_the_better_ones() -> None:
    """Against plain rounding to the largest weight / 7, and never above half a step."""
    weight = noise(64, 512)
    codes, scale = codes4(weight)
    assert int(codes.min()) == -8
    assert int(codes.max()) == 7
    error = float((values4(codes, scale) - weight).norm() / weight.norm())
    groups = weight.view(64, 8, 64)
    step = groups.abs().amax(-1, keepdim=True) / 7
    plain = float(((groups / step).round() * step - groups).norm() / weight.norm())
    assert error < 0.86 * plain
    assert 0.085 < error < 0.095


def test_each_group_of_64_has_a_scale_of_its_own() -> None:
    weight = torch.ones(16, 192)
    weight[:, 64:128] *= 1000
    weight[:, 128:] = 0
    made = QuantLinear4.from_codes(*codes4(weight))
    assert torch.equal(made.dequantised(), weight)


@pytest.mark.parametrize("kind", [QuantLinear8, QuantLinear4])
def test_rows_do_not_see_each_other(kind: type[QuantLinear8] | type[QuantLinear4]) -> None:
    made = kind.from_linear(layer(48, 96))
    x = noise(7, 96) * torch.logspace(-3, 3, 7)[:, None]
    together = made(x)
    for index in range(7):
        alone = made(x[index : index + 1])
        assert torch.allclose(together[index], alone[0], rtol=2e-6, atol=0)


@pytest.mark.parametrize("kind", [QuantLinear8, QuantLinear4])
def test_zeros_and_what_is_no_number(kind: type[QuantLinear8] | type[QuantLinear4]) -> None:
    made = kind.from_linear(layer(20, 70))
    x = noise(5, 70)
    x[1] = 0
    x[2, 3] = torch.nan
    x[3, 4] = torch.inf
    x[4] = 1e38
    found = made(x)
    assert found[[2, 3]].isnan().all(), "what is not a number is not hidden"
    assert not found[[0, 1, 4]].isnan().any()
    assert made.bias is not None
    assert torch.equal(found[1], made.bias)


def test_layers_together_are_the_layers_one_by_one() -> None:
    layers = [QuantLinear8.from_linear(layer(n, 40, seed=n)) for n in (16, 5, 33)]
    x = noise(2, 3, 40)
    found = QuantLinear8.together(layers, x)
    assert all(torch.equal(y, each(x)) for y, each in zip(found, layers, strict=True))


def test_the_gated_layers_are_gelu_between_products() -> None:
    gate, up, down = (
        QuantLinear8.from_linear(layer(*shape, bias=False, seed=seed))
        for shape, seed in (((56, 32), 3), ((56, 32), 4), ((32, 56), 5))
    )
    x = noise(2, 3, 32)
    inner = F.gelu(gate(x).double(), approximate="tanh") * up(x)
    found = QuantLinear8.gated(x, gate, up, down)
    # A code may be the next one where the two GELUs differ in their last bit.
    step = inner.abs().amax(-1, keepdim=True) / 127 * down.dequantised().abs().max()
    assert bool(((found - down(inner.float())).abs() <= step).all())
    exact = inner @ down.dequantised().double().T
    assert float((found - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize(("rows", "width"), [(50, 32), (16, 7), (3, 65)])
def test_a_table_gives_its_rows_and_its_products(rows: int, width: int) -> None:
    table = nn.Embedding(rows, width)
    with torch.no_grad():
        table.weight.copy_(noise(rows, width))
    made = QuantEmbedding.from_embedding(table)
    tokens = torch.tensor([[0, rows - 1, 1], [2, 2, rows // 2]])
    weight = rounded8(table.weight)
    assert close(made(tokens), weight[tokens.numpy()])
    hidden = noise(2, 1, width)
    whole = made.head(hidden)
    assert close(whole.view(2, rows), rounded_rows(hidden.view(2, width)) @ weight.T)
    ids = torch.tensor([rows - 1, 0, 0, rows // 3])
    assert torch.allclose(made.head(hidden, ids), whole[..., ids], rtol=2e-6, atol=0)
    for first, end in ((0, rows), (1, 3), (rows - 1, rows), (rows // 3, rows - 1)):
        part = made.head(hidden, (first, end))
        assert torch.allclose(part, whole[..., first:end], rtol=2e-6, atol=0)
    for bad in ((0, rows + 1), (2, 2), (-1, 2)):
        with pytest.raises(InputError, match="of a table of"):
            made.head(hidden, bad)


def test_the_state_is_that_of_another_layer() -> None:
    for kind in (QuantLinear8, QuantLinear4):
        made, other = kind.from_linear(layer(20, 70)), kind(70, 20)
        assert list(other.state_dict()) == ["packed", "scale", "bias"]
        other.load_state_dict(made.state_dict())
        x = noise(2, 70)
        assert torch.equal(other(x), made(x))
        with torch.no_grad():
            other.packed.copy_(kind.from_linear(layer(20, 70, seed=9)).packed)
        assert not torch.equal(other(x), made(x)), "a copy of old weights was used"


def test_a_change_of_type_changes_no_code() -> None:
    made = QuantLinear4.from_linear(layer(20, 70))
    state = {name: value.clone() for name, value in made.state_dict().items()}
    x = noise(2, 70)
    before = made(x)
    made.half()
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
    assert torch.equal(made(x), before)
    assert torch.equal(made(x.to(torch.bfloat16)), made(x.to(torch.bfloat16).float()))


def test_mistakes_are_told() -> None:
    made = QuantLinear8.from_linear(layer(20, 8))
    with pytest.raises(InputError, match="has 9 channels, the layer takes 8"):
        made(noise(2, 9))
    with pytest.raises(InputError, match="has no gradient: train the model as it was before"):
        made(noise(2, 8).requires_grad_())
    with torch.no_grad():
        made(noise(2, 8).requires_grad_())
    with pytest.raises(ConfigError, match="QuantLinear8 stores int8, not int4"):
        QuantLinear8.from_linear(layer(20, 8), INT4)
    with pytest.raises(ConfigError, match="embedding table is stored in 8 bits, not as int4"):
        QuantEmbedding.from_embedding(nn.Embedding(4, 4), INT4)
    for value in (torch.nan, torch.inf):
        broken = layer(20, 8)
        with torch.no_grad():
            broken.weight[3, 2] = value
        with pytest.raises(InputError, match="NaN or infinite"):
            QuantLinear8.from_linear(broken, INT8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_every_type_are_read_in_pieces(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Pieces of 16 channels give what the whole gives; a strided view is read as it lies."""
    weight = noise(70, 50).to(dtype).T
    for scheme in (INT8, INT4):
        whole = linear.encode(weight.float().contiguous(), scheme)
        with monkeypatch.context() as patch:
            patch.setattr("heliodor.quant.pack._CHUNK", 16)
            pieces = linear.encode(weight, scheme)
        given = encode_pieces(iter(weight.split(32)), (50, 70), scheme)
        for found in (pieces, given):
            assert all(torch.equal(whole[name], found[name]) for name in whole)
        for name, (kind, shape) in scheme.parts(50, 70).items():
            assert (str(whole[name].dtype), tuple(whole[name].shape)) == (f"torch.{kind}", shape)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [((17, 33), "after 17 rows of 50 by 70"), ((32,), "32 rows came of 50"), ((48, 3), "48 rows")],
)
def test_pieces_that_make_up_no_weight_are_refused(rows: tuple[int, ...], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        encode_pieces((noise(count, 70) for count in rows), (50, 70), INT8)


def test_a_channel_of_zeros_and_of_very_small_numbers() -> None:
    weight = noise(4, 64)
    weight[0] = 0
    weight[1] *= 1e-30
    codes, scale = codes8(weight)
    assert codes[0].count_nonzero() == 0
    assert torch.allclose(codes[1] * scale[1], weight[1], rtol=0, atol=float(scale[1]) / 2)
