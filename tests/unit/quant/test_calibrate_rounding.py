"""Rounding against the same written plainly: one column, one inverse, one update at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heliodor.errors import ConfigError, InputError
from heliodor.quant.calibrate.codes import Codes, fit_scales, nearest
from heliodor.quant.calibrate.rounding import Rounding, round_weight
from heliodor.quant.calibrate.statistics import Statistics, spans
from heliodor.quant.pack import decode
from heliodor.quant.scheme import GROUP, INT4, INT8, Scheme


def correlated(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Rows whose channels have much in common and are of different size."""
    random = np.random.default_rng(seed)
    common = random.normal(size=(count, 5)) @ random.normal(size=(5, width))
    x = common + 0.3 * random.normal(size=(count, width))
    return torch.tensor(x * random.uniform(0.2, 3.0, width), dtype=torch.float32)


def weight(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed + 99).normal(size=(rows, width)) * 0.1).float()


def seen(x: torch.Tensor, widest: int = 4096) -> Statistics:
    statistics = Statistics.empty(x.shape[1], widest)
    statistics.add(x)
    return statistics


def limits(scheme: Scheme) -> tuple[int, int]:
    return (-127, 127) if scheme == INT8 else (-8, 7)


def plain_reference(
    w: torch.Tensor, x: torch.Tensor, scheme: Scheme, how: Rounding, widest: int
) -> np.ndarray:
    """Values after optimal brain quantisation, column by column, in float64.

    The inverse of what is left is downdated after every column, and every later column is moved at
    once: no Cholesky factor, no panels. Rows that the nearest codes serve better keep those.
    """
    exact, low_high = x.double().numpy(), limits(scheme)
    importance = torch.tensor((exact**2).mean(0)).float()
    scale = fit_scales(w, scheme, importance).numpy().astype(np.float64)
    before = nearest(w, scheme, importance).values().numpy().astype(np.float64)
    left = w.double().numpy().copy()
    values = np.zeros_like(left)
    error_before, error_after = 0.0, 0.0
    for start, end in spans(w.shape[1], widest):
        h = exact[:, start:end].T @ exact[:, start:end]
        power = np.diag(h).copy()
        order = np.argsort(-power, kind="stable") if how.ordered else np.arange(end - start)
        inverse = np.linalg.inv(h + how.damping * power.mean() * np.eye(end - start))
        for place, column in enumerate(order):
            channel = start + column
            group = 0 if scheme == INT8 else channel // GROUP
            if not how.ordered and scheme == INT4 and channel % GROUP == 0:
                inside = slice(channel, min(channel + GROUP, w.shape[1]))
                now = torch.tensor(left[:, inside]).float()
                scale[:, group] = fit_scales(now, scheme, importance[inside])[:, 0].numpy()
            code = np.clip(np.rint(left[:, channel] / scale[:, group]), *low_high)
            values[:, channel] = code * scale[:, group]
            later = order[place + 1 :]
            missed = (left[:, channel] - values[:, channel]) / inverse[column, column]
            left[:, start + later] -= missed[:, None] * inverse[column, later]
            inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        for name, found in (("before", before), ("after", values)):
            off = (found - w.double().numpy())[:, start:end]
            error = ((off @ h) * off).sum(1)
            error_before, error_after = (
                (error_before + error, error_after)
                if name == "before"
                else (error_before, error_after + error)
            )
    better = np.asarray(error_after < error_before)
    return np.where(better[:, None], values, before)


