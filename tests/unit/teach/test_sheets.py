"""Sheets of type: what is written lies where the codes say, and fills the picture."""

from __future__ import annotations

import numpy as np
import pytest

from heliodor.errors import InputError
from heliodor.teach.data.fonts import CHARACTERS, TextSplit
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
