"""Several pictures on one sheet, row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from heliodor.errors import InputError

__all__ = ["contact_sheet"]


def contact_sheet(
    pictures: Sequence[Image.Image], *, columns: int | None = None, gap: int = 8
) -> Image.Image:
    """A white sheet of pictures, each in a cell as large as the largest of them.

    Args:
        pictures: in reading order; none is scaled.
        columns: cells of a row; None for as square a sheet as possible.
        gap: pixels between cells and around them, from 0.

    Raises:
        InputError: no picture, or numbers that make no sheet.
    """
    if not pictures:
        raise InputError("a contact sheet needs at least one picture")
    across = math.ceil(math.sqrt(len(pictures))) if columns is None else columns
    if across < 1 or gap < 0:
        raise InputError(f"columns is {columns} and gap {gap}; expected at least 1 and 0")
    across = min(across, len(pictures))
    down = math.ceil(len(pictures) / across)
    width, height = (max(sides) for sides in zip(*(each.size for each in pictures), strict=True))
    size = (across * (width + gap) + gap, down * (height + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, across)
        left = gap + column * (width + gap) + (width - picture.width) // 2
        top = gap + row * (height + gap) + (height - picture.height) // 2
        sheet.paste(picture, (left, top))
    return sheet
