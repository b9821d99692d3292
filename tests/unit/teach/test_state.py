"""States on disk: whole or not there, the newest two, only ever of the same run."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from heliodor.errors import CheckpointError, TrainingError
from heliodor.teach.average import Average
from heliodor.teach.optim import Adam, AdamConfig, Schedule
from heliodor.teach.state import (
    Resumed,
    Trained,
    find_states,
    newest_model,
    restore_state,
    save_state,
)


def network(width: int = 3, seed: int = 0) -> tuple[nn.Linear, Adam]:
    torch.manual_seed(seed)
    model = nn.Linear(width, 2)
    return model, Adam(model, AdamConfig(rate=0.1), Schedule(steps=10, warmup=0))


def trained(
    model: nn.Module, optimiser: Adam, fingerprint: str = "run", average: Average | None = None
) -> Trained:
    return Trained(model=model, optimiser=optimiser, average=average, fingerprint=fingerprint)


def walk(model: nn.Linear, optimiser: Adam, *steps: int) -> None:
    for step in steps:
        torch.manual_seed(100 + step)
        loss = model(torch.randn(4, model.weight.shape[1])).square().mean()
        loss.backward()
        optimiser.step(step)


def save(workdir: Path, step: int, fingerprint: str = "run") -> Path:
    model, optimiser = network()
    walk(model, optimiser, 0)
    at = Resumed(step=step, seconds=1.5)
    return save_state(workdir, trained(model, optimiser, fingerprint), at)


def names(workdir: Path) -> list[str]:
    return sorted(path.name for path in workdir.iterdir())


def test_a_restored_run_takes_the_very_same_steps(tmp_path: Path) -> None:
    model, optimiser = network()
    walk(model, optimiser, 0, 1, 2)
    at = Resumed(step=3, seconds=12.25)
    save_state(tmp_path, trained(model, optimiser), at)
    other, its_optimiser = network(seed=9)
    assert restore_state(tmp_path, trained(other, its_optimiser)) == at
    walk(model, optimiser, 3, 4)
    walk(other, its_optimiser, 3, 4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_an_empty_folder_has_nothing_to_restore(tmp_path: Path) -> None:
    model, optimiser = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert restore_state(tmp_path, trained(model, optimiser)) is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 9_999_999):
        save(tmp_path, step)
    assert names(tmp_path) == ["state-00000010", "state-09999999"]
    model, optimiser = network()
    restored = restore_state(tmp_path, trained(model, optimiser))
    assert restored == Resumed(step=9_999_999, seconds=1.5)


def test_a_state_without_its_mark_does_not_count_and_is_swept(tmp_path: Path) -> None:
    """What kill -9 leaves: a folder with weights, or part of them, and no run.json."""
    good = save(tmp_path, 5)
    torn = save(tmp_path, 6)
    (torn / "run.json").unlink()
    begun = tmp_path / "state-00000007"
    begun.mkdir()
    (begun / ".model.safetensors.0a1b2c3d.partial").write_bytes(b"x" * 100)
    model, optimiser = network()
    restored = restore_state(tmp_path, trained(model, optimiser))
    assert restored is not None
    assert restored.step == 5
    assert find_states(tmp_path) == [good]
    save(tmp_path, 8)
    assert names(tmp_path) == ["state-00000005", "state-00000008"]


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state-of-the-art").mkdir()
    (tmp_path / "log.jsonl").write_text("{}\n")
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert names(tmp_path) == ["log.jsonl", "state-00000002", "state-00000003", "state-of-the-art"]


def test_a_full_disk_leaves_the_old_states_and_no_new_folder(tmp_path: Path) -> None:
    """The system's own refusal: no file of this process may pass 512 bytes."""
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        with pytest.raises(TrainingError, match=r"could not be written.*earlier states are intact"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["state-00000001"]
    assert sorted(path.name for path in (tmp_path / "state-00000001").iterdir()) == [
        "model.safetensors",
        "run.json",
    ]
    save(tmp_path, 2)
    assert names(tmp_path) == ["state-00000001", "state-00000002"]


def test_another_runs_state_is_refused_with_both_settings(tmp_path: Path) -> None:
    save(tmp_path, 4, fingerprint="slow run")
    model, optimiser = network()
    with pytest.raises(TrainingError, match=r"'slow run' where this one has 'fast run'"):
        restore_state(tmp_path, trained(model, optimiser, "fast run"))


def test_a_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 4)
    model, optimiser = network(width=5)
    with pytest.raises(
        TrainingError, match=r"state-00000004 holds another model(?s:.*)size mismatch"
    ):
        restore_state(tmp_path, trained(model, optimiser))


def test_damaged_weights_are_an_error_of_ours(tmp_path: Path) -> None:
    weights = save(tmp_path, 4) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    model, optimiser = network()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        restore_state(tmp_path, trained(model, optimiser))


def test_a_mark_that_is_no_object_is_an_error_of_ours(tmp_path: Path) -> None:
    (save(tmp_path, 4) / "run.json").write_text("[1, 2]")
    model, optimiser = network()
    with pytest.raises(CheckpointError, match=r"run\.json"):
        restore_state(tmp_path, trained(model, optimiser))


def test_the_mark_says_where_the_run_stands(tmp_path: Path) -> None:
    about = json.loads((save(tmp_path, 4) / "run.json").read_text())
    assert about == {"fingerprint": "run", "seconds": 1.5, "step": 4}


def test_newest_model_gives_the_parameters_without_the_optimiser(tmp_path: Path) -> None:
    save(tmp_path, 4)
    model, optimiser = network()
    walk(model, optimiser, 0)
    found = newest_model(tmp_path)
    assert sorted(found) == ["bias", "weight"]
    assert torch.equal(found["weight"], model.state_dict()["weight"])
    shutil.rmtree(tmp_path / "state-00000004")  # the tensors do not lean on the file
    assert torch.equal(found["bias"], model.state_dict()["bias"])


def test_newest_model_of_a_folder_without_states_names_it(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"holds no training state to start from"):
        newest_model(tmp_path / "nothing")


def test_an_average_goes_on_and_is_what_another_run_starts_from(tmp_path: Path) -> None:
    model, optimiser = network()
    average = Average(model, 0.75)
    for step in range(3):
        walk(model, optimiser, step)
        average.follow(step)
    save_state(tmp_path, trained(model, optimiser, average=average), Resumed(step=3, seconds=1.0))
    other, its_optimiser = network(seed=9)
    again = Average(other, 0.75)
    restore_state(tmp_path, trained(other, its_optimiser, average=again))
    assert torch.equal(other.weight, model.weight)
    started = newest_model(tmp_path)
    for name, value in average.tensors().items():
        assert torch.equal(again.tensors()[name], value)
        assert torch.equal(started[name], value)
        assert not torch.equal(value, model.state_dict()[name])


def test_a_state_without_an_average_is_refused_where_one_is_kept(tmp_path: Path) -> None:
    save(tmp_path, 4)
    model, optimiser = network()
    with pytest.raises(TrainingError, match="an average of 0 parameters, not of these 2"):
        restore_state(tmp_path, trained(model, optimiser, average=Average(model, 0.5)))
