"""The full state of a run on disk: written whole or not at all, found again after a kill.

A state is a folder named by its step, of weights and a small file that is written last: without
it a state does not count. It carries the run's fingerprint, so that a state never continues
another run. A kill at any moment leaves the previous state intact.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from heliodor.checkpoints.files import Replacement, read_json, to_json
from heliodor.checkpoints.shards import write_tensors
from heliodor.checkpoints.tensors import open_tensors
from heliodor.errors import CheckpointError, TrainingError
from heliodor.teach.average import Average
from heliodor.teach.optim import Adam

_NAME = re.compile(r"^state-(\d{8})$")
_MARK = "run.json"
_KEEP = 2
_ONE_FILE = 2**40


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """Where a run goes on.

    Attributes:
        step: steps already taken.
        seconds: training time already spent.
    """

    step: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a state holds.

    Attributes:
        model: the network.
        optimiser: its moments.
        average: of the network's weights; None where a run keeps none.
        fingerprint: of the run.
    """

    model: nn.Module
    optimiser: Adam
    average: Average | None
    fingerprint: str

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, on the processor."""
        found = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        found |= {f"adam/{name}": value for name, value in self.optimiser.tensors().items()}
        if self.average is not None:
            found |= {f"average/{name}": v for name, v in self.average.tensors().items()}
        return {name: value.cpu() for name, value in found.items()}


def save_state(workdir: Path, trained: Trained, at: Resumed) -> Path:
    """Write what was trained and where; drop all but the newest two complete states.

    Raises:
        TrainingError: the disk refused; earlier states are untouched.
    """
    folder = workdir / f"state-{at.step:08d}"
    about = {"step": at.step, "seconds": at.seconds, "fingerprint": trained.fingerprint}
    try:
        with Replacement(folder) as new:
            write_tensors(new, trained.tensors(), None, _ONE_FILE)
            new.write(_MARK, to_json(about))
    except CheckpointError as error:
        raise TrainingError(
            f"the training state could not be written: {error}; earlier states are intact, free "
            "some space and resume"
        ) from error
    _sweep(workdir)
    return folder


def restore_state(workdir: Path, trained: Trained) -> Resumed | None:
    """Load the newest complete state into what is trained -> where it stands, None if none.

    Raises:
        TrainingError: the newest state belongs to a run with other settings or another model.
        CheckpointError: its files are damaged.
    """
    states = find_states(workdir)
    if not states:
        return None
    about = read_json(states[-1] / _MARK)
    if about.get("fingerprint") != trained.fingerprint:
        raise TrainingError(
            f"{states[-1]} was written by a run with other settings, '{about.get('fingerprint')}' "
            f"where this one has '{trained.fingerprint}': use another work directory, or the "
            "settings of that run"
        )
    try:
        trained.model.load_state_dict(_tensors(states[-1], "model/"))
    except RuntimeError as error:
        raise TrainingError(f"{states[-1]} holds another model: {error}") from error
    trained.optimiser.restore(_tensors(states[-1], "adam/"))
    if trained.average is not None:
        trained.average.restore(_tensors(states[-1], "average/"))
    return Resumed(step=int(about["step"]), seconds=float(about["seconds"]))


def newest_model(workdir: Path) -> dict[str, Tensor]:
    """The parameters in a run's newest state, by name, for another run to start from.

    Where the run keeps an average of its weights, it is the average.

    Raises:
        TrainingError: the folder holds no state.
    """
    states = find_states(workdir)
    if not states:
        raise TrainingError(f"{workdir} holds no training state to start from")
    return _tensors(states[-1], "model/") | _tensors(states[-1], "average/")


def find_states(workdir: Path) -> list[Path]:
    """Complete states, oldest first."""
    named = (path for path in workdir.glob("state-*") if _NAME.match(path.name))
    return sorted(path for path in named if (path / _MARK).is_file())


def _sweep(workdir: Path) -> None:
    """Remove old states, and what a kill left of unfinished ones."""
    kept = find_states(workdir)[-_KEEP:]
    for path in workdir.glob("state-*"):
        if _NAME.match(path.name) and path not in kept:
            (path / _MARK).unlink(missing_ok=True)
            shutil.rmtree(path)


def _tensors(state: Path, prefix: str) -> dict[str, Tensor]:
    tensors = open_tensors(state)
    return {
        name.removeprefix(prefix): tensors.read(name).clone()
        for name in tensors
        if name.startswith(prefix)
    }
