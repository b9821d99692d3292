"""Where each tensor of a PaliGemma lies in big_vision's arrays.

An array of theirs is ours seen in another order of axes, and those of all layers are stacked on a
first axis; keys and values share an array, and so do the MLP's gate and up projection::

    llm/layers/attn/kv_einsum/w [L 2 K W H]   <->   language.layers.#.attention.{k,v}.weight [K*H W]

A row of the table gives one way, ours seen as theirs, as a view: filling that view loads a tensor,
reading it saves one. ``#`` is where the layer's number would stand in a file whose layers are not
stacked, as big_vision itself writes and reads with ``scan=False``.

Source: google-research/big_vision ``models/vit.py``, ``models/ppp/gemma.py`` and
``models/proj/paligemma/paligemma.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from heliodor.checkpoints.blueprint import blueprint
from heliodor.models.paligemma import PaliGemmaConfig

Shape = tuple[int, ...]
View = Callable[[Tensor, int], Tensor]
"""A tensor of ours and the width of a head -> the same memory in their order of axes."""


def _same(ours: Tensor, head: int) -> Tensor:
    del head
    return ours


def _turned(ours: Tensor, head: int) -> Tensor:
    """[out in] -> [in out], as flax keeps a dense layer."""
    del head
    return ours.T


def _leading(ours: Tensor, head: int) -> Tensor:
    del head
    return ours[None]


def _patches(ours: Tensor, head: int) -> Tensor:
    """[D 3 P P] -> [P P 3 D]."""
    del head
    return ours.permute(2, 3, 1, 0)


def _heads(ours: Tensor, head: int) -> Tensor:
    """A bias [N*H] -> [N H]."""
    return ours.view(-1, head)


def _into_heads(ours: Tensor, head: int) -> Tensor:
    """[N*H D] -> [D N H], as flax's attention projects."""
    return ours.view(-1, head, ours.shape[1]).permute(2, 0, 1)


def _einsum_heads(ours: Tensor, head: int) -> Tensor:
    """[N*H W] -> [N W H], as Gemma's einsum projects."""
    return ours.view(-1, head, ours.shape[1]).permute(0, 2, 1)


def _out_of_heads(ours: Tensor, head: int) -> Tensor:
    """[W N*H] -> [N H W]."""
    return ours.view(ours.shape[0], -1, head).permute(1, 2, 0)


@dataclass(frozen=True, slots=True)
class Row:
    """An array of theirs: its name, the tensors of ours in it, how each is seen there."""

    theirs: str
    ours: tuple[str, ...]
    view: View


_BLOCK, _OUR_BLOCK = "img/Transformer/encoderblock#", "vision.blocks.#"
_HEADED = f"{_BLOCK}/MultiHeadDotProductAttention_0"
_LAYER, _OUR_LAYER = "llm/layers#", "language.layers.#"


def _vision_rows() -> Iterator[Row]:
    yield Row("img/embedding/kernel", ("vision.patch.weight",), _patches)
    yield Row("img/embedding/bias", ("vision.patch.bias",), _same)
    yield Row("img/pos_embedding", ("vision.position",), _leading)
    for number in (0, 1):
        norm, dense = f"{_BLOCK}/LayerNorm_{number}", f"{_BLOCK}/MlpBlock_0/Dense_{number}"
        ours = f"{_OUR_BLOCK}.norm{number + 1}"
        yield Row(f"{norm}/scale", (f"{ours}.weight",), _same)
        yield Row(f"{norm}/bias", (f"{ours}.bias",), _same)
        ours = f"{_OUR_BLOCK}.mlp.{('up', 'down')[number]}"
        yield Row(f"{dense}/kernel", (f"{ours}.weight",), _turned)
        yield Row(f"{dense}/bias", (f"{ours}.bias",), _same)
    for theirs, part in (("query", "q"), ("key", "k"), ("value", "v")):
        ours = f"{_OUR_BLOCK}.attention.{part}"
        yield Row(f"{_HEADED}/{theirs}/kernel", (f"{ours}.weight",), _into_heads)
        yield Row(f"{_HEADED}/{theirs}/bias", (f"{ours}.bias",), _heads)
    yield Row(f"{_HEADED}/out/kernel", (f"{_OUR_BLOCK}.attention.out.weight",), _out_of_heads)
    yield Row(f"{_HEADED}/out/bias", (f"{_OUR_BLOCK}.attention.out.bias",), _same)
    yield Row("img/Transformer/encoder_norm/scale", ("vision.norm.weight",), _same)
    yield Row("img/Transformer/encoder_norm/bias", ("vision.norm.bias",), _same)
    yield Row("img/head/kernel", ("projector.weight",), _turned)
    yield Row("img/head/bias", ("projector.bias",), _same)


