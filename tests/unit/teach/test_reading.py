from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from heliodor.errors import DataError, InputError
from heliodor.teach.data.fonts import TextSplit, faces, font
from heliodor.teach.data.reading import (
    MIN_FONT_SIZE,
    PROMPT,
    Reading,
    draw_reading,
    pick_face,
    read_example,
)
from heliodor.teach.data.surfaces import contrast

TEST = TextSplit.TEST


def draw(index: int, size: int = 224, **options) -> Reading:
    return draw_reading(TEST.rng(index), size=size, split=TEST, **options)


READINGS = [draw(index) for index in range(120)]


def test_a_reading_is_a_colour_picture_and_one_to_five_words():
    counts = set()
    for reading in READINGS:
        assert reading.image.shape == (224, 224, 3)
        assert reading.image.dtype == np.uint8
        assert re.fullmatch(r"\S+( \S+){0,4}", reading.text)
        assert reading.text == " ".join(reading.lines)
        counts.add(len(reading.text.split()))
    assert counts == {1, 2, 3, 4, 5}
    assert PROMPT == "ocr"


def test_one_seed_gives_one_picture_and_another_seed_another():
    for index in (0, 3):
        image, text = read_example(TEST.rng(index), split=TEST)
        assert np.array_equal(image, READINGS[index].image)
        assert text == READINGS[index].text
    assert not np.array_equal(READINGS[0].image, READINGS[3].image)


def test_test_pictures_are_drawn_with_held_out_families_alone():
    assert {reading.face for reading in READINGS} == set(faces(TEST))


def test_training_pictures_are_drawn_with_none_of_the_held_out_families():
    try:
        faces(TextSplit.TRAIN)
    except DataError:
        pytest.skip("no training font is installed")
    drawn = {draw_reading(TextSplit.TRAIN.rng(i), size=64).face for i in range(150)}
    assert len(drawn) >= min(10, len(faces(TextSplit.TRAIN)))
    assert not {face.family for face in drawn} & {face.family for face in faces(TEST)}


def _free_ink(reading: Reading) -> float:
    """The ink of the lines drawn on a canvas far larger than they need."""
    total = 0.0
    for line in reading.lines:
        canvas = Image.new("L", (1200, 300))
        typeface = font(reading.face.path, reading.font_size)
        ImageDraw.Draw(canvas).text((100, 150), line, 255, typeface, anchor="ls")
        total += float(np.asarray(canvas, np.float64).sum())
    return total


@pytest.mark.parametrize("size", [32, 64, 112, 224])
def test_no_letter_is_cut_by_the_edge(size: int):
    for index in range(40):
        reading = draw(index, size)
        ink = reading.ink
        edge = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
        assert edge.max() == 0
        # turning resamples small letters: bicubic overshoot, clipped, adds up to a tenth of ink
        assert 0.98 < ink.astype(float).sum() / _free_ink(reading) < 1.12


def test_letters_are_never_smaller_than_the_least_legible_size():
    for size in (32, 64, 112, 224):
        assert min(draw(index, size).font_size for index in range(60)) >= MIN_FONT_SIZE
    assert max(reading.font_size for reading in READINGS) >= 40


def _colour(pixels: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = np.median(pixels, axis=0)
    return int(red), int(green), int(blue)


def test_letters_stand_out_from_what_is_behind_them_light_on_dark_and_dark_on_light():
    lighter = 0
    for reading in READINGS:
        if (reading.ink > 250).sum() < 30 or reading.font_size < 18:
            continue  # hair lines have no pixel of pure ink
        ys, xs = np.nonzero(reading.ink)
        box = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        image, ink = reading.image[box], reading.ink[box]
        front, back = _colour(image[ink > 250]), _colour(image[ink == 0])
        assert contrast(front, back) > 3.0, reading.text
        lighter += sum(front) > sum(back)
    assert 10 < lighter < 110


def test_long_lines_are_wrapped_and_the_words_keep_their_order():
    wrapped = [reading for reading in READINGS if len(reading.lines) > 1]
    assert {len(reading.lines) for reading in wrapped} == {2, 3}
    assert len(wrapped) < 90
    for reading in wrapped:
        rows = np.nonzero(reading.ink.any(1))[0]
        assert rows[-1] - rows[0] > reading.font_size  # more than one line high


@pytest.mark.parametrize("most", [2, 6, 12, 20])
def test_the_difficulty_bounds_the_characters_and_leaves_room_for_larger_letters(most: int):
    readings = [draw(index, max_characters=most) for index in range(60)]
    assert max(len(reading.text) for reading in readings) <= most
    assert np.median([r.font_size for r in readings]) >= min(38, 224 // most)


def test_a_picture_of_112_pixels_holds_fewer_characters():
    small = [draw(index, 112) for index in range(60)]
    assert np.mean([len(r.text) for r in small]) < 0.8 * np.mean([len(r.text) for r in READINGS])
    assert all(len(draw(index, 112, max_words=1).text.split()) == 1 for index in range(20))


@pytest.mark.parametrize(
    "options", [{"size": 31}, {"max_words": 0}, {"max_characters": 1}, {"size": -1}]
)
def test_a_picture_that_cannot_hold_text_is_refused(options: dict[str, int]):
    with pytest.raises(InputError, match="size must be at least 32"):
        read_example(TEST.rng(0), split=TEST, **options)


def test_families_are_equally_likely_and_can_be_left_out():
    source = TEST.rng(0)
    drawn = [pick_face(source, TEST).family for _ in range(2000)]
    assert all(400 < drawn.count(face.family) < 600 for face in faces(TEST))
    left = {pick_face(source, TEST, without=frozenset({"Open Sans"})).family for _ in range(100)}
    assert left == {"EB Garamond", "JetBrains Mono", "Comic Neue"}
    everything = frozenset(face.family for face in faces(TEST))
    assert pick_face(source, TEST, without=everything).family in everything
