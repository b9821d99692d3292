"""Which four bits: how far weights are from what their codes stand for, scheme by scheme.

    python benchmarks/int4_codes.py > benchmarks/results/int4_codes.md

Schemes: one scale a group from the largest magnitude; the same searched; a scale and an offset a
group from the smallest and the largest weight, as numbers or as a code of four bits; these
searched. Scales and offsets are bfloat16. Searched means: of 15 ranges that cut off more or less at
the ends, that of least squared error in the group. Weights: gaussian noise, and those of the
shipped model. Seconds, one thread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from heliodor import zoo
from heliodor.checkpoints.tensors import open_tensors
from heliodor.quant.pack import codes4, values4

GROUPS = (32, 64, 128)
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Scheme = Callable[[Tensor], Iterator[Tensor]]


def storable(scale: Tensor) -> Tensor:
    """The nearest bfloat16, 1 for 0."""
    rounded = scale.to(torch.bfloat16).float()
    return torch.where(rounded == 0, 1.0, rounded)


def symmetric(groups: Tensor, ends: Iterator[float]) -> Iterator[Tensor]:
    """Codes -8..7 times a scale that may be negative; the largest weight gets the code ``end``."""
    extreme = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    for end in ends:
        scale = storable(extreme / -end)
        yield (groups / scale).round().clamp(-8, 7) * scale


def offset(groups: Tensor, shares: Iterator[float]) -> Iterator[Tensor]:
    """Codes 0..15 times a scale, and an offset, over a share of the range from least to most."""
    least, most = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    middle = (least + most) / 2
    for share in shares:
        scale = storable((most - least) * share / 15)
        low = storable(middle + (least - middle) * share)
        yield ((groups - low) / scale).round().clamp(0, 15) * scale + low


def zero_code(groups: Tensor, shares: Iterator[float]) -> Iterator[Tensor]:
    """The same with a code of four bits for zero in place of the offset."""
    least = groups.amin(-1, keepdim=True).clamp_max(0)
    most = groups.amax(-1, keepdim=True).clamp_min(0)
    for share in shares:
        scale = storable((most - least) * share / 15)
        zero = (-least * share / scale).round().clamp(0, 15)
        yield (((groups / scale).round() + zero).clamp(0, 15) - zero) * scale


def steps(first: float, last: float) -> Iterator[float]:
    """15 numbers."""
    yield from torch.linspace(first, last, 15).tolist()


SCHEMES: dict[str, tuple[float, Scheme]] = {
    "one scale, largest / 7": (16, lambda g: symmetric(g, iter([7.0]))),
    "one scale, largest is code -8": (16, lambda g: symmetric(g, iter([8.0]))),
    "one scale, searched": (16, lambda g: symmetric(g, steps(5.5, 9.5))),
    "scale and code of zero": (20, lambda g: zero_code(g, iter([1.0]))),
    "scale and code of zero, searched": (20, lambda g: zero_code(g, steps(0.7, 1.05))),
    "scale and offset": (32, lambda g: offset(g, iter([1.0]))),
    "scale and offset, searched": (32, lambda g: offset(g, steps(0.7, 1.05))),
}
"""Bits a group beside the codes, and the values to choose from."""


def error(weights: list[Tensor], scheme: Scheme, size: int) -> float:
    """Root of the summed squared errors over that of the summed squares."""
    wrong = whole = 0.0
    for weight in weights:
        groups = weight.reshape(weight.shape[0], -1, size)
        tries = [(found - groups).square().sum(-1) for found in scheme(groups)]
        wrong += float(torch.stack(tries).amin(0).sum())
        whole += float(weight.square().sum())
    return (wrong / whole) ** 0.5


def ours(weights: list[Tensor]) -> float:
    """The same for the codes that heliodor takes."""
    wrong = sum(float((values4(*codes4(w)) - w).square().sum()) for w in weights)
    return (wrong / sum(float(w.square().sum()) for w in weights)) ** 0.5


def main() -> int:
    """Print a table in Markdown."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    noise = torch.randn(256, 2048, generator=torch.Generator().manual_seed(0))
    tensors = open_tensors(zoo.TINY)
    real = [
        tensors.read(name).float()
        for name in tensors
        if "language" in name and any(part in name for part in MATRICES)
    ]
    print("| scheme | group | bits a weight | error, gaussian | error, tiny's decoder |")
    print("|---|---|---|---|---|")
    for name, (bits, scheme) in SCHEMES.items():
        for size in GROUPS:
            found = [error(weights, scheme, size) for weights in ([noise], real)]
            figures = " | ".join(f"{value:.4f}" for value in found)
            print(f"| {name} | {size} | {4 + bits / size:.3f} | {figures} |")
    print(f"| heliodor's codes | 64 | 4.250 | {ours([noise]):.4f} | {ours(real):.4f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
