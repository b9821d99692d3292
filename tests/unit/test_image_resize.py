"""The big_vision resizes against recorded TensorFlow output; scripts/golden made the record."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heliodor.errors import ImageError
from heliodor.image import Resize, outline
from heliodor.image.resize import resize_square

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "resize.npz")
RESIZES = {"aliased": Resize.BIG_VISION, "antialiased": Resize.BIG_VISION_ANTIALIAS}


def picture(height: int, width: int) -> np.ndarray:
    """The picture of scripts/golden/record_resize.py."""
    random = np.random.default_rng(height * 10_000 + width)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[: height // 2, width // 2 :] = (200, 17, 96)
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    image[height // 2 :] = np.stack([ramp, ramp[::-1], ramp // 2], axis=-1)
    return image


@pytest.mark.parametrize("name", [name for name in GOLDEN.files if name.startswith("size_")])
def test_resizing_agrees_with_tensorflow(name: str) -> None:
    """Within one grey level, and equal but for one pixel in a thousand (fused multiply-adds)."""
    _, height, width, size, way = name.split("_")
    image = Image.fromarray(picture(int(height), int(width)))
    ours = resize_square(image, int(size), RESIZES[way]).astype(int)
    difference = np.abs(ours - GOLDEN[name].astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


def test_the_three_ways_differ_on_a_photo_like_picture() -> None:
    image = Image.fromarray(picture(300, 400))
    results = [resize_square(image, 56, way).astype(int) for way in Resize]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(results[a] - results[b]).max() >= 8


@pytest.mark.parametrize("resize", list(Resize))
def test_a_flat_picture_stays_flat(resize: Resize) -> None:
    """big_vision truncates, so rounding in its antialiased sums may cost one level."""
    image = Image.new("RGB", (123, 77), (200, 17, 96))
    difference = np.abs(resize_square(image, 56, resize).astype(int) - (200, 17, 96))
    assert difference.max() <= (1 if resize is Resize.BIG_VISION_ANTIALIAS else 0)


@pytest.mark.parametrize("resize", list(Resize))
@pytest.mark.parametrize("size", [(65_535, 1), (1, 65_535), (3000, 2)])
def test_a_long_strip_is_squeezed(resize: Resize, size: tuple[int, int]) -> None:
    """A ramp from 0 to 255 along the strip stays a ramp."""
    ramp = np.linspace(0, 255, max(size)).astype(np.uint8)
    array = np.broadcast_to(
        ramp[None, :, None] if size[0] > size[1] else ramp[:, None, None], (size[1], size[0], 3)
    )
    square = resize_square(Image.fromarray(np.ascontiguousarray(array)), 28, resize).astype(int)
    line = square[0, :, 0] if size[0] > size[1] else square[:, 0, 0]
    expected = (np.arange(28) + 0.5) / 28 * 255
    assert np.abs(line - expected).max() <= 2
    other = square if size[0] > size[1] else square.transpose(1, 0, 2)
    assert np.abs(other - other[:1]).max() <= 1


@pytest.mark.parametrize("index", range(4))
def test_the_frame_is_drawn_where_tensorflow_draws_it(index: int) -> None:
    framed = outline(picture(56, 56), tuple(GOLDEN[f"box_{index}"]), 56)
    np.testing.assert_array_equal(np.asarray(framed), GOLDEN[f"frame_{index}"])


def test_the_frame_is_one_pixel_wide_after_resizing() -> None:
    framed = np.asarray(outline(Image.new("RGB", (400, 300), "white"), (0.25, 0.5, 0.75, 1.0), 101))
    red = (framed == (255, 0, 0)).all(-1)
    assert red.sum() == 2 * 51 + 2 * 51 - 4
    assert red[50, 25:76].all()
    assert red[100, 25:76].all()
    assert red[50:101, 25].all()
    assert red[50:101, 75].all()


@pytest.mark.parametrize(
    "box", [(0.5, 0.1, 0.5, 0.9), (0.1, 0.9, 0.9, 0.1), (float("nan"), 0, 1, 1)]
)
def test_a_frame_without_area_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ImageError, match="has no area"):
        outline(Image.new("RGB", (8, 8)), box, 8)
