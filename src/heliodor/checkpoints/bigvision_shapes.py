"""What the shapes of big_vision's arrays say of a tower, be its layers stacked or not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from heliodor.checkpoints.bigvision_layout import Shape
from heliodor.errors import KeyMismatchError
from heliodor.models.siglip import SiglipVisionConfig

ATTENTION = "MultiHeadDotProductAttention_0"

_MOST_LAYERS = 1024
_LARGEST = 2**31  # of one axis; an embedding table of the largest decoder has 2**18 rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Shapes:
    """The shapes of a file's arrays, asked one by one.

    Attributes:
        found: by their names, without ``params/``.
        path: the file, for messages.
        family: what it is taken for, for messages.
    """

    found: Mapping[str, Shape]
    path: Path
    family: str

    def of(self, name: str, axes: int) -> Shape:
        """The shape of an array that must be there, with so many axes, none of them empty.

        Raises:
            KeyMismatchError: it is not, or of another rank.
        """
        shape = self.found.get(name)
        if shape is None:
            raise KeyMismatchError(
                f"{self.path} has no array {name}: it is no {self.family} of big_vision, or "
                "incomplete"
            )
        if len(shape) != axes or not all(0 < size < _LARGEST for size in shape):
            raise KeyMismatchError(
                f"{self.path}: {name} is {list(shape)}; expected {axes} axes, none empty"
            )
        return shape


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerShapes:
    """The shapes in one tower's layers.

    Attributes:
        shapes: of all arrays.
        base: the layers' name, without a number.
        mark: what stands between it and a number.
        stacked: whether there is no number.
    """

    shapes: Shapes
    base: str
    mark: str = "_"
    stacked: bool

    def of(self, name: str, axes: int) -> Shape:
        """The shape in one layer.

        Raises:
            KeyMismatchError: it is not there, or has another number of axes.
        """
        base = self.base if self.stacked else f"{self.base}{self.mark}0"
        shape = self.shapes.of(f"{base}/{name}", axes + self.stacked)
        return shape[self.stacked :]

    def has(self, name: str) -> bool:
        """Whether the layers have such an array."""
        base = self.base if self.stacked else f"{self.base}{self.mark}0"
        return f"{base}/{name}" in self.shapes.found

    def depth(self, name: str, axes: int) -> int:
        """Number of layers.

        Raises:
            KeyMismatchError: the array is not there, or there are too many.
        """
        if self.stacked:
            depth = self.shapes.of(f"{self.base}/{name}", axes + 1)[0]
        else:
            start, end = f"{self.base}{self.mark}", f"/{name}"
            depth = sum(n.startswith(start) and n.endswith(end) for n in self.shapes.found)
        if depth > _MOST_LAYERS:
            raise KeyMismatchError(
                f"{self.shapes.path}: {self.base} has {depth} layers; at most {_MOST_LAYERS} are "
                "read"
            )
        return depth

    def encoder(self) -> tuple[int, int, int]:
        """Depth, heads and width of the MLP in an encoder of ``vit``."""
        return (
            self.depth("LayerNorm_0/scale", 1),
            self.of(f"{ATTENTION}/query/kernel", 3)[1],
            self.of("MlpBlock_0/Dense_0/kernel", 2)[1],
        )


def single_layers(shapes: Mapping[str, Shape], base: str) -> bool:
    """Whether the layers of a tower are numbered, from the names alone."""
    return any(name.startswith(base) for name in shapes)


def infer_vision(shapes: Shapes, *, stacked: bool) -> SiglipVisionConfig:
    """The image tower; its pictures have as many pixels as its patches cover.

    Raises:
        KeyMismatchError: an array that says it is not there or of another rank, or positions that
            make no square.
        ConfigError: shapes that no tower has.
    """
    tower = TowerShapes(shapes=shapes, base="img/Transformer/encoderblock", stacked=stacked)
    patch = shapes.of("img/embedding/kernel", 4)
    tokens = shapes.of("img/pos_embedding", 3)[1]
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise KeyMismatchError(
            f"{shapes.path}: img/pos_embedding has {tokens} positions, no square"
        )
    depth, num_heads, mlp_width = tower.encoder()
    return SiglipVisionConfig(
        image_size=side * patch[0],
        patch_size=patch[0],
        width=patch[3],
        depth=depth,
        num_heads=num_heads,
        mlp_width=mlp_width,
    )
