"""Where our tensors lie in big_vision's arrays: its image tower, and a PaliGemma with it.

An array of theirs is ours seen in another order of axes, and those of all layers are stacked on a
first axis; keys and values share an array, and so do the MLP's gate and up projection::

    llm/layers/attn/kv_einsum/w [L 2 K W H]   <->   language.layers.#.attention.{k,v}.weight [K*H W]

A row of the table gives one way, ours seen as theirs, as a view: filling that view loads a tensor,
reading it saves one. ``#`` is where the layer's number would stand in a file whose layers are not
stacked, as big_vision itself writes and reads with ``scan=False``. The rows of a SigLIP pair are in
:mod:`~heliodor.checkpoints.siglip_npz`.

Source: google-research/big_vision ``models/vit.py``, ``models/ppp/gemma.py`` and
``models/proj/paligemma/paligemma.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from heliodor.checkpoints.blueprint import blueprint
from heliodor.models.paligemma import PaliGemmaConfig

Shape = tuple[int, ...]
View = Callable[[Tensor, int], Tensor]
"""A tensor of ours and the width of a head -> the same memory in their order of axes."""


def same(ours: Tensor, head: int) -> Tensor:
    """As it is."""
    del head
    return ours


def _turned(ours: Tensor, head: int) -> Tensor:
    """[out in] -> [in out], as flax keeps a dense layer."""
    del head
    return ours.T


def leading(ours: Tensor, head: int) -> Tensor:
    """[N D] -> [1 N D]."""
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


_LAYER, _OUR_LAYER = "llm/layers#", "language.layers.#"


def dense_rows(theirs: str, ours: str) -> Iterator[Row]:
    """A dense layer."""
    yield Row(f"{theirs}/kernel", (f"{ours}.weight",), _turned)
    yield Row(f"{theirs}/bias", (f"{ours}.bias",), same)


def norm_rows(theirs: str, ours: str) -> Iterator[Row]:
    """A layer norm."""
    yield Row(f"{theirs}/scale", (f"{ours}.weight",), same)
    yield Row(f"{theirs}/bias", (f"{ours}.bias",), same)


def attention_rows(theirs: str, ours: str) -> Iterator[Row]:
    """The projections of flax's attention, which lies in the module ``theirs``."""
    theirs = f"{theirs}/MultiHeadDotProductAttention_0"
    for name, part in (("query", "q"), ("key", "k"), ("value", "v")):
        yield Row(f"{theirs}/{name}/kernel", (f"{ours}.{part}.weight",), _into_heads)
        yield Row(f"{theirs}/{name}/bias", (f"{ours}.{part}.bias",), _heads)
    yield Row(f"{theirs}/out/kernel", (f"{ours}.out.weight",), _out_of_heads)
    yield Row(f"{theirs}/out/bias", (f"{ours}.out.bias",), same)


def mlp_rows(theirs: str, ours: str) -> Iterator[Row]:
    """The MLP in the module ``theirs``."""
    yield from dense_rows(f"{theirs}/MlpBlock_0/Dense_0", f"{ours}.up")
    yield from dense_rows(f"{theirs}/MlpBlock_0/Dense_1", f"{ours}.down")


def encoder_rows(theirs: str, ours: str) -> Iterator[Row]:
    """The layers of ``vit.Encoder`` and the norm behind them."""
    block, our_block = f"{theirs}/encoderblock#", f"{ours}.blocks.#"
    yield from norm_rows(f"{block}/LayerNorm_0", f"{our_block}.norm1")
    yield from attention_rows(block, f"{our_block}.attention")
    yield from norm_rows(f"{block}/LayerNorm_1", f"{our_block}.norm2")
    yield from mlp_rows(block, f"{our_block}.mlp")
    yield from norm_rows(f"{theirs}/encoder_norm", f"{ours}.norm")


def vision_rows() -> Iterator[Row]:
    """The image tower, without what stands behind it."""
    yield Row("img/embedding/kernel", ("vision.patch.weight",), _patches)
    yield Row("img/embedding/bias", ("vision.patch.bias",), same)
    yield Row("img/pos_embedding", ("vision.position",), leading)
    yield from encoder_rows("img/Transformer", "vision")


def _language_rows(*, joint: bool, sandwich: bool) -> Iterator[Row]:
    """``joint``: as many key-value heads as query heads, which then share one array."""
    yield Row("llm/embedder/input_embedding", ("language.embedding.weight",), same)
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
            yield Row(f"{_LAYER}/{place}_{theirs}_norm/scale", (ours,), same)
    yield Row("llm/final_norm/scale", ("language.norm.scale",), same)


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
class Layers:
    """The layers of one tower or decoder, and how a file keeps them.

    Attributes:
        mark: what stands before a layer's number.
        depth: number of layers.
        head: width of a head.
        stacked: whether all layers share an array.
    """

    mark: str
    depth: int
    head: int
    stacked: bool

    def arrays(self, rows: Iterable[Row], shapes: Mapping[str, Shape]) -> Iterator[Array]:
        """The arrays of rows, for each of them one, or one a layer.

        Args:
            rows: of this tower.
            shapes: of our tensors, by name.
        """
        for row in rows:
            ours = shapes[row.ours[0].replace("#", "0")]
            shape = tuple(row.view(torch.empty(ours, device="meta"), self.head).shape)
            if len(row.ours) > 1:
                shape = (len(row.ours), *shape)
            array = partial(Array, ours=ours, view=row.view, head=self.head)
            if "#" not in row.theirs:
                yield array(name=row.theirs, shape=shape, tensors=(row.ours,), stacked=False)
                continue
            layers = tuple(
                tuple(name.replace("#", str(layer)) for name in row.ours)
                for layer in range(self.depth)
            )
            if self.stacked:
                name, shape = row.theirs.replace("#", ""), (self.depth, *shape)
                yield array(name=name, shape=shape, tensors=layers, stacked=True)
                continue
            for layer, names in enumerate(layers):
                name = row.theirs.replace("#", f"{self.mark}{layer}")
                yield array(name=name, shape=shape, tensors=(names,), stacked=False)


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
    tower = Layers(
        mark="_",
        depth=vision.depth,
        head=vision.width // vision.num_heads,
        stacked=stacking.vision,
    )
    rows = (*vision_rows(), *dense_rows("img/head", "projector"))
    yield from tower.arrays(rows, shapes)
    decoder = Layers(
        mark="/", depth=language.depth, head=language.head_dim, stacked=stacking.language
    )
    joint = language.num_heads == language.num_kv_heads
    yield from decoder.arrays(_language_rows(joint=joint, sandwich=language.sandwich), shapes)
