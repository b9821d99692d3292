"""PaliGemma 1 and 2: SigLIP image tower, one linear layer, Gemma decoder, prefix-LM attention.

B rows, M image tokens of a row (all its images together), T text tokens, S = M + T, W width,
V rows of the embedding table. Source: arXiv 2407.07726 and 2412.03555; big_vision
``models/proj/paligemma``.

The sliding window of Gemma 2 never cuts the two-way prefix; only tokens behind it see no further
back than the window, into the prefix as well. So does transformers; big_vision has no window.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.models.siglip import SiglipVision, SiglipVisionConfig
from heliodor.nn.cache import Kept, KVCache
from heliodor.nn.linear import Linear, Rows
from heliodor.nn.mask import Masks, padding, prefix_lm


@dataclass(frozen=True, kw_only=True, slots=True)
class PaliGemmaConfig:
    """Shape of a PaliGemma; the defaults are those of PaliGemma 3B at 224 pixels.

    Attributes:
        vision: the image tower.
        language: the decoder; its ``vocab_size`` counts all rows of the table.
        image_token: id of the ``<image>`` placeholder in transformers' vocabulary, None if there
            is none. Rows from this id on are never predicted.
    """

    vision: SiglipVisionConfig = field(default_factory=SiglipVisionConfig)
    language: GemmaConfig = field(default_factory=GemmaConfig)
    image_token: int | None = 257152

    @property
    def num_predicted(self) -> int:
        """Rows of the table that stand for real tokens; the rows behind them are padding."""
        return self.language.vocab_size if self.image_token is None else self.image_token


class PaliGemma(nn.Module):
    """The network: tensors in, tensors out."""

    def __init__(self, config: PaliGemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = SiglipVision(config.vision)
        self.projector = Linear(config.vision.width, config.language.width)
        self.language = Gemma(config.language)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Image tokens, which enter the decoder as they are (never times sqrt(W)).

        Args:
            pixels: [B 3 H W] in -1..1.

        Returns:
            float32 [B N W], N = ``config.vision.num_tokens``.
        """
        return self.projector(self.vision(pixels)).float()

    def join(self, features: Tensor | None, tokens: Tensor) -> Tensor:
        """Image tokens before embedded text: [B M W], int64 [B T] -> float32 [B M+T W]."""
        text = self.language.embed(tokens)
        return text if features is None else torch.cat((features.to(text.dtype), text), dim=1)

    def hidden(self, tokens: Tensor, features: Tensor | None, prefix: Tensor) -> Tensor:
        r"""Final hidden states of the text positions, without a cache.

        Args:
            tokens: int64 [B T], ``<bos> prompt "\\n" suffix``, padded at the end.
            features: [B M W] from :meth:`encode_images`, or None for text alone.
            prefix: int64 [B], text tokens of the two-way block: ``<bos> prompt "\\n"``.

        Returns:
            float32 [B T W].
        """
        x = self.join(features, tokens)
        batch, length = x.shape[:2]
        images = length - tokens.shape[1]
        positions = torch.arange(length, device=x.device).expand(batch, length)
        mask = prefix_lm(prefix + images, length)
        window = self.config.language.window
        cut = window is not None and length > window
        local = prefix_lm(prefix + images, length, window) if cut else mask
        masks = Masks(full=mask, local=local)
        return self.language(x, positions, masks, keep=tokens.shape[1])

    def forward(self, tokens: Tensor, features: Tensor | None, prefix: Tensor) -> Tensor:
        """Logits of the token after each text position, float32 [B T V]; see :meth:`hidden`."""
        return self.language.logits(self.hidden(tokens, features, prefix))

    def prefill(
        self,
        tokens: Tensor,
        features: Tensor | None,
        valid: Tensor,
        feature_valid: Tensor | None = None,
        rows: Rows = None,
        *,
        room: int = 0,
        kv: Kept = "float",
    ) -> tuple[Tensor, KVCache]:
        """Logits of the first token to generate, float32 [B V], and the cache for :meth:`step`.

        Arguments are those of :meth:`read_prompt`, and ``rows``: the ids whose logits are wanted,
        as in :meth:`Gemma.logits`.
        """
        hidden, cache = self.read_prompt(tokens, features, valid, feature_valid, room=room, kv=kv)
        return self.language.logits(hidden, rows), cache

    def read_prompt(
        self,
        tokens: Tensor,
        features: Tensor | None,
        valid: Tensor,
        feature_valid: Tensor | None = None,
        *,
        room: int = 0,
        kv: Kept = "float",
    ) -> tuple[Tensor, KVCache]:
        r"""Read images and prompt in one pass: all of it sees all of it.

        Args:
            tokens: int64 [B T], ``<bos> prompt "\\n"``, padded in front.
            features: [B M W], or None for text alone.
            valid: bool [B T], False on padding.
            feature_valid: bool [B M], False where a row has fewer images than others; None if all
                are real.
            room: tokens that will follow, for which the cache makes slots at once.
            kv: how it keeps keys and values, "float" or "int8".

        Returns:
            Final hidden states of the last position, float32 [B W], and the cache for :meth:`step`.
        """
        x = self.join(features, tokens)
        if features is not None:
            if feature_valid is None:
                feature_valid = valid.new_ones(features.shape[:2])
            valid = torch.cat((feature_valid, valid), dim=1)
        positions = (valid.cumsum(-1) - 1).clamp_min(0)
        cache = KVCache(valid, room=room, kv=kv)
        mask = padding(valid)
        hidden = self.language(x, positions, Masks(full=mask, local=mask), cache, keep=1)
        return hidden[:, 0], cache

    def step(self, tokens: Tensor, cache: KVCache, rows: Rows = None) -> Tensor:
        """One more token of every row.

        Args:
            tokens: int64 [B].
            cache: of what came before; it takes the tokens in.
            rows: the ids whose logits are wanted, as in :meth:`Gemma.logits`; None for all.

        Returns:
            Logits of the token after, float32 [B V] or [B R].
        """
        positions = cache.begin_step()
        x = self.language.embed(tokens[:, None])
        hidden = self.language(x, positions, cache.mask, cache)
        return self.language.logits(hidden[:, 0], rows)
