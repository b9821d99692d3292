"""The average of the weights against the same sums in plain numbers, alone and over a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.teach import small
from torch import nn

from heliodor.errors import TrainingError
from heliodor.teach.average import Average
from heliodor.teach.loop import train
from heliodor.teach.state import newest_model


def test_early_steps_weigh_more_and_later_ones_what_decay_leaves() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 3.0)
    average, wanted = Average(model, 0.8), 3.0
    for step in range(60):
        value = float((step * 7) % 5)
        nn.init.constant_(model.weight, value)
        average.follow(step)
        share = min(0.8, (1 + step) / (10 + step))
        wanted = share * wanted + (1 - share) * value
        assert float(average.tensors()["weight"]) == pytest.approx(wanted, rel=1e-5)
    assert min(0.8, 36 / 45) == 0.8  # both sides of the minimum were taken
    average.settle()
    assert float(model.weight.detach()) == pytest.approx(wanted, rel=1e-5)


def test_what_is_frozen_is_not_averaged() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad = False
    assert set(Average(model, 0.9).tensors()) == {"weight"}


@pytest.mark.parametrize("decay", [1.0, 1.5, -0.1])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(TrainingError, match=f"average={decay}: a share in 0..1"):
        Average(nn.Linear(1, 1), decay)


def test_an_average_of_another_shape_is_refused() -> None:
    average = Average(nn.Linear(2, 2), 0.9)
    with pytest.raises(TrainingError, match="an average of 2 parameters, not of these 2"):
        average.restore(Average(nn.Linear(3, 2), 0.9).tensors())


def test_a_run_ends_with_the_average_of_its_weights_even_when_resumed(tmp_path: Path) -> None:
    """The same weights at the end, from the finished run again, and for a run that starts there."""
    settings = {"average": 0.6, "bfloat16": False}
    whole, lesson = small.run(steps=5, **settings), small.objective()
    train(whole, lesson, tmp_path / "whole", quiet=True)
    ended = {name: value.clone() for name, value in lesson.model.state_dict().items()}

    plain = small.objective()
    train(small.run(steps=5, bfloat16=False), plain, tmp_path / "plain", quiet=True)
    moved = [n for n, v in plain.model.state_dict().items() if not torch.equal(v, ended[n])]
    assert len(moved) > 10  # the last weights are not their average

    again = small.objective()
    at = train(whole, again, tmp_path / "whole", quiet=True)  # nothing is left to do
    assert at.step == 5
    started = newest_model(tmp_path / "whole")
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, ended[name]), name
        assert torch.equal(value, started[name]), name
