"""One training loop for every model: batches by step number, losses, steps, states, a log.

A batch is a function of the seed and its step number alone, so a run that is killed and resumed
sees what an uninterrupted run sees and ends with the same weights.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from heliodor.errors import TrainingError
from heliodor.nn import fused
from heliodor.quant.learning import native_fused
from heliodor.teach.average import Average
from heliodor.teach.log import Log, joined
from heliodor.teach.optim import Adam, AdamConfig, Schedule
from heliodor.teach.state import Resumed, Trained, restore_state, save_state

BatchT = TypeVar("BatchT")

_STOPS = (signal.SIGINT, signal.SIGTERM)


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
        """The loss to minimise and figures worth logging (:func:`~heliodor.teach.log.joined`)."""
        ...

    def divide(self, batch: BatchT, parts: int) -> Sequence[tuple[float, BatchT]]:
        """Cut a batch into at most so many parts whose weighted losses add up to its loss."""
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
        data: what the batches depend on beside the step, in words: a state only continues a run
            on the same data.
        bfloat16: compute products in bfloat16 where the processor has units for it; the
            parameters stay float32.
        save_seconds: time between states.
        log_every: steps between lines of the log, 1 or more.
        sample_every: steps between sample predictions; 0 for none.
        workers: processes that draw batches ahead; 0 draws them in this process.
        average: share that a step leaves of the running average of the weights, which the network
            holds once the last step is taken; 0 for no average.
        device: where the network and its batches are, "cpu" or "cuda". Not measured on CUDA.
        parts: threads that each take a part of the batch through forward and backward. On few cores
            this beats sharing every product among them; set torch's own threads to 1 then. The
            result depends on it only by rounding; with more than two, the parts' gradients add up
            in the order they are done, and two runs differ by rounding too.
    """

    name: str
    adam: AdamConfig
    schedule: Schedule
    data: str = ""
    bfloat16: bool = True
    save_seconds: float = 120.0
    log_every: int = 20
    sample_every: int = 0
    workers: int = 1
    average: float = 0.0
    device: str = "cpu"
    parts: int = 1

    def fingerprint(self) -> str:
        """What a state must agree on with the run that resumes from it."""
        average = f" average {self.average}" if self.average else ""
        return f"{self.name} {self.adam} {self.schedule} {self.data}{average}".rstrip()


class _Steps(Dataset[Any], Generic[BatchT]):
    """Batches by step number, for the loader's worker processes."""

    def __init__(self, batch: Callable[[int], BatchT]) -> None:
        self._batch = batch

    def __getitem__(self, step: int) -> BatchT:
        return self._batch(step)


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32 there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def train(run: Run, objective: Objective[Any], workdir: Path, *, quiet: bool = False) -> Resumed:
    """Train to the end of the schedule, resuming from the newest state in ``workdir``.

    SIGINT and SIGTERM are held back until the step under way is taken and a state is saved; then
    they do what they do without a run: SIGINT raises KeyboardInterrupt, SIGTERM ends the process.

    Args:
        run: how long and how fast.
        objective: what on.
        workdir: folder of states and of ``log.jsonl``; made if absent.
        quiet: print nothing.

    Returns:
        Where the run stands: ``step`` is ``run.schedule.steps``, unless a signal came for which
        the caller has a handler that returns.

    Raises:
        TrainingError: loss or gradient stopped being finite, a state could not be written,
            ``workdir`` holds another run, or there is no such device.
    """
    device = find_device(run.device)
    workdir.mkdir(parents=True, exist_ok=True)
    model = objective.model.to(device)
    optimiser = Adam(model, run.adam, run.schedule, threads=run.parts)
    average = Average(model, run.average) if run.average else None
    trained = Trained(
        model=model, optimiser=optimiser, average=average, fingerprint=run.fingerprint()
    )
    start = restore_state(workdir, trained) or Resumed(step=0, seconds=0.0)
    steps = run.schedule.steps
    if start.step >= steps:
        return _finish(trained, start, steps)
    path = workdir / "log.jsonl"
    log = Log(path, run.name, steps=steps, every=run.log_every, start=start, quiet=quiet)
    stop = _Stop()
    model.train()
    position, saved = start, time.monotonic()
    with stop, log, _fused(device), ThreadPoolExecutor(run.parts) as threads:
        for step, batch in enumerate(_batches(run, objective, start.step), start.step):
            parts = _parts(run, objective, batch, threads)
            figures = _update(trained, parts, step)
            position = Resumed(step=step + 1, seconds=log.seconds())
            log.write(step, figures)
            if run.sample_every and (step + 1) % run.sample_every == 0:
                model.eval()
                log.samples(step, objective.samples())
                model.train()
            ends = stop.asked is not None or position.step == steps
            if ends or time.monotonic() - saved > run.save_seconds:
                save_state(workdir, trained, position)
                saved = time.monotonic()
            if ends:
                break
    _finish(trained, position, steps)
    stop.deliver()
    return position


