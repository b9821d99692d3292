"""How far an engine's logits lie from float32's. N places in a text, V rows of the table."""

from __future__ import annotations

from torch import Tensor

__all__ = ["compare", "distances"]


def compare(reference: Tensor, logits: Tensor) -> dict[str, float]:
    """Three measures over N places where both engines had read the same.

    Args:
        reference: float32 [N V].
        logits: float32 [N V].

    Returns:
        ``kl``, the mean divergence of the engine from the reference in nats; ``top1``, the share of
        places where both find the same token likeliest; ``relative``, the mean of
        ``|logits - reference| / |reference|`` in Euclidean norm.
    """
    ours, theirs = logits.double().log_softmax(-1), reference.double().log_softmax(-1)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    same = (logits.argmax(-1) == reference.argmax(-1)).float()
    return {
        "kl": float(divergence.mean().clamp_min(0.0)),
        "top1": float(same.mean()),
        "relative": float(distances(reference, logits).mean()),
    }


def distances(reference: Tensor, found: Tensor) -> Tensor:
    """``|found - reference| / |reference|`` in Euclidean norm: float [N V] each -> [N]."""
    return ((found - reference).square().sum(-1) / reference.square().sum(-1)).sqrt()
