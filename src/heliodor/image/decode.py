"""Whatever a user calls a picture -> upright RGB without transparency, or an ``ImageError``.

Limits are checked on the header, before a pixel is decoded. Only the formats below are tried:
Pillow reads about forty, and past memory bugs sat in the rare ones (FITS, PSD, TIFF, EPS).
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from heliodor.errors import ImageError

__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "MAX_SIDE", "ImageSource", "open_image"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What cameras, browsers and screenshot tools write; TIFF is left out for its decoder's history."""

MAX_PIXELS = 89_478_485
"""Width times height. Pillow's own warning level: a quarter of a gibibyte as RGB."""

MAX_SIDE = 65_535
"""Width or height alone: the largest that a JPEG can have; bounds the work of resizing a strip."""

MAX_BYTES = 256 * 2**20
"""Size of an encoded file."""

ImageSource = (
    Image.Image
    | NDArray[np.uint8]
    | NDArray[np.bool_]
    | bytes
    | bytearray
    | memoryview
    | str
    | os.PathLike[str]
)

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")


def open_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture as it is meant to be seen.

    The EXIF orientation is applied, transparency is laid over white, palettes, grey, 16-bit grey
    (scaled, 65535 to 255) and CMYK become RGB, and of an animation the first frame is taken. A
    PIL image passed in is not changed, and opening twice gives the same as once.

    Args:
        source: a PIL image, a uint8 array [H W 3], [H W 4], [H W 1] or [H W], a bool array [H W],
            the bytes of a file, or a path. Formats: ``FORMATS``.
        max_pixels: largest width times height.

    Returns:
        A PIL image of mode RGB, without metadata.

    Raises:
        ImageError: nothing else leaves this function, whatever the bytes are: not an image, a
            format that is not read, truncated, empty, too large, or an array whose values have
            no certain meaning.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the PIL image", max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), f"the image ({len(source)} bytes)", max_pixels)
    if isinstance(source, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        return _from_path(source, max_pixels)
    raise ImageError(
        f"an image may be a PIL image, a uint8 array [H W 3], bytes or a path, not "
        f"{type(source).__module__}.{type(source).__qualname__}: turn a tensor into an array of "
        "uint8 with the channels last"
    )


def _from_path(source: str | os.PathLike[str], max_pixels: int) -> Image.Image:
    name = os.fspath(source)
    if name.startswith(("http://", "https://", "data:", "file://")):
        raise ImageError(
            f"{name[:60]!r} is an address, not a path: fetch it first and pass the bytes"
        )
    path = Path(name)
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist or is no regular file"
            raise ImageError(f"{path} {what}: pass the path of a picture")
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(_too_many_bytes(str(path), path.stat().st_size))
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = error.strerror if isinstance(error, OSError) else "not a valid path"
        raise ImageError(f"{path} cannot be read: {reason}") from None
    return _from_bytes(data, str(path), max_pixels)


def _from_bytes(data: bytes, name: str, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError(f"{name} is empty: a picture in {_listed()} is expected")
    if len(data) > MAX_BYTES:
        raise ImageError(_too_many_bytes(name, len(data)))
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is not a picture in {_listed()}: convert it, or open it with Pillow and pass "
            "the PIL image"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            f"{name} claims more than {max_pixels:,} pixels, the largest picture that is decoded: "
            "scale it down first"
        ) from None
    except Exception:  # noqa: BLE001  (a hostile header can raise anything)
        raise ImageError(f"{name} has a damaged header and cannot be opened") from None
    with image:
        return _to_rgb(image, name, max_pixels)


def _from_array(array: NDArray[Any], max_pixels: int) -> Image.Image:
    shape = "[" + " ".join(map(str, array.shape)) + "]"
    if array.dtype != np.uint8 and not (array.dtype == np.bool_ and array.ndim == 2):
        raise ImageError(
            f"an array of {array.dtype} {shape} is no certain picture (is white 1, 255 or 65535?): "
            "pass uint8, for example (x * 255).round().astype('uint8') for values in 0..1"
        )
    if array.size == 0:
        raise ImageError(f"the array {shape} is empty: it has no pixels")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        hint = "move the channels last" if array.ndim == 3 else "pass one picture at a time"
        raise ImageError(f"an array {shape} is no picture: [H W 3] is expected, {hint}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), f"the array {shape}", max_pixels)


def _to_rgb(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width == 0 or height == 0:
        raise ImageError(f"{name} is empty: it measures {width} x {height} pixels")
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{name} measures {width} x {height} pixels, over the limit of {max_pixels:,} in all "
            f"and {MAX_SIDE:,} a side: scale it down first"
        )
    try:
        image.load()
    except Exception:  # noqa: BLE001  (decoders raise anything on hostile bytes)
        raise ImageError(f"{name} is truncated or damaged: its pixels cannot be decoded") from None
    try:
        plain = _flatten(image)
        turn = _UPRIGHT.get(_orientation(image))
        plain = plain if turn is None else plain.transpose(turn)
    except ImageError:
        raise
    except Exception:  # noqa: BLE001  (metadata of hostile files reaches these conversions)
        raise ImageError(f"{name} (mode {image.mode}) cannot be converted to RGB") from None
    plain.info = {}
    return plain


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  (broken metadata of a sound picture: take it as upright)
        return 1


def _flatten(image: Image.Image) -> Image.Image:
    """Any mode -> a new RGB image, transparency over white."""
    if image.mode in _DEEP_GREY:
        return _from_deep_grey(image)
    if image.mode in ("I", "F"):
        raise ImageError(
            f"a PIL image of mode {image.mode} has no certain white: scale it to 0..255 and "
            "convert it to mode L or RGB first"
        )
    premultiplied = {"RGBa": "RGBA", "La": "LA"}.get(image.mode)
    if premultiplied:
        image = image.convert(premultiplied)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")  # a copy, also of an RGB image


def _from_deep_grey(image: Image.Image) -> Image.Image:
    deep = np.asarray(image, dtype=np.uint16)
    grey = np.round(deep / 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[deep == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _listed() -> str:
    return ", ".join(FORMATS[:-1]) + " or " + FORMATS[-1]


def _too_many_bytes(name: str, size: int) -> str:
    return f"{name} has {size:,} bytes, over the limit of {MAX_BYTES:,}"
