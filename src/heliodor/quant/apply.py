"""Quantised layers into a network, in place of those it has: no model is known here.

A layer is replaced when its turn comes and its float weight let go at once, so that the most that
is held is the network as it shrinks and one layer's codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

from torch import nn

from heliodor.errors import ConfigError
from heliodor.quant.linear import QuantEmbedding, QuantLinear4, QuantLinear8, empty, quantised
from heliodor.quant.scheme import Recipe, Scheme

__all__ = [
    "Applied",
    "apply_empty",
    "quantisable",
    "quantise",
    "recipe_of",
]

Network = TypeVar("Network", bound=nn.Module)
Progress = Callable[[str, int, int], None]
"""Told a layer's name, and how many values of how many are through."""

_PLAIN = (nn.Linear, nn.Embedding)
_OURS = (QuantLinear8, QuantLinear4, QuantEmbedding)


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """What was done to a network.

    Attributes:
        schemes: the scheme of each layer that was replaced, by name.
        before: bytes of their weights as they were.
        after: bytes of what stands for them.
    """

    schemes: dict[str, Scheme]
    before: int
    after: int

    def counts(self) -> dict[str, int]:
        """How many layers each scheme has, by its name."""
        return dict(Counter(scheme.name for scheme in self.schemes.values()))


def quantisable(network: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Embedding]]:
    """The layers that could be quantised, by name; a layer that stands twice comes once."""
    for name, module in _modules(network):
        if isinstance(module, _PLAIN):
            yield name, module


def quantise(network: nn.Module, recipe: Recipe, progress: Progress | None = None) -> Applied:
    """Replace the layers of a network by quantised ones, in place.

    The network is for running, not for training, from then on: none of its parameters has a
    gradient.

    Args:
        network: as it was loaded; layers that a recipe leaves alone stay as they are.
        recipe: which layer becomes what.
        progress: called after each layer.

    Raises:
        ConfigError: nothing is left to quantise, or 4 bits for an embedding table.
        InputError: a weight that is NaN or infinite.
    """
    chosen = _chosen(network, recipe)
    total = sum(layer.weight.numel() for layer in dict(quantisable(network)).values())
    done = before = after = 0
    for name, scheme in chosen.items():
        old = network.get_submodule(name)
        assert isinstance(old, _PLAIN)
        new = quantised(old, scheme)
        done += old.weight.numel()
        before += _bytes(old)
        after += _bytes(new)
        _put(network, name, new)
        del old
        if progress is not None:
            progress(name, done, total)
    network.requires_grad_(requires_grad=False)
    return Applied(schemes=chosen, before=before, after=after)


def apply_empty(network: Network, recipe: Recipe) -> Network:
    """The same for a network on the meta device, whose weights are yet to come: no values.

    Raises:
        ConfigError: the recipe matches no layer, or gives 4 bits to an embedding table.
    """
    for name, scheme in _chosen(network, recipe).items():
        layer = network.get_submodule(name)
        assert isinstance(layer, _PLAIN)
        _put(network, name, empty(layer, scheme))
    return network.requires_grad_(requires_grad=False)


def recipe_of(network: nn.Module) -> Recipe | None:
    """How a network's layers are stored; None if none is quantised."""
    schemes: dict[str, Scheme | None] = {name: None for name, _ in quantisable(network)}
    ours = {n: module.scheme for n, module in _modules(network) if isinstance(module, _OURS)}
    if not ours:
        return None
    fewest = min(scheme.bits for scheme in ours.values())
    return Recipe.exactly(f"int{fewest}", {**ours, **schemes})


def _chosen(network: nn.Module, recipe: Recipe) -> dict[str, Scheme]:
    """The layers that a recipe changes, in the order of the network."""
    named = {name: recipe.scheme_for(name) for name, _ in quantisable(network)}
    chosen = {name: scheme for name, scheme in named.items() if scheme is not None}
    if not chosen:
        raise ConfigError(
            f"the recipe {recipe.name!r} matches none of {len(named)} layers"
            + (f", such as {next(iter(named))}" if named else ": is it quantised already?")
        )
    return chosen


def _modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from cast("Iterator[tuple[str, nn.Module]]", network.named_modules())


def _put(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, layer.eval())


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())
