"""One block of a network calibrated: what goes into its layers, factors folded, weights rounded.

The block given stays as it is; the work is done on a copy, in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heliodor.quant.calibrate.codes import Codes, nearest
from heliodor.quant.calibrate.rounding import Rounding, round_weight
from heliodor.quant.calibrate.scaling import Fold, Scaling, find_factors, rounded_rows
from heliodor.quant.calibrate.statistics import WIDEST, Statistics
from heliodor.quant.pack import codes4, codes8
from heliodor.quant.scheme import INT4, INT8, Scheme

__all__ = ["Input", "Layer", "LayerReport", "Method", "Workbench"]

Run = Callable[[nn.Module], None]
"""Puts the calibration data through a block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """Layers of a block that read one tensor.

    Attributes:
        layers: their names in the block.
        fold: where factors of the tensor can go; None where they cannot.
    """

    layers: tuple[str, ...]
    fold: Fold | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """How codes are found.

    Attributes:
        scaling: the search for factors; None folds none.
        rounding: None takes the nearest codes.
        rows: rows of every input that the search for factors looks at.
        widest: channels whose second moments are kept together, see :mod:`.statistics`.
    """

    scaling: Scaling | None = field(default_factory=Scaling)
    rounding: Rounding | None = field(default_factory=Rounding)
    rows: int = 256
    widest: int = WIDEST


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerReport:
    """What became of a layer.

    Attributes:
        scheme: "int4" or "int8".
        error: squared change of its outputs over their square, on the calibration data.
        plain_error: the same with the codes that quantising without data gives.
        exponent: of the factors that were folded into what comes before; 0 for none.
    """

    scheme: str
    error: float
    plain_error: float
    exponent: float


