"""Attention masks: which query position may look at which key position.

A mask is bool [B 1 T S]: True where query t may look at key s; the axis of one broadcasts over
heads. ``None`` stands for "everything may look at everything".
"""

from __future__ import annotations

import torch
from torch import Tensor


def prefix_lm(prefix: Tensor, length: int) -> Tensor:
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

    Args:
        prefix: int64 [B], positions of the two-way block of each row.
        length: T, positions in all.

    Returns:
        bool [B 1 T T].
    """
    place = torch.arange(length, device=prefix.device)
    causal = place[None, :] <= place[:, None]
    in_prefix = place[None, :] < prefix[:, None]
    return (causal[None] | in_prefix[:, None, :])[:, None]


def padding(valid: Tensor) -> Tensor | None:
    """Every query may look at every valid key: bool [B S] -> bool [B 1 1 S], None if all are."""
    if bool(valid.all()):
        return None
    return valid[:, None, None, :]
