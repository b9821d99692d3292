"""Fit the layer that tells what lies in patches to an image tower that has learnt already.

A checkpoint holds a tower without that layer. Trained together with it from the first step, the
layer's wrong answers would spoil the tower: fitted first, on what the tower sees as it is, they do
not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from heliodor.errors import DataError
from heliodor.teach.data.example import Example
from heliodor.teach.grounding import GroundedPaliGemma, patch_loss
from heliodor.teach.pairing import pixels_in

__all__ = ["fit_covers"]

_TOGETHER = 16  # pictures that go through the tower at once
_ROWS = 16 * 196  # patches of a step
_FLOOR = 0.02  # share of the rate that the cosine ends at


def fit_covers(
    model: GroundedPaliGemma,
    examples: Iterable[Example],
    *,
    steps: int = 1500,
    rate: float = 1e-2,
    seed: int = 0,
) -> dict[str, float]:
    """Fit ``model.covers``; nothing else of the model changes.

    Args:
        model: its tower is looked through once.
        examples: pictures of one size; those without a cover are passed over.
        steps: of Adam, each on patches of all pictures.
        rate: the learning rate at first; it falls along a cosine.
        seed: of the patches drawn.

    Returns:
        The figures of :func:`~heliodor.teach.grounding.patch_loss` at the last step.

    Raises:
        DataError: no picture has a cover.
    """
    features, cover = _seen(model, examples)
    draw = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.covers.parameters(), lr=rate, betas=(0.9, 0.99))
    figures: dict[str, float] = {}
    for step in range(steps):
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / steps))
        optimiser.param_groups[0]["lr"] = rate * (_FLOOR + (1.0 - _FLOOR) * cosine)
        rows = torch.randint(len(features), (min(_ROWS, len(features)),), generator=draw)
        logits = model.covers(features[rows].float()).float()
        loss, figures = patch_loss(logits[None], cover[rows][None])
        optimiser.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]
    optimiser.zero_grad()
    return figures


@torch.no_grad()
def _seen(model: GroundedPaliGemma, examples: Iterable[Example]) -> tuple[Tensor, Tensor]:
    """What the tower makes of every patch, bfloat16 [P W], and its cover, uint8 [P KINDS+EDGES]."""
    features: list[Tensor] = []
    covers: list[Tensor] = []
    pictures: list[Tensor] = []

    def look() -> None:
        found = model.vision(pixels_in(torch.stack(pictures)))
        features.append(found.flatten(0, 1).bfloat16())
        pictures.clear()

    for example in examples:
        if example.cover is None:
            continue
        pictures.append(torch.tensor(example.image))
        covers.append(torch.tensor(example.cover))
        if len(pictures) == _TOGETHER:
            look()
    if not covers:
        raise DataError("no picture tells what lies in its patches: there is nothing to fit")
    if pictures:
        look()
    return torch.cat(features), torch.cat(covers)
