"""What lies in each patch, as a lesson beside another: for the image tower alone or a whole model.

Pictures are drawn here, so what covers each patch is known. Beside the sigmoid loss that compares
whole pictures with texts (arXiv 2303.15343, algorithm 1), one linear layer says of every patch what
lies in it: some fifty answers a picture where the plain loss has one. A decoder that reads the
patches then finds names and letters in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from heliodor.models.pair import SiglipPair, SiglipPairConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.nn.linear import Linear
from heliodor.teach.data.artwork import TRAIN_STYLES
from heliodor.teach.data.casting import MOST
from heliodor.teach.data.concepts import load_concepts
from heliodor.teach.data.coverage import (
    ALPHABET,
    EDGES,
    KINDS,
    LETTERS,
    THINGS,
    cover_letters,
    cover_things,
)
from heliodor.teach.data.language import LANGUAGES
from heliodor.teach.data.palette import COLOURS
from heliodor.teach.data.reading import draw_reading
from heliodor.teach.data.scenes import render_scene, render_single
from heliodor.teach.log import Mean
from heliodor.teach.losses import binary_loss
from heliodor.teach.pairing import pixels_in
from heliodor.text import Tokenizer

_ENGLISH = 0.5  # share of English among the names
_WHOLE = 0.1  # weight of the whole picture's loss beside the patches'
_EDGES = 5.0  # weight of the edges' distance
_OWNED, _FILLED = 0.25, 0.6  # share of a patch from which on a thing owns it, and fills it
_RARE = -math.log(KINDS)  # a fresh layer says of each kind that one patch in KINDS holds it

_Drawn = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class GroundedPair(SiglipPair):
    """A SigLIP pair and the linear layer that says what lies in a patch."""

    def __init__(self, config: SiglipPairConfig) -> None:
        super().__init__(config)
        self.covers = Linear(config.vision.width, KINDS + EDGES)

    def look(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [B 3 H W], tokens int64 [C T] -> logits float32 [B C] and [B N KINDS+EDGES]."""
        features = self.vision(pixels)
        pooled = F.normalize(self.pool(features), dim=-1)
        cosine = (pooled @ self.embed_texts(tokens).T).float()
        whole = cosine * self.logit_scale.exp() + self.logit_bias
        return whole, self.covers(features).float()


class GroundedPaliGemma(PaliGemma):
    """A PaliGemma and the same layer, which is left out of what is exported."""

    def __init__(self, config: PaliGemmaConfig) -> None:
        super().__init__(config)
        self.covers = Linear(config.vision.width, KINDS + EDGES)

    def look(self, pixels: Tensor, *, apart: bool = False) -> tuple[Tensor, Tensor]:
        """Pixels [B 3 H W] -> image tokens [B N W] and logits [B N KINDS+EDGES], float32.

        Args:
            pixels: in -1..1.
            apart: let no gradient pass from the image tokens to the tower.
        """
        features = self.vision(pixels)
        read = features.detach() if apart else features
        return self.projector(read).float(), self.covers(features).float()

    def plain(self) -> PaliGemma:
        """The same network without the layer."""
        model = PaliGemma(self.config)
        kept = self.state_dict()
        model.load_state_dict({name: kept[name] for name in model.state_dict()})
        return model


def quieten(layer: Linear) -> None:
    """Let a fresh layer of either network say the same of every patch, and little."""
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(_RARE)
        layer.bias[KINDS:].zero_()


