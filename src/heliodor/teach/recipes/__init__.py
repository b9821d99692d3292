"""Training runs, one a file: each docstring gives the command, the cost and the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from heliodor.teach.recipes.codec import TinyCodec
from heliodor.teach.recipes.siglip import TinySiglip
from heliodor.teach.recipes.tiny import CLOSE, HIGH, LOW, MID, MIX, TinyStage

__all__ = ["RECIPES", "Recipe"]


class Recipe(Protocol):
    """A run with a name."""

    def run(self, workdir: Path, overrides: Mapping[str, str], *, resume: bool) -> None:
        """Train in ``workdir``."""
        ...


RECIPES: dict[str, Recipe] = {
    "tiny-codec": TinyCodec(),
    "tiny-siglip": TinySiglip(),
    "tiny-close": TinyStage(settings=CLOSE),
    "tiny-low": TinyStage(settings=LOW),
    "tiny-mid": TinyStage(settings=MID),
    "tiny-high": TinyStage(settings=HIGH),
    "tiny-mix": TinyStage(settings=MIX),
}
