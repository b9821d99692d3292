"""Latents and captions of many scenes, encoded once.

    heliodor train painter-cache vae=runs/painter-vae/vae

An interrupted run goes on where it stopped; a larger ``scenes`` later adds to what is there. What
the result depends on is written beside it, and another autoencoder, text encoder or way of drawing
needs another folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heliodor import zoo
from heliodor.paint.gemma_source import open_gemma
from heliodor.paint.painter import load_vae
from heliodor.paint.text import PromptEncoder
from heliodor.paint.vae import Autoencoder
from heliodor.paint.vae_source import WEIGHTS
from heliodor.teach.compressing import encode
from heliodor.teach.data.painting import describe, paint_scene
from heliodor.teach.data.painting_words import LANGUAGES, say
from heliodor.teach.data.scenes import Scene
from heliodor.teach.data.splits import Split, scene_rng
from heliodor.teach.latents import CachedScenes, build_cache, file_digest
from heliodor.teach.recipes.settings import at_least_one, override

__all__ = ["CacheSettings", "PainterCache", "SceneMaker"]

_SCENE, _WORDS = 41, 42  # streams of a scene and of its captions
_LOOKED_AT = 4  # scenes that stand for the way of drawing


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSettings:
    """Numbers of a cache.

    Attributes:
        vae: folder of the autoencoder.
        scenes: at least so many; whole shards are made.
        captions: of each scene, 1 to 6: one English, the others in languages drawn.
        size: side of the pictures in pixels.
        strength: how much looks vary.
        shard: scenes of a file.
    """

    vae: str = "runs/painter-vae/vae"
    scenes: int = 60000
    captions: int = 4
    size: int = 128
    strength: float = 0.35
    shard: int = 1000

    def __post_init__(self) -> None:
        """Refuse caches of nothing."""
        at_least_one(self, "scenes", "captions", "shard")


@dataclass(frozen=True, kw_only=True, slots=True)
class PainterCache:
    """Fill a cache; ``workdir`` is it."""

    settings: CacheSettings
    summary: str = "latents and captions' features for the painter, encoded once"

    def run(self, workdir: Path, overrides: Mapping[str, str], *, resume: bool) -> None:
        """Make what is missing in ``workdir``; what is there is kept, with or without ``resume``.

        Raises:
            TrainingError: ``workdir`` holds a cache of something else.
            MissingExtraError: diffusers is not installed.
        """
        del resume
        settings = override(self.settings, overrides)
        maker = SceneMaker(
            settings,
            load_vae(settings.vae),
            open_gemma(zoo.TINY).encoder(dtype="float32"),
        )
        build_cache(
            workdir,
            maker.about(),
            scenes=settings.scenes,
            shard=settings.shard,
            empty=lambda: maker.encoder.encode([""])[0].states,
            make=maker.make,
        )


class SceneMaker:
    """Draws scenes by number and encodes them.

    Attributes:
        settings: which scenes.
        autoencoder: what latents it makes.
        encoder: what reads captions.
    """

    def __init__(
        self, settings: CacheSettings, autoencoder: Autoencoder, encoder: PromptEncoder
    ) -> None:
        self.settings, self.autoencoder, self.encoder = settings, autoencoder, encoder

    def about(self) -> dict[str, Any]:
        """What the result depends on: files by their content, drawing by what it draws."""
        vae = Path(self.settings.vae)
        drawn = hashlib.sha256()
        for number in range(_LOOKED_AT):
            scene = self.scene(number)
            drawn.update(scene.image.tobytes())
            drawn.update("\n".join(self.captions(number, scene)).encode())
        return {
            "autoencoder": [file_digest(vae / name) for name in ("config.json", WEIGHTS)],
            "text encoder": file_digest(zoo.TINY / "model.safetensors"),
            "tokenizer": file_digest(zoo.TOKENIZER),
            "drawing": drawn.hexdigest(),
            "captions": self.settings.captions,
            "size": self.settings.size,
            "strength": self.settings.strength,
        }

    def scene(self, number: int) -> Scene:
        """A scene of the training split."""
        return paint_scene(
            scene_rng(Split.TRAIN, number, _SCENE),
            size=self.settings.size,
            strength=self.settings.strength,
        )

    def captions(self, number: int, scene: Scene) -> list[str]:
        """What is said of a scene: English first, then languages drawn, each another telling."""
        rng = scene_rng(Split.TRAIN, number, _WORDS)
        others = [LANGUAGES[1 + int(index)] for index in rng.permutation(len(LANGUAGES) - 1)]
        chosen = ("en", *others)[: self.settings.captions]
        return [say(rng, describe(rng, scene), language) for language in chosen]

    def make(self, numbers: range) -> CachedScenes:
        """Scenes with these numbers."""
        scenes = [self.scene(number) for number in numbers]
        captions = [
            text
            for number, scene in zip(numbers, scenes, strict=True)
            for text in self.captions(number, scene)
        ]
        pictures = torch.as_tensor(np.stack([scene.image for scene in scenes]))
        latents = encode(self.autoencoder.module, pictures)
        states = [
            found.states
            for start in range(0, len(captions), 64)
            for found in self.encoder.encode(captions[start : start + 64])
        ]
        scaled = (latents - self.autoencoder.shift) * self.autoencoder.scale
        return CachedScenes(latents=scaled, states=states, captions=captions)
