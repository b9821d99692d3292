"""The artwork pack: what it holds and in what form."""

import numpy as np
import pytest

from heliodor.errors import DataError
from heliodor.teach.data.artwork import (
    ALL_STYLES,
    HELD_OUT_STYLE,
    SPRITE_SIDE,
    TRAIN_STYLES,
    load_style,
    sprite,
    styles_of,
)
from heliodor.teach.data.concepts import concept_named, load_concepts

COMPLETE = ("noto", "twemoji", "fluent-emoji-flat", "fluent-emoji", "fluent-3d")


@pytest.mark.parametrize("style", COMPLETE)
def test_complete_styles_draw_every_concept(style: str) -> None:
    assert set(load_style(style).index) == {c.code for c in load_concepts()}


@pytest.mark.parametrize("style", ALL_STYLES)
def test_sprites_fill_their_box_and_lie_inside_the_atlas(style: str) -> None:
    loaded = load_style(style)
    for concept in load_concepts():
        if not loaded.has(concept):
            continue
        x, y, width, height = loaded.index[concept.code]
        assert x + width <= loaded.atlas.width
        assert y + height <= loaded.atlas.height
        alpha = np.asarray(loaded.sprite(concept).getchannel("A"))
        assert alpha.shape == (height, width)
        assert max(alpha.shape) == SPRITE_SIDE
        assert alpha.max() > 250
        for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
            assert edge.max() > 0


def test_the_held_out_style_is_not_a_training_style() -> None:
    assert HELD_OUT_STYLE not in TRAIN_STYLES
    assert len(load_style(HELD_OUT_STYLE).index) == 200


def test_styles_differ_and_a_missing_drawing_is_named() -> None:
    dog, fox = concept_named("dog"), concept_named("fox")
    assert sprite(dog, "noto").tobytes() != sprite(dog, "twemoji").tobytes()
    assert "fxemoji" not in styles_of(fox)
    assert "fxemoji" in styles_of(dog)
    with pytest.raises(DataError, match="style 'fxemoji' has no 'fox'"):
        load_style("fxemoji").sprite(fox)


def test_unknown_style_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="no artwork style 'crayon': use one of noto, twemoji"):
        load_style("crayon")
