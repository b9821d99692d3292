"""What the engine refuses, and how it says so."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny

from heliodor.errors import ConfigError, ImageError, InputError
from heliodor.generation import Beam, Greedy
from heliodor.image import ImageProcessor
from heliodor.see.engine import Engine
from heliodor.see.inputs import ImageFeatures
from heliodor.see.vlm import VisionLanguageModel

PICTURE = tiny.picture(1)


@pytest.fixture(scope="module")
def engine() -> VisionLanguageModel:
    return tiny.vlm()


@pytest.mark.parametrize("count", [0, -3])
def test_at_least_one_token_has_to_be_wanted(engine: Engine, count: int) -> None:
    for sampler in (Greedy(), Beam(2)):
        with pytest.raises(InputError, match=f"max_new_tokens={count}; it must be at least 1"):
            engine.generate([None], ["x"], max_new_tokens=count, sampler=sampler)


def test_features_of_another_model_are_refused(engine: Engine) -> None:
    other = ImageFeatures(tokens=torch.zeros(16, 48), size=(8, 8))
    with pytest.raises(InputError, match="features of width 48 came to a model of width 32"):
        engine.generate([other], ["x"])
    with pytest.raises(InputError, match="width 48 came to a model of width 32"):
        engine.logits([other], ["x"])


def broken_pictures() -> dict[str, Any]:
    buffer = io.BytesIO()
    tiny.picture(1, (200, 200)).save(buffer, "PNG")
    return {
        "is empty": b"",
        "is truncated or damaged": buffer.getvalue()[:300],
        "is not a picture": b"hello, this is text",
        "does not exist": "no/such/picture.png",
        "no certain picture": np.zeros((4, 4, 3)),
        "not builtins.NoneType": [None],
        "not builtins.int": 7,
    }


@pytest.mark.parametrize(("message", "source"), broken_pictures().items())
def test_a_broken_picture_is_one_clear_error_and_the_engine_lives_on(
    engine: Engine, message: str, source: Any
) -> None:
    with pytest.raises(ImageError, match=message):
        engine.generate([PICTURE, source], ["x", "y"])
    if not isinstance(source, list):
        with pytest.raises(ImageError, match=message):
            engine.encode_image(source)
    assert engine.generate([PICTURE], ["x"], max_new_tokens=1)[0].text


def test_a_picture_of_one_pixel_is_a_picture(engine: Engine) -> None:
    for size in [(1, 1), (1, 500), (500, 1)]:
        features = engine.encode_image(tiny.picture(1, size))
        assert features.size == size
        assert bool(features.tokens.isfinite().all())


def parts(engine: Engine) -> dict[str, Any]:
    return {"model": engine.model, "tokenizer": engine.tokenizer, "processor": engine.processor}


def test_a_tokenizer_with_more_ids_than_the_table_has_rows_is_refused(engine: Engine) -> None:
    language = replace(engine.model.config.language, vocab_size=3000)
    small = tiny.paligemma(language=language, image_token=None)
    with pytest.raises(ConfigError, match=r"<loc> and <seg> end at id 3711, .* below 3000"):
        Engine(**parts(engine) | {"model": small})


def test_a_placeholder_before_the_locations_is_refused(engine: Engine) -> None:
    """Rows from the placeholder on are never predicted: no box could be written."""
    other = tiny.paligemma(language=engine.model.config.language, image_token=2560)
    with pytest.raises(ConfigError, match=r"end at id 3711, .* below 2560"):
        Engine(**parts(engine) | {"model": other})


def test_a_processor_of_another_resolution_is_refused(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="pictures of 33 pixels, the model takes 32"):
        Engine(**parts(engine) | {"processor": ImageProcessor(size=33)})
