"""Which file of a folder says how pictures become pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from heliodor.checkpoints.config import CONFIG, Section, read_config
from heliodor.checkpoints.files import read_json
from heliodor.errors import ConfigError
from heliodor.image import ImageProcessor

PROCESSOR = "preprocessor_config.json"
NESTED = "processor_config.json"
"""Where transformers 5 saves the same fields, under ``image_processor``."""


def read_processor(folder: str | Path, image_size: int | None = None) -> ImageProcessor:
    """The image processor of a folder in transformers layout.

    Args:
        folder: with ``preprocessor_config.json``, or ``processor_config.json`` of transformers 5.
        image_size: pixels of a side, where another resolution is wanted than the checkpoint's.

    Raises:
        ConfigError: neither file is there, it describes another processor than SigLIP's, or its
            size is not the model's.
        FileFormatError: it is not JSON.
    """
    processor = processor_for(Path(folder), read_config(folder).vision.image_size)
    return processor if image_size is None else replace(processor, size=image_size)


def processor_for(folder: Path, expected: int) -> ImageProcessor:
    """The image processor of any model's folder, whose pictures have ``expected`` pixels a side.

    Raises:
        ConfigError: as :func:`read_processor`.
        FileFormatError: the file is not JSON.
    """
    path = folder / PROCESSOR
    if path.exists() or not (folder / NESTED).exists():
        values = read_json(path)
    else:
        path = folder / NESTED
        values = Section(read_json(path), f"{path}: ").section("image_processor").values
    try:
        processor = ImageProcessor.from_preprocessor_config(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if processor.size != expected:
        raise ConfigError(
            f"{path} makes pictures of {processor.size} pixels, {CONFIG} says that the model takes "
            f"{expected}"
        )
    return processor
