"""Training runs, one a file: each docstring gives the command, the cost and the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from heliodor.teach.recipes.codec import TinyCodec
from heliodor.teach.recipes.painter import PainterSettings, PainterVae, TinyPainter, VaeSettings
from heliodor.teach.recipes.painter_cache import CacheSettings, PainterCache
from heliodor.teach.recipes.siglip import TinySiglip
from heliodor.teach.recipes.tiny import HIGH, LETTERS, LOW, MID, MIX, TinyStage

__all__ = ["RECIPES", "Recipe"]


class Recipe(Protocol):
    """A run with a name."""

    @property
    def summary(self) -> str:
        """One line: what it trains."""
        ...

    def run(self, workdir: Path, overrides: Mapping[str, str], *, resume: bool) -> None:
        """Train in ``workdir``."""
        ...


RECIPES: dict[str, Recipe] = {
    "tiny-codec": TinyCodec(),
    "tiny-siglip": TinySiglip(),
    "tiny-low": TinyStage(
        settings=LOW,
        summary="tiny on one thing, scenes and lines of text at 112 pixels: all but documents",
    ),
    "tiny-mid": TinyStage(settings=MID, summary="tiny on all six tasks at 160 pixels"),
    "tiny-letters": TinyStage(
        settings=LETTERS,
        summary="tiny's image tower alone at 224 pixels, mostly on sheets full of type",
    ),
    "tiny-high": TinyStage(
        settings=HIGH, summary="tiny on all six tasks at 224 pixels, with more to read"
    ),
    "tiny-mix": TinyStage(
        settings=MIX, summary="tiny on all six tasks at 224 pixels, at a lower rate, to the end"
    ),
    "painter-vae": PainterVae(settings=VaeSettings()),
    "painter-cache": PainterCache(settings=CacheSettings()),
    "painter": TinyPainter(settings=PainterSettings()),
}