class TestRounding:
    @pytest.mark.parametrize("scheme", [INT4, INT8])
    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize(("width", "widest"), [(192, 4096), (100, 4096), (192, 128), (64, 64)])
    def test_is_the_plain_algorithm(self, scheme, ordered, width, widest):
        x, w = correlated(400, width), weight(12, width)
        how = Rounding(damping=0.05, ordered=ordered)
        made = round_weight(w, scheme, seen(x, widest), how).values().numpy()
        expected = plain_reference(w, x, scheme, how, widest)
        same = np.isclose(made, expected, rtol=1e-5, atol=1e-7).all(1)
        assert same.mean() >= 11 / 12  # a tie may break the other way in float32, and then a row
        off = [((x.double().numpy() @ (v - w.numpy()).T) ** 2).sum() for v in (made, expected)]
        assert off[0] == pytest.approx(off[1], rel=0.02)

    @pytest.mark.parametrize("scheme", [INT4, INT8])
    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize("seed", range(4))
    def test_no_row_is_worse_than_the_nearest_codes(self, scheme, ordered, seed):
        x, w = correlated(30, 128, seed), weight(20, 128, seed)  # fewer rows than channels
        statistics = seen(x)
        made = round_weight(w, scheme, statistics, Rounding(ordered=ordered))
        plain = nearest(w, scheme, statistics.importance)
        exact = x.double().numpy()
        errors = [
            ((exact @ (codes.values() - w).double().numpy().T) ** 2).sum(0)
            for codes in (made, plain)
        ]
        assert (errors[0] <= errors[1] * (1 + 1e-4)).all()

    @pytest.mark.parametrize("ordered", [True, False])
    def test_on_correlated_inputs_it_is_much_better(self, ordered):
        x, w = correlated(500, 128), weight(32, 128)
        statistics = seen(x)
        made = round_weight(w, INT4, statistics, Rounding(ordered=ordered))
        plain = nearest(w, INT4, statistics.importance)
        after, before = (statistics.error(c.values() - w).sum() for c in (made, plain))
        assert after < 0.4 * before

    def test_without_data_or_method_the_nearest_codes_are_taken(self):
        x, w = correlated(50, 64), weight(4, 64)
        plain = nearest(w, INT4, seen(x).importance)
        assert torch.equal(round_weight(w, INT4, seen(x), None).codes, plain.codes)
        blank = Statistics.empty(64)
        found = round_weight(w, INT4, blank, Rounding()).values()
        assert ((found - w).abs() <= w.abs().amax(1, keepdim=True) / 7).all()

    def test_a_channel_that_never_spoke_gets_codes_too(self):
        x, w = correlated(200, 64), weight(5, 64)
        x[:, 7] = 0
        made = round_weight(w, INT8, seen(x), Rounding()).values()
        assert float((made[:, 7] - w[:, 7]).abs().max()) < 0.01

    @pytest.mark.parametrize("damping", [0.0, -1.0, 1.5, float("nan")])
    def test_a_share_that_is_none_is_refused(self, damping):
        with pytest.raises(ConfigError, match="damping is"):
            Rounding(damping=damping)


class TestCodes:
    def test_scales_are_as_good_as_a_fine_search(self):
        w, importance = weight(40, 64), torch.rand(64) + 0.05
        found = nearest(w, INT4, importance).values()
        error = ((found - w).square() * importance).sum(1)
        ends = torch.cat((torch.linspace(-14, -5, 181), torch.linspace(5, 14, 181)))
        extreme = w.gather(1, w.abs().argmax(1, keepdim=True))
        scales = (extreme / ends).to(torch.bfloat16).float()  # [40 361]
        tried = (w[:, None] / scales[..., None]).round().clamp(-8, 7) * scales[..., None]
        best = ((tried - w[:, None]).square() * importance).sum(-1).amin(1)
        assert float((error / best).mean()) < 1.05
        assert float((error / best).max()) < 1.4

    def test_important_channels_are_kept_at_the_cost_of_others(self):
        w, importance = weight(64, 64), torch.full((64,), 1e-3)
        importance[[2, 30, 31, 60]] = 1.0
        alike = (nearest(w, INT4).values() - w).square().sum(0)
        other = (nearest(w, INT4, importance).values() - w).square().sum(0)
        assert other[importance == 1].sum() < 0.8 * alike[importance == 1].sum()
        assert other[importance < 1].sum() > alike[importance < 1].sum()

    @pytest.mark.parametrize("scheme", [INT4, INT8])
    @pytest.mark.parametrize("shape", [(16, 64), (5, 100), (33, 130)])
    def test_packed_they_stand_for_the_same_values(self, scheme, shape):
        codes = nearest(weight(*shape), scheme)
        assert torch.equal(decode(codes.parts(), scheme, *shape), codes.values())
        assert isinstance(codes, Codes)

    def test_zeros_stay_zeros(self):
        assert not nearest(torch.zeros(3, 70), INT4).values().any()
        assert not nearest(torch.zeros(3, 70), INT8).values().any()

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_weight_that_is_no_number_is_refused(self, bad):
        w = weight(3, 64)
        w[2, 5] = bad
        with pytest.raises(InputError, match="a weight is NaN or infinite"):
            nearest(w, INT4)
