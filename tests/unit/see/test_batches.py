"""Several pictures at once: each row answers as it would alone, each under its own labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heliodor import zoo
from heliodor.errors import InputError
from heliodor.generation import ChoiceGrammar
from heliodor.image import ImageProcessor
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.models.siglip import SiglipVisionConfig
from heliodor.see.vlm import VisionLanguageModel
from heliodor.teach.init import initialise
from heliodor.text import Tokenizer

LABELS = ["bee", "sun ; red fox", ["cup"]]


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    tokenizer = Tokenizer.from_file(zoo.TOKENIZER)
    vision = SiglipVisionConfig(
        image_size=32, patch_size=16, width=32, depth=1, num_heads=2, mlp_width=32
    )
    language = GemmaConfig(
        vocab_size=tokenizer.vocab_size,
        width=32,
        depth=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        mlp_width=32,
        context=256,
    )
    config = PaliGemmaConfig(vision=vision, language=language, image_token=tokenizer.image_token)
    network = PaliGemma(config)
    initialise(network, 0)
    torch.manual_seed(0)
    with torch.no_grad():  # large, so that answers depend on the picture and do not repeat
        network.projector.weight.mul_(20)
        for name, weight in network.language.named_parameters():
            if "layers" in name:
                weight.normal_(0, 0.5)
    return VisionLanguageModel(
        model=network.eval(),
        tokenizer=tokenizer,
        processor=ImageProcessor(size=32),
        codec=zoo.MASK_CODEC,
    )


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((32, 32), (20, 50), (64, 9))
    ]


def close(found, alone):
    assert found.size == alone.size
    assert [box.label for box in found] == [box.label for box in alone]
    assert [box.xyxy for box in found] == [box.xyxy for box in alone]
    assert [box.score for box in found] == pytest.approx([box.score for box in alone], rel=1e-4)


def test_boxes_of_a_batch_are_those_of_each_picture_alone(model, pictures):
    batch = model.detect_batch(pictures, LABELS, max_objects=2)
    assert any(len(boxes) for boxes in batch)
    for found, picture, labels in zip(batch, pictures, LABELS, strict=True):
        close(found, model.detect(picture, labels, max_objects=2))
    names = [{"bee"}, {"sun", "red fox"}, {"cup"}]
    assert all({box.label for box in b} <= own for b, own in zip(batch, names, strict=True))


def test_masks_of_a_batch_are_those_of_each_picture_alone(model, pictures):
    batch = model.segment_batch(pictures, LABELS, max_objects=1)
    assert any(len(segments) for segments in batch)
    for found, picture, labels in zip(batch, pictures, LABELS, strict=True):
        alone = model.segment(picture, labels, max_objects=1)
        close(found, alone)
        for one, other in zip(found, alone, strict=True):
            assert np.array_equal(one.mask, other.mask)


def test_pictures_encoded_together_are_those_encoded_alone(model, pictures):
    for found, picture in zip(model.encode_images(pictures), pictures, strict=True):
        alone = model.encode_image(picture)
        assert found.size == alone.size
        torch.testing.assert_close(found.tokens, alone.tokens, rtol=1e-5, atol=1e-5)


def test_each_row_keeps_to_its_own_constraint(model, pictures):
    tokenizer = model.tokenizer
    choices = [
        ChoiceGrammar(choices=(tuple(tokenizer.encode(word)),), eos=tokenizer.eos)
        for word in ("yes", "no")
    ]
    rows = model.generate(pictures, ["a", "b", "c"], max_new_tokens=4, constraint=[*choices, None])
    assert [row.text for row in rows[:2]] == ["yes", "no"]
    (free,) = model.generate([pictures[2]], ["c"], max_new_tokens=4)
    assert rows[2].tokens == free.tokens


def test_pictures_and_labels_that_do_not_pair_up_are_refused(model, pictures):
    with pytest.raises(InputError, match="3 pictures came with 1 sets of labels"):
        model.detect_batch(pictures, ["bee"])
    with pytest.raises(InputError, match="0 pictures came with 0 sets"):
        model.segment_batch([], [])
    with pytest.raises(InputError, match="2 constraints for 3 rows"):
        model.generate(pictures, ["a", "b", "c"], constraint=[None, None])
