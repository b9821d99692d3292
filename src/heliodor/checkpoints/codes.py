"""What the tensors of a quantised file must be, and how its layers are stored, by groups.

Importing this module loads no torch: ``heliodor inspect`` answers with it at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from heliodor.checkpoints.expected import Shape
from heliodor.checkpoints.heads import Head
from heliodor.quant.scheme import Recipe

_WEIGHT = ".weight"


def stored_shapes(shapes: Mapping[str, Shape], recipe: Recipe | None) -> dict[str, Shape]:
    """The shapes of a quantised network's tensors, from those of the network as it was.

    Args:
        shapes: by our names.
        recipe: None leaves all as they are.
    """
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        layer = name.removesuffix(_WEIGHT)
        scheme = recipe.scheme_for(layer) if recipe and _is_layer(name, shape) else None
        if scheme is None:
            found[name] = shape
        else:
            parts = scheme.parts(*shape).items()
            found |= {f"{layer}.{part}": size for part, (_, size) in parts}
    return found


def scheme_groups(shapes: Mapping[str, Shape], recipe: Recipe | None) -> dict[str, str] | None:
    """How many layers of each part of a network are stored how; None for a file of numbers.

    Args:
        shapes: of the network as it was, by our names.
        recipe: which layer is stored how.

    Returns:
        Such as ``{"vision.blocks": "162 int8", "language.layers": "108 int4, 18 int8"}``.
    """
    if recipe is None:
        return None
    groups: dict[str, Counter[str]] = {}
    for name, shape in shapes.items():
        if not _is_layer(name, shape):
            continue
        layer = name.removesuffix(_WEIGHT)
        scheme = recipe.scheme_for(layer)
        counts = groups.setdefault(_group(layer), Counter())
        counts["float" if scheme is None else scheme.name] += 1
    return {
        group: ", ".join(f"{number} {scheme}" for scheme, number in counts.most_common())
        for group, counts in groups.items()
    }


def wrong_types(
    shapes: Mapping[str, Shape], recipe: Recipe | None, heads: Mapping[str, Head]
) -> list[str]:
    """Codes and scales in another type than theirs."""
    wrong: list[str] = []
    for name, shape in shapes.items():
        layer = name.removesuffix(_WEIGHT)
        scheme = recipe.scheme_for(layer) if recipe and _is_layer(name, shape) else None
        for part, (dtype, _) in scheme.parts(*shape).items() if scheme else ():
            head = heads.get(f"{layer}.{part}")
            if head is not None and head.dtype != dtype:
                wrong.append(f"{layer}.{part} is {head.dtype}, where {dtype} belongs")
    return wrong


def _is_layer(name: str, shape: Shape) -> bool:
    """Whether a tensor is the weight of what could be quantised: a matrix, or a table of rows."""
    return name.endswith(_WEIGHT) and len(shape) == 2


def _group(layer: str) -> str:
    """``language.layers.3.mlp.up`` -> ``language.layers``; names without a number stay."""
    parts = layer.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[:first])
