"""SigLIP training: pictures of things and the words for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heliodor.models.pair import SiglipPair
from heliodor.teach.data.artwork import TRAIN_STYLES
from heliodor.teach.data.concepts import load_concepts
from heliodor.teach.data.scenes import Scene, render_scene, render_single
from heliodor.teach.losses import sigmoid_loss
from heliodor.text import Tokenizer

_PLAIN, _WILD = 0.1, 1.6  # strength of the looks at the start and end of the ramp

Item = tuple[int, str | None]
"""A concept's id and the colour it is painted or called in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairBatch:
    """Pictures, texts, and which text describes which picture.

    Attributes:
        pixels: uint8 [B H W 3].
        tokens: int64 [B L].
        same: bool [B B], picture by text.
    """

    pixels: Tensor
    tokens: Tensor
    same: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PairObjective:
    """Sigmoid loss over pictures and short texts.

    Attributes:
        model: the pair that learns.
        tokenizer: ids of the texts.
        size: side of the pictures in pixels.
        images: pictures of a batch.
        singles: share of pictures that show one thing; the rest are scenes.
        seed: of the whole run.
        ramp: steps over which the looks of single things grow from plain to wild: drawings first,
            variations after.
        styles: artwork to draw from.
    """

    model: SiglipPair
    tokenizer: Tokenizer
    size: int
    images: int
    singles: float
    seed: int
    ramp: int = 0
    styles: tuple[str, ...] = TRAIN_STYLES

    def batch(self, step: int) -> PairBatch:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, step])
        grown = min(1.0, step / self.ramp) if self.ramp else 1.0
        strength = _PLAIN + (_WILD - _PLAIN) * grown
        scenes = [self._scene(rng, strength) for _ in range(self.images)]
        seen = [_items(scene) for scene in scenes]
        told = [_told(rng, items) for items in seen]
        tokens = [self._tokens(_words(rng, items)) for items in told]
        same = np.array([[_describes(text, items) for text in told] for items in seen])
        return PairBatch(
            pixels=torch.as_tensor(np.stack([scene.image for scene in scenes])),
            tokens=torch.tensor(tokens),
            same=torch.as_tensor(same),
        )

    def loss(self, batch: PairBatch) -> tuple[Tensor, Mapping[str, float]]:
        """Loss, and how often the best-scored text of a picture describes it."""
        logits = self.model(pixels_in(batch.pixels), batch.tokens)
        best = logits.detach().argmax(-1, keepdim=True)
        right = batch.same.gather(1, best).float().mean()
        return sigmoid_loss(logits.float(), batch.same), {"top1": float(right)}

    def divide(self, batch: PairBatch, parts: int) -> list[tuple[float, PairBatch]]:
        """Leave the batch whole: every picture is compared with every text."""
        del parts
        return [(1.0, batch)]

    def samples(self) -> list[str]:
        """Nothing to read in a pair."""
        return []

    def _scene(self, rng: np.random.Generator, strength: float) -> Scene:
        if rng.random() < self.singles:
            return render_single(rng, size=self.size, styles=self.styles, strength=strength)
        return render_scene(rng, size=self.size, styles=self.styles)

    def _tokens(self, text: str) -> list[int]:
        """Fixed length, ended and padded by <eos> (SigLIP's sticky end)."""
        length = self.model.config.text.length
        ids = self.tokenizer.encode(text)[: length - 1]
        return ids + [self.tokenizer.eos] * (length - len(ids))


def pixels_in(images: Tensor) -> Tensor:
    """Bytes to the network's range: uint8 [B H W 3] -> float32 [B 3 H W] in -1..1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _items(scene: Scene) -> frozenset[Item]:
    return frozenset((thing.concept.id, thing.colour) for thing in scene.things)


def _told(rng: np.random.Generator, items: frozenset[Item]) -> frozenset[Item]:
    """What the text says: mostly everything in sight, colours now and then left out."""
    ordered = sorted(items, key=str)
    if len(ordered) > 1 and rng.random() < 0.3:
        ordered = ordered[: int(rng.integers(1, len(ordered)))]
    return frozenset((c, colour if rng.random() < 0.7 else None) for c, colour in ordered)


def _describes(text: frozenset[Item], items: frozenset[Item]) -> bool:
    """Whether everything the text says is in the picture."""
    concepts = {concept for concept, _ in items}
    return all((c, colour) in items if colour else c in concepts for c, colour in text)


def _words(rng: np.random.Generator, text: frozenset[Item]) -> str:
    """English three times in four, otherwise a list of names in another language."""
    concepts = load_concepts()
    order = rng.permutation(len(text))
    ordered = [sorted(text, key=str)[int(i)] for i in order]
    if any(colour for _, colour in ordered) or rng.random() < 0.85:
        parts = [
            f"{colour} {concepts[c].name}" if colour else concepts[c].name for c, colour in ordered
        ]
        return " and ".join(parts)
    language = ("zh", "fr", "de", "es", "ja", "ko", "pt", "it", "ru")[int(rng.integers(9))]
    return ", ".join(concepts[c].in_language(language) for c, _ in ordered)
