"""Boxes and masks, alone and in batches, of random weights and of a network told what to say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.unit.see.small import LABELS, PICTURE, script

from heliodor.checkpoints.maskcodec import write_mask_codec
from heliodor.errors import ConfigError, FileFormatError, InputError, PromptError
from heliodor.see.vlm import VisionLanguageModel, load


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny.vlm(seed=22)  # one that detects and segments something


# ------------------------------------------------------------------------------------------ boxes


@pytest.mark.parametrize("seed", [2, 3, 5, 9, 14, 17, 19, 22])
def test_whatever_the_network_says_only_asked_things_are_found(seed: int) -> None:
    """Random weights, so random text: the grammar alone keeps it in order."""
    model = tiny.vlm(seed=seed)
    size = PICTURE.size
    found = model.detect(PICTURE, LABELS, max_objects=6)
    segments = model.segment(PICTURE, LABELS, max_objects=4)
    assert len(found) <= 6
    assert len(segments) <= 4
    assert found.size == segments.size == size
    for box in (*found, *segments):
        x0, y0, x1, y1 = box.xyxy
        assert box.label in LABELS
        assert 0.0 <= x0 < x1 <= size[0]
        assert 0.0 <= y0 < y1 <= size[1]
        assert 0.0 <= box.score <= 1.0
    for segment in segments:
        assert segment.mask.shape == (300, 400)
        assert segment.mask.dtype == np.float32
        assert 0.0 <= segment.mask.min() <= segment.mask.max() <= 1.0


def test_some_of_those_networks_find_something() -> None:
    model = tiny.vlm(seed=22)
    assert len(model.detect(PICTURE, LABELS, max_objects=6)) > 1
    assert len(model.segment(PICTURE, LABELS, max_objects=4)) > 0


BEE = "<loc0256><loc0128><loc0512><loc0896> bee"
FLOWER = "<loc0000><loc0000><loc1023><loc1023> red flower"


def test_boxes_are_in_pixels_of_the_picture_given(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(model, monkeypatch, f"{BEE} ; {FLOWER}", chance=0.9)
    found = model.detect(PICTURE, LABELS)
    assert [box.label for box in found] == ["bee", "red flower"]
    share = [n / 1023 for n in (128, 256, 896, 512)]
    assert found[0].xyxy == pytest.approx(
        (share[0] * 400, share[1] * 300, share[2] * 400, share[3] * 300)
    )
    assert found[1].xyxy == (0, 0, 400, 300)
    words = model.tokenizer
    label = 0.9 ** len(words.encode(" bee"))
    assert found[0].score == pytest.approx(0.9 * label, abs=1e-4)
    label = 0.9 ** len(words.encode(" red flower"))
    presence = 0.9 ** len(words.encode(" ; "))
    assert found[1].score == pytest.approx(presence * 0.9 * label, rel=0.15)


def test_a_repeated_box_ends_the_list(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(model, monkeypatch, " ; ".join([BEE, FLOWER, BEE, FLOWER]))
    assert [box.label for box in model.detect(PICTURE, LABELS)] == ["bee", "red flower"]


def test_a_repeated_box_at_the_end_takes_nothing_else_with_it(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the text went with the repeated box, and then once more: "red flow" was left."""
    script(model, monkeypatch, " ; ".join([BEE, FLOWER, BEE]))
    found = model.detect(PICTURE, LABELS)
    script(model, monkeypatch, " ; ".join([BEE, FLOWER]))
    assert found == model.detect(PICTURE, LABELS)
    assert [box.label for box in found] == ["bee", "red flower"]


