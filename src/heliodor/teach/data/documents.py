"""Pictures of receipts, signs, tables, bar charts and visiting cards, with questions about them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from heliodor.errors import DataError, InputError
from heliodor.see.prompt import ask
from heliodor.teach.data.figures import BarChart, Table, draw_chart, draw_table
from heliodor.teach.data.fonts import TextSplit
from heliodor.teach.data.pages import Look, Page, draw_look, paint_chart, paint_rows, paint_table
from heliodor.teach.data.reading import pick_face
from heliodor.teach.data.records import (
    Directions,
    Limits,
    NameCard,
    OpeningHours,
    PriceBoard,
    Receipt,
    draw_card,
    draw_receipt,
    draw_sign,
)
from heliodor.teach.data.surfaces import surface, wear
from heliodor.teach.data.words import pick

__all__ = ["Content", "Document", "DocumentKind", "document_example"]

Rng = np.random.Generator
Content = Receipt | PriceBoard | OpeningHours | Directions | NameCard | Table | BarChart

_SMALLEST = 112
_FACES, _CONTENTS = 40, 12  # tries; wide faces leave little room in small pictures
_SCRIPTS = frozenset({"Dancing Script", "Lobster"})  # small print in them cannot be read


class DocumentKind(enum.Enum):
    """What a document is."""

    RECEIPT = "receipt"
    SIGN = "sign"
    TABLE = "table"
    BAR_CHART = "bar_chart"
    NAME_CARD = "name_card"


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A picture of a document and what can be asked about it.

    Attributes:
        image: uint8 [H W 3].
        kind: what it is.
        questions: (prompt, answer); prompts are whole: `answer en What is the total?`.
        text: all that is written, from top to bottom, words apart by one space; for a chart its
            title, then each bar's label with the value written above it.
        content: the facts behind the picture.
        font_size: pixels to the em of the smallest text.
        glyphs: uint8 [H W], the code of the letter at each pixel where that is below 256; 0 is no
            letter.
        numbers: int32 [H W], one more than the place in `letters` of the letter at each pixel; 0 is
            no letter.
        letters: every text in the picture, the marks of a chart's axis too, one a line.
    """

    image: np.ndarray
    kind: DocumentKind
    questions: tuple[tuple[str, str], ...]
    text: str
    content: Content
    font_size: int
    glyphs: np.ndarray
    numbers: np.ndarray
    letters: str


def document_example(
    rng: Rng,
    *,
    size: int = 224,
    split: TextSplit = TextSplit.TRAIN,
    kind: DocumentKind | None = None,
) -> Document:
    """A picture of a document with every question that it answers.

    Args:
        rng: the source of every choice; the same generator state gives the same document.
        size: width and height in pixels, at least 112; small pictures hold less.
        split: TRAIN draws with installed families, TEST with the held-out ones. Draw the two from
            different seeds.
        kind: what to draw; anything, all kinds equally likely except cards (half), when absent.

    Raises:
        InputError: `size` is too small.
        DataError: no training font is installed, or none in which such a document fits.
    """
    if size < _SMALLEST:
        raise InputError(
            f"a document of {size} x {size} pixels cannot be read; "
            f"size must be at least {_SMALLEST}"
        )
    chosen = kind or pick(rng, (*DocumentKind, *tuple(DocumentKind)[:4]))
    content, page = _page(rng, chosen, size, split)
    image, numbers = _photograph(rng, page, size)
    codes = [0, *(ord(letter) if ord(letter) < 256 else 0 for letter in page.letters)]
    return Document(
        image=image,
        kind=chosen,
        questions=tuple((ask(asked), answer) for asked, answer in content.questions()),
        text=_reading(content),
        content=content,
        font_size=page.font_size,
        glyphs=np.array(codes, np.uint8)[numbers],
        numbers=numbers,
        letters=page.letters,
    )


_DRAW: dict[DocumentKind, Callable[[Rng, Limits], Content]] = {
    DocumentKind.RECEIPT: draw_receipt,
    DocumentKind.SIGN: draw_sign,
    DocumentKind.TABLE: draw_table,
    DocumentKind.BAR_CHART: draw_chart,
    DocumentKind.NAME_CARD: draw_card,
}


def _page(rng: Rng, kind: DocumentKind, size: int, split: TextSplit) -> tuple[Content, Page]:
    """Contents of a kind that are legible on a picture of `size` pixels, and their page."""
    limits = Limits(
        entries=max(2, min(5, size // 40)), columns=max(1, size // 72), letters=max(5, size // 20)
    )
    signlike = kind in (DocumentKind.SIGN, DocumentKind.NAME_CARD)
    for _ in range(_FACES):
        face = pick_face(rng, split, without=_SCRIPTS)
        look = draw_look(rng, face, size, signlike=signlike)
        for _ in range(_CONTENTS):
            content = _DRAW[kind](rng, limits)
            page = _paint(rng, look, content, size - 8)
            if page is not None:
                return content, page
    raise DataError(
        f"no {kind.value} is legible in {size} x {size} pixels with the fonts found for "
        f"{split.value}; install more families or draw larger pictures"
    )


def _paint(rng: Rng, look: Look, content: Content, room: int) -> Page | None:
    if isinstance(content, Table):
        return paint_table(rng, look, content, room)
    if isinstance(content, BarChart):
        return paint_chart(rng, look, content, room)
    return paint_rows(rng, look, content.rows(), room)


def _reading(content: Content) -> str:
    """All that is written, as `Document.text` orders it."""
    if isinstance(content, Table):
        return " ".join(cell for row in content.cells() for cell in row)
    if isinstance(content, BarChart):
        bars = (f"{label} {value}" if content.labelled else label for label, value in content.bars)
        return " ".join((content.title, *bars))
    texts = (text for row in content.rows() for text in (row.left, row.right))
    return " ".join(text for text in texts if text)


def _photograph(rng: Rng, page: Page, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The page somewhere on a desk, perhaps slightly turned, as a camera sees it; its letters."""
    sheet, numbers, mask = page.image, page.numbers, Image.new("L", page.image.size, 255)
    if rng.random() < 0.4:
        angle = float(np.clip(rng.normal(0, 1.0), -2, 2))
        turned = sheet.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        if max(turned.size) <= size:
            mask = mask.rotate(angle, Image.Resampling.BICUBIC, expand=True)
            numbers = numbers.rotate(angle, Image.Resampling.NEAREST, expand=True)
            sheet = turned
    desk = Image.fromarray(surface(rng, size, size).pixels)
    corner = (
        int(rng.integers(0, size - sheet.width + 1)),
        int(rng.integers(0, size - sheet.height + 1)),
    )
    desk.paste(sheet, corner, mask)
    placed = Image.new("I", desk.size)
    placed.paste(numbers, corner)
    return np.array(wear(rng, desk, font_size=page.font_size)), np.array(placed)
