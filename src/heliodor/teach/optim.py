"""Adam with the reference's conventions: clip, warm-up and cosine, decay apart from the rate."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heliodor.errors import TrainingError

_KEPT = ("step", "exp_avg", "exp_avg_sq")


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
    """

    rate: float
    decay: float = 0.0
    decayed: str = r"^(vision\..*|projector\.|pool\..*|text\.(?!embedding).*)weight$"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0


class Adam:
    """Steps over the parameters of a module that require gradients."""

    def __init__(self, module: nn.Module, config: AdamConfig, schedule: Schedule) -> None:
        self.config = config
        self.schedule = schedule
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        if not named:
            raise TrainingError("nothing to train: every parameter is frozen")
        self.names = [n for n, _ in named]
        self.parameters = [p for _, p in named]
        pattern = re.compile(config.decayed)
        self.decayed = [p for n, p in named if pattern.search(n) and p.ndim > 1]
        self._adam = torch.optim.Adam(
            self.parameters,
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
            group["lr"] = share * self.config.rate
        self._adam.step()  # pyright: ignore[reportUnknownMemberType]
        self._adam.zero_grad(set_to_none=True)
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Both moments and the step count of every parameter that has taken a step, by name."""
        found: dict[str, Tensor] = {}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            for key, value in self._adam.state.get(parameter, {}).items():
                found[f"{key}/{name}"] = value
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave.

        Raises:
            TrainingError: the names are those of another model.
        """
        moved = [name for name in self.names if f"step/{name}" in tensors]
        wanted = {f"{key}/{name}" for name in moved for key in _KEPT}
        if set(tensors) != wanted:
            odd = sorted(set(tensors) ^ wanted)[:5]
            raise TrainingError(
                f"the optimiser state belongs to another model; it differs in {odd}"
            )
        by_name = dict(zip(self.names, self.parameters, strict=True))
        for name in moved:
            self._adam.state[by_name[name]] = {
                key: tensors[f"{key}/{name}"].clone() for key in _KEPT
            }
