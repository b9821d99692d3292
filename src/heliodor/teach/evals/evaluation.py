"""An evaluation from end to end: draw the exams, put them to the model, mark them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np

from heliodor.errors import InputError
from heliodor.teach.evals.answers import Model, Said, answer_items, encode_pictures
from heliodor.teach.evals.exam import COLUMNS, SIZE, TASKS, Column, Exam, Item, build_exam
from heliodor.teach.evals.marking import FLOORS, mark
from heliodor.teach.evals.report import Figure, Report, Timing, describe_machine
from heliodor.teach.evals.statistics import interval
from heliodor.teach.evals.usual import usual_answer

__all__ = ["run"]

_GREY = 128
_ALONE = 5  # answers timed one at a time

Progress = Callable[[str], None]


def run(
    model: Model,
    *,
    tasks: Sequence[str] = TASKS,
    examples: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Measure a model on held-out examples.

    Args:
        model: a ``VisionLanguageModel``.
        tasks: of "caption", "ask", "detect", "segment", "read", "document".
        examples: questions of each task on each kind of picture, at least 1. Captions in other
            languages than English are a fifth of that, "is there" questions a quarter.
        seed: of the held-out examples and of the resampling, 0 or more.
        progress: called with a line of text now and then.

    Raises:
        InputError: no task or an unknown one, or numbers out of range.
        DataError: fonts or artwork are missing, or too few pictures answer some question.
    """
    _check(tasks, examples, seed)
    return _Evaluation(model, tasks, examples, seed, progress or _silent).report()


def _check(tasks: Sequence[str], examples: int, seed: int) -> None:
    unknown = [task for task in tasks if task not in TASKS]
    if isinstance(tasks, str) or unknown or not tasks:
        raise InputError(f"tasks must be a list of some of {', '.join(TASKS)}, not {tasks!r}")
    if examples < 1 or seed < 0:
        raise InputError(
            f"examples must be at least 1 and seed at least 0, not {examples} and {seed}"
        )


def _silent(_: str) -> None:
    pass


class _Evaluation:
    """The state of one run."""

    def __init__(
        self, model: Model, tasks: Sequence[str], examples: int, seed: int, progress: Progress
    ) -> None:
        self._model, self._progress = model, progress
        self._tasks, self._examples, self._seed = tasks, examples, seed
        self._start = time.perf_counter()
        self._seconds = dict.fromkeys(TASKS, 0.0)
        self._answers = dict.fromkeys(TASKS, 0)
        self._alone: dict[str, list[float]] = {task: [] for task in TASKS}
        self._blank_features: list[Any] = []
        self._blank: dict[str, Said] = {}

    def report(self) -> Report:
        grey = np.full((SIZE, SIZE, 3), _GREY, dtype=np.uint8)
        self._blank_features = encode_pictures(self._model, [grey])
        figures = [figure for column in COLUMNS for figure in self._column_figures(column)]
        order = {task: number for number, task in enumerate(TASKS)}
        figures.sort(key=lambda figure: order[figure.task])  # stable: pictures stay in order
        return Report(
            figures=tuple(figures),
            seed=self._seed,
            examples=self._examples,
            timing={task: self._timing(task) for task in TASKS if self._answers[task]},
            elapsed=time.perf_counter() - self._start,
            machine=describe_machine(),
        )

    def _column_figures(self, column: Column) -> Iterator[Figure]:
        exam = build_exam(column, self._tasks, self._examples, self._seed)
        if not exam.items:
            return
        self._say(f"{column.name}: {len(exam.pictures)} pictures, {len(exam.items)} questions")
        began = time.perf_counter()
        features = encode_pictures(self._model, exam.pictures)
        share = (time.perf_counter() - began) / len(exam.pictures)
        for task in TASKS:
            items = [item for item in exam.items if item.task == task]
            if items:
                yield from self._task_figures(exam, task, items, features, share)

    def _task_figures(
        self, exam: Exam, task: str, items: list[Item], features: list[Any], share: float
    ) -> Iterator[Figure]:
        began = time.perf_counter()
        said = answer_items(self._model, features, items)
        self._seconds[task] += time.perf_counter() - began + share * len(items)
        self._answers[task] += len(items)
        self._time_alone(exam, task, items)
        marks = mark(task, items, said)
        blank = mark(task, items, self._see_nothing(items))
        usual = mark(task, items, [usual_answer(item) for item in items])
        for own, none, often in zip(marks, blank, usual, strict=True):
            low, high = interval(own.statistic, self._seed)
            yield Figure(
                task=task,
                name=own.name,
                pictures=exam.column.name,
                count=own.count,
                value=own.statistic.value,
                low=low,
                high=high,
                usual=often.statistic.value,
                blank=none.statistic.value,
                floor=FLOORS.get((task, own.name, exam.column.name)),
            )
        self._say(f"{exam.column.name}: {task} {marks[0].statistic.value:.3f} {marks[0].name}")

    def _see_nothing(self, items: Sequence[Item]) -> list[Said]:
        """Answers to the same prompts before a grey picture; each prompt is put once."""
        fresh = {item.prompt: item for item in items if item.prompt not in self._blank}
        said = answer_items(self._model, self._blank_features, list(fresh.values()))
        self._blank.update(zip(fresh, said, strict=True))
        return [self._blank[item.prompt] for item in items]

    def _time_alone(self, exam: Exam, task: str, items: Sequence[Item]) -> None:
        """Time a few answers from the picture on, one after another."""
        for item in items[: _ALONE - len(self._alone[task])]:
            began = time.perf_counter()
            features = encode_pictures(self._model, [exam.pictures[item.picture]])
            answer_items(self._model, features, [item])
            self._alone[task].append(time.perf_counter() - began)

    def _timing(self, task: str) -> Timing:
        answers = self._answers[task]
        return Timing(
            answers=answers,
            seconds=self._seconds[task] / answers,
            alone=median(self._alone[task]),
        )

    def _say(self, what: str) -> None:
        self._progress(f"[{time.perf_counter() - self._start:4.0f} s] {what}")
