"""Through a PaliGemma block by block, all data carried from each block to the next.

One block is in memory in float32 at a time, and what each piece of data is at that place; the rest
of the network stays mapped from its file. What a block gets is what the quantised blocks before it
give, so that it makes up for their errors as well.

T text tokens, M image tokens, S = M + T, D and W widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemma
from heliodor.nn.mask import prefix_lm
from heliodor.nn.rope import rotations
from heliodor.quant.calibrate.block import Input
from heliodor.quant.calibrate.scaling import IntoNorm, IntoRows
from heliodor.quant.pack import codes8
from heliodor.see.calibration.samples import Example

__all__ = ["Stage", "Walk"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A block of the network.

    Attributes:
        name: stands before its tensors' names in the network, with a dot where it is not empty.
        title: for people.
        block: the module, in float.
        inputs: its layers, by what they read.
        run: puts the data through such a block, some of it or all; what comes out, in order.
        take: goes on with what came out of it.
        pieces: how many pieces of data it runs on.
        weights: how often each position of each piece counts; None for once.
    """

    name: str
    title: str
    block: nn.Module
    inputs: tuple[Input, ...]
    run: Callable[[nn.Module, int | None], list[Tensor]]
    take: Callable[[list[Tensor]], None]
    pieces: int
    weights: tuple[Tensor, ...] | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """Names in the network of the layers that are quantised here."""
        return tuple(self.name + layer for entry in self.inputs for layer in entry.layers)


class Tail(nn.Module):
    """What stands between tower and decoder, under the names that the network has for it."""

    def __init__(self, network: PaliGemma) -> None:
        super().__init__()
        self.vision = nn.ModuleDict({"norm": network.vision.norm})
        self.projector = network.projector

    def forward(self, x: Tensor) -> Tensor:
        """What the blocks gave [1 M D] -> image tokens, float32 [1 M W]."""
        return self.projector(self.vision["norm"](x)).float()


class Walk:
    """A network and the data on its way through it.

    Attributes:
        network: in float; it stays as it is.
        examples: what is read, with the picture that it is about.
    """

    def __init__(
        self, network: PaliGemma, pixels: Sequence[Tensor], examples: Sequence[Example]
    ) -> None:
        """Stand before the first block.

        Args:
            network: in float.
            pixels: pictures, float32 [3 H W].
            examples: what to read.
        """
        self.network = network
        self.examples = tuple(examples)
        position = network.vision.position.float()
        self._seen = [network.vision.embed(one[None]) + position for one in pixels]
        self._read: list[Tensor] = []
        self._sights: list[_Sight] = []

    def stages(self) -> Iterator[Stage]:
        """The blocks in order. Each one's data must be taken before the next is asked for."""
        for index, block in enumerate(self.network.vision.blocks):
            yield self._vision_stage(f"vision.blocks.{index}.", block, _VISION_BLOCK)
        yield self._vision_stage("", Tail(self.network), _TAIL)
        self._begin_reading()
        language = self.network.language
        for index, layer in enumerate(language.layers):
            yield self._language_stage(index, layer, last=index == len(language.layers) - 1)

    def all_layers(self) -> list[str]:
        """Names of all layers that the stages quantise."""
        names = [f"vision.blocks.{i}." for i in range(len(self.network.vision.blocks))]
        found = [f"{name}{layer}" for name in names for e in _VISION_BLOCK for layer in e.layers]
        found.append("projector")
        config = self.network.config.language
        for index in range(len(self.network.language.layers)):
            inputs = language_inputs(config)
            found += [f"language.layers.{index}.{n}" for entry in inputs for n in entry.layers]
        return found

    def _vision_stage(self, name: str, block: nn.Module, inputs: tuple[Input, ...]) -> Stage:
        def run(module: nn.Module, count: int | None) -> list[Tensor]:
            return [module(x) for x in self._seen[:count]]

        def take(outputs: list[Tensor]) -> None:
            self._seen = outputs

        return Stage(
            name=name,
            title=name.rstrip(".") or "projector",
            block=block,
            inputs=inputs,
            run=run,
            take=take,
            pieces=len(self._seen),
        )

    def _begin_reading(self) -> None:
        """Join image tokens and text; the table's rows are rounded, as they will be."""
        language = self.network.language
        table = language.embedding.weight
        for example in self.examples:
            codes, scale = codes8(table[example.tokens].detach().float())
            text = codes.float() * scale[:, None] * language.config.width**0.5
            image = self._seen[example.picture]
            self._read.append(torch.cat((image, text[None]), dim=1))
            self._sights.append(_Sight.of(language.config, image.shape[1], example))
        self._seen = []

    def _language_stage(self, index: int, layer: nn.Module, *, last: bool) -> Stage:
        local = self.network.language.config.is_local(index)

        def run(module: nn.Module, count: int | None) -> list[Tensor]:
            pairs = zip(self._read[:count], self._sights[:count], strict=True)
            return [sight.through(module, x, local=local, last=last) for x, sight in pairs]

        def take(outputs: list[Tensor]) -> None:
            self._read = outputs

        return Stage(
            name=f"language.layers.{index}.",
            title=f"language.layers.{index}",
            block=layer,
            inputs=language_inputs(self.network.language.config),
            run=run,
            take=take,
            pieces=len(self._read),
            weights=tuple(sight.weights for sight in self._sights),
        )


