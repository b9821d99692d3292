"""Settings of a recipe that the command line may change, one ``name=value`` at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from heliodor.errors import TrainingError
from heliodor.teach.loop import Run
from heliodor.teach.optim import AdamConfig, Schedule

SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """Numbers of a run of one stage, whatever learns.

    Attributes:
        steps: optimiser steps in all.
        rate: full learning rate, reached after ``warmup`` steps; a cosine ends at ``floor`` of it.
        average: share that a step leaves of the running average of the weights, which is exported.
        seed: of everything drawn.
        device: "cpu" or "cuda", see :class:`~heliodor.teach.loop.Run`.
        parts: threads that share each batch, see there.
    """

    steps: int
    rate: float
    warmup: int
    floor: float = 0.02
    average: float
    seed: int
    device: str = "cpu"
    parts: int = 1

    def plan(self, name: str, adam: AdamConfig, data: str, *, sample_every: int = 0) -> Run:
        """How long and how fast; arguments as for :class:`~heliodor.teach.loop.Run`."""
        return Run(
            name=name,
            adam=adam,
            schedule=Schedule(steps=self.steps, warmup=self.warmup, floor=self.floor),
            data=data,
            sample_every=sample_every,
            average=self.average,
            device=self.device,
            parts=self.parts,
        )


def override(settings: SettingsT, changes: Mapping[str, str]) -> SettingsT:
    """A copy of a settings dataclass with some fields changed.

    A value is read as the type of the field's present value: int, float, bool (true/false) or str.
    Numbers are finite and not negative.

    Raises:
        TrainingError: no such field, a value of another type, or a field that holds neither a
            number nor text.
    """
    known = _known(settings)
    parsed: dict[str, Any] = {}
    for name, text in changes.items():
        if name not in known:
            raise TrainingError(f"no setting '{name}'; there are {', '.join(known)}")
        parsed[name] = _read(name, text, known[name])
    return _replaced(settings, parsed)


def at_least_one(settings: object, *names: str) -> None:
    """Check the counts among a recipe's settings.

    Raises:
        TrainingError: one of them is less than 1.
    """
    for name in names:
        if getattr(settings, name) < 1:
            raise TrainingError(f"{name}={getattr(settings, name)}: at least 1 is wanted")


def start_fresh(workdir: Path, *, resume: bool) -> None:
    """Refuse to mix two runs in one folder unless told to go on.

    Raises:
        TrainingError: ``workdir`` holds states and ``resume`` is off.
    """
    if not resume and any(workdir.rglob("state-*/run.json")):
        raise TrainingError(f"{workdir} holds an earlier run: pass --resume, or another --workdir")


def _known(settings: Any) -> dict[str, Any]:
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


def _replaced(settings: Any, changes: Mapping[str, Any]) -> Any:
    return replace(settings, **changes)


def _read(name: str, text: str, present: object) -> bool | float | str:
    if isinstance(present, str):
        return text
    if isinstance(present, bool):
        if text.lower() not in ("true", "false"):
            raise TrainingError(f"{name}={text}: true or false is wanted")
        return text.lower() == "true"
    if not isinstance(present, int | float):
        raise TrainingError(f"{name}={text}: this setting is changed in Python only")
    kind = float if isinstance(present, float) else int
    try:
        value = kind(text)
    except ValueError:
        raise TrainingError(f"{name}={text}: a value of type {kind.__name__} is wanted") from None
    if not (math.isfinite(value) and value >= 0):
        raise TrainingError(f"{name}={text}: a finite number of 0 or more is wanted")
    return value
