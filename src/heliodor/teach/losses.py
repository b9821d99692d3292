"""What is minimised. R rows, T text positions, V rows of the table, B images and texts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def suffix_weights(length: Tensor, prefix: Tensor, positions: int) -> Tensor:
    r"""Which positions predict a supervised token: the suffix and its ``<eos>``.

    Position i predicts token i + 1, so the last prefix position (the newline) already counts.

    Args:
        length: int64 [R], real tokens of each row.
        prefix: int64 [R], ``<bos> prompt "\\n"`` tokens of each row.
        positions: T.

    Returns:
        bool [R T].
    """
    place = torch.arange(positions, device=length.device)[None]
    return (place >= prefix[:, None] - 1) & (place < length[:, None] - 1)


def row_losses(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy of each row over its supervised tokens.

    The mean of these over a batch is big_vision's loss (``trainers/proj/paligemma/train.py``): a
    long answer counts as much as a short one. transformers averages over all tokens instead.

    Args:
        logits: float32 [S V], of the supervised positions only, row after row.
        targets: int64 [S].
        weights: bool [R T], where those positions are.

    Returns:
        float32 [R]; a row without supervised tokens has loss 0.
    """
    each = F.cross_entropy(logits, targets, reduction="none")
    row = weights.nonzero()[:, 0]
    total = torch.zeros(weights.shape[0], dtype=each.dtype, device=each.device)
    total = total.index_add(0, row, each)
    return total / weights.sum(-1).clamp_min(1)


def sigmoid_loss(logits: Tensor, same: Tensor) -> Tensor:
    """SigLIP's loss: every image-text pair of a batch is a yes-or-no question of its own.

    Args:
        logits: float32 [B B].
        same: bool [B B], True where a text describes an image (the diagonal, and repeats).

    Returns:
        Mean over images of the sum over texts (arXiv 2303.15343, algorithm 1).
    """
    sign = same.to(logits.dtype) * 2 - 1
    return -F.logsigmoid(sign * logits).sum(-1).mean()
