"""Factors of channels, and which layers are worth eight bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from heliodor.errors import ConfigError, InputError
from heliodor.nn.norm import LayerNorm, RMSNorm
from heliodor.quant.calibrate.codes import nearest
from heliodor.quant.calibrate.scaling import (
    IntoNorm,
    IntoRows,
    Scaling,
    find_factors,
    rounded_rows,
)
from heliodor.quant.calibrate.sensitivity import Sensitivity, choose_schemes, stored_bytes
from heliodor.quant.calibrate.statistics import Statistics
from heliodor.quant.scheme import INT4, INT8


def uneven(count: int = 300, width: int = 64) -> torch.Tensor:
    """Rows with some channels much larger than the others, as language models have them."""
    random = np.random.default_rng(0)
    x = random.normal(size=(count, width))
    x[:, [3, 17, 40]] *= 30
    return torch.tensor(x, dtype=torch.float32)


def seen(x: torch.Tensor) -> Statistics:
    statistics = Statistics.empty(x.shape[1])
    statistics.add(x, keep=200)
    return statistics


class TestFolds:
    @pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
    def test_a_norm_gives_its_output_divided(self, kind):
        norm = kind(10, 1e-6)
        for parameter in norm.parameters():
            nn.init.normal_(parameter)
        x, factors = torch.randn(4, 10), torch.rand(10) + 0.2
        before = norm(x)
        IntoNorm("inner").divide(nn.ModuleDict({"inner": norm}), factors)
        torch.testing.assert_close(norm(x) * factors, before, rtol=1e-5, atol=1e-5)

    def test_rows_of_a_layer_are_divided_with_its_bias(self):
        layer = nn.Linear(5, 6)
        x, factors = torch.randn(4, 5), torch.rand(6) + 0.2
        before = layer(x)
        IntoRows("inner").divide(nn.ModuleDict({"inner": layer}), factors)
        torch.testing.assert_close(layer(x) * factors, before, rtol=1e-5, atol=1e-6)

    def test_heads_that_read_one_value_head_share_their_factors(self):
        fold = IntoRows("inner", repeats=2, head_dim=3)  # two value heads, four query heads
        tied = fold.tie(torch.tensor([1.0, 2, 4, 4, 8, 1, 1, 1, 1, 1, 1, 9]))
        expected = [2.0, 4.0, 2.0] * 2 + [1.0, 1.0, 3.0] * 2
        np.testing.assert_allclose(tied, expected, rtol=1e-6)
        layer = nn.Linear(5, 6, bias=False)
        before = layer.weight.clone()
        fold.divide(nn.ModuleDict({"inner": layer}), tied)
        row = torch.tensor([2.0, 4.0, 2.0, 1.0, 1.0, 3.0])
        torch.testing.assert_close(layer.weight * row[:, None], before)

    def test_what_is_no_norm_is_a_mistake_of_ours(self):
        with pytest.raises(TypeError, match="no norm to fold into"):
            IntoNorm("inner").divide(nn.ModuleDict({"inner": nn.GELU()}), torch.ones(3))


class TestSearch:
    def error(self, weight, x, factors) -> float:
        """Of the outputs with both sides rounded, in numpy's arithmetic."""
        importance = x.square().mean(0) / factors.square()
        values = nearest(weight * factors, INT4, importance).values().double().numpy()
        rows = (x / factors).double().numpy()
        scale = np.abs(rows).max(1, keepdims=True) / 127
        out = (np.rint(rows / scale) * scale) @ values.T
        right = x.double().numpy() @ weight.double().numpy().T
        return float(((out - right) ** 2).sum() / (right**2).sum())

    def test_large_channels_get_large_weights_and_the_layer_errs_less(self):
        x = uneven()
        weight = torch.tensor(np.random.default_rng(1).normal(size=(48, 64)) * 0.1).float()
        statistics = seen(x)
        found = find_factors([weight], [INT4], statistics, IntoNorm("any"), Scaling())
        assert found is not None
        exponent, factors = found
        assert 0 < exponent <= 1
        assert set(factors.argsort(descending=True)[:3].tolist()) == {3, 17, 40}
        sample = statistics.sample
        plain = self.error(weight, sample, torch.ones(64))
        assert self.error(weight, sample, factors) < 0.7 * plain

    def test_it_takes_the_best_of_the_exponents(self):
        x = uneven()
        weight = torch.tensor(np.random.default_rng(2).normal(size=(16, 64)) * 0.1).float()
        statistics = seen(x)
        found = find_factors([weight], [INT4], statistics, IntoNorm("any"), Scaling(steps=4))
        assert found is not None
        magnitude = statistics.mean_magnitude
        errors = []
        for exponent in (0.0, 0.25, 0.5, 0.75, 1.0):
            factors = magnitude**exponent
            factors = factors / (factors.max() * factors.min()).sqrt()
            errors.append(self.error(weight, statistics.sample, factors))
        assert found[0] == np.argmin(errors) / 4
        assert found[0] > 0

    def test_nothing_is_folded_where_nothing_helps(self):
        eye = torch.eye(64) * 7  # every group holds one weight: its rounding errs nowhere
        x = torch.ones(50, 64)
        assert find_factors([eye], [INT4], seen(x), IntoNorm("any"), Scaling()) is None

    def test_channels_that_never_spoke_keep_their_weights(self):
        x = uneven()
        x[:, 5] = 0
        weight = torch.randn(8, 64)
        found = find_factors([weight], [INT4], seen(x), IntoNorm("any"), Scaling())
        assert found is not None
        assert float(found[1][5]) == 1.0
        assert bool(found[1].isfinite().all())

    def test_rows_are_rounded_as_the_kernels_round_them(self):
        x = torch.tensor([[1.0, -0.5, 0.25], [0.0, 0.0, 0.0], [-254.0, 3.0, 0.9]])
        expected = [[1.0, -64 / 127, 32 / 127], [0, 0, 0], [-254, 4, 0]]
        np.testing.assert_allclose(rounded_rows(x), expected, atol=1e-6)

    def test_a_search_that_tries_nothing_is_refused(self):
        with pytest.raises(ConfigError, match="steps is 0"):
            Scaling(steps=0)


