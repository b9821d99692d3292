"""Opening pictures: modes, orientation, transparency, limits, and one kind of error."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heliodor.errors import ImageError
from heliodor.image import MAX_PIXELS, MAX_SIDE, open_image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 6, width: int = 9, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def over_white(rgba: np.ndarray) -> np.ndarray:
    """The textbook formula, in float64."""
    alpha = rgba[..., 3:].astype(np.float64) / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def png(width: int, height: int, rows: bytes, depth: int, colour: int, extra: bytes = b"") -> bytes:
    """A PNG written by hand: the header need not agree with the rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_give_back_their_pixels(kind: str) -> None:
    array = noise()
    options = {"lossless": True} if kind == "WEBP" else {}
    image = open_image(encoded(Image.fromarray(array), kind, **options))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), array)


def test_a_jpeg_decodes_as_pillow_decodes_it(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise(40, 30)), "JPEG", quality=90)
    (tmp_path / "a.jpg").write_bytes(data)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    for source in (data, bytearray(data), memoryview(data), tmp_path / "a.jpg"):
        np.testing.assert_array_equal(np.asarray(open_image(source)), expected)
    np.testing.assert_array_equal(np.asarray(open_image(str(tmp_path / "a.jpg"))), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    """The stored pixels are the upright ones turned back; opening must undo it."""
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :16] = (255, 0, 0)  # red at the top left
    upright[:8, 16:] = (0, 255, 0)
    upright[8:, :16] = (0, 0, 255)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    quality = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    picture = Image.fromarray(np.ascontiguousarray(stored))
    image = open_image(encoded(picture, kind, exif=exif, **lossless, **quality))
    assert np.abs(np.asarray(image).astype(int) - upright).max() <= 3
    assert dict(image.getexif()) == {}
    np.testing.assert_array_equal(np.asarray(open_image(image)), np.asarray(image))


def test_orientation_of_an_opened_pil_image_is_applied_and_the_image_left_alone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    source = Image.open(io.BytesIO(encoded(Image.fromarray(noise(4, 8)), exif=exif)))
    assert open_image(source).size == (4, 8)
    assert source.size == (8, 4)
    assert source.getexif()[0x0112] == 6


def test_broken_exif_leaves_the_picture_upright() -> None:
    data = encoded(Image.fromarray(noise()), exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    np.testing.assert_array_equal(np.asarray(open_image(data)), noise())


def test_opening_changes_neither_the_image_nor_shares_its_pixels() -> None:
    source = Image.fromarray(noise())
    opened = open_image(source)
    opened.putpixel((0, 0), (1, 2, 3))
    assert source.getpixel((0, 0)) == tuple(noise()[0, 0])


@pytest.mark.parametrize("source", ["array", "pil", "png", "premultiplied"])
def test_alpha_is_laid_over_white(source: str) -> None:
    rgba = noise(channels=4)
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 255
    image = Image.fromarray(rgba)
    given = {
        "array": rgba,
        "pil": image,
        "png": encoded(image),
        "premultiplied": image.convert("RGBa"),
    }[source]
    tolerance = 3 if source == "premultiplied" else 1  # the colour is stored times alpha, rounded
    difference = np.abs(np.asarray(open_image(given)) - over_white(rgba))
    assert difference.max() <= tolerance
    np.testing.assert_array_equal(np.asarray(open_image(given))[0, 0], [255, 255, 255])


def test_grey_with_alpha_is_laid_over_white() -> None:
    rgba = noise(channels=4)
    rgba[..., 1] = rgba[..., 2] = rgba[..., 0]
    image = Image.merge("LA", [Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., 3])])
    for given in (image, encoded(image)):
        assert np.abs(np.asarray(open_image(given)) - over_white(rgba)).max() <= 1


