"""A Gemma on its own: every position sees itself and what came before it, nothing else.

B rows, T tokens, W width, V rows of the embedding table. Source: arXiv 2403.08295, 2408.00118.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heliodor.models.gemma import Gemma
from heliodor.nn.cache import Kept, KVCache
from heliodor.nn.linear import Rows


@dataclass(frozen=True, slots=True, eq=False)
class CausalGemma:
    """The ways to run a Gemma over text: tensors in, tensors out.

    Attributes:
        gemma: the network.
    """

    gemma: Gemma

    def hidden(
        self, tokens: Tensor, valid: Tensor, *, depth: int | None = None, keep: int | None = None
    ) -> Tensor:
        """Hidden states of a whole text, without a cache.

        Args:
            tokens: int64 [B T], padded behind.
            valid: bool [B T], False on padding, which may look but is not looked at.
            depth: layers to run; None for all of them and the final norm.
            keep: how many of the last positions to return; all by default.

        Returns:
            float32 [B keep W].
        """
        batch, length = tokens.shape
        positions = torch.arange(length, device=tokens.device).expand(batch, length)
        mask = _causal(length, tokens.device) & valid[:, None, None, :]
        window = self.gemma.config.window
        if window is not None and length > window:
            mask = mask | _itself(valid)  # the text may lie outside of padding's window
        return self.gemma(self.gemma.embed(tokens), positions, mask, depth=depth, keep=keep)

    def prefill(
        self,
        tokens: Tensor,
        valid: Tensor,
        rows: Rows = None,
        *,
        room: int = 0,
        kv: Kept = "float",
    ) -> tuple[Tensor, KVCache]:
        """Logits of the first token to generate, float32 [B V], and the cache for :meth:`step`.

        Arguments are those of :meth:`read_prompt`, and ``rows``: the ids whose logits are wanted,
        as in :meth:`Gemma.logits`.
        """
        hidden, cache = self.read_prompt(tokens, valid, room=room, kv=kv)
        return self.gemma.logits(hidden, rows), cache

    def read_prompt(
        self, tokens: Tensor, valid: Tensor, *, room: int = 0, kv: Kept = "float"
    ) -> tuple[Tensor, KVCache]:
        """Read the prompts.

        Args:
            tokens: int64 [B T], padded in front.
            valid: bool [B T], False on padding.
            room: tokens that will follow, for which the cache makes slots at once.
            kv: how it keeps keys and values, "float" or "int8".

        Returns:
            Final hidden states of the last position, float32 [B W], and the cache for :meth:`step`.
        """
        positions = (valid.cumsum(-1) - 1).clamp_min(0)
        mask = _causal(tokens.shape[1], tokens.device) & valid[:, None, None, :]
        cache = KVCache(valid, room=room, kv=kv)
        x = self.gemma.embed(tokens)
        hidden = self.gemma(x, positions, mask | _itself(valid), cache, keep=1)
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
        hidden = self.gemma(self.gemma.embed(tokens[:, None]), positions, cache.mask, cache)
        return self.gemma.logits(hidden[:, 0], rows)


def _causal(length: int, device: torch.device) -> Tensor:
    """Bool [1 1 T T], True where the key is not behind the query."""
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()


def _itself(valid: Tensor) -> Tensor:
    """Bool [B 1 T T]: a padded query that sees nothing else sees itself, lest it be NaN."""
    eye = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return (eye & ~valid[:, :, None])[:, None]