class TestSensitivity:
    def layers(self) -> list[Sensitivity]:
        numbers = [(0.5, (64, 64)), (0.4, (16, 64)), (0.9, (64, 256)), (0.1, (32, 128))]
        return [
            Sensitivity(name=f"layer{i}", shape=shape, harm4=harm, harm8=harm / 100)
            for i, (harm, shape) in enumerate(numbers)
        ]

    @pytest.mark.parametrize("scheme", [INT4, INT8])
    @pytest.mark.parametrize("shape", [(64, 64), (33, 130), (16, 4304)])
    def test_bytes_are_those_of_the_packed_tensors(self, scheme, shape):
        parts = nearest(torch.randn(shape), scheme).parts().values()
        assert stored_bytes(scheme, *shape) == sum(t.numel() * t.element_size() for t in parts)

    def test_all_have_eight_bits_if_there_is_room_and_four_if_there_is_none(self):
        layers = self.layers()
        full = sum(stored_bytes(INT8, *layer.shape) for layer in layers)
        least = sum(stored_bytes(INT4, *layer.shape) for layer in layers)
        assert set(choose_schemes(layers, full).values()) == {INT8}
        assert set(choose_schemes(layers, least).values()) == {INT4}

    def test_the_budget_holds_and_bytes_go_where_they_prevent_most(self):
        layers = self.layers()
        least = sum(stored_bytes(INT4, *layer.shape) for layer in layers)
        for spare in range(0, 12_000, 500):
            chosen = choose_schemes(layers, least + spare)
            used = sum(stored_bytes(chosen[layer.name], *layer.shape) for layer in layers)
            assert used <= least + spare
            for one, other in itertools.permutations(layers, 2):
                if chosen[one.name] == INT4 and chosen[other.name] == INT8:
                    assert one.gain <= other.gain or one.more_bytes > least + spare - used

    def test_a_layer_that_int8_does_not_help_keeps_four_bits(self):
        layer = Sensitivity(name="a", shape=(64, 64), harm4=0.0, harm8=0.0)
        assert choose_schemes([layer], 10**9) == {"a": INT4}

    def test_a_budget_below_four_bits_is_refused(self):
        with pytest.raises(InputError, match=r"a budget of 10 bytes.*take 13,"):
            choose_schemes(self.layers(), 10)
