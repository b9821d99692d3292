"""What is minimised. R rows, T text positions, S supervised ones, V rows of the table."""

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


def predicts_answer(turn: Tensor, asked: Tensor) -> Tensor:
    r"""Which positions predict a supervised token: a suffix and its ``<eos>``.

    Position i predicts token i + 1, so the last asked position (the newline) already counts.

    Args:
        turn: int64 [R T], which turn of its row a token belongs to; -1 on padding.
        asked: bool [R T], True on ``<bos> prompt "\n"``.

    Returns:
        bool [R T].
    """
    same = (turn[:, 1:] == turn[:, :-1]) & (turn[:, 1:] >= 0)
    last = torch.zeros_like(asked[:, :1])
    return torch.cat((same & ~asked[:, 1:], last), dim=1)


def turn_losses(
    logits: Tensor, targets: Tensor, turn: Tensor, count: int, near: Nearness | None = None
) -> Tensor:
    """Mean cross entropy of each turn over its supervised tokens.

    The mean of these over a batch is big_vision's loss (``trainers/proj/paligemma/train.py``): a
    long answer counts as much as a short one. transformers averages over all tokens instead.

    Args:
        logits: float32 [S V], of the supervised positions only.
        targets: int64 [S].
        turn: int64 [S] in 0..count-1, whose token each one is.
        count: turns in all.
        near: ids whose neighbours share the target; None as in the reference.

    Returns:
        float32 [count]; a turn without supervised tokens has loss 0.
    """
    each = F.cross_entropy(logits, targets, reduction="none")
    if near is not None:
        placed = ((targets >= near.first) & (targets < near.first + near.count)).nonzero()[:, 0]
        each = each.index_copy(0, placed, near.losses(logits[placed], targets[placed]))
    total = torch.zeros(count, dtype=each.dtype, device=each.device).index_add(0, turn, each)
    return total / torch.bincount(turn, minlength=count).clamp_min(1)


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
