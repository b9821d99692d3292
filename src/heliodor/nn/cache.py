"""The key-value cache: what a decoder remembers between steps.

B rows, L layers, K key-value heads, S slots, H head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KVCache:
    """Keys (already rotated) and values of every layer, slot by slot.

    Slots are allocated in blocks and filled in step; a row that is shorter than its neighbours has
    invalid slots in front of its text, so that one index writes all rows.

    Attributes:
        valid: bool [B S], slots that may be looked at.
        positions: int64 [B], the position of the next token of each row.
        length: slots filled so far.
    """

    def __init__(self, valid: Tensor) -> None:
        """Start empty: ``valid`` bool [B T] describes the prompt that prefill will append."""
        self.valid = valid
        self.positions = valid.sum(-1)
        self.length = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._padded = not bool(valid.all())

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
        for store in (self._keys, self._values):
            for layer, old in enumerate(store):
                if old.shape[2] < self.length + extra:
                    store[layer] = _grown(old, self.length, self.length + extra)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v [B K T H] behind what ``layer`` holds -> all of its k, v [B K S H].

        Layers write in order; :meth:`advance` moves on once all of them have.
        """
        if layer == len(self._keys):
            self._keys.append(k.contiguous())
            self._values.append(v.contiguous())
            return k, v
        end = self.length + k.shape[2]
        if end > self._keys[layer].shape[2]:
            self._keys[layer] = _grown(self._keys[layer], self.length, end + 64)
            self._values[layer] = _grown(self._values[layer], self.length, end + 64)
        self._keys[layer][:, :, self.length : end] = k
        self._values[layer][:, :, self.length : end] = v
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def begin_step(self, count: int = 1) -> Tensor:
        """Open ``count`` slots in every row -> positions int64 [B count] of what will fill them."""
        fresh = torch.ones_like(self.valid[:, :1]).expand(-1, count)
        self.valid = torch.cat((self.valid, fresh), dim=1)
        ahead = torch.arange(count, device=self.positions.device)
        positions = self.positions[:, None] + ahead
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
        self.valid = self.valid[:, :length]
        self.length = length

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
        self.valid = self.valid.clone()
        self.valid[:, self.length - most :] = places < kept[:, None]
        self.positions = self.positions - (most - kept)
        self._padded = True

    def select(self, rows: Tensor) -> KVCache:
        """A cache whose row i is a copy of row ``rows[i]``: re-order, drop or repeat rows.

        Args:
            rows: int64 [B'].
        """
        chosen = KVCache.__new__(KVCache)
        chosen.valid = self.valid[rows]
        chosen.positions = self.positions[rows]
        chosen.length = self.length
        chosen._keys = [k[rows] for k in self._keys]
        chosen._values = [v[rows] for v in self._values]
        chosen._padded = self._padded
        return chosen


def _grown(old: Tensor, filled: int, slots: int) -> Tensor:
    """Copy the first ``filled`` slots of old [B K S H] into a tensor of ``slots`` slots."""
    new = old.new_zeros(old.shape[0], old.shape[1], slots, old.shape[3])
    new[:, :, :filled] = old[:, :, :filled]
    return new
