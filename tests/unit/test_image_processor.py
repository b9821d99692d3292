"""From pictures to the array of the image tower, and preprocessor_config.json."""

import numpy as np
import pytest
from PIL import Image

from heliodor.errors import ConfigError, ImageError
from heliodor.image import ImageProcessor, Resize
from heliodor.image.resize import resize_square


def noise(height: int, width: int) -> Image.Image:
    random = np.random.default_rng(height + width)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("resize", list(Resize))
def test_pixels_are_the_resized_levels_in_minus_one_to_one(resize: Resize) -> None:
    images = [noise(40, 60), noise(100, 30)]
    pixels = ImageProcessor(size=28, resize=resize)(images)
    assert pixels.shape == (2, 3, 28, 28)
    assert pixels.dtype == np.float32
    for image, row in zip(images, pixels, strict=True):
        levels = resize_square(image, 28, resize).astype(np.float64)
        np.testing.assert_allclose(row, (levels / 127.5 - 1).transpose(2, 0, 1), atol=1e-6)


def test_black_and_white_are_exactly_minus_one_and_one() -> None:
    pixels = ImageProcessor(size=4)([Image.new("RGB", (4, 4)), Image.new("L", (9, 9), 255)])
    assert (pixels[0] == -1).all()
    assert (pixels[1] == 1).all()


def test_mean_and_std_apply_to_their_channel() -> None:
    process = ImageProcessor(size=2, mean=(0.0, 0.5, 1.0), std=(1.0, 0.25, 2.0))
    pixels = process([Image.new("RGB", (2, 2), (255, 51, 0))])
    np.testing.assert_allclose(pixels[0, :, 0, 0], [1.0, (0.2 - 0.5) / 0.25, -0.5], atol=1e-6)


def test_no_pictures_give_an_empty_array() -> None:
    assert ImageProcessor(size=8)([]).shape == (0, 3, 8, 8)


def test_pictures_of_any_kind_are_opened_on_the_way() -> None:
    array = np.asarray(noise(8, 8))
    np.testing.assert_array_equal(
        ImageProcessor(size=8)([array]), ImageProcessor(size=8)([noise(8, 8)])
    )
    with pytest.raises(ImageError, match="not a picture"):
        ImageProcessor(size=8)([b"nonsense"])


@pytest.mark.parametrize("resize", list(Resize))
def test_a_written_config_reads_back(resize: Resize) -> None:
    process = ImageProcessor(size=448, resize=resize, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    config = process.to_preprocessor_config(1024)
    assert config["image_seq_length"] == 1024
    assert config["resample"] == (3 if resize is Resize.TRANSFORMERS else 2)
    assert ImageProcessor.from_preprocessor_config(config) == process


def test_the_official_config_is_the_transformers_way() -> None:
    official = {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_seq_length": 256,
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "PaliGemmaProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 224, "width": 224},
    }
    assert ImageProcessor.from_preprocessor_config(official) == ImageProcessor(size=224)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": 2}, "resample is 2, expected 3"),
        ({"resample": "lanczos"}, "resample is 'lanczos'"),
        ({"heliodor_resize": "nearest"}, "expected one of transformers, big_vision"),
        ({"image_processor_type": "CLIPImageProcessor"}, "is for CLIPImageProcessor"),
        ({"size": {"height": 224, "width": 448}}, "PaliGemma reads squares"),
        ({"size": {"shortest_edge": 224}}, "PaliGemma reads squares"),
        ({"size": "224"}, "PaliGemma reads squares"),
        ({"size": None}, "PaliGemma reads squares"),
        ({"size": 0}, "image size 0 is outside"),
        ({"size": 100_000}, "image size 100000 is outside"),
        ({"do_resize": False}, "do_resize is False, expected true"),
        ({"do_center_crop": True}, "do_center_crop is True"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0, expected 1/255"),
        ({"image_mean": [0.5]}, r"image_mean is \[0.5\], expected three numbers"),
        ({"image_std": "abc"}, "image_std is 'abc', expected three numbers"),
        ({"image_std": [0.5, 0, 0.5]}, "must be above 0"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "three finite numbers"),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(
    change: dict[str, object], message: str
) -> None:
    config = ImageProcessor(size=224).to_preprocessor_config(256) | change
    with pytest.raises(ConfigError, match=message):
        ImageProcessor.from_preprocessor_config(config)
