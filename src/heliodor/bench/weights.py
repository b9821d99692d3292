"""Random weights at full size, in memory and quickly; and one set of weights in two networks.

One block of normal numbers is drawn and copied into every tensor from another place of it. The
block's length is odd, so that no two rows of a matrix are equal. Matrices have the standard
deviation 1 / sqrt(inputs), norms lie around one, and the last norm is four times that: the
likeliest token then has a probability near 0.1, as a trained model's has, rather than 1 / 257,216.

No number says anything about quality on real weights: random ones have no structure that rounding
could leave alone. They rank schemes.
"""

from __future__ import annotations

import zlib
from typing import TypeVar

import torch
from torch import Tensor, nn

from heliodor.checkpoints.blueprint import blueprint
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig

__all__ = ["drawn", "random_model", "same_tensors", "shared"]

Network = TypeVar("Network", bound=nn.Module)

_BLOCK = 2**24 + 43
_PIECE = 2**22
_SMALL = 0.1  # of norms around their mean
_LAST_NORM = 3.0  # Gemma's norms are stored with the one removed


def random_model(
    config: PaliGemmaConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> PaliGemma:
    """A network with random weights, the same for the same seed, in ``dtype`` rounded once.

    Args:
        config: of the network.
        seed: of the block of noise.
        dtype: in which the weights rest.

    Returns:
        The model in evaluation mode, without gradients.
    """
    return drawn(blueprint(config), seed=seed, dtype=dtype)


def drawn(network: Network, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Network:
    """The same for any network on the meta device; see :func:`random_model`."""
    noise = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(seed))
    state: dict[str, Tensor] = {}
    for name, empty in network.state_dict().items():
        mean, spread = _moments(name, empty)
        state[name] = torch.empty(empty.shape, dtype=dtype)
        _fill(state[name], noise, zlib.crc32(name.encode()) % _BLOCK, mean, spread)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(requires_grad=False)


def shared(model: PaliGemma) -> PaliGemma:
    """A second network whose parameters lie in the same memory, to be quantised in place."""
    return same_tensors(model, blueprint(model.config))


def same_tensors(source: nn.Module, empty: Network) -> Network:
    """A network on the meta device, given the tensors of one of the same shape."""
    empty.load_state_dict(source.state_dict(), strict=True, assign=True)
    return empty.eval().requires_grad_(requires_grad=False)


def _fill(tensor: Tensor, noise: Tensor, start: int, mean: float, spread: float) -> None:
    """Copy the block from ``start`` on, round and round; a piece at a time."""
    flat = tensor.view(-1)
    place = 0
    while place < flat.numel():
        count = min(noise.numel() - start, flat.numel() - place, _PIECE)
        target, source = flat[place : place + count], noise[start : start + count]
        if target.dtype == noise.dtype and not mean:  # most values by far: one pass over them
            torch.mul(source, spread, out=target)
        else:
            target.copy_(source.mul(spread).add_(mean))
        place, start = place + count, (start + count) % noise.numel()


def _moments(name: str, tensor: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of a tensor's values."""
    if name == "language.norm.scale":
        return _LAST_NORM, _SMALL
    if name.endswith(("bias", "scale")):
        return 0.0, _SMALL
    if tensor.ndim == 1:
        return 1.0, _SMALL
    if name == "vision.position":
        return 0.0, 0.5
    return 0.0, tensor[0].numel() ** -0.5
