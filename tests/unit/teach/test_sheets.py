"""Sheets of type: what is written lies where the codes say, and fills the picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from heliodor.errors import InputError
from heliodor.teach.data.fonts import CHARACTERS, TextSplit, faces, font
from heliodor.teach.data.glyphs import glyph, lay_down
from heliodor.teach.data.sheets import draw_sheet

TEST = TextSplit.TEST


def test_the_same_state_gives_the_same_sheet_and_another_another() -> None:
    first, again, other = (draw_sheet(np.random.default_rng(i), split=TEST) for i in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.glyphs, again.glyphs)
    assert first.letters == again.letters
    assert (first.image != other.image).any()
    assert first.image.shape == (224, 224, 3)
    assert first.image.dtype == first.glyphs.dtype == np.uint8
    assert first.glyphs.shape == (224, 224)


def test_codes_are_those_of_letters_written_there() -> None:
    """Each code stands for a letter of the sheet, and there the picture differs from its ground."""
    for seed in range(8):
        sheet = draw_sheet(np.random.default_rng(seed), size=160, split=TEST)
        codes = {int(code) for code in np.unique(sheet.glyphs)} - {0}
        assert {chr(code) for code in codes} <= set(sheet.letters) & set(CHARACTERS)
        grey = sheet.image.mean(-1)
        steps = np.abs(np.diff(grey, axis=1))
        near = sheet.glyphs[:, 1:] > 0
        assert steps[near].mean() > 2 * steps[~near].mean()


def test_a_sheet_holds_ten_times_the_letters_of_a_line() -> None:
    sheets = [draw_sheet(np.random.default_rng(seed), split=TEST) for seed in range(8)]
    counts = [len("".join(sheet.letters.split())) for sheet in sheets]
    assert np.mean(counts) > 150
    rare = sum(sheet.letters.count(letter) for sheet in sheets for letter in "#@%=_")
    assert rare > 8


def test_a_sheet_too_small_for_type_is_refused() -> None:
    with pytest.raises(InputError, match="at least 64"):
        draw_sheet(np.random.default_rng(0), size=60)


@pytest.mark.parametrize("pen", [(20, 30), (-3, 30), (35, 8), (20, 44), (90, 30)])
def test_a_kept_letter_is_the_letter_as_drawn_and_cut_at_the_edges(pen: tuple[int, int]) -> None:
    for face in faces(TEST):
        for letter in "gQ&j":
            drawn = Image.new("L", (40, 40))
            typeface = font(face.path, 24)
            ImageDraw.Draw(drawn).text(pen, letter, 255, typeface, anchor="ls")
            ink, codes = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
            kept = glyph(face.path, 24, letter)
            lay_down(kept, pen, ink, codes, 7)
            np.testing.assert_array_equal(ink, np.asarray(drawn))
            np.testing.assert_array_equal(codes, np.where(ink >= 128, 7, 0))
            assert kept.advance == typeface.getlength(letter)


def test_where_letters_meet_the_darker_ink_counts() -> None:
    face = faces(TEST)[0].path
    ink, codes = np.full((40, 40), 90, np.uint8), np.full((40, 40), 3, np.uint8)
    alone, none = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    lay_down(glyph(face, 24, "x"), (10, 30), ink, codes, 0)
    lay_down(glyph(face, 24, "x"), (10, 30), alone, none, 0)
    np.testing.assert_array_equal(ink, np.maximum(alone, 90))
    assert (codes == 3).all()
