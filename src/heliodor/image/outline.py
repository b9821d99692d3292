"""A one-pixel frame drawn into a picture, as the WidgetCap checkpoints were trained to read it."""

from __future__ import annotations

from PIL import Image, ImageDraw

from heliodor.errors import ImageError
from heliodor.image.decode import ImageSource, open_image
from heliodor.image.resize import Resize, resize_square

__all__ = ["outline"]


def outline(
    image: ImageSource,
    box: tuple[float, float, float, float],
    size: int,
    *,
    resize: Resize = Resize.BIG_VISION_ANTIALIAS,
    colour: tuple[int, int, int] = (255, 0, 0),
) -> Image.Image:
    """Squeeze a picture into a square, then frame a part of it.

    The frame is drawn after resizing, so that it is one pixel wide for the model (big_vision,
    ``pp/proj/paligemma/widgetcap.py``; lines at ``int(edge * (size - 1))`` as TensorFlow's
    ``draw_bounding_boxes`` puts them).

    Args:
        image: the picture.
        box: x0, y0, x1, y1 as fractions 0..1 of its width and height; edges outside are not drawn.
        size: side of the square in pixels; take the model's, so that it is not resized again.
        resize: how to resize; WidgetCap was trained with antialiasing.
        colour: red, green, blue of the frame, 0..255.

    Returns:
        An RGB image of size x size.

    Raises:
        ImageError: the image cannot be opened, or the box is empty or upside down.
    """
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise ImageError(
            f"the box {box} has no area: x0 < x1 and y0 < y1 are expected, as fractions of the "
            "width and height"
        )
    framed = Image.fromarray(resize_square(open_image(image), size, resize))
    edge = size - 1
    left, top, right, bottom = (int(value * edge) for value in (x0, y0, x1, y1))
    ImageDraw.Draw(framed).rectangle((left, top, right, bottom), outline=colour, width=1)
    return framed
