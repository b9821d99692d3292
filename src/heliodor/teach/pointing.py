"""Where an answer is in the picture, as a lesson for two heads of the decoder's attention.

To write down what it sees, a decoder must look at the thing or the letter that a word stands for,
and then at the next one. From the words alone it learns that late: a small one wrote letters that
are likely in the language for thousands of steps before it looked at any. Pictures are drawn here,
so where things and letters are is known: one head low in the decoder is told to look at what was
just written, one near the top at what comes next.

R rows, T text positions, M image tokens, S = M + T, H head_dim, K spots of a batch.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from heliodor.models.gemma import GemmaAttention
from heliodor.models.paligemma import PaliGemma
from heliodor.nn.attention import split_heads
from heliodor.nn.rope import rotate

__all__ = ["Pointed", "Pointing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointed:
    """How well two heads point: sums over rows of the means over a row's tokens with a spot.

    Attributes:
        loss: negative log share of the two heads' weights that lies on the right patches.
        count: rows that the sum is over.
        share: share of the weights that the upper head laid on the right patches.
    """

    loss: Tensor
    count: int
    share: float


class _Seen(threading.local):
    """What the watched layers were given, apart for each thread that takes a part of a batch."""

    def __init__(self) -> None:
        self.inputs: dict[int, tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]] | None = None


class Pointing:
    """Watches the inputs of two layers' attention and tells how well their first heads point.

    Args:
        model: its forward pass stays as it is.
    """

    def __init__(self, model: PaliGemma) -> None:
        depth = len(model.language.layers)
        self.layers = (depth // 3, max(depth // 3, depth - 2))
        self._attention: list[GemmaAttention] = []
        self._seen = _Seen()
        for index in self.layers:
            attention: Any = model.language.layers[index].attention
            attention.register_forward_pre_hook(partial(self._notice, index))
            self._attention.append(attention)

    def _notice(self, index: int, _: Any, given: Sequence[Any]) -> None:
        if self._seen.inputs is not None:
            x, turn, mask, *_rest = given
            self._seen.inputs[index] = (x, turn, mask)

    @contextmanager
    def watch(self) -> Generator[None]:
        """Keep what the layers are given in this thread, until the block ends."""
        self._seen.inputs = {}
        try:
            yield
        finally:
            self._seen.inputs = None

    def pointed(self, spot: Tensor, spots: Tensor) -> Pointed:
        """Compare what was watched with where it should have looked; within :meth:`watch`.

        Args:
            spot: int64 [R T], the spot that each token stands for, -1 for none. No spot may stand
                at a row's first position.
            spots: bool [K M], the patches of each spot, one at least.
        """
        inputs = self._seen.inputs or {}
        shares: list[Tensor] = []
        following = spot.roll(-1, dims=1)
        for attention, index, wanted in zip(
            self._attention, self.layers, (spot, following), strict=True
        ):
            shares.append(_log_share(attention, inputs[index], wanted, spots))
        current, coming = shares
        told = spot >= 0
        each = told.sum(1)
        part = (1.0 / each)[told.nonzero()[:, 0]]
        return Pointed(
            loss=-((current + coming) * part).sum(),
            count=int((each > 0).sum()),
            share=float((coming.detach().exp() * part).sum()),
        )


def _log_share(
    attention: GemmaAttention,
    given: tuple[Tensor, tuple[Tensor, Tensor], Tensor | None],
    wanted: Tensor,
    spots: Tensor,
) -> Tensor:
    """Log of what the first head lays on the right patches, float32 [P]: a token with a spot each.

    The scores are those of the layer itself, computed again for this head alone.
    """
    x, (cos, sin), mask = given
    length = wanted.shape[1]
    images = x.shape[1] - length
    text = (cos[:, :, images:], sin[:, :, images:])
    q = rotate(split_heads(attention.q(x[:, images:]), attention.num_heads)[:, :1], *text)
    k = rotate(split_heads(attention.k(x), attention.num_kv_heads)[:, :1], cos, sin)
    scale = 1.0 / math.sqrt(q.shape[-1]) if attention.scale is None else attention.scale
    scores = (q @ k.transpose(2, 3)).float()[:, 0] * scale
    if attention.cap is not None:
        scores = torch.tanh(scores / attention.cap) * attention.cap
    told = wanted >= 0
    chosen = scores[told]
    if mask is not None:
        rows = mask[:, 0] if mask.shape[2] == 1 else mask[:, 0, images:]
        chosen = chosen.masked_fill(~rows.expand(scores.shape)[told], -torch.inf)
    there = spots[wanted[told]]
    right = chosen[:, :images].masked_fill(~there, -torch.inf)
    return right.logsumexp(-1) - chosen.logsumexp(-1)
