"""The pair as one calls it: labels, scores, embeddings, files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny
from tests.sentences import pair_folder, write_spiece

import heliodor
from heliodor.errors import ConfigError, ImageError, InputError, KeyMismatchError, PromptError
from heliodor.image import ImageProcessor
from heliodor.see import pair as module
from heliodor.see.labels import TEMPLATE, Classification, LabelScore
from heliodor.see.pair import ImageTextModel, load_siglip
from heliodor.text.fixed import Cleaning, FixedTokenizer

LABELS = ["cat", "two dogs", "tulip"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pair_folder(tmp_path_factory.mktemp("pair") / "tiny")


@pytest.fixture(scope="module")
def pair(folder: Path) -> ImageTextModel:
    return load_siglip(folder)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(5)
    return [
        Image.fromarray(random.integers(0, 256, (height, 40, 3), dtype=np.uint8))
        for height in (20, 32, 50)
    ]


def test_scores_are_sigmoids_of_scaled_cosines(
    pair: ImageTextModel, pictures: list[Image.Image]
) -> None:
    image = pair.embed_images(pictures[:1])[0]
    texts = pair.embed_texts([f"This is a photo of {label}." for label in LABELS])
    logits = {
        label: math.exp(1.1) * float(image @ text) - 0.7
        for label, text in zip(LABELS, texts, strict=True)
    }
    found = pair.classify(pictures[0], LABELS)
    assert [item.label for item in found] == sorted(LABELS, key=lambda name: -logits[name])
    for item in found:
        assert item.logit == pytest.approx(logits[item.label], abs=1e-5)
        assert item.score == pytest.approx(1 / (1 + math.exp(-logits[item.label])), abs=1e-6)
    assert found.best is found[0]
    assert found.to_dict()["labels"][0] == {
        "label": found.best.label,
        "score": found.best.score,
        "logit": found.best.logit,
    }


def test_a_template_of_ones_own_and_none(pair: ImageTextModel, pictures: list[Image.Image]) -> None:
    logits = pair.logits(pictures[:1], ["a red cat {} here", "cat"])
    own = pair.classify(pictures[0], ["cat {}"], template="a red {} here")
    bare = pair.classify(pictures[0], "cat", template=None)
    assert own.best.logit == pytest.approx(float(logits[0, 0]), abs=1e-5)
    assert bare.best.logit == pytest.approx(float(logits[0, 1]), abs=1e-5)
    assert abs(own.best.logit - bare.best.logit) > 1e-3


def test_labels_are_a_string_a_list_or_embedded_before(
    pair: ImageTextModel, pictures: list[Image.Image]
) -> None:
    listed = pair.classify_batch(pictures, LABELS)
    assert pair.classify_batch(pictures, "cat ; two dogs; tulip ") == listed
    assert pair.classify_batch(pictures, pair.label_set(LABELS)) == listed
    assert len({tuple(item.logit for item in found) for found in listed}) == 3


@pytest.mark.parametrize("labels", ["", " ; ", [], ["cat", ""], "cat;"])
def test_no_label_is_an_error(
    pair: ImageTextModel, pictures: list[Image.Image], labels: str | Sequence[str]
) -> None:
    with pytest.raises(PromptError, match="none may be empty"):
        pair.classify(pictures[0], labels)


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{label}"])
def test_a_template_without_one_place_is_an_error(
    pair: ImageTextModel, pictures: list[Image.Image], template: str
) -> None:
    with pytest.raises(PromptError, match=r"must hold \{\} once"):
        pair.classify(pictures[0], "cat", template=template)


def test_batches_do_not_change_embeddings(
    pair: ImageTextModel, pictures: list[Image.Image]
) -> None:
    images = pair.embed_images(pictures)
    assert images.shape == (3, 24)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(pair.embed_images(pictures, batch=2), images)
    texts = pair.embed_texts(LABELS)
    torch.testing.assert_close(pair.embed_texts(LABELS, batch=1), texts)
    torch.testing.assert_close(pair.logits(pictures, LABELS), pair.score(images, texts))
    assert pair.embed_images([]).shape == pair.embed_texts([]).shape == (0, 24)
    assert not images.requires_grad


def test_what_is_no_list_is_an_error(pair: ImageTextModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="list of pictures"):
        pair.embed_images("photo.png")
    with pytest.raises(InputError, match="list of texts"):
        pair.embed_texts("a cat")
    with pytest.raises(ImageError):
        pair.embed_images([tmp_path / "none.png"])
    with pytest.raises(InputError, match="batch is 0"):
        pair.embed_texts(["a cat"], batch=0)


def test_a_classification_is_a_sequence() -> None:
    items = [LabelScore(label=n, score=s, logit=s) for n, s in (("a", 0.1), ("b", 0.9), ("c", 0.1))]
    found = Classification(items)
    assert [item.label for item in found] == ["b", "a", "c"]
    assert [item.label for item in found[:2]] == ["b", "a"]
    assert found == Classification(items[::-1][:0] + items)
    assert found != found[:2]
    assert hash(found) == hash(Classification(items))


@pytest.mark.parametrize("form", ["transformers", "big_vision"])
def test_what_is_saved_is_loaded(
    pair: ImageTextModel, pictures: list[Image.Image], tmp_path: Path, form: str
) -> None:
    place = tmp_path / ("out.npz" if form == "big_vision" else "out")
    pair.save(place, format=form)
    if form == "big_vision":
        words = write_spiece(tmp_path / "words")
        again = load_siglip(place, tokenizer=words, cleaning=Cleaning.TRANSFORMERS)
        again.processor = pair.processor
    else:
        again = load_siglip(place)
    assert torch.equal(again.logits(pictures, LABELS), pair.logits(pictures, LABELS))


def test_a_format_that_is_not_written_is_named(pair: ImageTextModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'gguf' is not written"):
        pair.save(tmp_path / "out", format="gguf")


def test_parts_of_different_models_are_refused(pair: ImageTextModel, tmp_path: Path) -> None:
    words = write_spiece(tmp_path)
    long = FixedTokenizer.from_file(words, length=10)
    with pytest.raises(ConfigError, match="texts of 10 tokens, the model takes exactly 32"):
        ImageTextModel(model=pair.model, tokenizer=long, processor=pair.processor)
    with pytest.raises(ConfigError, match="64 pixels, the model takes 32"):
        ImageTextModel(
            model=pair.model, tokenizer=pair.tokenizer, processor=ImageProcessor(size=64)
        )
    small = tiny.pair(text=replace(tiny.TEXT, length=32))
    with pytest.raises(ConfigError, match="embedding only 40 rows"):
        ImageTextModel(model=small, tokenizer=pair.tokenizer, processor=pair.processor)


def test_tiny_says_which_models_there_are(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "TINY", tmp_path / "none")
    with pytest.raises(InputError, match=r"no SigLIP pair ships.*google/siglip-base-patch16-224"):
        heliodor.load_siglip("tiny")
    monkeypatch.setattr(module, "TINY", folder)
    assert heliodor.load_siglip("tiny").width == 24
    with pytest.raises(InputError, match="has no revision 'main'"):
        heliodor.load_siglip("tiny", revision="main")


def test_other_families_and_places_are_told(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "paligemma"}')
    with pytest.raises(ConfigError, match=r"no SigLIP pair: heliodor.load\(\)"):
        load_siglip(other)
    with pytest.raises(ConfigError, match="does not exist"):
        load_siglip(tmp_path / "none")
    with pytest.raises(InputError, match="no revision"):
        load_siglip(folder, revision="main")
    with pytest.raises(InputError, match="device 'nowhere'"):
        load_siglip(folder, device="nowhere")


def test_dtype_is_the_weights_and_answers_stay_float32(
    folder: Path, pair: ImageTextModel, pictures: list[Image.Image]
) -> None:
    narrow = load_siglip(folder, dtype="bfloat16")
    assert narrow.model.text.embedding.weight.dtype == torch.bfloat16
    found = narrow.logits(pictures, LABELS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, pair.logits(pictures, LABELS), atol=0.05, rtol=0.05)


def test_a_missing_tensor_is_named(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    place = tmp_path / "copy"
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    tensors = load_file(place / "model.safetensors")
    del tensors["vision_model.head.attention.in_proj_weight"]
    tensors["vision_model.head.attention.in_proj_bias"] = torch.zeros(71)
    tensors["text_model.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(tensors, place / "model.safetensors")
    with pytest.raises(
        KeyMismatchError, match=r"(?s)pool\.k\.weight \(vision_model.*in_proj_weight\[1\]\)"
    ) as caught:
        load_siglip(place)
    assert "position_ids" not in str(caught.value)
    assert "in_proj_bias" in str(caught.value)


def test_the_default_template_is_the_published_one() -> None:
    assert TEMPLATE == "This is a photo of {}."
