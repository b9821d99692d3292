"""The key-value cache: what a decoder remembers between steps.

B rows, L layers, K key-value heads, S slots, H head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from heliodor.errors import InputError
from heliodor.nn.slots import FloatSlots, Int8Slots, Slots, grown

Kept = Literal["float", "int8"]
"""How keys and values rest: as they came, or in 8 bits with a scale for each head and slot."""

_BLOCK = 64  # slots by which the mask grows where no room was made


class KVCache:
    """Keys (already rotated) and values of every layer, slot by slot.

    Slots are allocated once, as many as there is ``room`` for, or else in blocks, and filled in
    step; a row that is shorter than its neighbours has invalid slots in front of its text, so that
    one index writes all rows.

    In 8 bits a long prefix takes a quarter of float32's memory. Prefill itself sees its keys and
    values as they are, later steps see them rounded.

    Attributes:
        positions: int64 [B], the position of the next token of each row.
        length: slots filled so far.
        kv: how keys and values rest.
    """

    def __init__(self, valid: Tensor, *, room: int = 0, kv: Kept = "float") -> None:
        """Start empty.

        Args:
            valid: bool [B T], describes the prompt that prefill will append.
            room: slots to make behind the prompt's, so that no step has to allocate any.
            kv: "float" or "int8".

        Raises:
            InputError: another way to keep them.
        """
        if kv not in ("float", "int8"):
            raise InputError(f"keys and values cannot be kept as {kv!r}; say 'float' or 'int8'")
        self.positions = valid.sum(-1)
        self.length = 0
        self.kv: Kept = kv
        self._room = room
        self._open = valid.shape[1]
        self._valid = grown(valid, self._open, self._open + room, 1)
        self._keys: list[Slots] = []
        self._values: list[Slots] = []
        self._padded = not bool(valid.all())

    @property
    def valid(self) -> Tensor:
        """Slots that may be looked at, open ones that are yet to be filled too: bool [B S]."""
        return self._valid[:, : self._open]

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values take, room included."""
        return sum(part.nbytes for slots in (*self._keys, *self._values) for part in slots.parts)

    @property
    def mask(self) -> Tensor | None:
        """What one new query may look at: bool [B 1 1 S], None if all slots are valid."""
        return self.valid[:, None, None, :] if self._padded else None

    @property
    def places(self) -> Tensor:
        """Position of what each slot holds: int64 [B S]; without meaning where not valid."""
        return self.valid.cumsum(-1) - 1

    def reserve(self, extra: int) -> None:
        """Make room for ``extra`` more slots now, rather than block by block."""
        self._room = max(self._room, extra)
        if self._open + extra > self._valid.shape[1]:
            self._valid = grown(self._valid, self._open, self._open + extra, 1)
        for slots in (*self._keys, *self._values):
            slots.reserve(self.length, self.length + extra)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v [B K T H] behind what ``layer`` holds -> all of its k, v [B K S H].

        Layers write in order; :meth:`advance` moves on once all of them have.
        """
        if layer == len(self._keys):
            self._keys.append(self._slots(k))
            self._values.append(self._slots(v))
            return k, v
        filled = self.length
        return self._keys[layer].write(filled, k), self._values[layer].write(filled, v)

    def _slots(self, first: Tensor) -> Slots:
        """A layer's slots, prefill's in front."""
        slots: Slots
        if self.kv == "int8":
            slots = Int8Slots.of(first)
        elif self._room:
            return FloatSlots(grown(first, first.shape[2], first.shape[2] + self._room, 2))
        else:
            slots = FloatSlots(first.contiguous())
        slots.reserve(first.shape[2], first.shape[2] + self._room)
        return slots

    def begin_step(self, count: int = 1) -> Tensor:
        """Open ``count`` slots in every row -> positions int64 [B count] of what will fill them."""
        end = self._open + count
        if end > self._valid.shape[1]:
            self._valid = grown(self._valid, self._open, end + _BLOCK, 1)
        self._valid[:, self._open : end] = True
        self._open = end
        positions = self.positions[:, None]
        if count > 1:
            positions = positions + torch.arange(count, device=self.positions.device)
        self.positions = self.positions + count
        return positions

    def sight(self, count: int) -> Tensor | None:
        """What the ``count`` newest slots may look at: themselves and what came before them.

        Returns:
            bool [B 1 count S] or [1 1 count S]; None if one slot may look at everything.
        """
        if count == 1:
            return self.mask
        slots = self.valid.shape[1]
        causal = self.valid.new_ones(count, slots).tril(slots - count)
        return causal[None, None] if self.mask is None else causal & self.mask

    def advance(self, count: int) -> None:
        """All layers have appended ``count`` slots."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget every slot from ``length`` on, in all rows.

        Args:
            length: at most the slots filled so far.
        """
        forgotten = self.valid[:, length:].sum(-1)
        self.positions = self.positions - forgotten
        self._open = self.length = length

    def retain(self, counts: Sequence[int], fresh: int) -> None:
        """Of each row's ``fresh`` newest slots keep the first ``counts[row]``: a rollback.

        Where rows keep different numbers, the slots between become invalid ones, as padding is:
        no query looks at them and no position counts them.

        Args:
            counts: one a row, each in 0..fresh.
            fresh: slots that the last pass filled in every row.
        """
        most = max(counts)
        self.truncate(self.length - fresh + most)
        if min(counts) == most:
            return
        kept = torch.tensor(counts, device=self.valid.device)
        places = torch.arange(most, device=self.valid.device)
        self._valid[:, self.length - most : self.length] = places < kept[:, None]
        self.positions = self.positions - (most - kept)
        self._padded = True

    def select(self, rows: Tensor) -> KVCache:
        """A cache whose row i is a copy of row ``rows[i]``: re-order, drop or repeat rows.

        Args:
            rows: int64 [B'].
        """
        chosen = KVCache.__new__(KVCache)
        chosen.positions = self.positions[rows]
        chosen.length, chosen.kv = self.length, self.kv
        chosen._room, chosen._open = self._room, self._open
        chosen._valid = self._valid[rows]
        chosen._keys = [slots.select(rows) for slots in self._keys]
        chosen._values = [slots.select(rows) for slots in self._values]
        chosen._padded = self._padded
        return chosen
