"""Attention masks: which query position may look at which key position.

A mask is bool [B 1 T S]: True where query t may look at key s; the axis of one broadcasts over
heads. ``None`` stands for "everything may look at everything".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Masks:
    """What the two kinds of layers of a decoder with a sliding window may look at.

    Attributes:
        full: in layers that see all the way back.
        local: in layers that see as far back as the window.
    """

    full: Tensor | None
    local: Tensor | None


def near(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Keys less than ``window`` positions behind the query, or ahead of it.

    Args:
        queries: int64 [B T], positions.
        keys: int64 [B S], positions.
        window: how many positions a query sees, its own included.

    Returns:
        bool [B 1 T S].
    """
    return (keys[:, None, :] > queries[:, :, None] - window)[:, None]


def prefix_lm(prefix: Tensor, length: int, window: int | None = None) -> Tensor:
    """The prefix-LM mask of PaliGemma: a two-way prefix, then a one-way suffix.

    With three prefix positions (image, <bos>, prompt and newline together) of five::

            key 0 1 2 3 4
        query 0  x x x . .
              1  x x x . .
              2  x x x . .
              3  x x x x .
              4  x x x x x

    Padding belongs at the end: it comes after everything real, so nothing real looks at it
    (big_vision ``make_attn_mask`` builds the same from a cumulative sum of ``mask_ar``).

    A window cuts what the suffix sees and leaves the prefix whole, however long it is. So does
    transformers, where the prefix is added to the windowed mask. With a window of two::

        query 3  . . x x .
              4  . . . x x

    Args:
        prefix: int64 [B], positions of the two-way block of each row.
        length: T, positions in all.
        window: how many positions a query of the suffix sees, its own included; None for all.

    Returns:
        bool [B 1 T T].
    """
    place = torch.arange(length, device=prefix.device)
    causal = place[None, :] <= place[:, None]
    in_prefix = place[None, :] < prefix[:, None]
    if window is None:
        return (causal[None] | in_prefix[:, None, :])[:, None]
    seen = causal & (place[None, :] > place[:, None] - window)
    return (seen[None] | (in_prefix[:, None, :] & in_prefix[:, :, None]))[:, None]


def padding(valid: Tensor) -> Tensor | None:
    """Every query may look at every valid key: bool [B S] -> bool [B 1 1 S], None if all are."""
    if bool(valid.all()):
        return None
    return valid[:, None, None, :]
