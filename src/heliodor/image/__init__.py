"""Pixels: opening pictures safely, and bringing them to what the image tower expects.

decode.py    any picture a user may pass -> upright RGB, or one clear error
resize.py    the reference ways of squeezing a picture into a square
processor.py pictures -> float32 [B 3 S S] in -1..1, and preprocessor_config.json
outline.py   the red frame that the WidgetCap checkpoints look for
"""

from heliodor.image.decode import FORMATS, MAX_BYTES, MAX_PIXELS, MAX_SIDE, ImageSource, open_image
from heliodor.image.outline import outline
from heliodor.image.processor import ImageProcessor
from heliodor.image.resize import Resize

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "ImageProcessor",
    "ImageSource",
    "Resize",
    "open_image",
    "outline",
]
