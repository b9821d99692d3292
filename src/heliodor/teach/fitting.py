"""Fit what reads an image tower that has learnt already: its layer for patches, the words for them.

A checkpoint holds a tower without the layer that tells what lies in its patches. Trained together
with it from the first step, the layer's wrong answers would spoil the tower: fitted first, on what
the tower sees as it is, they do not. Likewise the projector and the rows of the table that name
what patches show: a lesson beside the answers moves them for an hour, a fit to pictures seen once
does in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from heliodor.errors import DataError
from heliodor.teach.data.example import Example
from heliodor.teach.grounding import GroundedPaliGemma, patch_loss
from heliodor.teach.naming import Words, naming_loss, told
from heliodor.teach.pairing import pixels_in

__all__ = ["fit_covers", "fit_names"]

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
    figures: dict[str, float] = {}

    def loss(rows: Tensor) -> Tensor:
        logits = model.covers(features[rows].float()).float()
        value, found = patch_loss(logits[None], cover[rows][None])
        figures.update(found)
        return value

    _fit([model.covers], len(features), loss, steps=steps, rate=rate, seed=seed)
    return figures


def fit_names(
    model: GroundedPaliGemma,
    examples: Iterable[Example],
    words: Words,
    *,
    steps: int = 120,
    rate: float = 3e-3,
    seed: int = 0,
) -> dict[str, float]:
    """Fit the projector and the table, so that image tokens name what their patches show.

    Few steps: more would learn the pictures by heart. A decoder that had learnt from other image
    tokens must learn from these anew.

    Args:
        model: its tower is looked through once; decoder and tower stay as they are.
        examples: pictures of one size; those without a cover are passed over.
        words: of the model's tokenizer.
        steps: of Adam, each on patches of all pictures that show something.
        rate: the learning rate at first; it falls along a cosine.
        seed: of the patches drawn.

    Returns:
        The figures of :func:`~heliodor.teach.naming.naming_loss` at the last step.

    Raises:
        DataError: no picture has a cover, or none shows anything.
    """
    features, cover = _seen(model, examples)
    shown = told(cover)
    features, cover = features[shown], cover[shown]
    if not len(features):
        raise DataError("no picture shows a thing or a letter: there is nothing to name")
    figures: dict[str, float] = {}

    def loss(rows: Tensor) -> Tensor:
        seen = model.projector(features[rows].float()).float()
        value, found = naming_loss(model.language, seen[None], cover[rows][None], words)
        figures.update(found)
        return value

    learning = [model.projector, model.language.embedding]
    _fit(learning, len(features), loss, steps=steps, rate=rate, seed=seed)
    return figures


def _fit(
    learning: Iterable[nn.Module],
    count: int,
    loss: Callable[[Tensor], Tensor],
    *,
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """Adam along a cosine on random rows out of so many; no gradient is left anywhere."""
    draw = torch.Generator().manual_seed(seed)
    parameters = [parameter for module in learning for parameter in module.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.99))
    for step in range(steps):
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / steps))
        optimiser.param_groups[0]["lr"] = rate * (_FLOOR + (1.0 - _FLOOR) * cosine)
        value = loss(torch.randint(count, (min(_ROWS, count),), generator=draw))
        grown = torch.autograd.grad(value, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, grown, strict=True):
            parameter.grad = gradient
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]
    optimiser.zero_grad()


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
