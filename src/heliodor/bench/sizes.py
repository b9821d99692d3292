"""Shapes that can be measured without a checkpoint, and the ids that their prompts are made of."""

from __future__ import annotations

from dataclasses import dataclass

from heliodor.errors import InputError
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemmaConfig
from heliodor.models.presets import GEMMA2_2B, PALIGEMMA_3B_224, PALIGEMMA_3B_448, paligemma
from heliodor.models.siglip import SiglipVisionConfig

__all__ = ["SIZES", "Size", "size_of"]

_LOCS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A model's shape and the prompt that is measured on it.

    Attributes:
        name: on the command line.
        config: of the network.
        words: text tokens of the prompt, ``<bos>`` and newline among them.
        first_word: id from which on the prompt's words and labels are drawn.
        loc_start: id of ``<loc0000>``; 1,024 follow.
    """

    name: str
    config: PaliGemmaConfig
    words: int = 12
    first_word: int = 1000
    loc_start: int = 256000

    @property
    def prefix(self) -> int:
        """Positions before the first token: the picture's and the prompt's."""
        return self.config.vision.num_tokens + self.words

    @property
    def full(self) -> bool:
        """Whether it is as large as a published model; small ones only try the command out."""
        return self.config.language.width >= 1024


_TINY = PaliGemmaConfig(
    vision=SiglipVisionConfig(image_size=28, width=64, depth=2, num_heads=4, mlp_width=128),
    language=GemmaConfig(
        vocab_size=1536, width=64, depth=2, num_heads=2, head_dim=32, mlp_width=128, context=512
    ),
    image_token=1500,
)

SIZES = {
    size.name: size
    for size in (
        Size(name="tiny", config=_TINY, first_word=110, loc_start=400),
        Size(name="3b-224", config=PALIGEMMA_3B_224),
        Size(name="3b-448", config=PALIGEMMA_3B_448),
        Size(name="paligemma2-3b-224", config=paligemma(GEMMA2_2B, 224)),
    )
}
"""The shapes by name; "tiny" takes seconds and says nothing about speed."""


def size_of(config: PaliGemmaConfig, name: str) -> Size:
    """A loaded model as something to measure.

    Raises:
        InputError: a vocabulary without room for locations and words.
    """
    last = config.num_predicted
    start = 256000 if last >= 256000 + _LOCS else last - _LOCS - 128
    if start < 256:
        raise InputError(
            f"{name} predicts {last} tokens; the benchmark needs 1,024 locations and words beside "
            "them"
        )
    return Size(name=name, config=config, first_word=min(1000, start // 2), loc_start=start)