def _language_rows(*, joint: bool, sandwich: bool) -> Iterator[Row]:
    """``joint``: as many key-value heads as query heads, which then share one array."""
    yield Row("llm/embedder/input_embedding", ("language.embedding.weight",), _same)
    q, k, v = (f"{_OUR_LAYER}.attention.{part}.weight" for part in "qkv")
    if joint:
        yield Row(f"{_LAYER}/attn/qkv_einsum/w", (q, k, v), _einsum_heads)
    else:
        yield Row(f"{_LAYER}/attn/q_einsum/w", (q,), _einsum_heads)
        yield Row(f"{_LAYER}/attn/kv_einsum/w", (k, v), _einsum_heads)
    out = f"{_OUR_LAYER}.attention.out.weight"
    yield Row(f"{_LAYER}/attn/attn_vec_einsum/w", (out,), _out_of_heads)
    gate_up = (f"{_OUR_LAYER}.mlp.gate.weight", f"{_OUR_LAYER}.mlp.up.weight")
    yield Row(f"{_LAYER}/mlp/gating_einsum", gate_up, _turned)
    yield Row(f"{_LAYER}/mlp/linear", (f"{_OUR_LAYER}.mlp.down.weight",), _turned)
    for place in ("pre", "post") if sandwich else ("pre",):
        for theirs, part in (("attention", "attention"), ("ffw", "mlp")):
            ours = f"{_OUR_LAYER}.{place}_{part}_norm.scale"
            yield Row(f"{_LAYER}/{place}_{theirs}_norm/scale", (ours,), _same)
    yield Row("llm/final_norm/scale", ("language.norm.scale",), _same)


@dataclass(frozen=True, kw_only=True, slots=True)
class Array:
    """One of their arrays, and the tensors that lie in it.

    Attributes:
        name: theirs, without ``params/``.
        shape: theirs.
        ours: the shape of each tensor of ours in it.
        tensors: our names in the order in which they lie, a tuple for each index of the first
            axis. Without layers and parts there is one tuple of one name.
        stacked: whether the first axis counts layers.
        view: of each tensor as theirs.
        head: width of a head, for ``view``.
    """

    name: str
    shape: Shape
    ours: Shape
    tensors: tuple[tuple[str, ...], ...]
    stacked: bool
    view: View
    head: int

    def seen(self, ours: Tensor) -> Tensor:
        """A tensor of ours as theirs, a view."""
        return self.view(ours, self.head)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stacking:
    """Whether the layers of a file are stacked, in each tower."""

    vision: bool = True
    language: bool = True


def arrays(config: PaliGemmaConfig, stacking: Stacking) -> Iterator[Array]:
    """All arrays of a checkpoint.

    Args:
        config: of the model; its resolution and rows are those of the file.
        stacking: of the file.
    """
    vision, language = config.vision, config.language
    shapes: dict[str, Shape] = {
        name: tuple(value.shape) for name, value in blueprint(config).state_dict().items()
    }
    head, depth = vision.width // vision.num_heads, vision.depth
    for row in _vision_rows():
        yield from _arrays(row, "_", shapes, head=head, depth=depth, stacked=stacking.vision)
    joint = language.num_heads == language.num_kv_heads
    head, depth = language.head_dim, language.depth
    for row in _language_rows(joint=joint, sandwich=language.sandwich):
        yield from _arrays(row, "/", shapes, head=head, depth=depth, stacked=stacking.language)


def _arrays(
    row: Row, mark: str, shapes: Mapping[str, Shape], *, head: int, depth: int, stacked: bool
) -> Iterator[Array]:
    """The array of a row, or one for each layer; ``mark`` stands before a layer's number."""
    ours = shapes[row.ours[0].replace("#", "0")]
    shape = tuple(row.view(torch.empty(ours, device="meta"), head).shape)
    if len(row.ours) > 1:
        shape = (len(row.ours), *shape)
    layered = "#" in row.theirs
    tensors = [
        tuple(name.replace("#", str(layer)) for name in row.ours)
        for layer in range(depth if layered else 1)
    ]
    if stacked or not layered:
        yield Array(
            name=row.theirs.replace("#", ""),
            shape=(depth, *shape) if layered else shape,
            ours=ours,
            tensors=tuple(tensors),
            stacked=layered,
            view=row.view,
            head=head,
        )
        return
    for layer, names in enumerate(tensors):
        yield Array(
            name=row.theirs.replace("#", f"{mark}{layer}"),
            shape=shape,
            ours=ours,
            tensors=(names,),
            stacked=False,
            view=row.view,
            head=head,
        )
