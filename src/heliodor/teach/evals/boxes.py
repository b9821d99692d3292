"""Average precision of boxes as COCO defines it, for lists in memory.

A box found counts if it overlaps a box of its label in its picture by the threshold and no better
scored box took that one. Per label, precision is made non-increasing from the right and read at
101 recalls; the figure is the mean over the labels that the truth holds. Source: pycocotools
``COCOeval`` with area "all" and 100 boxes a picture, which the tests compare with.

Letters: R resamples, P pictures, T thresholds, D boxes found of one label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliodor.errors import InputError
from heliodor.teach.evals.statistics import samples

__all__ = ["IOU_50", "IOU_50_95", "AveragePrecision", "Marked", "average_precision", "box_iou"]

Floats = NDArray[np.float64]
XYXY = tuple[float, float, float, float]

IOU_50 = (0.5,)
IOU_50_95 = tuple(np.linspace(0.5, 0.95, 10).tolist())
_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST = 100  # boxes of one label in one picture that count, best first


@dataclass(frozen=True, kw_only=True, slots=True)
class Marked:
    """A box of a picture: its label, (x0, y0, x1, y1), and the score of one that was found."""

    label: str
    xyxy: XYXY
    score: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Label:
    """One label over all pictures, its found boxes best first.

    Attributes:
        picture: int [D], where each was found.
        right: bool [T D], whether it counts.
        wanted: int [W], the picture of every true box.
    """

    picture: NDArray[np.int64]
    right: NDArray[np.bool_]
    wanted: NDArray[np.int64]


class AveragePrecision:
    """Boxes matched once, to be averaged over any weighting of the pictures."""

    def __init__(
        self,
        found: Sequence[Sequence[Marked]],
        truth: Sequence[Sequence[Marked]],
        thresholds: Sequence[float] = IOU_50,
    ) -> None:
        """Match.

        Args:
            found: for each picture what the model found.
            truth: for each picture what is there.
            thresholds: least overlaps, 0..1; the figure is the mean over them.

        Raises:
            InputError: other numbers of pictures, or no true box at all.
        """
        if len(found) != len(truth):
            raise InputError(f"boxes of {len(found)} pictures came for {len(truth)}")
        if not any(truth):
            raise InputError("the pictures hold no true box, so there is nothing to average")
        self.units = len(truth)
        self._labels = _match(found, truth, tuple(thresholds))

    @property
    def value(self) -> float:
        """The figure, 0..1."""
        return float(self.values(np.ones((1, self.units)))[0])

    def values(self, weights: Floats) -> Floats:
        """The figure under each weighting.

        Args:
            weights: [R P], how often each picture is in the sample, 0 or more.

        Returns:
            [R]; not a number for a sample without a true box.
        """
        total = np.zeros(len(weights))
        labels = np.zeros(len(weights))
        for label in self._labels:
            wanted = weights[:, label.wanted].sum(1)
            present = wanted > 0
            precision = _precision(label, weights, np.where(present, wanted, 1.0))
            total += np.where(present, precision, 0.0)
            labels += present
        return np.divide(total, labels, out=np.full(len(weights), np.nan), where=labels > 0)

    def draws(self, rng: np.random.Generator, times: int) -> Floats:
        """The figure over resamples of the pictures, moved so that their mean is the figure.

        A resample shows some pictures twice and so fewer different boxes of each label, on which
        average precision is higher: with five boxes a label by more than the interval's width. The
        spread is right, the place is not.
        """
        drawn = self.values(samples(rng, self.units, times))
        return (drawn + self.value - np.nanmean(drawn)).clip(0.0, 1.0)


def average_precision(
    found: Sequence[Sequence[Marked]],
    truth: Sequence[Sequence[Marked]],
    thresholds: Sequence[float] = IOU_50,
) -> float:
    """COCO's AP over pictures, 0..1; arguments and errors are those of ``AveragePrecision``."""
    return AveragePrecision(found, truth, thresholds).value


def _precision(label: _Label, weights: Floats, wanted: Floats) -> Floats:
    """Mean over thresholds of interpolated average precision, [R]."""
    if not len(label.picture):
        return np.zeros(len(weights))
    taken = weights[:, label.picture]  # [R D]
    seen = np.maximum(taken.cumsum(1), np.spacing(1))
    mean = np.zeros(len(weights))
    for right in label.right:
        hits = (taken * right).cumsum(1)
        best = np.maximum.accumulate((hits / seen)[:, ::-1], axis=1)[:, ::-1]
        recall: Floats = hits / wanted[:, None]
        reached: NDArray[np.int64] = np.searchsorted(_RECALLS, recall, side="right")
        mean += (best * np.diff(reached, axis=1, prepend=0)).sum(1) / len(_RECALLS)
    return mean / len(label.right)


def _match(
    found: Sequence[Sequence[Marked]],
    truth: Sequence[Sequence[Marked]],
    thresholds: tuple[float, ...],
) -> list[_Label]:
    """Every label that the truth holds, matched picture by picture."""
    there = _by_label(truth)
    given = _by_label(found)
    labels: list[_Label] = []
    for name in sorted(there):
        scores: list[float] = []
        pictures: list[int] = []
        right: list[NDArray[np.bool_]] = []
        for picture, boxes in sorted(given.get(name, {}).items()):
            best = sorted(boxes, key=lambda box: -box.score)[:_MOST]
            scores += [box.score for box in best]
            pictures += [picture] * len(best)
            right.append(_match_picture(best, there[name].get(picture, []), thresholds))
        order = np.argsort(-np.array(scores), kind="stable")
        marks = np.concatenate(right, 1) if right else np.zeros((len(thresholds), 0), np.bool_)
        wanted = [picture for picture, boxes in there[name].items() for _ in boxes]
        labels.append(
            _Label(
                picture=np.array(pictures, np.int64)[order],
                right=marks[:, order],
                wanted=np.array(wanted, np.int64),
            )
        )
    return labels


def _by_label(pictures: Sequence[Sequence[Marked]]) -> dict[str, dict[int, list[Marked]]]:
    """Label -> picture -> boxes."""
    sorted_out: dict[str, dict[int, list[Marked]]] = defaultdict(lambda: defaultdict(list))
    for number, boxes in enumerate(pictures):
        for box in boxes:
            sorted_out[box.label][number].append(box)
    return sorted_out


def _match_picture(
    found: Sequence[Marked], truth: Sequence[Marked], thresholds: tuple[float, ...]
) -> NDArray[np.bool_]:
    """Which found boxes, best first, take a true one: bool [T D]."""
    right = np.zeros((len(thresholds), len(found)), dtype=np.bool_)
    overlaps = [[box_iou(box.xyxy, other.xyxy) for other in truth] for box in found]
    for row, threshold in enumerate(thresholds):
        free = set(range(len(truth)))
        for column, values in enumerate(overlaps):
            choices = [index for index in free if values[index] >= min(threshold, 1 - 1e-10)]
            if choices:
                free.remove(max(choices, key=lambda index: (values[index], index)))
                right[row, column] = True
    return right


def box_iou(one: XYXY, other: XYXY) -> float:
    """Intersection over union of two boxes in pixels, 0..1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    inner = max(0.0, width) * max(0.0, height)
    union = _area(one) + _area(other) - inner
    return inner / union if union > 0 else 0.0


def _area(box: XYXY) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
