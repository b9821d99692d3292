"""The artwork pack: every concept drawn in several styles, as RGBA sprites.

One WebP atlas and one JSON index a style lie in ``artwork/``; ``artwork/LICENSES.md`` names their
makers and licences, ``scripts/build_artwork.py`` builds them. A style is read on first use.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources

from PIL import Image

from heliodor.errors import DataError
from heliodor.teach.data.concepts import Concept

__all__ = [
    "ALL_STYLES",
    "HELD_OUT_STYLE",
    "SPRITE_SIDE",
    "TRAIN_STYLES",
    "Style",
    "load_style",
    "sprite",
    "styles_of",
]

# The three Fluent styles share silhouettes: count them as one design.
TRAIN_STYLES = ("noto", "twemoji", "fluent-emoji-flat", "fluent-emoji", "fluent-3d", "fxemoji")
HELD_OUT_STYLE = "emojione"  # never trained on: scenes in it measure transfer to unseen artwork
ALL_STYLES = (*TRAIN_STYLES, HELD_OUT_STYLE)
SPRITE_SIDE = 128  # longer side of a stored sprite in pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """One artwork style: its atlas (RGBA) and where each concept's sprite lies in it [x y w h]."""

    name: str
    atlas: Image.Image
    index: dict[str, tuple[int, int, int, int]]

    def has(self, concept: Concept) -> bool:
        """Whether the style draws this concept (fxemoji and emojione lack some)."""
        return concept.code in self.index

    def sprite(self, concept: Concept) -> Image.Image:
        """The concept's sprite, RGBA with straight alpha, cropped to its alpha box.

        Raises:
            DataError: the style does not draw this concept.
        """
        if concept.code not in self.index:
            raise DataError(
                f"style '{self.name}' has no '{concept.name}': ask styles_of(concept) first"
            )
        x, y, width, height = self.index[concept.code]
        return self.atlas.crop((x, y, x + width, y + height))


@cache
def load_style(name: str) -> Style:
    """Read one style from the package.

    Raises:
        DataError: unknown style, or its files are missing or broken.
    """
    if name not in ALL_STYLES:
        raise DataError(f"no artwork style '{name}': use one of {', '.join(ALL_STYLES)}")
    folder = resources.files("heliodor.teach.data") / "artwork"
    try:
        index = json.loads((folder / f"{name}.json").read_text("utf-8"))
        with (folder / f"{name}.webp").open("rb") as file, Image.open(file) as image:
            atlas = image.convert("RGBA")
    except (OSError, ValueError) as error:
        raise DataError(
            f"artwork style '{name}' cannot be read ({error}): reinstall heliodor"
        ) from error
    return Style(name=name, atlas=atlas, index={code: tuple(box) for code, box in index.items()})


@cache
def styles_of(concept: Concept, styles: tuple[str, ...] = TRAIN_STYLES) -> tuple[str, ...]:
    """Those of ``styles`` that draw this concept."""
    return tuple(name for name in styles if load_style(name).has(concept))


@lru_cache(maxsize=4096)
def sprite(concept: Concept, style: str) -> Image.Image:
    """A concept's sprite in a style, kept in memory; RGBA, never to be changed in place."""
    return load_style(style).sprite(concept)