def test_a_palette_becomes_its_colours_and_its_transparent_entry_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert np.asarray(open_image(encoded(palette))).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    transparent = encoded(palette, transparency=1)
    assert np.asarray(open_image(transparent)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    partly = encoded(palette, transparency=b"\xff\x80")
    assert np.asarray(open_image(partly)).tolist() == [[[10, 20, 30], [227, 177, 152]]]


def test_one_transparent_colour_of_rgb_and_grey_becomes_white() -> None:
    colour = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    opened = open_image(encoded(colour, transparency=(1, 2, 3)))
    assert np.asarray(opened).tolist() == [[[255, 255, 255], [4, 5, 6]]]
    grey = Image.fromarray(np.array([[7, 9]], dtype=np.uint8))
    opened = open_image(encoded(grey, transparency=9))
    assert np.asarray(opened).tolist() == [[[7, 7, 7], [255, 255, 255]]]


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    deep = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    for given in (Image.fromarray(deep), encoded(Image.fromarray(deep))):
        assert np.asarray(open_image(given))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_the_transparent_value_of_sixteen_bit_grey_becomes_white() -> None:
    body = b"tRNS" + struct.pack(">H", 300)
    extra = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    rows = b"\x00" + struct.pack(">HH", 300, 30000)
    opened = open_image(png(2, 1, rows, 16, 0, extra))
    assert np.asarray(opened)[0, :, 0].tolist() == [255, 117]


def test_sixteen_bit_colour_keeps_its_high_byte() -> None:
    rows = b"\x00" + struct.pack(">HHH", 0x1234, 0xFF00, 0x8000)
    assert np.asarray(open_image(png(1, 1, rows, 16, 2))).tolist() == [[[0x12, 0xFF, 0x80]]]


def test_cmyk_jpeg_in_adobes_inverted_form_has_its_colours() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink
    data = encoded(cmyk, "JPEG", quality=100)
    assert b"Adobe" in data
    red, green, blue = np.asarray(open_image(data))[8, 8].tolist()
    assert red >= 250
    assert green <= 5
    assert blue <= 5


@pytest.mark.parametrize("mode", ["1", "L", "HSV", "YCbCr"])
def test_other_modes_convert_as_pillow_converts_them(mode: str) -> None:
    image = Image.fromarray(noise()).convert(mode)
    np.testing.assert_array_equal(np.asarray(open_image(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.asarray(open_image(data))[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1), (3, 7)])
def test_any_aspect_ratio_opens(height: int, width: int) -> None:
    array = noise(height, width)
    np.testing.assert_array_equal(np.asarray(open_image(encoded(Image.fromarray(array)))), array)


def test_grey_and_boolean_arrays_are_pictures() -> None:
    grey = noise(channels=1)
    np.testing.assert_array_equal(np.asarray(open_image(grey)), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(np.asarray(open_image(grey[..., None]))[..., 1], grey)
    mask = np.array([[True, False]])
    assert np.asarray(open_image(mask)).tolist() == [[[255] * 3, [0] * 3]]


def test_a_strided_array_is_read_as_it_looks() -> None:
    array = noise(8, 8)[::-2, ::2]
    np.testing.assert_array_equal(np.asarray(open_image(array)), array)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32 \[4 4 3\] is no certain picture"),
        (np.zeros((4, 4), np.uint16), "uint16"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros((4, 4, 3), np.bool_), "bool"),
        (np.zeros((3, 8, 8), np.uint8), "move the channels last"),
        (np.zeros((8, 8, 2), np.uint8), r"\[H W 3\] is expected"),
        (np.zeros((1, 8, 8, 3), np.uint8), "pass one picture at a time"),
        (np.zeros((8,), np.uint8), "is no picture"),
        (np.zeros((), np.uint8), "is no picture"),
        (np.zeros((0, 8, 3), np.uint8), "is empty"),
        (np.zeros((MAX_SIDE + 1, 1), np.uint8), "over the limit"),
    ],
)
def test_arrays_without_a_certain_meaning_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(array)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pil_modes_without_a_certain_white_are_refused(mode: str) -> None:
    with pytest.raises(ImageError, match=f"mode {mode} has no certain white"):
        open_image(Image.new(mode, (4, 4)))


def test_an_empty_pil_image_is_refused() -> None:
    with pytest.raises(ImageError, match="measures 0 x 5"):
        open_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"the image \(0 bytes\) is empty"),
        (b"hello world", "is not a picture in JPEG, PNG, WEBP, GIF or BMP"),
        (b"%PDF-1.7 ...", "is not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a picture"),
        (b"\x89PNG\r\n\x1a\n", "is not a picture|damaged"),
        (b"\xff\xd8\xff\xe0", "is not a picture|damaged|truncated"),
        (b"GIF89a", "is not a picture|damaged"),
        (b"BM", "is not a picture|damaged"),
    ],
)
def test_bytes_that_are_no_picture_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(data)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "TGA", "ICO", "PCX"])
def test_formats_outside_the_list_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="is not a picture in"):
        open_image(encoded(Image.fromarray(noise(16, 16)), kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_truncated_picture_is_refused(kind: str) -> None:
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    with pytest.raises(ImageError, match=r"truncated or damaged|not a picture|damaged header"):
        open_image(data[: len(data) // 2])


def test_the_message_of_a_damaged_picture_holds_no_address_of_memory() -> None:
    data = encoded(Image.fromarray(noise(64, 64)))
    for source in (data[:100], b"nonsense"):
        with pytest.raises(ImageError) as caught:
            open_image(source)
        assert "0x" not in str(caught.value)
        assert "BytesIO" not in str(caught.value)


def test_a_picture_that_claims_too_many_pixels_is_refused_before_decoding() -> None:
    bomb = png(50_000, 50_000, b"", 8, 2)
    with pytest.raises(ImageError, match="pixels"):
        open_image(bomb)
    strip = png(MAX_SIDE + 1, 1, b"", 8, 2)
    with pytest.raises(ImageError, match="over the limit"):
        open_image(strip)


def test_the_pixel_limit_can_be_lowered() -> None:
    data = encoded(Image.fromarray(noise(10, 10)))
    assert open_image(data, max_pixels=100).size == (10, 10)
    with pytest.raises(ImageError, match="measures 10 x 10 pixels, over the limit of 99"):
        open_image(data, max_pixels=99)
    with pytest.raises(ImageError, match="over the limit of 99"):
        open_image(noise(10, 10), max_pixels=99)


def test_the_limit_holds_when_pillows_own_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match=f"over the limit of {MAX_PIXELS:,}"):
        open_image(png(20_000, 20_000, b"", 8, 2))


def test_paths_that_are_no_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match=r"does not exist"):
        open_image(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png is empty"):
        open_image(tmp_path / "empty.png")
    with pytest.raises(ImageError, match=r"does not exist|not a valid path"):
        open_image("a\0b")
    with pytest.raises(ImageError, match=r"does not exist|is no regular file"):
        open_image("/dev/zero")
    with pytest.raises(ImageError, match=r"is a folder|does not exist"):
        open_image("")


@pytest.mark.parametrize(
    "address", ["https://x.org/a.png", "data:image/png;base64,AA", "file:///a"]
)
def test_addresses_are_not_fetched(address: str) -> None:
    with pytest.raises(ImageError, match="is an address, not a path"):
        open_image(address)


@pytest.mark.parametrize("source", [None, 3, [1, 2], io.BytesIO(b"x"), object()])
def test_objects_of_other_types_are_refused(source: object) -> None:
    with pytest.raises(ImageError, match="may be a PIL image, a uint8 array"):
        open_image(source)  # pyright: ignore[reportArgumentType]
