"""Mask codec training: masks, the codes for them, and a code book that follows its vectors.

The method is AiT's (arXiv 2301.02229): squared error on 2 (mask - 0.5), commitment, and a code book
that no gradient moves: each code is a running mean of the vectors that fell to it. Added here: the
code book starts from real vectors, and a code that nothing falls to is moved onto one.

Letters: B masks, K codes, D code width, N vectors (16 a mask).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heliodor.models.maskcodec import MaskCodec
from heliodor.teach.data.silhouettes import MaskSource

__all__ = ["BookConfig", "CodecObjective", "MaskBatch", "TrainedCodec", "evaluate_codec"]

_DEAD = 0.02
"""A code with less than this share of the mean count is dead."""

_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class BookConfig:
    """How a code book follows the vectors that fall to its codes.

    Attributes:
        average: share of the running means that a step leaves, 0..1.
        revive_every: steps between searches for dead codes, 1 or more.
        revive_until: the step from which dead codes stay where they are.
        seed: of the vectors that the book starts from and that dead codes are moved onto.
    """

    average: float
    revive_every: int
    revive_until: int
    seed: int


class TrainedCodec(nn.Module):
    """A mask codec and the running means behind its code book.

    Both means are buffers: a saved state holds them.

    Args:
        codec: the codec that learns; its code book is taken from the gradients.
        book: how the code book moves.
    """

    def __init__(self, codec: MaskCodec, book: BookConfig) -> None:
        super().__init__()
        self.codec = codec
        self.book = book
        codec.codebook.requires_grad = False
        self.counts: Tensor
        self.sums: Tensor
        self.register_buffer("counts", torch.zeros(len(codec.codebook)))
        self.register_buffer("sums", torch.zeros_like(codec.codebook))

    def quantise(self, features: Tensor, step: int) -> Tensor:
        """The code vectors nearest to some features, without a gradient.

        In training mode the book moves afterwards, as the averages of a batch norm do: what is
        returned are its rows from before.

        Args:
            features: float32 [B 16 D].
            step: steps taken so far; 0 starts the book from these features.

        Returns:
            float32 [B 16 D].
        """
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            vectors = features.flatten(0, 1)
            rng = torch.Generator().manual_seed(self.book.seed + step)
            if self.training and step == 0:
                self.start(vectors, rng)
            codes = self.codec.nearest(vectors)
            chosen = self.codec.codebook[codes]
            if self.training:
                self.follow(vectors, codes)
                if step % self.book.revive_every == 0 and step < self.book.revive_until:
                    self.revive(vectors, rng)
        return chosen.view_as(features)

    @torch.no_grad()
    def start(self, vectors: Tensor, rng: torch.Generator) -> None:
        """Make K random ones of vectors [N D], N >= K, the code book."""
        rows = torch.randperm(len(vectors), generator=rng)[: len(self.counts)]
        self.counts.fill_(1.0)
        self.sums.copy_(vectors[rows])
        self.codec.codebook.copy_(self.sums)

    @torch.no_grad()
    def follow(self, vectors: Tensor, codes: Tensor) -> None:
        """Move each code towards the mean of its vectors: vectors [N D], codes int64 [N]."""
        taken = F.one_hot(codes, len(self.counts)).to(vectors.dtype)
        self.counts.lerp_(taken.sum(0), 1 - self.book.average)
        self.sums.lerp_(taken.T @ vectors, 1 - self.book.average)
        self.codec.codebook.copy_(self.sums / self.counts.clamp_min(1e-5).unsqueeze(1))

    @torch.no_grad()
    def revive(self, vectors: Tensor, rng: torch.Generator) -> int:
        """Move every dead code onto a random one of vectors [N D], N >= K -> how many moved."""
        usual = self.counts.mean()
        dead = self.counts < _DEAD * usual
        rows = torch.randperm(len(vectors), generator=rng)[: int(dead.sum())]
        self.counts[dead] = usual
        self.sums[dead] = vectors[rows] * usual
        self.codec.codebook[dead] = vectors[rows]
        return len(rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskBatch:
    """Masks, and the step they are for, which the code book's chances depend on.

    Attributes:
        step: counted from 0.
        masks: float32 [B 1 64 64] in 0..1.
    """

    step: int
    masks: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecObjective:
    """Squared error of masks that went through sixteen codes, and commitment to those codes.

    Attributes:
        model: the codec that learns.
        source: draws masks by number.
        masks: of a batch; sixteen times as many as there are codes, or more.
        commitment: weight of the distance between vectors and their codes.
        held_out: float32 [H 1 64 64], masks to measure the codec on while the run lasts.
    """

    model: TrainedCodec
    source: MaskSource
    masks: int
    commitment: float
    held_out: Tensor = field(repr=False)

    def batch(self, step: int) -> MaskBatch:
        """The batch of a step."""
        return MaskBatch(step=step, masks=self.source.batch(step, self.masks))

    def loss(self, batch: MaskBatch) -> tuple[Tensor, Mapping[str, float]]:
        """Loss, and the squared error alone.

        The gradient of the drawing passes through the rounding to codes as if there were none.
        """
        codec = self.model.codec
        features = codec.features(batch.masks).float()
        chosen = self.model.quantise(features.detach(), batch.step)
        drawn = codec.render(features + (chosen - features).detach())
        error = F.mse_loss(drawn.float(), 2 * (batch.masks.squeeze(1) - 0.5))
        loss = error + self.commitment * F.mse_loss(features, chosen)
        return loss, {"error": float(error.detach())}

    def divide(self, batch: MaskBatch, parts: int) -> list[tuple[float, MaskBatch]]:
        """Leave the batch whole: the code book follows all of its vectors at once."""
        del parts
        return [(1.0, batch)]

    def samples(self) -> list[str]:
        """How well the held-out masks come back."""
        figures = evaluate_codec(self.model.codec, self.held_out)
        return ["held out: " + " ".join(f"{name} {value:.4g}" for name, value in figures.items())]


@torch.no_grad()
def evaluate_codec(codec: MaskCodec, masks: Tensor) -> dict[str, float]:
    """Encode and decode masks, and compare what lies above 0 with what lay above a half.

    Args:
        codec: the codec.
        masks: float32 [B 1 64 64] in 0..1.

    Returns:
        ``iou``, its mean over masks, ``iou_tenth_percentile``, ``codes_used``, and ``perplexity``,
        the exponential of the codes' entropy.
    """
    parts = [slice(row, row + _AT_ONCE) for row in range(0, len(masks), _AT_ONCE)]
    masks = masks.to(codec.codebook.device)
    codes = torch.cat([codec.encode(masks[part]) for part in parts])
    drawn = torch.cat([codec.decode(codes[part]) for part in parts]) > 0
    truth = masks.squeeze(1) > 0.5
    both, either = (drawn & truth).sum((1, 2)), (drawn | truth).sum((1, 2))
    overlap = both / either.clamp_min(1)
    share = torch.bincount(codes.flatten(), minlength=len(codec.codebook)) / codes.numel()
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {
        "iou": float(overlap.mean()),
        "iou_tenth_percentile": float(overlap.quantile(0.1)),
        "codes_used": float((share > 0).sum()),
        "perplexity": float(entropy.exp()),
    }
