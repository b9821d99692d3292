"""A checkpoint opened: what it is and holds, nothing of it read yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heliodor.checkpoints.weights import Weight
from heliodor.image import ImageProcessor
from heliodor.models.maskcodec import MaskCodec
from heliodor.models.paligemma import PaliGemmaConfig
from heliodor.text import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """A PaliGemma on disk, or one about to be written.

    Attributes:
        config: its shape.
        weights: by our names, one for each tensor of the network.
        tokenizer: None where the format carries none.
        processor: how pictures become pixels.
        codec: the mask codec whose codes the model writes, if it lies there too.
    """

    config: PaliGemmaConfig
    weights: Mapping[str, Weight]
    tokenizer: Tokenizer | None
    processor: ImageProcessor
    codec: MaskCodec | None = None
