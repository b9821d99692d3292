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
from heliodor.generation import Beam, Greedy, Temperature
from heliodor.image import ImageProcessor
from heliodor.see.engine import Engine
from heliodor.see.inputs import ImageFeatures
from heliodor.see.vlm import VisionLanguageModel

PICTURE = tiny.picture(1)


@pytest.fixture(scope="module")
def engine() -> VisionLanguageModel:
    return tiny.vlm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0; it must be at least 1"),
        ({"max_new_tokens": -3}, "max_new_tokens=-3; it must be at least 1"),
        ({"max_new_tokens": 0, "sampler": Beam(2)}, "max_new_tokens=0; it must be at least 1"),
        ({"max_new_tokens": 2.5}, r"max_new_tokens=2\.5; it must be .* whole"),
        ({"max_new_tokens": None}, "max_new_tokens=None"),
        ({"sampler": "greedy"}, "sampler 'greedy'; expected one such as Greedy"),
        ({"sampler": Greedy}, r"got the class Greedy; write Greedy\(\) to make one"),
        ({"seed": "lucky"}, "seed 'lucky'; expected a whole number or None"),
        ({"seed": 1.5}, r"seed 1\.5; expected a whole number or None"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(
    engine: Engine, options: dict[str, Any], message: str
) -> None:
    """Two and a half tokens were once never reached, so that decoding did not end."""
    with pytest.raises(InputError, match=message):
        engine.generate([None], ["x"], **options)
    if not isinstance(options.get("sampler"), Beam):
        with pytest.raises(InputError, match=message):
            next(engine.stream(None, "x", **options))


@pytest.mark.parametrize("seed", [-1, 0, 2**63, 2**64 - 1, 2**80, np.int64(7)])
def test_any_whole_number_is_a_seed(engine: Engine, seed: int) -> None:
    options: dict[str, Any] = {"max_new_tokens": np.int64(3), "sampler": Temperature(1.0)}
    once = engine.generate([PICTURE], ["x", "y"], seed=seed, **options)
    assert engine.generate([PICTURE], ["x", "y"], seed=seed, **options) == once


def test_features_of_another_model_are_refused(engine: Engine) -> None:
    other = ImageFeatures(tokens=torch.zeros(16, 48), size=(8, 8))
    with pytest.raises(InputError, match="features of width 48 came to a model of width 32"):
        engine.generate([other], ["x"])
    with pytest.raises(InputError, match="width 48 came to a model of width 32"):
        engine.logits([other], ["x"])
    with pytest.raises(InputError, match=r"one picture are \[N W\], not \[1, 16, 32\]"):
        ImageFeatures(tokens=torch.zeros(1, 16, 32), size=(8, 8))


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
        Engine(**dict(parts(engine), model=small))


def test_a_placeholder_before_the_locations_is_refused(engine: Engine) -> None:
    """Rows from the placeholder on are never predicted: no box could be written."""
    other = tiny.paligemma(language=engine.model.config.language, image_token=2560)
    with pytest.raises(ConfigError, match=r"end at id 3711, .* below 2560"):
        Engine(**dict(parts(engine), model=other))


def test_a_processor_of_another_resolution_is_refused(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="pictures of 33 pixels, the model takes 32"):
        Engine(**dict(parts(engine), processor=ImageProcessor(size=33)))
