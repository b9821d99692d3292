"""Time grids against the numbers printed for them, plain numpy, and diffusers' scheduler."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from heliodor.errors import InputError
from heliodor.paint.schedule import DiffusersGrid, OfficialGrid, Times, choose_grid, resume_from


def scheduler(shift: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """diffusers' model times and sigmas."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
            FlowMatchEulerDiscreteScheduler,
        )
    made: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
    made.set_timesteps(steps)
    return 1 - made.timesteps.numpy() / 1000, made.sigmas.numpy()


@pytest.mark.parametrize(
    ("steps", "points"),
    [
        (5, [0, 0.07692, 0.2, 0.42857, 1]),
        (10, [0, 0.0303, 0.06667, 0.11111, 0.16667, 0.2381, 0.33333, 0.46667, 0.66667, 1]),
    ],
)
def test_the_official_grid_has_the_published_points(steps, points):
    assert OfficialGrid().times(steps).tolist() == pytest.approx(points, abs=6e-6)


@pytest.mark.parametrize("shift", [0.5, 1.0, 4.0, 6.0])
def test_the_official_grid_is_its_formula(shift):
    even = np.arange(20) / 19
    wanted = even / (even + shift - shift * even)
    assert OfficialGrid(shift=shift).times(20).numpy() == pytest.approx(wanted, abs=1e-7)


def test_the_tie_at_twenty_points_falls_as_in_float32():
    assert OfficialGrid().times(20)[12].item() < 0.3


@pytest.mark.parametrize("shift", [1.0, 3.0, 4.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_diffusers_grid_is_its_schedulers(shift, steps):
    times, sigmas = scheduler(shift, steps)
    ours = DiffusersGrid(shift=shift).times(steps).numpy()
    assert ours.shape == (steps + 1,)
    assert ours[:-1] == pytest.approx(times, abs=2e-7)
    assert 1 - ours == pytest.approx(sigmas, abs=2e-7)


def test_the_last_step_of_diffusers_is_a_thousandth():
    times = DiffusersGrid().times(30)
    assert times[[1, 2, -2, -1]].tolist() == pytest.approx([0.03445, 0.0689, 0.999, 1], abs=1e-5)


def test_ones_own_points_are_kept():
    assert Times((0.0, 0.25, 1.0)).times(99).tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("points", [(), (0.0,), (0.1, 1.0), (0.0, 0.9), (0.0, 0.5, 0.5, 1.0)])
def test_points_that_lead_nowhere_are_refused(points):
    with pytest.raises(InputError, match="rising from 0"):
        Times(points)


@pytest.mark.parametrize("steps", [1, 0, -3, 2.5, True, "7"])
def test_the_official_grid_needs_two_points(steps):
    with pytest.raises(InputError, match=r"steps is .*from 2: steps of the official grid counts"):
        OfficialGrid().times(steps)


@pytest.mark.parametrize("steps", [0, -1, None])
def test_diffusers_grid_needs_a_step(steps):
    with pytest.raises(InputError, match="from 1"):
        DiffusersGrid().times(steps)


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [OfficialGrid, DiffusersGrid])
def test_a_shift_is_above_zero(kind, shift):
    with pytest.raises(InputError, match="shift is"):
        kind(shift=shift)


def test_grids_are_found_by_name():
    assert choose_grid("official") == OfficialGrid(shift=4.0)
    assert choose_grid("official", 1.0) == OfficialGrid(shift=1.0)
    assert choose_grid("diffusers") == DiffusersGrid(shift=1.0)
    own = Times((0.0, 1.0))
    assert choose_grid(own) is own


@pytest.mark.parametrize(
    ("grid", "shift", "message"),
    [
        ("karras", None, "expected one of 'official', 'diffusers'"),
        (3, None, "expected 'official', 'diffusers' or an object"),
        (Times((0.0, 1.0)), 2.0, "shift belongs to a grid's name"),
    ],
)
def test_what_is_no_grid_is_refused(grid, shift, message):
    with pytest.raises(InputError, match=message):
        choose_grid(grid, shift)


@pytest.mark.parametrize(("strength", "left"), [(1.0, 10), (0.6, 6), (0.3, 3), (0.25, 3)])
def test_strength_cuts_the_grid_as_the_reference_does(strength, left):
    times = OfficialGrid().times(10)
    rest = resume_from(times, strength)
    assert rest.tolist() == times[int(10 * (1 - strength)) :].tolist()
    assert rest.shape == (left,)


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.01, float("nan")])
def test_a_strength_lies_in_its_range(strength):
    with pytest.raises(InputError, match="strength is"):
        resume_from(torch.linspace(0, 1, 5), strength)


def test_a_strength_that_leaves_no_step_is_refused():
    with pytest.raises(InputError, match="leaves none of 4 intervals"):
        resume_from(torch.linspace(0, 1, 5), 0.1)
