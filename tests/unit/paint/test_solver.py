"""Solvers on equations whose solutions are known, and against their tableaus written plainly."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from heliodor.errors import CancelledError, InputError, PaintingError
from heliodor.paint.integrate import Progress, integrate
from heliodor.paint.skipping import StepSkipping
from heliodor.paint.solver import RK4, SOLVERS, Euler, Heun, Midpoint, choose_solver

ALL = [Euler(), Midpoint(), Heun(), RK4()]


def even(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def error(solver, steps: int) -> float:
    """Of dx/dt = x cos t from x = 1: the solution at 1 is exp(sin 1)."""
    start = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    end = integrate(lambda t, x: x * torch.cos(t), start, even(steps), solver).latents
    return abs(float(end) - math.exp(math.sin(1.0)))


@pytest.mark.parametrize("solver", ALL, ids=lambda solver: solver.name)
def test_the_error_falls_with_the_order(solver):
    assert math.log2(error(solver, 20) / error(solver, 40)) == pytest.approx(solver.order, abs=0.2)


@pytest.mark.parametrize("solver", ALL, ids=lambda solver: solver.name)
def test_the_calls_are_those_that_are_promised(solver):
    calls = []

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        calls.append(float(t))
        return x

    integrate(velocity, torch.ones(1, 1, 1, 1), torch.linspace(0, 1, 4), solver)
    assert len(calls) == 3 * solver.calls
    assert all(0 <= time <= 1 for time in calls)


TABLEAUS = {
    "euler": ([0], [[]], [1]),
    "midpoint": ([0, 1 / 2], [[], [1 / 2]], [0, 1]),
    "heun": ([0, 1], [[], [1]], [1 / 2, 1 / 2]),
    "rk4": (
        [0, 1 / 3, 2 / 3, 1],
        [[], [1 / 3], [-1 / 3, 1], [1, -1, 1]],
        [1 / 8, 3 / 8, 3 / 8, 1 / 8],
    ),
}


@pytest.mark.parametrize("name", TABLEAUS)
def test_a_step_is_its_tableau(name):
    def velocity(t, x):
        return np.sin(3 * t) - x * x + t * x[::-1]

    nodes, rows, weights = TABLEAUS[name]
    start, width = 0.25, 0.4
    x = np.array([0.3, -1.2, 0.7])
    slopes: list[np.ndarray] = []
    for node, row in zip(nodes, rows, strict=True):
        moved = x + width * sum((a * k for a, k in zip(row, slopes, strict=True)), np.zeros(3))
        slopes.append(velocity(start + node * width, moved))
    wanted = x + width * sum(w * k for w, k in zip(weights, slopes, strict=True))
    found = SOLVERS[name].step(
        lambda t, x: torch.from_numpy(velocity(float(t), x.numpy())),
        torch.from_numpy(x),
        torch.tensor(start, dtype=torch.float64),
        torch.tensor(start + width, dtype=torch.float64),
    )
    assert found.numpy() == pytest.approx(wanted, abs=1e-14)


def test_solvers_are_found_by_name():
    assert [choose_solver(name) for name in ("euler", "midpoint", "heun", "rk4")] == ALL
    assert choose_solver(RK4()) == RK4()


@pytest.mark.parametrize("solver", ["dopri5", "Euler", 4, None, Euler])
def test_what_is_no_solver_is_refused(solver):
    with pytest.raises(InputError, match="solver is"):
        choose_solver(solver)


def walk(**options):
    """Ten Euler steps of a rotation, seen from outside."""
    seen: list[Progress] = []
    calls = [0]

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        calls[0] += 1
        return torch.stack((-x[:, 0], x[:, 1] * 0.5), 1)

    start = torch.arange(1, 9, dtype=torch.float64).view(1, 2, 2, 2)
    path = integrate(velocity, start, even(10), Euler(), watch=seen.append, **options)
    return path, seen, calls[0]


def test_progress_tells_where_the_path_is():
    path, seen, _ = walk()
    assert [p.step for p in seen] == list(range(1, 11))
    assert {p.steps for p in seen} == {10}
    assert [p.time for p in seen] == pytest.approx([k / 10 for k in range(1, 11)])
    assert all(b.seconds >= a.seconds for a, b in pairwise(seen))
    assert torch.equal(seen[-1].latents, path.latents)
    first = seen[0]
    # dx/dt = -x in channel 0: after one step 0.9 x0, and straight on from there 0.9 x0 - 0.9 x0.
    assert first.latents[0, 0, 0, 0].item() == pytest.approx(0.9)
    assert first.estimate[0, 0, 0, 0].item() == pytest.approx(0.9 - 0.9 * 1.0)
    assert torch.equal(seen[-1].estimate, path.latents)


def test_a_path_can_be_stopped_between_steps():
    answers = iter([False, False, False, True])
    with pytest.raises(CancelledError, match="after 3 of 10 steps"):
        walk(cancelled=lambda: next(answers))


def test_nan_stops_the_path_at_its_step():
    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return x if t < 0.35 else x * torch.nan

    with pytest.raises(PaintingError, match=r"step 5 of 10 \(time 0.5000\) came to NaN .* 100%"):
        integrate(velocity, torch.ones(1, 1, 2, 2), even(10), Euler())


def test_a_threshold_of_zero_skips_nothing():
    plain, _, calls = walk()
    path, _, skipping_calls = walk(skipping=StepSkipping(0.0))
    assert torch.equal(path.latents, plain.latents)
    assert (path.skipped, calls, skipping_calls) == (0, 10, 10)


def test_skipped_steps_cost_no_call_and_an_error_that_grows():
    plain, _, _ = walk()
    errors, skipped = [], []
    for threshold in (0.1, 0.3, 1.0):
        path, seen, calls = walk(skipping=StepSkipping(threshold))
        assert calls + path.skipped == 10
        assert seen[-1].skipped == path.skipped
        errors.append(
            float((path.latents - plain.latents).abs().mean() / plain.latents.abs().mean())
        )
        skipped.append(path.skipped)
    assert skipped == sorted(skipped)
    assert 0 < skipped[0] < skipped[-1] == 8  # the first and the last step are always computed
    assert errors == sorted(errors)
    assert 0 < errors[0] < 0.05 < errors[-1]


def test_a_straight_path_loses_nothing_by_skipping():
    slope = torch.tensor([1.0, -2.0], dtype=torch.float64).view(1, 2, 1, 1)
    start = torch.ones(1, 2, 1, 1, dtype=torch.float64)
    path = integrate(lambda t, x: slope, start, even(10), RK4(), skipping=StepSkipping(10.0))
    assert path.skipped == 8
    assert path.latents.numpy() == pytest.approx((start + slope).numpy(), abs=1e-12)


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_a_threshold_is_a_distance(threshold):
    with pytest.raises(InputError, match="threshold is"):
        StepSkipping(threshold)
