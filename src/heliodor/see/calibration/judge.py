"""How far the quantised model's next tokens are from the float model's.

At every place of an answer both models say what comes next, having read the same picture, prompt
and answer so far. n places, W width, V rows of the table.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heliodor.models.paligemma import PaliGemma
from heliodor.see.calibration.samples import Example

__all__ = ["Judgement", "float_hidden", "judge"]

_PLACES = 64  # places whose logits are held at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """Next tokens compared.

    Attributes:
        places: how many next tokens.
        divergence: mean KL(float || quantised) in nats.
        worst: the largest of them.
        agreement: share of places where both find the same token likeliest, 0..1.
        float_seconds: the float model's time for reading them, pictures included.
        seconds: the quantised model's.
    """

    places: int
    divergence: float
    worst: float
    agreement: float
    float_seconds: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """In JSON's own types."""
        return {name: getattr(self, name) for name in self.__slots__}


def float_hidden(
    network: PaliGemma, pixels: Sequence[Tensor], examples: Sequence[Example]
) -> tuple[list[Tensor], float]:
    """Hidden states at the answers' places, [n W] for each example, and the seconds it took."""
    began = time.perf_counter()
    features = [network.encode_images(one[None]) for one in pixels]
    found = [_hidden(network, features[example.picture], example) for example in examples]
    return found, time.perf_counter() - began


def _hidden(network: PaliGemma, features: Tensor, example: Example) -> Tensor:
    prefix = torch.tensor([example.prefix])
    hidden = network.hidden(example.tokens[None], features, prefix)[0]
    return hidden[example.prefix - 1 : -1]


@torch.no_grad()
def judge(
    before: PaliGemma,
    after: PaliGemma,
    pixels: Sequence[Tensor],
    examples: Sequence[Example],
) -> Judgement:
    """Compare two networks on the float one's answers.

    Args:
        before: in float.
        after: quantised.
        pixels: pictures, float32 [3 H W].
        examples: what was asked about them, and answered.
    """
    right, float_seconds = float_hidden(before, pixels, examples)
    given, seconds = float_hidden(after, pixels, examples)
    divergences: list[Tensor] = []
    agreeing = 0
    wanted, found = torch.cat(right), torch.cat(given)
    for start in range(0, wanted.shape[0], _PLACES):
        places = slice(start, start + _PLACES)
        p = before.language.logits(wanted[places]).double().log_softmax(-1)
        q = after.language.logits(found[places]).double().log_softmax(-1)
        divergences.append((p.exp() * (p - q)).sum(-1))
        agreeing += int((p.argmax(-1) == q.argmax(-1)).sum())
    each = torch.cat(divergences)
    return Judgement(
        places=each.shape[0],
        divergence=float(each.mean()),
        worst=float(each.max()),
        agreement=agreeing / max(1, each.shape[0]),
        float_seconds=float_seconds,
        seconds=seconds,
    )
