"""Factors that make the channels that matter rounder, and cost nothing when the model runs.

A channel's weights times a factor and its input divided by it is the same layer. The factor moves
into what comes before: the weights of a norm, or the rows of the layer that makes the channel.
Channels of large inputs get large weights, so that their rounding errors, relative to the group's
scale, shrink; and rows of inputs, which are rounded to int8 as well, become more even.
Source: AWQ, arXiv 2306.00978, section 3.2; SmoothQuant, arXiv 2211.10438. The exponent is searched
by the error of the layers' outputs, with the inputs rounded as they will be.

K input channels, R sampled rows, N output channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from heliodor.errors import ConfigError
from heliodor.nn.norm import LayerNorm, RMSNorm
from heliodor.quant.calibrate.codes import nearest
from heliodor.quant.calibrate.statistics import Statistics
from heliodor.quant.scheme import Scheme

__all__ = ["Fold", "IntoNorm", "IntoRows", "Scaling", "find_factors", "rounded_rows"]

_LOOKED_AT = 2**23  # of a layer's weights, whole rows evenly spaced, that the search looks at


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """How factors are searched.

    Attributes:
        steps: exponents that are tried between 0, which leaves everything as it is, and 1.
    """

    steps: int = 12

    def __post_init__(self) -> None:
        """Refuse a search that tries nothing."""
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; expected at least 1 exponent to try")


class Fold(Protocol):
    """Where the factors of an input go."""

    def tie(self, factors: Tensor) -> Tensor:
        """The nearest factors that can be folded: [K] -> [K]."""
        ...

    def divide(self, block: nn.Module, factors: Tensor) -> None:
        """Divide the input by tied factors [K], in the weights of what makes it."""
        ...


@dataclass(frozen=True, slots=True)
class IntoNorm:
    """The input is what a norm gives.

    Attributes:
        name: of the norm in its block.
    """

    name: str

    def tie(self, factors: Tensor) -> Tensor:
        """Any factors can be folded."""
        return factors

    def divide(self, block: nn.Module, factors: Tensor) -> None:
        """Divide the norm's weights, and its bias if it has one."""
        norm = block.get_submodule(self.name)
        if isinstance(norm, RMSNorm):
            norm.scale = _fixed((1.0 + norm.scale.float()) / factors - 1.0)
        elif isinstance(norm, LayerNorm):
            norm.weight = _fixed(norm.weight.float() / factors)
            norm.bias = _fixed(norm.bias.float() / factors)
        else:
            raise TypeError(f"{self.name} is a {type(norm).__name__}: no norm to fold into")


@dataclass(frozen=True, slots=True)
class IntoRows:
    """The input's channels are outputs of another layer, or such outputs mixed within a channel.

    Attributes:
        name: of the layer before.
        repeats: how many query heads read one value head.
        head_dim: channels of a head; None where there are no heads, the input's channels then being
            the layer's outputs in order.
    """

    name: str
    repeats: int = 1
    head_dim: int | None = None

    def tie(self, factors: Tensor) -> Tensor:
        """The geometric mean of the channels that one output of the layer serves."""
        if self.repeats == 1 or self.head_dim is None:
            return factors
        heads = factors.view(-1, self.repeats, self.head_dim)
        return heads.log().mean(1, keepdim=True).exp().expand_as(heads).reshape(-1)

    def divide(self, block: nn.Module, factors: Tensor) -> None:
        """Divide the layer's rows, and its bias if it has one."""
        layer = block.get_submodule(self.name)
        if self.head_dim is not None:
            factors = factors.view(-1, self.repeats, self.head_dim)[:, 0].reshape(-1)
        weight = layer.get_parameter("weight").float()
        layer.register_parameter("weight", _fixed(weight / factors[:, None]))
        bias: Tensor | None = getattr(layer, "bias", None)
        if bias is not None:
            layer.register_parameter("bias", _fixed(bias.float() / factors))


def _fixed(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def find_factors(
    weights: Sequence[Tensor],
    schemes: Sequence[Scheme],
    statistics: Statistics,
    fold: Fold,
    how: Scaling,
) -> tuple[float, Tensor] | None:
    """The factors of an input that make the layers that read it err least.

    Args:
        weights: of the layers, float32 [N K] each.
        schemes: of each.
        statistics: of the input, with rows kept.
        fold: where the factors will go.
        how: the search.

    Returns:
        The exponent and the factors [K]; None if leaving all as it is errs least.
    """
    sample = statistics.sample
    if sample.shape[0] == 0:
        return None
    magnitude, importance = statistics.mean_magnitude, statistics.importance
    weights = [weight[:: -(-weight.numel() // _LOOKED_AT)] for weight in weights]
    wanted = [sample @ weight.T for weight in weights]
    best: tuple[float, Tensor] | None = None
    least = float("inf")
    for step in range(how.steps + 1):
        exponent = step / how.steps
        factors = fold.tie(_factors(magnitude, exponent))
        rows = rounded_rows(sample / factors)
        error = 0.0
        for weight, scheme, right in zip(weights, schemes, wanted, strict=True):
            codes = nearest(weight * factors, scheme, importance / factors.square())
            off = rows @ codes.values().T - right
            error += float(off.square().sum() / right.square().sum().clamp_min(1e-30))
        if error < least:
            best, least = (exponent, factors), error
    return None if best is None or best[0] == 0.0 else best


def _factors(magnitude: Tensor, exponent: float) -> Tensor:
    """``magnitude ** exponent`` around 1; channels that were never used keep 1."""
    used = magnitude > 0
    if not bool(used.any()):
        return torch.ones_like(magnitude)
    smallest = magnitude[used].max() * 1e-5
    factors = magnitude.clamp_min(smallest) ** exponent
    factors = factors / (factors[used].max() * factors[used].min()).sqrt()
    return torch.where(used, factors, 1.0)


def rounded_rows(x: Tensor) -> Tensor:
    """Rows as the layers will see them: to int8 and back, each by its largest magnitude."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    scale = torch.where(scale > 0, scale, 1.0)
    return (x / scale).round_().mul_(scale)