class Layer(nn.Module):
    """A linear layer at work on: float32 weights, that may watch what comes in.

    Attributes:
        weight: [N K].
        bias: [N], or None.
        watching: takes the rows in; None while nobody watches.
        rounds: whether rows are rounded to int8, as the quantised layer will.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float().contiguous()
        self.weight = nn.Parameter(weight, requires_grad=False)
        bias = cast("Tensor | None", layer.bias)
        kept = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)
        self.register_parameter("bias", kept)
        self.watching: Callable[[Tensor], None] | None = None
        self.rounds = False

    def forward(self, x: Tensor) -> Tensor:
        """X [... K] -> float32 [... N]."""
        if self.watching is not None:
            self.watching(x)
        x = x.float()
        return F.linear(rounded_rows(x) if self.rounds else x, self.weight, self.bias)


class Workbench:
    """A copy of a block whose layers are calibrated.

    Attributes:
        block: the copy.
        layers: its linear layers, by their names in it.
    """

    def __init__(self, block: nn.Module, inputs: Sequence[Input]) -> None:
        """Copy a block.

        Args:
            block: as the network has it.
            inputs: all of its layers that are to be quantised.

        Raises:
            TypeError: one of them is no linear layer.
        """
        self.inputs = tuple(inputs)
        names = [name for entry in inputs for name in entry.layers]
        self.block, self.layers = _copied(block, names)

    @torch.no_grad()
    def watch(
        self, run: Run, method: Method, samples: int, weights: Sequence[Tensor] | None = None
    ) -> list[Statistics]:
        """What goes into each input while the data runs through.

        Args:
            run: puts ``samples`` pieces of data through a block.
            method: how much is kept.
            samples: how many pieces.
            weights: for each piece how often each of its rows counts; a layer that reads fewer rows
                reads the last ones. None counts all once.
        """
        found: list[Statistics] = []
        keep = -(-method.rows // max(1, samples))
        for entry in self.inputs:
            first = self.layers[entry.layers[0]]
            statistics = Statistics.empty(first.weight.shape[1], method.widest)
            first.watching = _watcher(statistics, keep, weights)
            found.append(statistics)
        run(self.block)
        for entry in self.inputs:
            self.layers[entry.layers[0]].watching = None
        return found

    @torch.no_grad()
    def calibrate(
        self, statistics: Sequence[Statistics], schemes: Mapping[str, Scheme], method: Method
    ) -> tuple[dict[str, Codes], dict[str, LayerReport]]:
        """Find codes for every layer, and let the copy compute with them from then on.

        Args:
            statistics: of each input; they change.
            schemes: of each layer, by its name in the block.
            method: how.

        Returns:
            Codes and reports by the layers' names in the block.
        """
        before = [s.error(self._plain(n, schemes[n])) for n, s in self._with(statistics)]
        power = [s.error(self.layers[n].weight) for n, s in self._with(statistics)]
        exponents = self._fold(statistics, schemes, method)
        codes: dict[str, Codes] = {}
        reports: dict[str, LayerReport] = {}
        for (name, seen), plain, whole in zip(self._with(statistics), before, power, strict=True):
            layer = self.layers[name]
            made = round_weight(layer.weight, schemes[name], seen, method.rounding)
            values = made.values()
            scale = float(whole.sum().clamp_min(1e-30))
            reports[name] = LayerReport(
                scheme=schemes[name].name,
                error=float(seen.error(values - layer.weight).sum()) / scale,
                plain_error=float(plain.sum()) / scale,
                exponent=exponents[name],
            )
            layer.weight = nn.Parameter(values, requires_grad=False)
            layer.rounds = True
            codes[name] = made
        return codes, reports

    def _fold(
        self, statistics: Sequence[Statistics], schemes: Mapping[str, Scheme], method: Method
    ) -> dict[str, float]:
        """Fold factors where they help; the exponents by layer."""
        exponents: dict[str, float] = {}
        for entry, seen in zip(self.inputs, statistics, strict=True):
            layers = [self.layers[name] for name in entry.layers]
            found = None
            if entry.fold is not None and method.scaling is not None:
                weights = [layer.weight for layer in layers]
                named = [schemes[name] for name in entry.layers]
                found = find_factors(weights, named, seen, entry.fold, method.scaling)
            exponents |= dict.fromkeys(entry.layers, 0.0 if found is None else found[0])
            if found is not None and entry.fold is not None:
                factors = found[1]
                entry.fold.divide(self.block, factors)
                for layer in layers:
                    layer.weight = nn.Parameter(layer.weight * factors, requires_grad=False)
                seen.divide(factors)
        return exponents

    def _with(self, statistics: Sequence[Statistics]) -> list[tuple[str, Statistics]]:
        """Each layer with what went into it."""
        pairs = zip(self.inputs, statistics, strict=True)
        return [(name, seen) for entry, seen in pairs for name in entry.layers]

    def _plain(self, name: str, scheme: Scheme) -> Tensor:
        """The change of a weight that is quantised without data."""
        weight = self.layers[name].weight
        codes, scale = (codes8 if scheme.bits == 8 else codes4)(weight)
        scale = scale[:, None] if scheme.bits == 8 else scale
        return Codes(scheme=scheme, codes=codes, scale=scale).values() - weight

    @torch.no_grad()
    def harm(self, outputs: Callable[[nn.Module], list[Tensor]]) -> dict[str, tuple[float, float]]:
        """What each layer's rounding alone does to the block's output.

        Args:
            outputs: puts some data through a block and gives what comes out.

        Returns:
            For each layer the squared change over the square: in int4, in int8.
        """
        right = outputs(self.block)
        power = sum(float(y.square().sum()) for y in right)
        found: dict[str, tuple[float, float]] = {}
        for name, layer in self.layers.items():
            weight = layer.weight
            harms: list[float] = []
            for scheme in (INT4, INT8):
                layer.weight = nn.Parameter(nearest(weight, scheme).values(), requires_grad=False)
                layer.rounds = True
                given = outputs(self.block)
                off = (float((y - r).square().sum()) for y, r in zip(given, right, strict=True))
                harms.append(sum(off) / max(power, 1e-30))
            layer.weight, layer.rounds = weight, False
            found[name] = (harms[0], harms[1])
        return found


def _copied(block: nn.Module, names: Sequence[str]) -> tuple[nn.Module, dict[str, Layer]]:
    """A copy in which the layers named are ones to work on; their weights are not copied twice."""
    memo: dict[int, object] = {}
    layers: dict[str, Layer] = {}
    for name in names:
        old = block.get_submodule(name)
        if not isinstance(old, nn.Linear):
            raise TypeError(f"{name} is a {type(old).__name__}: no linear layer to calibrate")
        layers[name] = Layer(old)
        memo[id(old)] = layers[name]
    return copy.deepcopy(block, memo), layers


def _watcher(
    statistics: Statistics, keep: int, weights: Sequence[Tensor] | None
) -> Callable[[Tensor], None]:
    left = None if weights is None else iter(weights)

    def take(x: Tensor) -> None:
        statistics.add(x, keep, None if left is None else next(left)[-x.shape[-2] :])

    return take
