"""Typed results, and the formats they lead to, against pycocotools and supervision."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from heliodor.errors import InputError, MissingExtraError
from heliodor.see.answers import Answer, Box, Detections, Segment, Segments, encode_rle

SIZE = (12, 8)

pytestmark = [
    pytest.mark.filterwarnings("ignore:OpenCV"),  # supervision, where cv2 is missing
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # pycocotools and numpy 2
]


def disc() -> np.ndarray:
    y, x = np.mgrid[:8, :12]
    return np.where((x - 5) ** 2 + (y - 4) ** 2 <= 9, 0.9, 0.1).astype(np.float32)


def detections() -> Detections:
    return Detections(
        [
            Box(label="cat", xyxy=(1.0, 2.0, 5.0, 4.0), score=0.75),
            Box(label="bee", xyxy=(0.5, 0.0, 12.0, 8.0), score=0.5),
        ],
        SIZE,
    )


def segments() -> Segments:
    box = (2.0, 1.0, 9.0, 8.0)
    return Segments([Segment(label="cat", xyxy=box, score=0.75, mask=disc())], SIZE)


def test_results_are_sequences_that_cannot_change():
    found = detections()
    assert [box.label for box in found] == ["cat", "bee"]
    assert (len(found), found[1].score, found.size) == (2, 0.5, SIZE)
    assert found[1:] == Detections([found[1]], SIZE)
    assert found != found[1:]
    with pytest.raises(AttributeError):
        found.size = (1, 1)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError):
        found[0].label = "dog"  # pyright: ignore[reportAttributeAccessIssue]


def test_segments_are_equal_when_their_masks_are():
    assert segments() == segments()
    other = disc()
    other[0, 0] = 1
    changed = Segment(label="cat", xyxy=(2.0, 1.0, 9.0, 8.0), score=0.75, mask=other)
    assert segments()[0] != changed


def test_dictionaries_are_json():
    whole = {**detections().to_dict(), "segments": segments().to_dict()}
    assert json.loads(json.dumps(whole, allow_nan=False)) == {
        "width": 12,
        "height": 8,
        "objects": [
            {"label": "cat", "score": 0.75, "box": [1.0, 2.0, 5.0, 4.0]},
            {"label": "bee", "score": 0.5, "box": [0.5, 0.0, 12.0, 8.0]},
        ],
        "segments": {
            "width": 12,
            "height": 8,
            "objects": [
                {
                    "label": "cat",
                    "score": 0.75,
                    "box": [2.0, 1.0, 9.0, 8.0],
                    "mask": encode_rle(disc() >= 0.5),
                }
            ],
        },
    }


def test_an_answer_is_its_text():
    answer = Answer(text="a bee", score=0.5, tokens=(1, 2))
    assert (str(answer), answer.to_dict()) == ("a bee", {"text": "a bee", "score": 0.5})


def test_coco_boxes_are_corner_and_extent():
    first, second = detections().to_coco(image_id=7, category_ids={"bee": 3, "cat": 4})
    assert first == {
        "image_id": 7,
        "category_id": 4,
        "bbox": [1.0, 2.0, 4.0, 2.0],
        "area": 8.0,
        "score": 0.75,
        "iscrowd": 0,
    }
    assert (second["category_id"], second["bbox"]) == (3, [0.5, 0.0, 11.5, 8.0])


def test_without_ids_labels_count_in_alphabetical_order():
    assert [entry["category_id"] for entry in detections().to_coco()] == [2, 1]
    assert detections().to_supervision().class_id.tolist() == [1, 0]


def test_a_label_without_an_id_is_refused():
    with pytest.raises(InputError, match="no id is given for the label 'bee'"):
        detections().to_coco(category_ids={"cat": 1})


def test_coco_segments_load_in_pycocotools():
    mask = pytest.importorskip("pycocotools.mask")
    (entry,) = segments().to_coco()
    assert np.array_equal(mask.decode(entry["segmentation"]).astype(bool), disc() >= 0.5)
    assert entry["area"] == mask.area(entry["segmentation"]) == (disc() >= 0.5).sum()


@settings(deadline=None)  # the machine may be busy
@given(
    arrays.arrays(
        np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.booleans()
    )
)
def test_run_lengths_are_those_of_pycocotools(mask):
    reference: Any = pytest.importorskip("pycocotools.mask")
    expected = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask) == {"size": expected["size"], "counts": expected["counts"].decode()}


@pytest.mark.parametrize("fill", [False, True])
def test_long_runs_are_those_of_pycocotools(fill):
    reference: Any = pytest.importorskip("pycocotools.mask")
    mask = np.full((900, 1100), fill)
    mask[300:500, 200:900] = not fill
    mask[400, 500] = fill
    expected = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask)["counts"] == expected["counts"].decode()


def test_supervision_gets_boxes_scores_and_names():
    found = detections().to_supervision(class_ids={"cat": 8, "bee": 9})
    assert found.xyxy.tolist() == [[1.0, 2.0, 5.0, 4.0], [0.5, 0.0, 12.0, 8.0]]
    assert found.confidence.tolist() == [0.75, 0.5]
    assert found.class_id.tolist() == [8, 9]
    assert found.data["class_name"].tolist() == ["cat", "bee"]
    assert found.mask is None


def test_supervision_gets_masks():
    found = segments().to_supervision()
    assert found.mask.dtype == np.bool_
    assert np.array_equal(found.mask[0], disc() >= 0.5)


@pytest.mark.parametrize("kind", [Detections, Segments])
def test_nothing_found_is_nothing_in_every_format(kind):
    empty = kind([], SIZE)
    assert empty.to_coco() == []
    assert empty.to_dict()["objects"] == []
    assert len(empty.to_supervision()) == 0
    assert empty.draw(Image.new("RGB", SIZE, "red")).getpixel((3, 3)) == (255, 0, 0)


def test_a_missing_supervision_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'heliodor\[supervision\]'"):
        detections().to_supervision()


def test_drawing_on_a_picture_of_another_size_is_refused():
    with pytest.raises(InputError, match="12x8 and this one has 8x12"):
        detections().draw(Image.new("RGB", (8, 12)))