def _finish(trained: Trained, at: Resumed, steps: int) -> Resumed:
    """Leave the network ready to use, after the last step with the average of its weights."""
    trained.model.eval()
    if trained.average is not None and at.step >= steps:
        trained.average.settle()
    return at


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
        worker_init_fn=_leave_group,
    )
    return iter(loader)


def _leave_group(_: int) -> None:
    """Spare a worker the signals to the trainer's process group (a terminal's Ctrl-C, timeout)."""
    os.setpgid(0, 0)


def find_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        TrainingError: no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise TrainingError(
            f"device '{name}' cannot be used: {str(error).splitlines()[0]}; train on 'cpu', or "
            "install a build of torch for that device"
        ) from error
    return device


def moved(batch: Any, device: torch.device) -> Any:
    """A batch whose tensors are on a device: a dataclass of tensors, tuples and other values."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple):
        members = cast("tuple[Any, ...]", batch)
        return tuple(moved(value, device) for value in members)
    if is_dataclass(batch) and not isinstance(batch, type):
        known = {field.name: getattr(batch, field.name) for field in fields(batch)}
        return replace(batch, **{name: moved(value, device) for name, value in known.items()})
    return batch


@contextmanager
def _fused(device: torch.device) -> Generator[None]:
    """Native functions between the products, where they are built and the device is a CPU."""
    fused.offer(native_fused() if device.type == "cpu" else None)
    try:
        yield
    finally:
        fused.offer(None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What a part of a batch gave: what it adds to the loss, its share, and its figures."""

    loss: float
    share: float
    figures: Mapping[str, float]


def _parts(
    run: Run, objective: Objective[Any], batch: Any, threads: ThreadPoolExecutor
) -> list[_Part]:
    """Forward and backward of every part of a batch."""
    device = torch.device(run.device)
    precise = not (run.bfloat16 and has_bfloat16_units(device))

    def work(share: float, part: Any) -> _Part:
        half: AbstractContextManager[Any] = torch.autocast(device.type, torch.bfloat16)
        with nullcontext() if precise else half:
            loss, figures = objective.loss(moved(part, device))
        (loss * share).backward()  # pyright: ignore[reportUnknownMemberType]
        return _Part(loss=float(loss.detach()) * share, share=share, figures=figures)

    if run.parts == 1:
        return [work(1.0, batch)]
    shares, parts = zip(*objective.divide(batch, run.parts), strict=True)
    return list(threads.map(work, shares, parts))


def _update(trained: Trained, parts: Sequence[_Part], step: int) -> dict[str, float]:
    """Step on the gradients that the parts left -> what to log of the whole batch."""
    value = sum(part.loss for part in parts)
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss at step {step} is {value}: lower the learning rate, or look at the examples "
            "of this step; the last saved state is intact"
        )
    norm = trained.optimiser.step(step)
    if trained.average is not None:
        trained.average.follow(step)
    figures = joined((part.share, part.figures) for part in parts)
    return {"loss": value, "norm": norm, **figures}


class _Stop:
    """Turns SIGINT and SIGTERM into a wish while a run lasts, and delivers them afterwards."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        try:
            for number in _STOPS:
                self._before[number] = signal.signal(number, self._ask)
        except ValueError:  # only the main thread may set handlers; elsewhere they stay as they are
            self._before.clear()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def deliver(self) -> None:
        """Let the signal that was held back do what it would have done."""
        if self.asked is not None:
            signal.raise_signal(self.asked)

    def _ask(self, number: int, _: object) -> None:
        self.asked = number
