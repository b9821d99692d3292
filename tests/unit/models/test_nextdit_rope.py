"""Positions in two axes, and the rules that stretch them, against the formulas."""

from __future__ import annotations

import cmath
import math

import pytest
import torch

from heliodor.errors import InputError
from heliodor.models.nextdit_rope import (
    DIFFUSERS,
    RELEASED,
    Scaling,
    TimeAware,
    Unscaled,
    Watershed,
    rotate_pairs,
    turns,
)

PUBLISHED = [1.0, 0.599484, 0.359381, 0.215443, 0.129155, 0.077426, 0.046416, 0.027826, 0.016681]
PUBLISHED += [0.01, 0.005995, 0.003594, 0.002154, 0.001292, 0.000774, 0.000464, 0.000278, 0.000167]
"""Of the released model, heads of 72 channels."""


def frequencies(rule: Scaling, t: float, ratio: float, head_dim: int = 72) -> list[float]:
    found = rule.frequencies(rule.stage(t), ratio=ratio, head_dim=head_dim, base=10000.0)
    assert found.dtype == torch.float32
    return found.tolist()


def plain(i: int, head_dim: int = 72, base: float = 10000.0) -> float:
    return base ** (-4 * i / head_dim)


def test_the_released_frequencies() -> None:
    assert frequencies(Unscaled(), 0.7, 2.0) == pytest.approx(PUBLISHED, abs=6e-7)


def test_the_watershed_interpolates_and_then_grows_the_base_by_the_ratio_itself() -> None:
    early = frequencies(RELEASED, 0.29, 1.5)
    late = frequencies(RELEASED, 0.3, 1.5)
    assert early == pytest.approx([plain(i) / 1.5 for i in range(18)], rel=1e-6)
    assert late == pytest.approx([plain(i, base=15000.0) for i in range(18)], rel=1e-6)


def test_smaller_pictures_are_stretched_by_diffusers_alone() -> None:
    as_trained = [plain(i) for i in range(18)]
    for t in (0.1, 0.9):
        assert frequencies(RELEASED, t, 0.866) == pytest.approx(as_trained, rel=1e-6)
        assert frequencies(DIFFUSERS, t, 0.866) == pytest.approx(
            [f / 0.866 for f in as_trained], rel=1e-6
        )


def test_a_factor_stands_in_for_the_ratio() -> None:
    rule = Watershed(factor=2.0)
    assert frequencies(rule, 0.0, 1.0) == pytest.approx([plain(i) / 2 for i in range(18)], rel=1e-6)
    assert frequencies(TimeAware(factor=2.0), 0.4, 7.0) == frequencies(TimeAware(), 0.4, 2.0)


@pytest.mark.parametrize("t", [0.0, 0.05, 0.35, 0.8, 1.0])
@pytest.mark.parametrize("ratio", [1.3, 2.0, 6.0])
def test_the_papers_rule(t: float, ratio: float) -> None:
    width = 71 * t + 1
    expected = [
        max(
            math.exp(-4 * i / 72 * (math.log(1e4) + 72 / width * math.log(ratio))), plain(i) / ratio
        )
        for i in range(18)
    ]
    assert frequencies(TimeAware(), t, ratio) == pytest.approx(expected, rel=2e-6)


def test_the_papers_rule_ends_where_the_watersheds_does_and_begins_near_it() -> None:
    assert frequencies(TimeAware(), 1.0, 2.0) == pytest.approx(
        frequencies(RELEASED, 1.0, 2.0), rel=1e-6
    )
    early = frequencies(TimeAware(), 0.0, 2.0)
    assert early[0] == 1.0
    assert early[1:] == pytest.approx(frequencies(RELEASED, 0.0, 2.0)[1:], rel=1e-6)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("rule", [Watershed, TimeAware])
def test_factors_that_no_picture_can_have(rule: type, factor: float) -> None:
    with pytest.raises(InputError, match="expected a number above 0, or None"):
        rule(factor=factor)


def test_the_axes_take_turns() -> None:
    rows, columns, frequency = 2, 3, [1.0, 0.25]
    found = turns(rows, columns, torch.tensor(frequency))
    expected = [
        [cmath.exp(1j * place * f) for f in frequency for place in (row, column)]
        for row in range(rows)
        for column in range(columns)
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.complex64))


def test_neighbouring_channels_are_turned_together() -> None:
    x = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    angles = torch.tensor([[0.3, -1.0], [2.0, 0.0], [0.5, 0.25]])
    found = rotate_pairs(x, torch.polar(torch.ones(3, 2), angles)[None, :, None])
    for batch, place, head, pair in ((0, 0, 0, 0), (1, 1, 1, 0), (1, 2, 0, 1)):
        real, imaginary = x[batch, place, head, 2 * pair : 2 * pair + 2].tolist()
        turned = complex(real, imaginary) * cmath.exp(1j * float(angles[place, pair]))
        got = found[batch, place, head, 2 * pair : 2 * pair + 2].tolist()
        assert got == pytest.approx([turned.real, turned.imag], abs=1e-6)


def test_half_precision_is_turned_in_float32() -> None:
    x = torch.randn(1, 2, 1, 4).bfloat16()
    turn = torch.polar(torch.ones(1, 2, 1, 2), torch.tensor([0.1, 0.2]).expand(1, 2, 1, 2))
    assert rotate_pairs(x, turn).dtype == torch.float32
    assert torch.equal(rotate_pairs(x, turn), rotate_pairs(x.float(), turn))
