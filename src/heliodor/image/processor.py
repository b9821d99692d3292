"""Pictures to the array that the image tower reads, and the file that describes how."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from heliodor.errors import ConfigError
from heliodor.image.decode import ImageSource, open_image
from heliodor.image.resize import Resize, resize_square

__all__ = ["ImageProcessor"]

_BICUBIC, _BILINEAR = 3, 2  # Pillow's numbers, which preprocessor_config.json uses
_RESIZE_KEY = "heliodor_resize"
_MAX_SIZE = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageProcessor:
    """How pictures become pixels for one checkpoint.

    Attributes:
        size: side of the square in pixels (224, 448, 896 in the official checkpoints).
        resize: the reference way of resizing.
        mean, std: for red, green, blue, on the scale 0..1; 0.5 and 0.5 give values in -1..1.
    """

    size: int
    resize: Resize = Resize.TRANSFORMERS
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: a size outside 1..8192, or a mean or std that is no three finite numbers.
        """
        if not 1 <= self.size <= _MAX_SIZE:
            raise ConfigError(f"image size {self.size} is outside 1..{_MAX_SIZE} pixels")
        numbers = (*self.mean, *self.std)
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(math.isfinite, numbers)):
            raise ConfigError(
                f"image mean {self.mean} and std {self.std}: three finite numbers each are expected"
            )
        if min(self.std) <= 0:
            raise ConfigError(f"image std {self.std} must be above 0")

    def __call__(self, images: Sequence[ImageSource]) -> NDArray[np.float32]:
        """Resize and normalise.

        Args:
            images: B pictures of any sizes, B >= 0; anything that ``open_image`` takes.

        Returns:
            float32 [B 3 S S], channels red, green, blue; in -1..1 with the default mean and std.

        Raises:
            ImageError: a picture cannot be opened.
        """
        levels = np.arange(256) / 255
        table = [
            ((levels - mean) / std).astype(np.float32)
            for mean, std in zip(self.mean, self.std, strict=True)
        ]
        pixels = np.empty((len(images), 3, self.size, self.size), dtype=np.float32)
        for index, image in enumerate(images):
            square = resize_square(open_image(image), self.size, self.resize)
            for channel in range(3):
                pixels[index, channel] = table[channel][square[:, :, channel]]
        return pixels

    @classmethod
    def from_preprocessor_config(cls, config: Mapping[str, Any]) -> ImageProcessor:
        """Read the content of a ``preprocessor_config.json``.

        Raises:
            ConfigError: another kind of processor, a size that is not square, a resize filter
                other than bicubic, or a step (crop, padding, no rescaling) that PaliGemma has not.
        """
        kind = config.get("image_processor_type", "SiglipImageProcessor")
        if not str(kind).startswith("Siglip"):
            raise ConfigError(
                f"preprocessor_config.json is for {kind}, expected SiglipImageProcessor: this is "
                "the folder of another model"
            )
        _check_steps(config)
        size = _read_size(config.get("size"))
        mean = _read_triple(config.get("image_mean", (0.5, 0.5, 0.5)), "image_mean")
        std = _read_triple(config.get("image_std", (0.5, 0.5, 0.5)), "image_std")
        return cls(size=size, resize=_read_resize(config), mean=mean, std=std)

    def to_preprocessor_config(self, num_tokens: int) -> dict[str, Any]:
        """The content of a ``preprocessor_config.json`` that transformers reads.

        The big_vision ways have no exact equal there: bilinear (2) is written, the nearest, and
        this library finds the exact one under its own key.

        Args:
            num_tokens: image tokens of one picture, (size / patch size) squared.
        """
        config: dict[str, Any] = {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "PaliGemmaProcessor",
            "do_convert_rgb": None,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "size": {"height": self.size, "width": self.size},
            "resample": _BICUBIC if self.resize is Resize.TRANSFORMERS else _BILINEAR,
            "rescale_factor": 1 / 255,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "image_seq_length": num_tokens,
        }
        if self.resize is not Resize.TRANSFORMERS:
            config[_RESIZE_KEY] = self.resize.value
        return config


def _check_steps(config: Mapping[str, Any]) -> None:
    """Every step that PaliGemma takes is on, and no other."""
    for key in ("do_resize", "do_rescale", "do_normalize"):
        if config.get(key, True) is not True:
            raise ConfigError(f"preprocessor_config.json: {key} is {config[key]!r}, expected true")
    for key in ("do_center_crop", "do_pad"):
        if config.get(key):
            raise ConfigError(
                f"preprocessor_config.json: {key} is {config[key]!r}, but PaliGemma squeezes the "
                "whole picture into a square"
            )
    factor = config.get("rescale_factor", 1 / 255)
    if not isinstance(factor, int | float) or not math.isclose(factor, 1 / 255, rel_tol=1e-4):
        raise ConfigError(f"preprocessor_config.json: rescale_factor is {factor!r}, expected 1/255")


def _read_size(size: Any) -> int:
    if isinstance(size, Mapping):
        sides = cast("Mapping[str, Any]", size)
        size = sides.get("height") if sides.get("height") == sides.get("width") else None
    if not isinstance(size, int) or isinstance(size, bool):
        raise ConfigError(
            'preprocessor_config.json: size is not {"height": S, "width": S} with one whole number '
            "S: PaliGemma reads squares"
        )
    return size


def _read_triple(value: Any, key: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(number) for number in value)
    except (TypeError, ValueError):
        raise ConfigError(
            f"preprocessor_config.json: {key} is {value!r}, expected three numbers"
        ) from None
    return red, green, blue


def _read_resize(config: Mapping[str, Any]) -> Resize:
    named = config.get(_RESIZE_KEY)
    if named is not None:
        try:
            return Resize(named)
        except ValueError:
            known = ", ".join(way.value for way in Resize)
            raise ConfigError(
                f"preprocessor_config.json: {_RESIZE_KEY} is {named!r}, expected one of {known}"
            ) from None
    resample = config.get("resample", _BICUBIC)
    if resample != _BICUBIC:
        raise ConfigError(
            f"preprocessor_config.json: resample is {resample!r}, expected {_BICUBIC} (bicubic), "
            f"or {_RESIZE_KEY} with one of {', '.join(way.value for way in Resize)}"
        )
    return Resize.TRANSFORMERS
