"""Pixels against transformers' SigLIP image processors.

AutoProcessor picks ``SiglipImageProcessor`` (torchvision) where torchvision is installed and
``SiglipImageProcessorPil`` where it is not. The second is matched exactly. The first departs from
the second itself: torch keeps the filter in 16-bit fixed point.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from heliodor.image import ImageProcessor, Resize

pytestmark = pytest.mark.parity
SIZES = [(300, 400), (37, 53), (500, 40), (1, 1), (1, 700), (56, 56), (640, 480)]


def picture(height: int, width: int) -> Image.Image:
    random = np.random.default_rng(height * 10_000 + width)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[height // 2 :] = np.linspace(0, 255, width).astype(np.uint8)[:, None]
    return Image.fromarray(image)


@pytest.mark.parametrize("size", SIZES)
def test_pixels_equal_the_pillow_processor(size: tuple[int, int]) -> None:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    config = ImageProcessor(size=56).to_preprocessor_config(16)
    reference = SiglipImageProcessorPil(**config)(picture(*size), return_tensors="np")
    ours = ImageProcessor(size=56)([picture(*size)])
    np.testing.assert_allclose(ours, reference["pixel_values"], atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_levels_are_near_those_of_the_torchvision_processor(size: tuple[int, int]) -> None:
    """torchvision resizes uint8 tensors with this very call (bicubic, antialias).

    Three levels is what torch's rounding of the weights makes of noise shrunk nine times; half of
    a level on average bounds a shift or another filter, which would show everywhere.
    """
    chw = torch.from_numpy(np.asarray(picture(*size)).copy()).permute(2, 0, 1)[None]
    reference = torch.nn.functional.interpolate(chw, (56, 56), mode="bicubic", antialias=True)
    levels = np.rint((ImageProcessor(size=56)([picture(*size)]) + 1) * 127.5)
    difference = np.abs(levels - reference.numpy())
    assert difference.max() <= 3
    assert difference.mean() <= 0.5


def test_the_written_config_builds_the_same_processor_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    config = ImageProcessor(size=56).to_preprocessor_config(16)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert loaded.image_seq_length == 16
    reference = loaded(picture(70, 90), return_tensors="np")["pixel_values"]
    ours = ImageProcessor(size=56)([picture(70, 90)])
    assert (
        np.abs(ours - np.asarray(reference)).max() <= 6 / 255 + 1e-6
    )  # torchvision's three levels, if it is installed
    assert ImageProcessor.from_preprocessor_config(loaded.to_dict()) == ImageProcessor(size=56)


def test_a_big_vision_config_loads_in_transformers_as_bilinear(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    process = ImageProcessor(size=56, resize=Resize.BIG_VISION_ANTIALIAS)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(process.to_preprocessor_config(16))
    )
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    reference = np.asarray(loaded(picture(300, 400), return_tensors="np")["pixel_values"])
    difference = np.abs(process([picture(300, 400)]) - reference) * 127.5
    assert difference.max() <= 2 + 1e-3  # truncated here, rounded twice there
    assert ImageProcessor.from_preprocessor_config(loaded.to_dict()) == process
