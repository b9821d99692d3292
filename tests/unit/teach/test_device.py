"""Where a run computes: batches go along whole, and a device that is not there is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.teach import small

from heliodor.errors import TrainingError
from heliodor.teach.loop import moved, train


def tensors_in(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple):
        return [found for member in value for found in tensors_in(member)]
    slots = getattr(value, "__slots__", ())
    return [found for name in slots for found in tensors_in(getattr(value, name))]


def test_every_tensor_of_a_batch_moves_and_the_rest_stays() -> None:
    lesson = small.objective(images=4)
    batch = lesson.batch(0)
    there = moved(batch, torch.device("meta"))
    assert len(tensors_in(batch)) == 4 + 5 * len(batch.groups)
    assert [t.shape for t in tensors_in(there)] == [t.shape for t in tensors_in(batch)]
    assert {t.device.type for t in tensors_in(there)} == {"meta"}
    assert {t.device.type for t in tensors_in(batch)} == {"cpu"}
    assert [rows.tasks for rows in there.groups] == [rows.tasks for rows in batch.groups]


def test_moving_changes_no_value() -> None:
    batch = small.objective().batch(1)
    here = moved(batch, torch.device("cpu"))
    for one, other in zip(tensors_in(here), tensors_in(batch), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "xpu"])
def test_a_device_that_is_not_there_is_named_before_anything_is_written(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=f"device '{name}' cannot be used: .*; train on 'cpu'"):
        train(small.run(device=name), small.objective(), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
def test_a_step_on_cuda_is_a_step_on_the_processor(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    ends = []
    for device in ("cpu", "cuda"):
        lesson = small.objective()
        run = small.run(steps=4, device=device, bfloat16=False)
        train(run, lesson, tmp_path / device, quiet=True)
        ends.append({name: value.cpu() for name, value in lesson.model.state_dict().items()})
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-3, atol=1e-4)
