"""Adam with the reference's conventions, and Muon for networks trained from nothing.

The conventions: clip, warm-up and cosine, decay apart from the rate. Muon (K. Jordan and others,
2024, kellerjordan.github.io/posts/muon) moves a matrix along its momentum with all singular values
made one; from nothing the towers trained here learned as much from half the pictures.
"""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heliodor.errors import TrainingError

_KEPT = ("step", "exp_avg", "exp_avg_sq")
_MOMENTUM = "momentum"
# Five steps of x -> a x + b x^3 + c x^5 bring every singular value of 0..1 to about one.
_QUINTIC, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Linear warm-up, then a cosine to zero (big_vision ``utils.create_learning_rate_schedule``).

    Warm-up counts the step under way, so that the first one is not spent at a rate of zero, as the
    reference's is.

    Attributes:
        steps: optimiser steps in all.
        warmup: steps to reach the full rate.
        floor: share of the full rate that the cosine ends at.
    """

    steps: int
    warmup: int
    floor: float = 0.0

    def at(self, step: int) -> float:
        """Share of the full rate in 0..1 at a step counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        half = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        return self.floor + (1.0 - self.floor) * half


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamConfig:
    """The optimiser of every transfer in big_vision's PaliGemma configs, with its defaults.

    Attributes:
        rate: full learning rate.
        decay: weight decay, not multiplied by ``rate``: update = -schedule * (rate * adam +
            decay * parameter).
        decayed: pattern of the parameters that decay, if they have two dimensions or more. The
            reference decays the kernels of the image tower, the projector, the pooling head and
            the text tower, no embedding, and nothing of the decoder.
        clip: largest global gradient norm.
        muon: full learning rate of the matrices that Muon moves; 0 leaves them to Adam.
        turned: pattern of those matrices: the products within blocks, no embedding, no head.
        momentum: of Muon.
        tower: share of both rates for the image tower, ``vision.*``: below 1 where it has learned
            already what the rest has not.
    """

    rate: float
    decay: float = 0.0
    decayed: str = r"^(vision\..*|projector\.|pool\..*|text\.(?!embedding).*)weight$"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0
    muon: float = 0.0
    turned: str = r"^(vision\.blocks|language\.layers)\..*weight$"
    momentum: float = 0.95
    tower: float = 1.0


class Adam:
    """Steps over the parameters of a module that require gradients.

    Args:
        module: what is trained.
        config: rates and decay.
        schedule: share of the rates by step.
        threads: how many share the work of Muon.
    """

    def __init__(
        self, module: nn.Module, config: AdamConfig, schedule: Schedule, threads: int = 1
    ) -> None:
        self.config = config
        self.schedule = schedule
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        if not named:
            raise TrainingError("nothing to train: every parameter is frozen")
        self.names = [n for n, _ in named]
        self.parameters = [p for _, p in named]
        pattern = re.compile(config.decayed)
        self.decayed = [p for n, p in named if pattern.search(n) and p.ndim > 1]
        turned = re.compile(config.turned)
        matrices = {n: p for n, p in named if p.ndim == 2 and turned.search(n)}
        self.matrices = matrices if config.muon else {}
        self._momenta: dict[str, Tensor] = {}
        self._threads = ThreadPoolExecutor(threads)
        for_adam = [(n, p) for n, p in named if n not in self.matrices]
        groups = [
            {"params": [p for n, p in for_adam if _in_tower(n) == tower], "tower": tower}
            for tower in (False, True)
        ]
        self._adam = torch.optim.Adam(
            [group for group in groups if group["params"]],
            lr=config.rate,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=True,
        )

    def step(self, step: int) -> float:
        """Clip, decay, update, clear -> the global gradient norm before clipping.

        Args:
            step: steps taken before this one.

        Raises:
            TrainingError: the gradient is not finite; nothing was changed.
        """
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.config.clip))
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient norm at step {step} is {norm}: lower the learning rate or look at "
                "the examples of this step"
            )
        share = self.schedule.at(step)
        if self.config.decay:
            with torch.no_grad():
                for parameter in self.decayed:
                    parameter.mul_(1.0 - share * self.config.decay)
        for group in self._adam.param_groups:
            group["lr"] = share * self.config.rate * (self.config.tower if group["tower"] else 1.0)
        self._adam.step()  # pyright: ignore[reportUnknownMemberType]
        self._turn(share * self.config.muon)
        for parameter in self.parameters:
            parameter.grad = None
        return norm

    def _turn(self, rate: float) -> None:
        """One step of Muon on every matrix that has a gradient."""

        @torch.no_grad()
        def turn(name: str) -> None:
            parameter = self.matrices[name]
            if parameter.grad is None:
                return
            momentum = self._momenta.setdefault(name, torch.zeros_like(parameter))
            momentum.mul_(self.config.momentum).add_(parameter.grad)
            ahead = parameter.grad + self.config.momentum * momentum
            stretch = math.sqrt(max(1.0, parameter.shape[0] / parameter.shape[1]))
            stretch *= self.config.tower if _in_tower(name) else 1.0
            parameter.add_(orthogonal(ahead), alpha=-rate * stretch)

        list(self._threads.map(turn, self.matrices))

    def tensors(self) -> dict[str, Tensor]:
        """The moments and step counts of every parameter that has taken a step, by name."""
        found: dict[str, Tensor] = {}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            for key, value in self._adam.state.get(parameter, {}).items():
                found[f"{key}/{name}"] = value
        return found | {f"{_MOMENTUM}/{name}": value for name, value in self._momenta.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave.

        Raises:
            TrainingError: the names are those of another model.
        """
        moved = [name for name in self.names if f"step/{name}" in tensors]
        turned = [name for name in self.matrices if f"{_MOMENTUM}/{name}" in tensors]
        wanted = {f"{key}/{name}" for name in moved for key in _KEPT}
        wanted |= {f"{_MOMENTUM}/{name}" for name in turned}
        if set(tensors) != wanted:
            odd = sorted(set(tensors) ^ wanted)[:5]
            raise TrainingError(
                f"the optimiser state belongs to another model; it differs in {odd}"
            )
        by_name = dict(zip(self.names, self.parameters, strict=True))
        for name in moved:
            self._adam.state[by_name[name]] = {
                key: tensors[f"{key}/{name}"].to(by_name[name].device, copy=True) for key in _KEPT
            }
        self._momenta = {
            name: tensors[f"{_MOMENTUM}/{name}"].to(self.matrices[name].device, copy=True)
            for name in turned
        }


def _in_tower(name: str) -> bool:
    return name.startswith("vision.")


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with the same singular vectors and singular values of about one (0.7 to 1.2).

    Newton-Schulz iterations in bfloat16, which they bear; zero stays zero.

    Args:
        matrix: float32 [M N].
    """
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.square().sum().sqrt() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)
