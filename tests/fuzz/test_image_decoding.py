"""Whatever bytes arrive, opening them gives an RGB picture or an ``ImageError``, nothing else."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from heliodor.errors import ImageError
from heliodor.image import open_image


def seeds() -> list[bytes]:
    """One small file of each format and of the modes that take other paths through the decoders."""
    random = np.random.default_rng(3)
    rgb = Image.fromarray(random.integers(0, 256, (24, 31, 3), dtype=np.uint8))
    rgba = Image.fromarray(random.integers(0, 256, (24, 31, 4), dtype=np.uint8))
    deep = Image.fromarray(random.integers(0, 65536, (24, 31), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a picture"
    made: list[tuple[Image.Image, str, dict[str, object]]] = [
        (rgb, "JPEG", {"exif": exif}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "PNG", {"exif": exif}),
        (rgba, "PNG", {}),
        (deep, "PNG", {}),
        (rgb.quantize(16), "PNG", {"transparency": 3}),
        (rgb, "PNG", {"save_all": True, "append_images": [rgb.rotate(180)]}),
        (rgb, "GIF", {"save_all": True, "append_images": [rgb.rotate(180)]}),
        (rgba, "WEBP", {"exif": exif}),
        (rgb, "WEBP", {"lossless": True}),
        (rgb, "BMP", {}),
        (rgb.convert("1"), "BMP", {}),
    ]
    files: list[bytes] = []
    for image, kind, options in made:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


SEEDS = seeds()
change = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255))


def check(data: bytes) -> None:
    message = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the result is what counts
        try:
            image = open_image(data, max_pixels=4_000_000)
        except ImageError as error:
            message = str(error)
            image = None
    if image is None:
        assert "0x" not in message
        return
    assert image.mode == "RGB"
    assert np.asarray(image).shape == (image.height, image.width, 3)


@pytest.mark.parametrize("index", range(len(SEEDS)))
def test_the_unchanged_files_open(index: int) -> None:
    assert sorted(open_image(SEEDS[index]).size) == [24, 31]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(change, min_size=1, max_size=12))
def test_files_with_changed_bytes(seed: bytes, changes: list[tuple[float, int]]) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[int(place * len(data))] = value
    check(bytes(data))


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(change, min_size=1, max_size=6))
def test_files_with_changed_headers(seed: bytes, changes: list[tuple[float, int]]) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[int(place * min(len(data), 80))] = value
    check(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.floats(0, 1), st.floats(0, 1), st.binary(max_size=40))
def test_files_cut_and_spliced(seed: bytes, start: float, end: float, middle: bytes) -> None:
    first, second = sorted((int(start * len(seed)), int(end * len(seed))))
    check(seed[:first] + middle + seed[second:])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_of_no_format(data: bytes) -> None:
    check(data)