def test_nothing_found_is_an_empty_list(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(model, monkeypatch, "")
    assert list(model.detect(PICTURE, LABELS)) == []
    assert list(model.segment(PICTURE, LABELS)) == []


def test_no_more_objects_are_found_than_wanted(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(model, monkeypatch, f"{BEE} ; {FLOWER}")
    assert len(model.detect(PICTURE, LABELS, max_objects=1)) == 1
    with pytest.raises(InputError, match="max_objects=0; it must be at least 1"):
        model.detect(PICTURE, LABELS, max_objects=0)


def test_one_text_and_a_list_name_the_same_labels(model: VisionLanguageModel) -> None:
    listed = model.detect(PICTURE, ["bee", "red flower"], max_objects=3)
    assert model.detect(PICTURE, " bee;red flower ", max_objects=3) == listed
    assert model.detect(PICTURE, ("bee", "red flower"), max_objects=3) == listed
    assert model.detect(PICTURE, iter(["bee", "red flower"]), max_objects=3) == listed  # pyright: ignore[reportArgumentType]


def test_blanks_inside_a_label_count_as_one(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(model, monkeypatch, FLOWER)
    (found,) = model.detect(PICTURE, "red  \t flower")
    assert found.label == "red flower"


def test_a_label_asked_for_twice_is_one_label(model: VisionLanguageModel) -> None:
    for box in model.detect(PICTURE, ["bee", "bee"], max_objects=3):
        assert box.label == "bee"


def test_encoded_pictures_are_found_in_without_the_tower(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.detect(PICTURE, LABELS, max_objects=3)
    masks = model.segment(PICTURE, LABELS, max_objects=2)
    caption = model.caption(PICTURE, max_new_tokens=5)
    features = model.encode_image(PICTURE)
    monkeypatch.setattr(model.model, "encode_images", None)
    assert model.detect(features, LABELS, max_objects=3) == expected
    assert model.segment(features, LABELS, max_objects=2) == masks
    assert model.caption(features, max_new_tokens=5) == caption


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "no label was given"),
        ("", "empty label"),
        ("bee ; ", "empty label"),
        (["bee;flower"], "contains ';'"),
        (["a\nb"], "line break inside"),
        (["<eos>"], "'<eos>' would be read back as ''"),
        (["a <loc0001> bee"], "'a <loc0001> bee' would be read back as 'a'"),
        (["<loc"], "'<loc' would be read back as ''"),
        (["bee,"], "'bee,' would be read back as 'bee'"),
        (["<seg000>"], "would be read back as"),
    ],
)
def test_labels_that_cannot_come_back_are_refused(
    model: VisionLanguageModel, labels: Any, message: str
) -> None:
    for verb in (model.detect, model.segment):
        with pytest.raises(PromptError, match=message):
            verb(PICTURE, labels)


def test_odd_labels_come_back_as_they_were_asked(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in [
        "bee, red",
        "driver's cap",
        "a < b",
        "<location>",
        "蜜蜂 🐝",
        "e\u0301",
        "detect",
    ]:
        script(model, monkeypatch, f"<loc0001><loc0001><loc0900><loc0900> {label}")
        assert [box.label for box in model.detect(PICTURE, [label])] == [label]


# ---------------------------------------------------------------------------------------- batches


def test_a_batch_finds_what_its_rows_find(model: VisionLanguageModel) -> None:
    pictures = [PICTURE, tiny.picture(2, (50, 60)), tiny.picture(3)]
    labels: list[Any] = ["bee", LABELS, "red flower ; 蜂"]
    boxes = model.detect_batch(pictures, labels, max_objects=3)
    masks = model.segment_batch(pictures, labels, max_objects=2)
    for row, (picture, asked) in enumerate(zip(pictures, labels, strict=True)):
        alone = model.detect(picture, asked, max_objects=3)
        assert boxes[row].size == picture.size
        assert [box.xyxy for box in boxes[row]] == [box.xyxy for box in alone]
        assert [box.score for box in boxes[row]] == pytest.approx(
            [box.score for box in alone], rel=1e-2
        )
        segments = model.segment(picture, asked, max_objects=2)
        assert [s.xyxy for s in masks[row]] == [s.xyxy for s in segments]
        for one, other in zip(masks[row], segments, strict=True):
            np.testing.assert_array_equal(one.mask, other.mask)


def test_batches_refuse_what_does_not_pair_up(model: VisionLanguageModel) -> None:
    both: Any
    for both in (model.detect_batch, model.segment_batch):
        with pytest.raises(InputError, match="2 pictures came with 1 sets of labels"):
            both([PICTURE, PICTURE], ["bee"])
        with pytest.raises(InputError, match="0 pictures came with 0 sets of labels"):
            both([], [])
        with pytest.raises(InputError, match="a list of sets of labels is expected, not a str"):
            both([PICTURE], "b")
        with pytest.raises(InputError, match="a list of pictures is expected, not a Image"):
            both(PICTURE, ["bee"])


# ------------------------------------------------------------------------------------------ masks


def test_masks_are_what_the_codec_makes_of_the_codes(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = list(range(0, 128, 8))
    named = "".join(f"<seg{code:03d}>" for code in codes)
    script(model, monkeypatch, f"<loc0000><loc0000><loc1023><loc1023>{named} bee")
    (found,) = model.segment(tiny.picture(1, (64, 64)), "bee")
    with torch.no_grad():
        values = model.codec.decode(torch.tensor([codes]))[0].numpy()
    assert 0.05 < (values > 0).mean() < 0.95, "the codec was to say something"
    # at its own size a mask is not resized, but goes through bytes
    np.testing.assert_allclose(found.mask, (values * 0.5 + 0.5).clip(0, 1), rtol=0, atol=1 / 255)


def parts(model: VisionLanguageModel) -> dict[str, Any]:
    return {"model": model.model, "tokenizer": model.tokenizer, "processor": model.processor}


def test_the_codec_is_read_from_its_file_when_it_is_needed(
    model: VisionLanguageModel, tmp_path: Path
) -> None:
    write_mask_codec(tiny.mask_codec(), tmp_path / "codec.npz")
    reading = VisionLanguageModel(**parts(model), codec=tmp_path / "codec.npz")
    expected = model.segment(PICTURE, LABELS, max_objects=2)
    assert len(expected) > 0
    assert reading.segment(PICTURE, LABELS, max_objects=2) == expected


def test_only_segmentation_needs_the_codec(model: VisionLanguageModel, tmp_path: Path) -> None:
    without = VisionLanguageModel(**parts(model), codec=tmp_path / "none.npz")
    assert without.detect(PICTURE, LABELS, max_objects=2) == model.detect(
        PICTURE, LABELS, max_objects=2
    )
    with pytest.raises(FileFormatError, match=r"there is no mask codec file at .*none\.npz"):
        without.segment(PICTURE, LABELS, max_objects=2)


def test_a_model_without_a_codec_says_what_it_needs_before_any_work(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = VisionLanguageModel(**parts(model))
    monkeypatch.setattr(VisionLanguageModel, "encode_images", None)
    with pytest.raises(ConfigError, match=r"pass codec=FILE .*vae-oid\.npz"):
        without.segment(PICTURE, LABELS)


def test_a_saved_model_takes_its_codec_along(model: VisionLanguageModel, tmp_path: Path) -> None:
    """A codec that is not the model's own would draw masks of nothing, without an error."""
    model.save(tmp_path)
    expected = model.segment(PICTURE, LABELS, max_objects=2)
    assert len(expected) > 0
    assert load(tmp_path).segment(PICTURE, LABELS, max_objects=2) == expected
    (tmp_path / "maskcodec.npz").rename(tmp_path / "vae-oid.npz")
    assert load(tmp_path).segment(PICTURE, LABELS, max_objects=2) == expected
    (tmp_path / "vae-oid.npz").rename(tmp_path / "other.npz")
    with pytest.raises(ConfigError, match="none came with it"):
        load(tmp_path).segment(PICTURE, LABELS)
    named = load(tmp_path, codec=tmp_path / "other.npz")
    assert named.segment(PICTURE, LABELS, max_objects=2) == expected
