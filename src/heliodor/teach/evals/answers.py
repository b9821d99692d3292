"""Put questions to a model in batches, through the calls that its verbs are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heliodor.see.vlm import NO_LOOP
from heliodor.teach.evals.boxes import Marked
from heliodor.teach.evals.exam import Item

__all__ = ["BATCH", "Model", "Said", "answer_items", "encode_pictures"]

BATCH = 32
"""Pictures or questions at a time."""

_MOST_TOKENS = {"caption": 96, "ask": 64, "read": 256, "document": 64}  # as the verbs have it
_MOST_BOXES = 16  # a scene holds five things: a list that goes on longer is lost anyway


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Said:
    """An answer, in the form of its task.

    Attributes:
        text: what was written, for tasks of words.
        boxes: what was detected.
        mask: bool [H W] of the thing asked for, None where nothing was found.
    """

    text: str = ""
    boxes: tuple[Marked, ...] = ()
    mask: NDArray[np.bool_] | None = None


class Model(Protocol):
    """What an evaluation needs of a model; ``VisionLanguageModel`` has it."""

    def encode_images(self, images: Sequence[Any]) -> Sequence[Any]:
        """Pictures -> what the other calls accept in their place."""
        ...

    def generate(
        self, images: Sequence[Any], prompts: Sequence[str], *, max_new_tokens: int, constraint: Any
    ) -> Sequence[Any]:
        """Continuations, each with a ``text``."""
        ...

    def detect_batch(
        self, images: Sequence[Any], labels: Sequence[Sequence[str]], *, max_objects: int
    ) -> Sequence[Sequence[Any]]:
        """Boxes of each picture, with ``label``, ``xyxy`` in pixels and ``score``."""
        ...

    def segment_batch(
        self, images: Sequence[Any], labels: Sequence[Sequence[str]], *, max_objects: int
    ) -> Sequence[Sequence[Any]]:
        """Segments of each picture, with ``inside`` bool [H W]."""
        ...


def encode_pictures(model: Model, pictures: Sequence[NDArray[np.uint8]]) -> list[Any]:
    """Run the image tower once over every picture."""
    features: list[Any] = []
    for start in range(0, len(pictures), BATCH):
        features += model.encode_images(pictures[start : start + BATCH])
    return features


def answer_items(model: Model, features: Sequence[Any], items: Sequence[Item]) -> list[Said]:
    """Answers in the order of the questions.

    Args:
        model: who answers.
        features: of every picture of the exam, by number; or one, which serves all.
        items: questions of one task or several.
    """
    said: dict[int, Said] = {}
    for numbers in _batches(items):
        batch = [items[number] for number in numbers]
        shown = [features[item.picture if len(features) > 1 else 0] for item in batch]
        said.update(zip(numbers, _answer_batch(model, shown, batch), strict=True))
    return [said[number] for number in range(len(items))]


def _batches(items: Sequence[Item]) -> Iterator[list[int]]:
    """Numbers of questions of one task, alike in kind and length so that they end together."""
    order = sorted(
        range(len(items)),
        key=lambda number: (items[number].task, items[number].kind, len(items[number].prompt)),
    )
    for task in dict.fromkeys(items[number].task for number in order):
        numbers = [number for number in order if items[number].task == task]
        for start in range(0, len(numbers), BATCH):
            yield numbers[start : start + BATCH]


def _answer_batch(model: Model, shown: Sequence[Any], batch: Sequence[Item]) -> list[Said]:
    task = batch[0].task
    labels = [item.labels for item in batch]
    if task == "detect":
        found = model.detect_batch(shown, labels, max_objects=_MOST_BOXES)
        return [Said(boxes=tuple(_marked(box) for box in boxes)) for boxes in found]
    if task == "segment":
        # the first object written answers the question, as in big_vision's evaluator
        segments = model.segment_batch(shown, labels, max_objects=1)
        return [Said(mask=several[0].inside if len(several) else None) for several in segments]
    written = model.generate(
        shown,
        [item.prompt for item in batch],
        max_new_tokens=_MOST_TOKENS[task],
        constraint=NO_LOOP,
    )
    return [Said(text=row.text.strip()) for row in written]


def _marked(box: Any) -> Marked:
    return Marked(label=box.label, xyxy=box.xyxy, score=box.score)
