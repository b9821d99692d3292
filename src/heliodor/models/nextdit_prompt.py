"""Captions as the painting transformer reads them, made once for all steps.

B captions, K key-value heads, L tokens, D head_dim, E width of the conditioning vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from heliodor.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prompt:
    """What a network's layers take from captions.

    Attributes:
        keys: for each layer [B K L D], normalised, without positions.
        values: for each layer [B K L D].
        mask: bool [B 1 1 L], which tokens may be looked at; None for all.
        pooled: float32 [B E], what the captions add to the conditioning vector.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor | None
    pooled: Tensor

    def __len__(self) -> int:
        """Captions."""
        return self.pooled.shape[0]

    def layers(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values, layer by layer."""
        return zip(self.keys, self.values, strict=True)

    def select(self, rows: Tensor | Sequence[int]) -> Prompt:
        """Row i of the result is row ``rows[i]`` of this: reorder, drop or repeat captions."""
        index = torch.as_tensor(rows, device=self.pooled.device)
        return Prompt(
            keys=tuple(k[index] for k in self.keys),
            values=tuple(v[index] for v in self.values),
            mask=None if self.mask is None else self.mask[index],
            pooled=self.pooled[index],
        )

    @classmethod
    def join(cls, prompts: Sequence[Prompt]) -> Prompt:
        """One batch of several, the shorter ones padded at the end and masked there.

        Raises:
            InputError: no prompts, or those of networks of different depths.
        """
        if len({len(prompt.keys) for prompt in prompts}) != 1:
            raise InputError(
                f"{len(prompts)} prompts came, of {[len(prompt.keys) for prompt in prompts]} "
                "layers; expected some, all prepared by one network"
            )
        length = max(prompt.keys[0].shape[2] for prompt in prompts)
        masks = [_padded_mask(prompt, length) for prompt in prompts]
        mask = torch.cat(masks)

        def joined(layers: Iterator[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            return tuple(torch.cat([_padded(x, length) for x in layer]) for layer in layers)

        return cls(
            keys=joined(zip(*(prompt.keys for prompt in prompts), strict=True)),
            values=joined(zip(*(prompt.values for prompt in prompts), strict=True)),
            mask=None if bool(mask.all()) else mask,
            pooled=torch.cat([prompt.pooled for prompt in prompts]),
        )


def _padded(x: Tensor, length: int) -> Tensor:
    """X [B K L D] -> [B K length D], zeros behind."""
    return F.pad(x, (0, 0, 0, length - x.shape[2]))


def _padded_mask(prompt: Prompt, length: int) -> Tensor:
    k = prompt.keys[0]
    mask = prompt.mask
    if mask is None:
        mask = torch.ones(k.shape[0], 1, 1, k.shape[2], dtype=torch.bool, device=k.device)
    return F.pad(mask, (0, length - k.shape[2]))
