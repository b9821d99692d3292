"""The shape of each tensor that a network must have, from the numbers of its configuration.

No torch is loaded, so that a file of any size is held against its configuration at once. The
networks themselves are the reference: tests compare every family with them, and the arrays with
what is written to npz files.

D, W width of a tower or decoder, F of its MLP, N heads, K key-value heads, H width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Shape = tuple[int, ...]
Numbers = Mapping[str, Any]
"""Fields of one of our configurations, ``width`` and so on; what is no number is told as such."""

_MOST = 2**24  # no size in a configuration is anywhere near it
_DEEPEST = 1024  # layers
_TOWER = ("image_size", "patch_size", "width", "depth", "num_heads", "mlp_width")
_DECODER = ("vocab_size", "width", "depth", "num_heads", "num_kv_heads", "head_dim", "mlp_width")
_TEXT = ("vocab_size", "length", "width", "depth", "num_heads", "mlp_width")
_PARTS = {
    "paligemma": {"vision": _TOWER, "language": _DECODER},
    "siglip": {"vision": _TOWER, "text": _TEXT},
    "gemma": {"language": _DECODER},
}


def unusable(family: str, parts: Mapping[str, Numbers]) -> list[str]:
    """The fields, as ``vision.width``, without which no shape can be told.

    Args:
        family: "paligemma", "siglip" or "gemma"; of another nothing is known.
        parts: the numbers of ``vision``, ``language`` and ``text``.
    """
    return [
        f"{part}.{name}"
        for part, names in _PARTS.get(family, {}).items()
        for name in names
        if not _is_size(parts.get(part, {}).get(name), _DEEPEST if name == "depth" else _MOST)
    ]


def _is_size(value: object, most: int) -> bool:
    return type(value) is int and 0 < value <= most


def network_shapes(
    family: str, parts: Mapping[str, Numbers], *, sandwich: bool
) -> dict[str, Shape]:
    """Shapes by our names; empty where a number is unusable.

    Args:
        family: "paligemma", "siglip" or "gemma".
        parts: the numbers of ``vision``, ``language`` and ``text``.
        sandwich: whether the decoder is a Gemma 2.
    """
    if unusable(family, parts) or family not in _PARTS:
        return {}
    if family == "gemma":
        return dict(_decoder("", parts["language"], sandwich=sandwich))
    vision = parts["vision"]
    found = dict(_tower(vision))
    if family == "paligemma":
        width = parts["language"]["width"]
        found |= {"projector.weight": (width, vision["width"]), "projector.bias": (width,)}
        return found | dict(_decoder("language.", parts["language"], sandwich=sandwich))
    return found | dict(_pool(vision)) | dict(_text(parts["text"]))


def _tower(vision: Numbers) -> Iterator[tuple[str, Shape]]:
    width, patch = vision["width"], vision["patch_size"]
    yield "vision.patch.weight", (width, 3, patch, patch)
    yield "vision.patch.bias", (width,)
    yield "vision.position", ((vision["image_size"] // patch) ** 2, width)
    yield from _blocks("vision.blocks", vision)
    yield from _both("vision.norm", (width,))


def _blocks(name: str, tower: Numbers) -> Iterator[tuple[str, Shape]]:
    width = tower["width"]
    for layer in range(tower["depth"]):
        block = f"{name}.{layer}"
        yield from _both(f"{block}.norm1", (width,))
        for part in ("q", "k", "v", "out"):
            yield from _both(f"{block}.attention.{part}", (width, width))
        yield from _both(f"{block}.norm2", (width,))
        yield from _mlp(f"{block}.mlp", tower)


def _both(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    """A weight and its bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _mlp(name: str, tower: Numbers) -> Iterator[tuple[str, Shape]]:
    yield from _both(f"{name}.up", (tower["mlp_width"], tower["width"]))
    yield from _both(f"{name}.down", (tower["width"], tower["mlp_width"]))


def _pool(vision: Numbers) -> Iterator[tuple[str, Shape]]:
    width = vision["width"]
    yield "pool.probe", (1, 1, width)
    for part in ("q", "k", "v", "out"):
        yield from _both(f"pool.{part}", (width, width))
    yield from _both("pool.norm", (width,))
    yield from _mlp("pool.mlp", vision)


def _text(text: Numbers) -> Iterator[tuple[str, Shape]]:
    width = text["width"]
    yield "text.embedding.weight", (text["vocab_size"], width)
    yield "text.position", (text["length"], width)
    yield from _blocks("text.blocks", text)
    yield from _both("text.norm", (width,))
    yield from _both("text.head", (text.get("out_width") or width, width))
    yield "logit_scale", (1,)
    yield "logit_bias", (1,)


def _decoder(prefix: str, language: Numbers, *, sandwich: bool) -> Iterator[tuple[str, Shape]]:
    width, mlp, head = language["width"], language["mlp_width"], language["head_dim"]
    queries, keys = language["num_heads"] * head, language["num_kv_heads"] * head
    yield f"{prefix}embedding.weight", (language["vocab_size"], width)
    places = ("pre", "post") if sandwich else ("pre",)
    for layer in range(language["depth"]):
        name = f"{prefix}layers.{layer}"
        for place in places:
            yield f"{name}.{place}_attention_norm.scale", (width,)
            yield f"{name}.{place}_mlp_norm.scale", (width,)
        yield f"{name}.attention.q.weight", (queries, width)
        yield f"{name}.attention.k.weight", (keys, width)
        yield f"{name}.attention.v.weight", (keys, width)
        yield f"{name}.attention.out.weight", (width, queries)
        yield f"{name}.mlp.gate.weight", (mlp, width)
        yield f"{name}.mlp.up.weight", (mlp, width)
        yield f"{name}.mlp.down.weight", (width, mlp)
    yield f"{prefix}norm.scale", (width,)