_VISION_BLOCK = (
    Input(layers=("attention.q", "attention.k", "attention.v"), fold=IntoNorm("norm1")),
    Input(layers=("attention.out",), fold=IntoRows("attention.v")),
    Input(layers=("mlp.up",), fold=IntoNorm("norm2")),
    Input(layers=("mlp.down",)),  # behind a GELU, through which no factor passes
)
_TAIL = (Input(layers=("projector",), fold=IntoNorm("vision.norm")),)


def language_inputs(config: GemmaConfig) -> tuple[Input, ...]:
    """The layers of a decoder's layer: the gate's GELU takes no factor, what it gates does."""
    repeats = config.num_heads // config.num_kv_heads
    heads = IntoRows("attention.v", repeats=repeats, head_dim=config.head_dim)
    return (
        Input(
            layers=("attention.q", "attention.k", "attention.v"),
            fold=IntoNorm("pre_attention_norm"),
        ),
        Input(layers=("attention.out",), fold=heads),
        Input(layers=("mlp.gate", "mlp.up"), fold=IntoNorm("pre_mlp_norm")),
        Input(layers=("mlp.down",), fold=IntoRows("mlp.up")),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Sight:
    """How one example's positions see each other.

    Attributes:
        turn: rotations of all positions.
        full: mask of the layers that see all the way back.
        local: of those with a window.
        text: positions of text, which alone go on from the last layer.
        weights: how often each position counts: the text as often as the picture, if it is shorter.
    """

    turn: tuple[Tensor, Tensor]
    full: Tensor
    local: Tensor
    text: int
    weights: Tensor

    @classmethod
    def of(cls, config: GemmaConfig, images: int, example: Example) -> _Sight:
        text = example.tokens.shape[0]
        length = images + text
        prefix = torch.tensor([images + example.prefix])
        full = prefix_lm(prefix, length)
        cut = config.window is not None and length > config.window
        return cls(
            turn=rotations(torch.arange(length)[None], config.head_dim, config.rope_base),
            full=full,
            local=prefix_lm(prefix, length, config.window) if cut else full,
            text=text,
            weights=torch.cat((torch.ones(images), torch.full((text,), max(1.0, images / text)))),
        )

    def through(self, layer: nn.Module, x: Tensor, *, local: bool, last: bool) -> Tensor:
        """One layer of the decoder, as :meth:`heliodor.models.gemma.Gemma.forward` runs it."""
        keep = self.text if last else x.shape[1]
        return layer(x, self.turn, self.local if local else self.full, None, keep)
