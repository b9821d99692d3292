"""Average precision: against pycocotools, and under weights against pictures repeated outright."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from heliodor.errors import InputError
from heliodor.teach.evals.boxes import (
    IOU_50,
    IOU_50_95,
    AveragePrecision,
    Marked,
    average_precision,
    box_iou,
)

LABELS = ("bee", "sun", "cup", "fox")


def scenes(seed: int, pictures: int = 30) -> tuple[list[list[Marked]], list[list[Marked]]]:
    """Random truth, and boxes found near it, elsewhere, twice, with equal scores, or not at all."""
    rng = np.random.default_rng(seed)
    found: list[list[Marked]] = []
    truth: list[list[Marked]] = []
    for _ in range(pictures):
        there = [marked(rng, LABELS[:3]) for _ in range(int(rng.integers(0, 6)))]
        near = [shifted(rng, box) for box in there for _ in range(int(rng.integers(0, 3)))]
        wild = [marked(rng, LABELS) for _ in range(int(rng.integers(0, 3)))]
        truth.append(there)
        found.append([near[int(i)] for i in rng.permutation(len(near))] + wild)
    return found, truth


def marked(rng: np.random.Generator, labels: tuple[str, ...]) -> Marked:
    x, y, width, height = rng.uniform(5, 90, 4)
    return Marked(
        label=labels[int(rng.integers(len(labels)))],
        xyxy=(x, y, x + width, y + height),
        score=float(rng.integers(1, 12)) / 12,
    )


def shifted(rng: np.random.Generator, box: Marked) -> Marked:
    x0, y0, x1, y1 = np.array(box.xyxy) + rng.normal(0, 4, 4)
    xyxy = (float(x0), float(y0), max(float(x1), x0 + 1), max(float(y1), y0 + 1))
    return Marked(label=box.label, xyxy=xyxy, score=float(rng.integers(1, 12)) / 12)


def coco_says(found: list[list[Marked]], truth: list[list[Marked]]) -> tuple[float, float]:
    """pycocotools' AP50:95 and AP50."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entry(box: Marked, picture: int) -> dict[str, object]:
        x0, y0, x1, y1 = box.xyxy
        bbox = [x0, y0, x1 - x0, y1 - y0]
        label = LABELS.index(box.label) + 1
        return {"image_id": picture, "category_id": label, "bbox": bbox, "iscrowd": 0}

    annotations = [
        {**entry(box, number + 1), "id": 0, "area": 1.0}
        for number, boxes in enumerate(truth)
        for box in boxes
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    results = [
        {**entry(box, number + 1), "score": box.score}
        for number, boxes in enumerate(found)
        for box in boxes
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco: Any = COCO()
        coco.dataset = {
            "images": [{"id": number + 1} for number in range(len(truth))],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(LABELS)],
            "annotations": annotations,
            "info": {},
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_on_random_boxes(seed):
    found, truth = scenes(seed)
    all_thresholds, at_50 = coco_says(found, truth)
    assert 0.05 < all_thresholds < at_50 < 1  # the case says something
    assert average_precision(found, truth, IOU_50) == pytest.approx(at_50, abs=1e-12)
    assert average_precision(found, truth, IOU_50_95) == pytest.approx(all_thresholds, abs=1e-12)


@pytest.mark.parametrize("thresholds", [IOU_50, IOU_50_95])
def test_a_weight_is_a_repetition(thresholds):
    found, truth = scenes(7, pictures=12)
    chance = np.random.default_rng(0)  # equal scores would be ordered in another way
    found = [[replace(box, score=chance.random()) for box in boxes] for boxes in found]
    weights = np.array([[0, 2, 1, 0, 3, 0, 1, 0, 0, 2, 1, 2], [0, 0, 0, 1, 0, 0, 4, 1, 0, 0, 0, 0]])
    given = AveragePrecision(found, truth, thresholds).values(weights.astype(np.float64))
    for row, value in zip(weights, given, strict=True):
        again = [number for number, times in enumerate(row) for _ in range(times)]
        repeated = average_precision(
            [found[n] for n in again], [truth[n] for n in again], thresholds
        )
        assert value == pytest.approx(repeated, abs=1e-12)


def test_resamples_scatter_around_the_figure_as_fresh_pictures_would():
    found, truth = scenes(8, pictures=60)
    figure = AveragePrecision(found, truth)
    draws = figure.draws(np.random.default_rng(0), 500)
    assert draws.mean() == pytest.approx(figure.value)
    fresh = [average_precision(*scenes(seed, pictures=60)) for seed in range(100, 220)]
    assert draws.std() == pytest.approx(np.std(fresh), rel=0.35)


def test_perfect_boxes_score_one_and_none_zero():
    _, truth = scenes(9)
    assert average_precision(truth, truth, IOU_50_95) == pytest.approx(1.0)
    assert average_precision([[] for _ in truth], truth) == 0.0


def test_the_second_box_of_a_thing_is_wrong():
    bee = Marked(label="bee", xyxy=(0, 0, 10, 10))
    twice = [Marked(label="bee", xyxy=(0, 0, 10, 10), score=0.9)] * 2
    far = Marked(label="bee", xyxy=(50, 50, 60, 60), score=0.1)
    other = Marked(label="bee", xyxy=(50, 50, 60, 60))
    # right, wrong, right: precision 1 up to recall 1/2 (51 points), then 2/3 (50 points)
    wanted = (51 * 1 + 50 * 2 / 3) / 101
    assert average_precision([[*twice, far]], [[bee, other]]) == pytest.approx(wanted)


def test_overlap_is_shared_area_over_joint_area():
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert box_iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0.0
    assert box_iou((3, 3, 3, 3), (3, 3, 3, 3)) == 0.0


def test_nothing_to_find_is_an_error():
    with pytest.raises(InputError, match="no true box"):
        average_precision([[]], [[]])
    with pytest.raises(InputError, match="1 pictures came for 2"):
        average_precision([[]], [[], []])
