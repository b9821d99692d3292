"""The most frequent answer to each kind of question, as training asks it.

Whoever has learnt the answers but does not look at the picture scores this much. It is counted on
training's own random stream, for every wording apart, names of things left out: "left" to "Is the
… left or right of the …?".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache

import numpy as np

from heliodor.teach.data.fonts import TextSplit
from heliodor.teach.data.language import names_in_caption
from heliodor.teach.data.splits import Split
from heliodor.teach.evals.answers import Said
from heliodor.teach.evals.boxes import Marked
from heliodor.teach.evals.exam import (
    SCENE_TASKS,
    SIZE,
    Column,
    Item,
    Scenes,
    document,
    reading,
    scene_items,
)

__all__ = ["usual_answer", "wording"]

_COUNTED = 1500  # training examples of each task
_SMALL = 64  # pixels: answers do not depend on the size, and small scenes are drawn fast
_LEAST = 8  # a wording met more rarely counts with all of its kind

_TRAINING = Column(name="training", split=Split.TRAIN)


def usual_answer(item: Item) -> Said:
    """The most frequent answer to questions like this one; the usual box for every label asked."""
    if item.task == "detect":
        box = _usual_box("detect")
        return Said(boxes=tuple(Marked(label=label, xyxy=box) for label in item.labels))
    if item.task == "segment":
        x0, y0, x1, y1 = (round(edge) for edge in _usual_box("segment"))
        mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
        mask[y0:y1, x0:x1] = True
        return Said(mask=mask)
    counts = _counts(item.task)
    alike = counts[_group(item), wording(item)]
    if alike.total() < _LEAST:
        alike = counts[_group(item), ""]
    ((answer, _),) = alike.most_common(1)
    return Said(text=answer)


def wording(item: Item) -> str:
    """The prompt with the names of things left out."""
    prompt = item.prompt
    if item.task == "ask":
        names = [name for c in names_in_caption(prompt) for name in (c.plural, c.name)]
        for name in sorted(names, key=len, reverse=True):
            prompt = prompt.replace(name, "…")
    return prompt


def _group(item: Item) -> str:
    """The kind, where it can be told from the prompt."""
    return item.kind if item.task in ("ask", "caption") else item.task


@cache
def _scenes() -> Scenes:
    return Scenes(_TRAINING, Split.TRAIN, 0, _SMALL)


@cache
def _items(task: str) -> list[Item]:
    if task in SCENE_TASKS:
        return scene_items(_scenes(), task, _COUNTED)
    draw = reading if task == "read" else document
    return [draw(TextSplit.TRAIN, number, 0)[1] for number in range(_COUNTED)]


@cache
def _counts(task: str) -> dict[tuple[str, str], Counter[str]]:
    """(kind, wording) -> how often each answer; wording "" is the whole kind."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for item in _items(task):
        counts[_group(item), wording(item)][item.truth] += 1
        counts[_group(item), ""][item.truth] += 1
    return counts


@cache
def _usual_box(task: str) -> tuple[float, float, float, float]:
    """The median of each edge over all things, in pixels of the exam's pictures."""
    boxes = np.array([thing.box for item in _items(task) for thing in item.things])
    x0, y0, x1, y1 = np.median(boxes, axis=0) * SIZE / _SMALL
    return float(x0), float(y0), float(x1), float(y1)
