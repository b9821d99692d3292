"""Guidance against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heliodor.errors import InputError
from heliodor.paint.guidance import Guidance, choose_guidance

RANDOM = np.random.default_rng(7)
WITH = RANDOM.normal(size=(2, 4, 3, 5)).astype(np.float32)
WITHOUT = RANDOM.normal(size=(2, 4, 3, 5)).astype(np.float32)


def combined(guidance: Guidance) -> np.ndarray:
    return guidance.combine(torch.from_numpy(WITH), torch.from_numpy(WITHOUT)).numpy()


def test_three_channels_are_guided_and_the_last_keeps_the_prompt():
    found = combined(Guidance(scale=4.0))
    assert found[:, :3] == pytest.approx(
        WITHOUT[:, :3] + 4 * (WITH[:, :3] - WITHOUT[:, :3]), abs=1e-5
    )
    assert np.array_equal(found[:, 3], WITH[:, 3])


def test_all_channels_can_be_guided():
    found = combined(Guidance(scale=2.5, channels=None))
    assert found == pytest.approx(WITHOUT + 2.5 * (WITH - WITHOUT), abs=1e-5)
    assert np.array_equal(found, combined(Guidance(scale=2.5, channels=4)))


def test_a_scale_of_zero_leaves_what_is_painted_without():
    assert combined(Guidance(scale=0.0))[:, :3] == pytest.approx(WITHOUT[:, :3], abs=1e-6)


def test_the_interval_says_when():
    guidance = Guidance(interval=(0.2, 0.7))
    times = [0.0, 0.19, 0.2, 0.5, 0.7, 1.0]
    assert [guidance.active(t) for t in times] == [False, False, True, True, False, False]
    assert (guidance.ever, guidance.always) == (True, False)


def test_the_whole_interval_has_no_end():
    guidance = Guidance()
    assert guidance.active(0.0)
    assert guidance.active(1.0)
    assert guidance.always


def test_a_scale_of_one_needs_one_velocity():
    guidance = Guidance(scale=1.0)
    assert not guidance.active(0.5)
    assert (guidance.ever, guidance.always) == (False, False)


def test_a_number_is_a_scale():
    assert choose_guidance(3) == Guidance(scale=3.0, channels=3)
    own = Guidance(scale=2.0, channels=None)
    assert choose_guidance(own) is own


@pytest.mark.parametrize("given", ["4", None, True, -1.0, float("nan"), float("inf")])
def test_what_is_no_scale_is_refused(given):
    with pytest.raises(InputError, match="guidance is"):
        choose_guidance(given)


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.7, 0.2), (-0.1, 1.0), (0.0, 1.5)])
def test_an_interval_lies_in_the_path(interval):
    with pytest.raises(InputError, match="the guidance interval is"):
        Guidance(interval=interval)


def test_no_channel_is_no_guidance():
    with pytest.raises(InputError, match="channels is 0"):
        Guidance(channels=0)
