"""The full state of a run on disk: written whole or not at all, found again after a kill.

A state is one safetensors file. Its name carries the step and its metadata the run's fingerprint,
so a state never continues another run. It is written under a temporary name, synced and renamed;
a kill at any moment leaves the previous state intact.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from heliodor.errors import TrainingError
from heliodor.teach.optim import Adam

_NAME = re.compile(r"^state-(\d{8})\.safetensors$")
_KEEP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """Where a run goes on.

    Attributes:
        step: steps already taken.
        seconds: training time already spent.
    """

    step: int
    seconds: float


def save_state(
    workdir: Path, model: nn.Module, optimiser: Adam, *, fingerprint: str, at: Resumed
) -> Path:
    """Write model, optimiser and position; drop all but the newest two states.

    Raises:
        TrainingError: the disk refused; earlier states are untouched.
    """
    tensors = {f"model/{name}": value.detach() for name, value in model.state_dict().items()}
    tensors |= {f"adam/{name}": value for name, value in optimiser.tensors().items()}
    about = {"step": at.step, "seconds": at.seconds, "fingerprint": fingerprint}
    path = workdir / f"state-{at.step:08d}.safetensors"
    temporary = path.with_suffix(".partial")
    whole = {name: value.contiguous() for name, value in tensors.items()}
    try:
        with temporary.open("wb") as file:
            file.write(save(whole, metadata={"run": json.dumps(about)}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"the training state could not be written to {workdir}: {error.strerror}; earlier "
            "states are intact, free some space and resume"
        ) from error
    for old in _states(workdir)[:-_KEEP]:
        old.unlink()
    return path


def restore_state(
    workdir: Path, model: nn.Module, optimiser: Adam, *, fingerprint: str
) -> Resumed | None:
    """Load the newest complete state into model and optimiser -> where it stands, None if none.

    Raises:
        TrainingError: the newest state belongs to a run with other settings.
    """
    for path in reversed(_states(workdir)):
        try:
            with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
                about = json.loads(file.metadata()["run"])
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError):
            path.rename(path.with_suffix(".broken"))
            continue
        if about["fingerprint"] != fingerprint:
            raise TrainingError(
                f"{path} was written by a run with other settings: use another work directory, "
                "or the settings of that run"
            )
        model.load_state_dict(_under("model/", tensors))
        optimiser.restore(_under("adam/", tensors))
        return Resumed(step=about["step"], seconds=about["seconds"])
    return None


def newest_model(workdir: Path) -> dict[str, Tensor]:
    """The parameters in a run's newest state, by name, for another run to start from.

    Raises:
        TrainingError: the folder holds no state.
    """
    states = _states(workdir)
    if not states:
        raise TrainingError(f"{workdir} holds no training state to start from")
    return _under("model/", load_file(states[-1]))


def _states(workdir: Path) -> list[Path]:
    """Complete states, oldest first."""
    return sorted(path for path in workdir.glob("state-*") if _NAME.match(path.name))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
