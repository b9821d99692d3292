"""The verbs on random weights, and on a network that says what a test tells it to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.scripted import read_prompt, say

from heliodor.checkpoints.maskcodec import write_mask_codec
from heliodor.errors import ConfigError, FileFormatError, InputError, PromptError
from heliodor.generation import Greedy
from heliodor.image import ImageProcessor
from heliodor.see.vlm import NO_LOOP, VisionLanguageModel, load

PICTURE = tiny.picture(1, (400, 300))
LABELS = ["bee", "red flower", "蜂"]


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny.vlm(seed=22)  # one that detects and segments something


def script(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, text: str, *, chance: float = 0.9
) -> None:
    """Make every row say ``text`` and <eos>, each token with probability ``chance``."""
    tokens = model.tokenizer.encode_suffix(text)
    rest = math.log((1 - chance) / (model.model.config.num_predicted - 3) / chance)
    say(monkeypatch, tokens, model.model.config.language.vocab_size, rest=rest)
    monkeypatch.setattr(model.model, "read_prompt", read_prompt)


def prompts_of(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that reach the engine from here on."""
    seen: list[str] = []
    generate = model.generate

    def spy(images: Any, prompts: list[str], **options: Any) -> Any:
        seen.extend(prompts)
        return generate(images, prompts, **options)

    monkeypatch.setattr(model, "generate", spy)
    return seen


# ------------------------------------------------------------------------------------------ words


def test_verbs_write_the_prompts_that_the_model_was_trained_on(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = prompts_of(model, monkeypatch)
    model.caption(PICTURE, max_new_tokens=1)
    model.caption(PICTURE, "de", max_new_tokens=1)
    model.ask(PICTURE, " how many? ", max_new_tokens=1)
    model.ask(PICTURE, "combien ?", "fr", max_new_tokens=1)
    model.read(PICTURE, max_new_tokens=1)
    model.detect(PICTURE, "bee; red flower", max_objects=1)
    model.segment(PICTURE, ["bee"], max_objects=1)
    assert seen == [
        "caption en",
        "caption de",
        "answer en how many?",
        "answer fr combien ?",
        "ocr",
        "detect bee ; red flower",
        "segment bee",
    ]


def test_an_answer_is_what_generation_says(model: VisionLanguageModel) -> None:
    answer = model.caption(PICTURE, max_new_tokens=7)
    (found,) = model.generate([PICTURE], ["caption en"], max_new_tokens=7, sampler=Greedy())
    assert answer.text == found.text.strip()
    assert answer.tokens == found.tokens
    assert answer.score == pytest.approx(found.score, rel=1e-5)  # it guesses: other passes
    assert found.score == pytest.approx(math.exp(np.mean(found.logprobs)))
    assert 0.0 < answer.score < 1.0


def test_an_answer_is_trimmed_and_scored(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(model, monkeypatch, " two bees ", chance=0.8)
    answer = model.ask(PICTURE, "how many?")
    assert answer.text == "two bees"
    assert answer.score == pytest.approx(0.8, abs=1e-5)
    assert answer.to_dict() == {"text": "two bees", "score": answer.score}


@pytest.mark.parametrize(
    "said", ["100000", "TOTAL 1000000 EUR", "0 0 0 0 0", "wow, wow, wow, wow!"]
)
def test_repeated_digits_and_words_are_read_in_full(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Four equal tokens in a row once ended an answer: "100000" was read as "10"."""
    script(model, monkeypatch, said)
    assert model.read(PICTURE).text == said
    assert model.ask(PICTURE, "what is written?").text == said


def test_an_answer_that_goes_round_in_circles_is_ended(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(model, monkeypatch, "a boat" + " of the shore" * 60)
    answer = model.caption(PICTURE)
    assert answer.text.startswith("a boat of the shore")
    assert answer.text.count("of the shore") <= 2
    (found,) = model.generate([PICTURE], ["x"], constraint=NO_LOOP, max_new_tokens=96)
    assert found.finish == "constraint"


@pytest.mark.parametrize(
    ("question", "message"), [("", "question is empty"), ("  ", "empty"), ("a\nb", "line break")]
)
def test_questions_have_to_ask_something_on_one_line(
    model: VisionLanguageModel, question: str, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        model.ask(PICTURE, question)


def test_unknown_languages_are_refused(model: VisionLanguageModel) -> None:
    with pytest.raises(PromptError, match="the language 'english' is unknown: did you mean 'en'"):
        model.caption(PICTURE, "english")


def test_a_question_too_long_for_the_model_is_refused(model: VisionLanguageModel) -> None:
    with pytest.raises(PromptError, match=r"exceed the model's context of 512: shorten the prompt"):
        model.ask(PICTURE, "why " * 600)
    with pytest.raises(PromptError, match=r"exceed the model's context of 512"):
        model.detect(PICTURE, ["bee " * 600])


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


def test_the_processor_of_a_model_is_its_own(model: VisionLanguageModel) -> None:
    assert model.processor == ImageProcessor(size=32)
