"""Pixels of drawn pictures at known places."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageChops

from heliodor.see import overlay
from heliodor.see.overlay import COLOURS, INK, PAPER, TINT, Mark, draw_marks, write_below

GREY = (100, 100, 100)


def grey(width: int = 160, height: int = 160) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def half_mask() -> NDArray[np.float32]:
    mask = np.zeros((160, 160), np.float32)
    mask[40:120, 40:120] = 1.0
    return mask


def test_a_frame_runs_along_the_inside_of_its_box():
    drawn = draw_marks(grey(), [Mark(label="", xyxy=(20.0, 30.0, 100.0, 120.0))])
    for inside in ((20, 30), (99, 30), (20, 119), (99, 119), (60, 30), (20, 75)):
        assert drawn.getpixel(inside) == COLOURS[0]
    for outside in ((19, 30), (100, 60), (60, 29), (60, 120), (60, 75)):
        assert drawn.getpixel(outside) == GREY


def test_a_hairline_of_the_other_lightness_lies_within_the_frame():
    dark, light = (Mark(label=name, xyxy=(20.0, 20.0, 60.0, 60.0)) for name in ("a", "b"))
    assert draw_marks(grey(), [dark]).getpixel((40, 58)) == (255, 255, 255)
    both = draw_marks(grey(), [Mark(label="a", xyxy=(0.0, 0.0, 9.0, 9.0)), light])
    assert both.getpixel((40, 58)) == (0, 0, 0)


def test_a_mask_is_tinted_and_its_rim_is_solid():
    mark = Mark(label="", xyxy=(40.0, 40.0, 120.0, 120.0), mask=half_mask())
    drawn = draw_marks(grey(), [Mark(label="", xyxy=(0.0, 0.0, 5.0, 5.0)), mark])
    weight = round(255 * TINT) / 255
    expected = [round(100 + (colour - 100) * weight) for colour in COLOURS[0]]
    assert np.abs(np.array(drawn.getpixel((80, 80))) - expected).max() <= 1
    assert drawn.getpixel((130, 80)) == GREY
    free = Mark(label="", xyxy=(0.0, 0.0, 5.0, 5.0), mask=half_mask())
    assert draw_marks(grey(), [free]).getpixel((40, 80)) == COLOURS[0]


def test_half_a_mask_tints_half_as_much():
    mark = Mark(label="", xyxy=(0.0, 0.0, 4.0, 4.0), mask=half_mask() * np.float32(0.4))
    pixel = np.array(draw_marks(grey(), [mark]).getpixel((80, 80)))
    expected = [100 + (colour - 100) * TINT * 0.4 for colour in COLOURS[0]]
    assert np.abs(pixel - expected).max() <= 1


def test_a_mask_that_fills_the_picture_has_its_rim_on_the_edge():
    mark = Mark(label="", xyxy=(70.0, 70.0, 80.0, 80.0), mask=np.ones((160, 160), np.float32))
    assert draw_marks(grey(), [mark]).getpixel((0, 40)) == COLOURS[0]


def test_the_tab_stands_over_the_box_and_inside_where_there_is_no_room():
    over = draw_marks(grey(), [Mark(label="bee", xyxy=(20.0, 60.0, 120.0, 120.0), score=0.5)])
    assert over.getpixel((21, 55)) == COLOURS[0]
    inside = draw_marks(grey(), [Mark(label="bee", xyxy=(20.0, 3.0, 120.0, 120.0), score=0.5)])
    assert inside.getpixel((20, 1)) == GREY
    tab = inside.crop((20, 3, 60, 17))
    assert np.asarray(tab.convert("L")).max() > 200  # letters


def test_one_label_has_one_colour_and_another_label_another():
    places = [(10.0, 10.0, 30.0, 30.0), (50.0, 10.0, 70.0, 30.0), (90.0, 10.0, 110.0, 30.0)]
    marks = [Mark(label=name, xyxy=at) for name, at in zip("aba", places, strict=True)]
    drawn = draw_marks(grey(), marks)
    assert [drawn.getpixel((round(x) + 10, 29)) for x, *_ in places] == [
        COLOURS[0],
        COLOURS[1],
        COLOURS[0],
    ]


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """WCAG's ratio."""

    def luminance(colour: tuple[int, ...]) -> float:
        parts = [
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
            for v in (value / 255 for value in colour)
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("row", range(len(COLOURS)))
def test_words_stand_out_from_every_tab(row):
    marks = [Mark(label=f"{n}", xyxy=(0.0, 0.0, 2.0, 2.0)) for n in range(row)]
    drawn = draw_marks(grey(), [*marks, Mark(label="WWWW", xyxy=(20.0, 60.0, 150.0, 120.0))])
    seen = np.asarray(drawn.crop((21, 46, 60, 59))).reshape(-1, 3)
    colours = {tuple(colour) for colour in seen.tolist()}
    assert COLOURS[row] in colours
    assert max(contrast(colour, COLOURS[row]) for colour in colours) >= 4.5


@pytest.mark.parametrize(
    "xyxy",
    [
        (-50.0, -50.0, 500.0, 500.0),
        (300.0, 300.0, 400.0, 400.0),
        (5.0, 5.0, 5.0, 5.0),
        (159.9, 159.9, 160.0, 160.0),
    ],
)
def test_boxes_beyond_the_picture_are_drawn_where_they_meet_it(xyxy):
    drawn = draw_marks(grey(), [Mark(label="a long label that is wider than all", xyxy=xyxy)])
    assert drawn.size == (160, 160)
    assert ImageChops.difference(drawn, grey()).getbbox() is not None


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_the_smallest_pictures_can_be_drawn_on(size):
    width, height = size
    mask = np.ones((height, width), np.float32)
    mark = Mark(label="bee", xyxy=(0.0, 0.0, float(width), float(height)), mask=mask)
    assert draw_marks(grey(*size), [mark]).size == size


def test_the_given_picture_is_not_changed():
    picture = grey()
    draw_marks(picture, [Mark(label="a", xyxy=(0.0, 0.0, 99.0, 99.0), mask=half_mask())])
    write_below(picture, ["words"])
    assert picture.getcolors() == [(160 * 160, GREY)]


def test_words_go_on_a_strip_under_the_enlarged_picture():
    page = write_below(grey(), ["a bee on a flower"])
    assert page.size[0] == 480
    assert page.getpixel((479, 470)) == GREY
    assert page.getpixel((479, 481)) == PAPER
    darkest = min(colour for _, colour in page.crop((0, 480, *page.size)).getcolors(9999) or [])
    assert darkest == INK


def rows_of_ink(page: Image.Image) -> int:
    strip = np.asarray(page.convert("L"))[480:] < 128
    busy = strip.any(1).astype(int)
    return int((np.diff(busy) == 1).sum())


def test_long_lines_are_wrapped_within_the_strip():
    page = write_below(grey(), ["mmmm " * 30])
    assert rows_of_ink(page) > 3
    assert np.asarray(page.convert("L"))[480:, 472:].min() > 128


def test_a_word_longer_than_the_strip_is_broken():
    page = write_below(grey(), ["m" * 120])
    assert rows_of_ink(page) > 2
    assert np.asarray(page.convert("L"))[480:, 472:].min() > 128


def test_scripts_without_spaces_are_wrapped():
    page = write_below(grey(), ["花の上に蜂がいる。" * 12])
    assert page.height > write_below(grey(), ["花"]).height + 40
    assert np.asarray(page.convert("L"))[480:, 472:].min() > 128


def test_without_fonts_accents_are_dropped_and_other_scripts_marked(monkeypatch):
    monkeypatch.setattr(overlay, "LATIN_FONTS", ())
    monkeypatch.setattr(overlay, "WIDE_FONTS", ())
    accented, plain = write_below(grey(), ["Überblick 蜂"]), write_below(grey(), ["Uberblick ?"])
    assert ImageChops.difference(accented, plain).getbbox() is None


def test_no_lines_no_strip():
    assert write_below(grey(), []).size == (480, 480)
