"""From answers to figures: what each task is measured by, and the floors of the shipped model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from heliodor.teach.data.language import LANGUAGES, NUMBER_WORDS, names_in_caption
from heliodor.teach.evals.answers import Said
from heliodor.teach.evals.boxes import IOU_50, IOU_50_95, AveragePrecision, Marked
from heliodor.teach.evals.exam import (
    ASK_KINDS,
    HELD_OUT_FONTS,
    HELD_OUT_PAIRS,
    NEW_LAYOUTS,
    Item,
)
from heliodor.teach.evals.statistics import Macro, Ratio, Statistic
from heliodor.teach.evals.text import edit_distance, exact_match, normalise

__all__ = ["FLOORS", "Floor", "Mark", "mark"]

_F1 = "object names F1"
_ASK = "accuracy, mean of 4 kinds"
_READ = "character error rate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Floor:
    """The least a figure must reach; the most it may be where less is better."""

    value: float
    less_is_better: bool = False

    def met(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value <= self.value if self.less_is_better else value >= self.value

    def __str__(self) -> str:
        return f"{'<=' if self.less_is_better else '>='} {self.value:.2f}"


_LAYOUTS, _PAIRS, _FONTS = NEW_LAYOUTS.name, HELD_OUT_PAIRS.name, HELD_OUT_FONTS.name

FLOORS: dict[tuple[str, str, str], Floor] = {
    ("caption", _F1, _LAYOUTS): Floor(value=0.90),
    ("caption", _F1, _PAIRS): Floor(value=0.85),
    ("ask", _ASK, _LAYOUTS): Floor(value=0.90),
    ("ask", _ASK, _PAIRS): Floor(value=0.85),
    **{("ask", kind.replace("_", " "), _LAYOUTS): Floor(value=0.80) for kind in ASK_KINDS},
    ("detect", "AP50", _LAYOUTS): Floor(value=0.60),
    ("detect", "AP50", _PAIRS): Floor(value=0.55),
    ("segment", "mIoU", _LAYOUTS): Floor(value=0.60),
    ("segment", "mIoU", _PAIRS): Floor(value=0.55),
    ("read", _READ, _FONTS): Floor(value=0.08, less_is_better=True),
    ("document", "exact match", _FONTS): Floor(value=0.75),
}
"""(task, figure, pictures) -> what the shipped model is asked to reach."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A figure of one task on one set of answers.

    Attributes:
        name: what is measured.
        count: questions it rests on.
        statistic: its value, and values over resampled examples.
    """

    name: str
    count: int
    statistic: Statistic


Pairs = Sequence[tuple[Item, Said]]


def mark(task: str, items: Sequence[Item], said: Sequence[Said]) -> list[Mark]:
    """The figures of a task, the one with a floor first.

    Args:
        task: one of ``exam.TASKS``.
        items: the questions of that task, of one column, at least one.
        said: the answer to each.
    """
    pairs = list(zip(items, said, strict=True))
    return list(_MARKERS[task](pairs))


def _captions(pairs: Pairs) -> Iterator[Mark]:
    for language in LANGUAGES:
        own = [pair for pair in pairs if pair[0].kind == f"caption_{language}"]
        if own:
            name = _F1 if language == "en" else f"{_F1}, {language}"
            shares = [_names(item, answer, language) for item, answer in own]
            yield Mark(name=name, count=len(own), statistic=Ratio.of(shares))


def _names(item: Item, answer: Said, language: str) -> tuple[float, float]:
    """Twice the names in common, and the names on either side: micro F1 is sum over sum."""
    named = names_in_caption(answer.text, language)
    return 2.0 * len(named & item.concepts), float(len(named) + len(item.concepts))


def _asked(pairs: Pairs) -> Iterator[Mark]:
    by_kind = {kind: [_right(*p) for p in pairs if p[0].kind == kind] for kind in ASK_KINDS}
    means = {kind: Ratio.mean(values) for kind, values in by_kind.items() if values}
    count = sum(map(len, by_kind.values()))
    yield Mark(name=_ASK, count=count, statistic=Macro(parts=tuple(means.values())))
    for kind, mean in means.items():
        yield Mark(name=kind.replace("_", " "), count=len(by_kind[kind]), statistic=mean)
    exists = [_right(*pair) for pair in pairs if pair[0].kind == "exists"]
    if exists:
        yield Mark(name="exists", count=len(exists), statistic=Ratio.mean(exists))


def _right(item: Item, answer: Said) -> float:
    """1 for the right answer: numbers also in words, several names in any order."""
    if item.kind == "how_many" and item.truth.isdecimal() and int(item.truth) < len(NUMBER_WORDS):
        return exact_match(answer.text, [item.truth, NUMBER_WORDS[int(item.truth)]])
    if item.kind == "what":
        return float(_listed(answer.text) == _listed(item.truth))
    return exact_match(answer.text, item.truth)


def _listed(text: str) -> frozenset[str]:
    return frozenset(normalise(name) for name in text.split(","))


def _detected(pairs: Pairs) -> Iterator[Mark]:
    found = [answer.boxes for _, answer in pairs]
    truth = [
        [Marked(label=thing.concept.name, xyxy=thing.box) for thing in item.things]
        for item, _ in pairs
    ]
    for name, thresholds in (("AP50", IOU_50), ("AP50:95", IOU_50_95)):
        precision = AveragePrecision(found, truth, thresholds)
        yield Mark(name=name, count=len(pairs), statistic=precision)


def _segmented(pairs: Pairs) -> Iterator[Mark]:
    overlaps = [_overlap(item, answer) for item, answer in pairs]
    yield Mark(name="mIoU", count=len(overlaps), statistic=Ratio.mean(overlaps))


def _overlap(item: Item, answer: Said) -> float:
    """Intersection over union of the masks, over the picture's pixels; 0 without a mask."""
    (thing,) = item.things
    if answer.mask is None:
        return 0.0
    union = np.count_nonzero(answer.mask | thing.mask)
    return float(np.count_nonzero(answer.mask & thing.mask) / union)


def _read(pairs: Pairs) -> Iterator[Mark]:
    errors = [(item.kind, _errors(item, answer)) for item, answer in pairs]
    everything = Ratio.of([share for _, share in errors])
    yield Mark(name=_READ, count=len(errors), statistic=everything)
    for kind in sorted({kind for kind, _ in errors}):
        own = [share for other, share in errors if other == kind]
        yield Mark(name=kind, count=len(own), statistic=Ratio.of(own))


def _errors(item: Item, answer: Said) -> tuple[float, float]:
    """Edits and characters; white space as ``text.character_error_rate`` counts it."""
    given, wanted = (" ".join(text.split()) for text in (answer.text, item.truth))
    return float(edit_distance(given, wanted)), float(len(wanted))


def _documents(pairs: Pairs) -> Iterator[Mark]:
    right = [(item.kind, exact_match(answer.text, item.truth)) for item, answer in pairs]
    everything = Ratio.mean([value for _, value in right])
    yield Mark(name="exact match", count=len(right), statistic=everything)
    for kind in sorted({kind for kind, _ in right}):
        own = [value for other, value in right if other == kind]
        yield Mark(name=kind.replace("_", " "), count=len(own), statistic=Ratio.mean(own))


_MARKERS = {
    "caption": _captions,
    "ask": _asked,
    "detect": _detected,
    "segment": _segmented,
    "read": _read,
    "document": _documents,
}
