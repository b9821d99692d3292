"""What is minimised. R rows, T text positions, V rows of the table, B images and texts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True, slots=True)
class Nearness:
    """Ids in order, such as ``<loc0000>`` to ``<loc1023>``: near the right one is nearly right.

    Attributes:
        first: the first id.
        count: how many.
        spread: standard deviation, in ids, of the target around the right one; above 0.
    """

    first: int
    count: int
    spread: float

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy against a bell around each target, cut off at twice ``spread``.

        Args:
            logits: float32 [S V].
            targets: int64 [S], all of them among the ids.

        Returns:
            float32 [S].
        """
        reach = max(1, round(2 * self.spread))
        offsets = torch.arange(-reach, reach + 1, device=logits.device)
        near = targets[:, None] + offsets
        inside = (near >= self.first) & (near < self.first + self.count)
        weight = torch.exp(-0.5 * (offsets / self.spread) ** 2) * inside
        weight = weight / weight.sum(-1, keepdim=True)
        log_chance = logits.gather(-1, near.clamp(self.first, self.first + self.count - 1))
        return logits.logsumexp(-1) - (weight * log_chance).sum(-1)


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


def row_losses(
    logits: Tensor, targets: Tensor, weights: Tensor, near: Nearness | None = None
) -> Tensor:
    """Mean cross entropy of each row over its supervised tokens.

    The mean of these over a batch is big_vision's loss (``trainers/proj/paligemma/train.py``): a
    long answer counts as much as a short one. transformers averages over all tokens instead.

    Args:
        logits: float32 [S V], of the supervised positions only, row after row.
        targets: int64 [S].
        weights: bool [R T], where those positions are.
        near: ids whose neighbours share the target; None as in the reference.

    Returns:
        float32 [R]; a row without supervised tokens has loss 0.
    """
    each = F.cross_entropy(logits, targets, reduction="none")
    if near is not None:
        placed = ((targets >= near.first) & (targets < near.first + near.count)).nonzero()[:, 0]
        each = each.index_copy(0, placed, near.losses(logits[placed], targets[placed]))
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


def binary_loss(logits: Tensor, share: Tensor) -> Tensor:
    """SigLIP's loss with shares instead of yes and no: a patch is half covered by a thing.

    Args:
        logits: float32 [... C].
        share: float32 [... C] in 0..1.

    Returns:
        Mean over everything before the last axis of the sum over texts.
    """
    each = F.binary_cross_entropy_with_logits(logits, share, reduction="none")
    return each.sum(-1).mean()
