"""Room for the keys, or the values, of one layer: as they came, or in 8 bits.

B rows, K key-value heads, S slots, T new slots, H head_dim.
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor

_BLOCK = 64  # slots by which room grows where none was reserved


class Slots(Protocol):
    """What :class:`~heliodor.nn.cache.KVCache` keeps of a layer."""

    @property
    def room(self) -> int:
        """Slots there are, filled or not."""
        ...

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors that hold it, [B K room ...] each."""
        ...

    def write(self, filled: int, new: Tensor) -> Tensor:
        """Put new [B K T H] behind ``filled`` slots -> all of them, [B K filled+T H]."""
        ...

    def reserve(self, filled: int, slots: int) -> None:
        """See that there are ``slots`` slots; the first ``filled`` keep what they hold."""
        ...

    def select(self, rows: Tensor) -> Self:
        """Copies of the rows, int64 [B']."""
        ...


class FloatSlots:
    """The tensors themselves.

    Attributes:
        held: [B K S H] in the dtype they came in.
    """

    def __init__(self, held: Tensor) -> None:
        """Take what prefill made."""
        self.held = held

    @property
    def room(self) -> int:
        """See :class:`Slots`."""
        return self.held.shape[2]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See :class:`Slots`."""
        return (self.held,)

    def write(self, filled: int, new: Tensor) -> Tensor:
        """See :class:`Slots`."""
        end = filled + new.shape[2]
        if end > self.room:
            self.reserve(filled, end + _BLOCK)
        self.held[:, :, filled:end] = new
        return self.held[:, :, :end]

    def reserve(self, filled: int, slots: int) -> None:
        """See :class:`Slots`."""
        if slots > self.room:
            self.held = grown(self.held, filled, slots, 2)

    def select(self, rows: Tensor) -> FloatSlots:
        """See :class:`Slots`."""
        return FloatSlots(self.held[rows])


class Int8Slots:
    """Codes of 8 bits, with a scale for each head and slot: max-abs / 127.

    What is read differs from what was written by half a scale at most. A vector that holds NaN or
    infinity is read as NaN.

    Attributes:
        codes: int8 [B K S H].
        scale: float32 [B K S 1].
        dtype: of what came and of what is read.
    """

    def __init__(self, codes: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
        """Put parts together; :meth:`of` makes them."""
        self.codes = codes
        self.scale = scale
        self.dtype = dtype

    @classmethod
    def of(cls, first: Tensor) -> Self:
        """Quantise what prefill made, [B K S H]."""
        return cls(*_quantised(first), first.dtype)

    @property
    def room(self) -> int:
        """See :class:`Slots`."""
        return self.codes.shape[2]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See :class:`Slots`."""
        return self.codes, self.scale

    def write(self, filled: int, new: Tensor) -> Tensor:
        """See :class:`Slots`; what is read is a copy that lives as long as the caller wants it."""
        end = filled + new.shape[2]
        if end > self.room:
            self.reserve(filled, end + _BLOCK)
        self.codes[:, :, filled:end], self.scale[:, :, filled:end] = _quantised(new)
        read = self.codes[:, :, :end].float().mul_(self.scale[:, :, :end])
        return read.to(self.dtype)

    def reserve(self, filled: int, slots: int) -> None:
        """See :class:`Slots`."""
        if slots > self.room:
            self.codes = grown(self.codes, filled, slots, 2)
            self.scale = grown(self.scale, filled, slots, 2)

    def select(self, rows: Tensor) -> Int8Slots:
        """See :class:`Slots`."""
        return Int8Slots(self.codes[rows], self.scale[rows], self.dtype)


def grown(old: Tensor, filled: int, slots: int, axis: int) -> Tensor:
    """Copy the first ``filled`` slots along ``axis`` into a tensor of ``slots``, zeros behind."""
    shape = list(old.shape)
    shape[axis] = slots
    new = old.new_zeros(shape)
    new.narrow(axis, 0, filled).copy_(old.narrow(axis, 0, filled))
    return new


def _quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """X [B K T H] -> codes int8 of the same shape, scales float32 [B K T 1]."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True) / 127.0
    codes = (x / scale.clamp_min(torch.finfo(torch.float32).tiny)).round_().clamp_(-127, 127)
    return codes.to(torch.int8), scale
