"""What goes into a layer, against sums written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heliodor.errors import InputError
from heliodor.quant.calibrate.statistics import Statistics, spans


def rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, width)) @ random.normal(size=(width, width))
    return torch.tensor(mixed / width**0.5, dtype=torch.float32)


class TestSpans:
    @pytest.mark.parametrize(
        ("width", "widest", "expected"),
        [
            (64, 4096, ((0, 64),)),
            (56, 4096, ((0, 56),)),
            (4304, 4096, ((0, 2176), (2176, 4304))),
            (16384, 4096, ((0, 4096), (4096, 8192), (8192, 12288), (12288, 16384))),
            (200, 64, ((0, 64), (64, 128), (128, 192), (192, 200))),
        ],
    )
    def test_are_even_and_whole_groups(self, width, widest, expected):
        assert spans(width, widest) == expected


class TestStatistics:
    def test_are_the_sums_over_all_rows(self):
        x = rows(50, 6)
        seen = Statistics.empty(6)
        seen.add(x[:20].view(2, 10, 6))
        seen.add(x[20:])
        exact = x.double().numpy()
        assert seen.rows == 50
        np.testing.assert_allclose(seen.moments[0], exact.T @ exact, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(seen.mean_magnitude, np.abs(exact).mean(0), rtol=1e-5)
        np.testing.assert_allclose(seen.importance, (exact**2).mean(0), rtol=1e-5)

    def test_a_row_that_counts_twice_is_a_row_given_twice(self):
        x, counts = rows(12, 6), torch.tensor([1.0, 2.0, 1.0, 3.0] * 3)
        seen, again = Statistics.empty(6), Statistics.empty(6)
        seen.add(x.view(2, 6, 6), keep=4, weights=counts)
        again.add(x.repeat_interleave(counts.long(), dim=0))
        assert seen.rows == again.rows == 21
        torch.testing.assert_close(seen.moments[0], again.moments[0])
        torch.testing.assert_close(seen.mean_magnitude, again.mean_magnitude)
        assert torch.equal(seen.sample, x[[0, 3, 7, 11]])  # at weights 0, 7, 14 and 21 of 21

    def test_keep_rows_evenly_spaced(self):
        x = rows(9, 4)
        seen = Statistics.empty(4)
        seen.add(x, keep=3)
        seen.add(x[:2], keep=3)
        assert torch.equal(seen.sample, torch.cat((x[[0, 4, 8]], x[:2])))

    def test_error_is_the_mean_squared_change_of_the_outputs(self):
        x, change = rows(40, 8), rows(3, 8, seed=1)
        seen = Statistics.empty(8)
        seen.add(x)
        exact = ((x.double() @ change.double().T) ** 2).mean(0)
        np.testing.assert_allclose(seen.error(change), exact, rtol=1e-4)

    def test_spans_leave_out_what_channels_of_two_have_in_common(self):
        x, change = rows(40, 128), rows(3, 128, seed=1)
        seen = Statistics.empty(128, widest=64)
        seen.add(x)
        parts = [
            (x[:, s].double() @ change[:, s].double().T) ** 2 for s in (slice(64), slice(64, 128))
        ]
        np.testing.assert_allclose(seen.error(change), (parts[0] + parts[1]).mean(0), rtol=1e-4)

    def test_divided_they_are_those_of_divided_rows(self):
        x, factors = rows(30, 128), torch.linspace(0.3, 4.0, 128)
        seen, after = Statistics.empty(128, widest=64), Statistics.empty(128, widest=64)
        seen.add(x, keep=5)
        seen.divide(factors)
        after.add(x / factors, keep=5)
        torch.testing.assert_close(seen.sample, after.sample)
        torch.testing.assert_close(seen.importance, after.importance)
        torch.testing.assert_close(seen.mean_magnitude, after.mean_magnitude)
        for one, other in zip(seen.moments, after.moments, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_numbers_that_are_none_are_refused(self, bad):
        x = rows(3, 4)
        x[1, 2] = bad
        with pytest.raises(InputError, match="activation is NaN or infinite"):
            Statistics.empty(4).add(x)
