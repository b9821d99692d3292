"""Which letter lies where, in pictures of words and of documents, against their ink."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from heliodor.teach.data import pages
from heliodor.teach.data.documents import Document, DocumentKind, document_example
from heliodor.teach.data.figures import BarChart
from heliodor.teach.data.fonts import TextSplit, faces
from heliodor.teach.data.pages import Look, paint_chart, paint_rows
from heliodor.teach.data.reading import draw_reading
from heliodor.teach.data.records import Row

TEST = TextSplit.TEST
LOOK = Look(face=faces(TEST)[0], paper=(250, 250, 250), ink=(0, 0, 0), sizes=(16, 14, 12))


def draw(index: int, kind: DocumentKind) -> Document:
    return document_example(TEST.rng(index), split=TEST, kind=kind)


def _spread(mask: np.ndarray) -> np.ndarray:
    """The mask and its neighbours, diagonal ones too."""
    padded = np.pad(mask, 1)
    rows, columns = mask.shape
    shifts = [(y, x) for y in range(3) for x in range(3)]
    return np.any([padded[y : y + rows, x : x + columns] for y, x in shifts], axis=0)


@pytest.mark.parametrize("size", [64, 224])
def test_letters_are_numbered_where_their_ink_is(size: int):
    for index in range(30):
        reading = draw_reading(TEST.rng(index), size=size, split=TEST)
        glyphs, ink = reading.glyphs, reading.ink
        assert glyphs.shape == ink.shape
        assert (ink[glyphs > 0] > 0).mean() > 0.8  # small letters are set on other pixels
        assert _spread(ink > 0)[glyphs > 0].mean() > 0.99
        assert _spread(glyphs > 0)[ink > 200].mean() > 0.95
        shown = {int(number) for number in np.unique(glyphs[glyphs > 0])}
        written = {place for place, letter in enumerate(reading.text, 1) if letter != " "}
        assert shown == written


def test_numbers_rise_along_each_line_and_from_line_to_line():
    for index in range(40):
        reading = draw_reading(TEST.rng(index), split=TEST)
        place, middle = 1, -1.0
        for line in reading.lines:
            letters = [i for i, letter in enumerate(line, place) if letter != " "]
            spots = [np.nonzero(reading.glyphs == number) for number in letters]
            across = [float(columns.mean()) for _, columns in spots]
            assert across == sorted(across), reading.text
            down = float(np.mean([rows.mean() for rows, _ in spots]))
            assert down > middle
            middle, place = down, place + len(line) + 1


def test_codes_lie_on_the_ink_of_their_letters():
    """Black on nearly white, with nothing beside the letters: rows without rules and arrows."""
    rows = (Row(left="Garden Market", heading=True), Row(left="Milk", right="$12.50"))
    for index, face in enumerate(faces(TEST)):
        page = paint_rows(_plain_rng(index), replace(LOOK, face=face), rows, 216)
        assert page is not None
        ink = 250 - np.asarray(page.image)[..., 0].astype(int)
        codes = np.array([0, *map(ord, page.letters)])[np.asarray(page.numbers)]
        assert (ink[codes > 0] > 0).mean() > 0.8
        assert _spread(codes > 0)[ink > 170].mean() > 0.95
        assert {chr(code) for code in np.unique(codes[codes > 0])} == set("GardenMarketMilk$12.50")
        assert page.letters == "Garden Market\nMilk\n$12.50"
        for text in ("il", "$12.50"):  # letters that stand on one line only, in order
            across = [np.nonzero(codes == ord(letter))[1].max() for letter in text]
            assert across == sorted(across)
        assert np.nonzero(codes == ord("G"))[0].max() < np.nonzero(codes == ord("$"))[0].min()


def _plain_rng(index: int) -> np.random.Generator:
    """A generator whose page has neither dots nor a frame."""
    for seed in range(1000):
        rng = np.random.default_rng([index, seed])
        rng.integers(0, 9)
        if (rng.random(3) >= (0.0, 0.3, 0.3)).all():
            return np.random.default_rng([index, seed])
    raise AssertionError


@pytest.mark.parametrize("kind", DocumentKind)
def test_every_letter_of_a_document_is_found_in_the_picture(kind: DocumentKind):
    """Its code has pixels, as many as a letter has; they are darker or lighter than around."""
    for index in range(6):
        document = draw(index, kind)
        codes = document.glyphs
        assert codes.shape == document.image.shape[:2]
        assert codes.dtype == np.uint8
        written = Counter(document.letters.replace("\n", "").replace(" ", ""))
        assert {chr(code) for code in np.unique(codes[codes > 0])} == {
            letter for letter in written if ord(letter) < 256
        }
        for letter, times in written.items():
            pixels = int((codes == ord(letter)).sum())
            assert ord(letter) > 255 or times <= pixels <= times * document.font_size**2
        assert set(document.text.split()) <= set(document.letters.split())
        grey = document.image.mean(-1)
        around = _spread(_spread(_spread(codes > 0))) & ~_spread(codes > 0)
        assert abs(grey[codes > 0].mean() - grey[around].mean()) > 25


def test_a_chart_tells_its_marks_too():
    chart = BarChart(
        title="Rain", noun="month", bars=(("Jan", 10), ("Feb", 40)), step=10, labelled=False
    )
    page = paint_chart(TEST.rng(0), LOOK, chart, 216)
    assert page is not None
    assert page.letters.split("\n") == ["Rain", "0", "10", "20", "30", "40", "50", "Jan", "Feb"]


RECORDED = {
    DocumentKind.RECEIPT: [237.8, 206.7, 208.1],
    DocumentKind.SIGN: [141.0, 141.8, 129.0],
    DocumentKind.TABLE: [129.9, 105.8, 116.2],
    DocumentKind.BAR_CHART: [203.6, 194.6, 195.4],
    DocumentKind.NAME_CARD: [189.9, 190.3, 186.6],
}
"""Mean red, green and blue of the first document of each kind, before there were codes."""


@pytest.mark.parametrize("kind", DocumentKind)
def test_codes_take_nothing_from_the_stream_of_random_numbers(kind: DocumentKind):
    image = draw(0, kind).image
    assert image.mean((0, 1)).tolist() == pytest.approx(RECORDED[kind], abs=0.5)


def test_codes_leave_the_pictures_as_they_were(monkeypatch: pytest.MonkeyPatch):
    """The same pages with a pen that writes the text alone."""

    def write(self: Any, at: tuple[int, int], text: str, typeface: Any, anchor: str) -> None:
        self.draw.text(at, text, self.look.ink, typeface, anchor=anchor)

    codes = [draw(index, kind).image for kind in DocumentKind for index in range(4)]
    monkeypatch.setattr(pages, "_letter", None)
    monkeypatch.setattr(pages._Pen, "write", write)
    plain = [draw(index, kind).image for kind in DocumentKind for index in range(4)]
    for found, wanted in zip(codes, plain, strict=True):
        np.testing.assert_array_equal(found, wanted)
