"""One training loop for every model: batches by step number, losses, steps, states, a log.

A batch is a function of the seed and its step number alone, so a run that is killed and resumed
sees what an uninterrupted run sees and ends with the same weights.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from heliodor.errors import TrainingError
from heliodor.teach.optim import Adam, AdamConfig, Schedule
from heliodor.teach.state import Resumed, restore_state, save_state

BatchT = TypeVar("BatchT")


class Objective(Protocol[BatchT]):
    """What is trained and on what."""

    @property
    def model(self) -> nn.Module:
        """The parameters that learn."""
        ...

    def batch(self, step: int) -> BatchT:
        """The batch of a step: the same for the same step, in any process."""
        ...

    def loss(self, batch: BatchT) -> tuple[Tensor, Mapping[str, float]]:
        """The loss to minimise and figures worth logging."""
        ...

    def samples(self) -> list[str]:
        """A few predictions as lines of text."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """How long and how fast.

    Attributes:
        name: what the run is called in its log.
        adam: rates and decay.
        schedule: steps, warm-up and cosine.
        bfloat16: compute products in bfloat16 where the processor has units for it; the
            parameters stay float32.
        save_seconds: time between states.
        log_every: steps between lines of the log.
        sample_every: steps between sample predictions; 0 for none.
        workers: processes that draw batches ahead; 0 draws them in this process.
    """

    name: str
    adam: AdamConfig
    schedule: Schedule
    bfloat16: bool = True
    save_seconds: float = 120.0
    log_every: int = 20
    sample_every: int = 0
    workers: int = 1

    def fingerprint(self) -> str:
        """What a state must agree on with the run that resumes from it."""
        return f"{self.name} {self.adam} {self.schedule}"


class _Steps(Dataset[Any], Generic[BatchT]):
    """Batches by step number, for the loader's worker processes."""

    def __init__(self, batch: Callable[[int], BatchT]) -> None:
        self._batch = batch

    def __getitem__(self, step: int) -> BatchT:
        return self._batch(step)


def has_bfloat16_units() -> bool:
    """Whether products in bfloat16 are faster than in float32 on this processor."""
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def train(run: Run, objective: Objective[Any], workdir: Path, *, quiet: bool = False) -> Resumed:
    """Train to the end of the schedule, resuming from the newest state in ``workdir``.

    SIGINT and SIGTERM save a state and end the run early.

    Args:
        run: how long and how fast.
        objective: what on.
        workdir: folder of states and of ``log.jsonl``; made if absent.
        quiet: print nothing.

    Returns:
        Where the run stands: ``step`` is ``run.schedule.steps`` unless it was interrupted.

    Raises:
        TrainingError: the loss stopped being finite, or ``workdir`` holds another run.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    model = objective.model
    optimiser = Adam(model, run.adam, run.schedule)
    start = restore_state(workdir, model, optimiser, fingerprint=run.fingerprint())
    start = start or Resumed(step=0, seconds=0.0)
    log = _Log(workdir / "log.jsonl", run, start, quiet=quiet)
    stop = _Stop()
    model.train()
    position, saved = start, time.monotonic()
    with stop, log:
        for step, batch in enumerate(_batches(run, objective, start.step), start.step):
            figures = _step(run, objective, optimiser, batch, step)
            position = Resumed(step=step + 1, seconds=log.seconds())
            log.write(step, figures)
            if run.sample_every and (step + 1) % run.sample_every == 0:
                model.eval()
                log.samples(step, objective.samples())
                model.train()
            if stop.asked or time.monotonic() - saved > run.save_seconds:
                save_state(workdir, model, optimiser, fingerprint=run.fingerprint(), at=position)
                saved = time.monotonic()
            if stop.asked:
                break
        else:
            save_state(workdir, model, optimiser, fingerprint=run.fingerprint(), at=position)
    model.eval()
    return position


def _batches(run: Run, objective: Objective[BatchT], start: int) -> Iterator[BatchT]:
    steps = range(start, run.schedule.steps)
    if run.workers == 0:
        return map(objective.batch, steps)
    loader: DataLoader[BatchT] = DataLoader(
        _Steps(objective.batch),
        batch_size=None,
        sampler=steps,
        num_workers=run.workers,
        prefetch_factor=4,
        multiprocessing_context="fork",
    )
    return iter(loader)


def _step(
    run: Run, objective: Objective[Any], optimiser: Adam, batch: Any, step: int
) -> dict[str, float]:
    half: AbstractContextManager[Any] = nullcontext()
    if run.bfloat16 and has_bfloat16_units():
        half = torch.autocast("cpu", torch.bfloat16)
    with half:
        loss, figures = objective.loss(batch)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss at step {step} is {value}: lower the learning rate, or look at the examples "
            "of this step; the last saved state is intact"
        )
    loss.backward()  # pyright: ignore[reportUnknownMemberType]
    norm = optimiser.step(step)
    return {"loss": value, "norm": norm, **figures}


class _Stop:
    """Turns SIGINT and SIGTERM into a flag while a run lasts."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        except (
            ValueError
        ):  # only the main thread may set handlers; elsewhere signals stay as they are
            self._before.clear()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self.asked = True


class _Log:
    """A line of JSON now and then, and a line on screen that says the same."""

    def __init__(self, path: Path, run: Run, start: Resumed, *, quiet: bool) -> None:
        self._path, self._run, self._quiet = path, run, quiet
        self._before = start.seconds
        self._first = start.step
        self._began = time.monotonic()
        self._sums: dict[str, list[float]] = {}

    def __enter__(self) -> None:
        self._file = self._path.open("a", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def seconds(self) -> float:
        """Training time so far, earlier sittings included."""
        return self._before + time.monotonic() - self._began

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Collect the figures of a step; every ``log_every`` steps write their means."""
        for key, value in figures.items():
            self._sums.setdefault(key, []).append(value)
        total = self._run.schedule.steps
        if (step + 1) % self._run.log_every and step + 1 != total:
            return
        means = {key: round(sum(v) / len(v), 4) for key, v in self._sums.items()}
        self._sums.clear()
        elapsed = self.seconds()
        rate = (step + 1 - self._first) / (elapsed - self._before)
        left = (total - step - 1) / rate
        line = {"step": step + 1, "of": total, "seconds": round(elapsed), **means}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if not self._quiet:
            words = " ".join(f"{key} {value:g}" for key, value in means.items())
            text = f"{self._run.name} {step + 1}/{total} {words} ({left / 60:.0f} min left)"
            end = "\r\x1b[K" if sys.stderr.isatty() else "\n"
            sys.stderr.write(text + end)
            sys.stderr.flush()

    def samples(self, step: int, lines: list[str]) -> None:
        """Write sample predictions."""
        self._file.write(
            json.dumps({"step": step + 1, "samples": lines}, ensure_ascii=False) + "\n"
        )
        self._file.flush()
        if not self._quiet:
            sys.stderr.write("".join(f"    {line}\n" for line in lines))