@dataclass(frozen=True, kw_only=True, slots=True)
class GroundedBatch:
    """Pictures, a list of names and colours, and what lies in each patch.

    Attributes:
        pixels: uint8 [B H W 3].
        tokens: int64 [C T].
        cover: uint8 [B N KINDS+EDGES], shares of 255; the first C columns are those of the texts.
        share: share of the pictures that are here, of the batch that this is a part of.
        edge_share: share of the patches in them that things own.
    """

    pixels: Tensor
    tokens: Tensor
    cover: Tensor
    share: float = 1.0
    edge_share: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GroundingObjective:
    """Patches against every kind, pictures against every name and colour.

    Attributes:
        model: the pair that learns.
        tokenizer: ids of the texts.
        size: side of the pictures in pixels.
        images: pictures of a batch.
        singles: share of pictures that show one thing.
        lines: share of pictures that show words; the rest are scenes.
        seed: of the whole run.
        ramp: steps over which looks grow from plain to ``strength``.
        strength: how much the looks vary in the end; 1.0 is what evaluations draw.
        most: things in a scene at most.
        styles: artwork to draw from.
    """

    model: GroundedPair
    tokenizer: Tokenizer
    size: int
    images: int
    singles: float
    lines: float
    seed: int
    ramp: int = 0
    strength: float = 1.0
    most: int = MOST
    styles: tuple[str, ...] = TRAIN_STYLES

    def batch(self, step: int) -> GroundedBatch:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, step])
        grown = min(1.0, step / self.ramp) if self.ramp else 1.0
        strength = self.strength * (0.1 + 0.9 * grown)
        drawn = [self._draw(rng, strength) for _ in range(self.images)]
        return GroundedBatch(
            pixels=torch.as_tensor(np.stack([image for image, _ in drawn])),
            tokens=torch.tensor([self._tokens(text) for text in _texts(rng)]),
            cover=torch.as_tensor(np.stack([cover for _, cover in drawn])),
        )

    def loss(self, batch: GroundedBatch) -> tuple[Tensor, Mapping[str, float]]:
        """Loss, and how often the likeliest thing in a patch that one thing fills is that thing."""
        whole, patches = self.model.look(pixels_in(batch.pixels), batch.tokens)
        present = (batch.cover[..., : len(batch.tokens)].amax(1) > 0).float()
        by_picture = binary_loss(whole, present)
        by_patch, figures = patch_loss(
            patches, batch.cover, kinds_share=batch.share, edges_share=batch.edge_share
        )
        loss = by_patch + _WHOLE * batch.share * by_picture
        return loss, figures | {"picture": Mean(float(by_picture.detach()), over=len(whole))}

    def divide(self, batch: GroundedBatch, parts: int) -> list[tuple[float, GroundedBatch]]:
        """Cut the pictures; every part is compared with all names.

        A part knows which share it holds of the pictures and of the patches that things own: the
        losses of all parts simply add up.
        """
        every = max(1, int(owned(batch.cover).sum()))
        return [
            (
                1.0,
                GroundedBatch(
                    pixels=pixels,
                    tokens=batch.tokens,
                    cover=cover,
                    share=batch.share * len(pixels) / len(batch.pixels),
                    edge_share=batch.edge_share * int(owned(cover).sum()) / every,
                ),
            )
            for pixels, cover in zip(
                batch.pixels.chunk(parts), batch.cover.chunk(parts), strict=True
            )
        ]

    def samples(self) -> list[str]:
        """Nothing to read in a pair."""
        return []

    def _draw(self, rng: np.random.Generator, strength: float) -> _Drawn:
        patch = self.model.config.vision.patch_size
        chance = rng.random()
        if chance < self.lines:
            reading = draw_reading(rng, size=self.size)
            return reading.image, cover_letters(reading, patch)
        if chance < self.lines + self.singles:
            scene = render_single(rng, size=self.size, styles=self.styles, strength=strength)
        else:
            scene = render_scene(
                rng, size=self.size, styles=self.styles, strength=strength, most=self.most
            )
        return scene.image, cover_things(scene, patch)

    def _tokens(self, text: str) -> list[int]:
        """Fixed length, ended and padded by <eos> (SigLIP's sticky end)."""
        length = self.model.config.text.length
        ids = self.tokenizer.encode(text)[: length - 1]
        return ids + [self.tokenizer.eos] * (length - len(ids))


def owned(cover: Tensor) -> Tensor:
    """Which patches belong to a thing, whose edges they tell.

    Args:
        cover: uint8 [... KINDS+EDGES], shares of 255.

    Returns:
        bool [...].
    """
    return cover[..., :THINGS].amax(-1).float() / 255.0 > _OWNED


def patch_loss(
    logits: Tensor, cover: Tensor, *, kinds_share: float = 1.0, edges_share: float = 1.0
) -> tuple[Tensor, dict[str, float]]:
    """What lies in the patches, and where the edges of things are.

    Args:
        logits: float32 [B N KINDS+EDGES].
        cover: uint8 [B N KINDS+EDGES], shares of 255.
        kinds_share: share of a whole batch's patches that these are.
        edges_share: share of its owned patches.

    Returns:
        The loss; and as figures the kinds' part, the mean distance of the edges in shares of the
        side, how often the likeliest thing in a patch that one thing fills is that thing, and,
        where there are letters, how often the likeliest letter of a half that shows one is it.
    """
    share = cover.float() / 255.0
    kinds = binary_loss(logits[..., :KINDS], share[..., :KINDS])
    most, thing = share[..., :THINGS].max(-1)
    filled = most > _FILLED
    away = (logits[..., KINDS:].sigmoid() - share[..., KINDS:]).abs()[owned(cover)]
    edges = away.sum() / max(1, away.numel())
    right = (logits[..., :THINGS].argmax(-1) == thing)[filled].float()
    figures: dict[str, float] = {
        "patch": Mean(float(kinds.detach()), over=most.numel()),
        "edges": Mean(float(edges.detach()), over=len(away)),
        "top1": Mean(float(right.sum()) / max(1, len(right)), over=len(right)),
    }
    figures |= _letters_told(logits.detach(), share)
    return kinds_share * kinds + edges_share * _EDGES * edges, figures


def _letters_told(logits: Tensor, share: Tensor) -> dict[str, float]:
    """How often the likeliest letter is the right one, where a half mostly shows one."""
    halves = slice(LETTERS, LETTERS + 2 * ALPHABET)
    shape = (*share.shape[:-1], 2, ALPHABET)
    most, letter = share[..., halves].reshape(shape).max(-1)
    shown = most > _FILLED
    if not bool(shown.any()):
        return {}
    likeliest = logits[..., halves].reshape(shape).argmax(-1)
    right = (likeliest == letter)[shown].float()
    return {"letter": Mean(float(right.mean()), over=len(right))}


def _texts(rng: np.random.Generator) -> list[str]:
    """Every concept's name, in a language drawn for each, and every colour's."""
    texts: list[str] = []
    for concept in load_concepts():
        index = 0 if rng.random() < _ENGLISH else int(rng.integers(1, len(LANGUAGES)))
        texts.append(concept.in_language(LANGUAGES[index]))
    return texts + [colour.name for colour in COLOURS]
