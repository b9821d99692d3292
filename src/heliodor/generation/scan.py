"""Which tokens can still win: a coarse copy of the head, read in place of it.

Legend: N hidden states h, V vocabulary, W width; w_v is row v of the head and c_v its coarse copy.

The coarse copy has 8 or 4 bits a weight. It gives every logit up to an error that is known:

    |h.w_v - h'.c_v|  <=  ||h'|| ||w_v - c_v|| + ||h - h'|| ||w_v|| + rounding

h' being h as the product with integers takes it. (Add and take away h'.w_v; then Cauchy-Schwarz,
twice.) Both norms of every row are kept beside the copy. Rows whose upper bound lies below what the
best is sure to reach cannot win, and only the others are multiplied exactly. So what is chosen is
what the whole product would have chosen; docs/design/decoding.md has the proof and the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heliodor.errors import ConfigError
from heliodor.generation.sampler import Greedy, Sampler, Temperature, TopK, TopP
from heliodor.quant.linear import QuantEmbedding
from heliodor.quant.pack import decode, encode, take_rows
from heliodor.quant.products import products
from heliodor.quant.scheme import INT4, INT8

__all__ = ["Bounds", "HeadScan", "Narrowed"]

Exact = Callable[[Tensor], Tensor]
"""Ids int64 [R] -> the exact logits of those rows, float32 [N R]."""

_STEP = 4096  # rows that are encoded at a time; a multiple of 16
_UNIT = 2.0**-24  # the relative error of one float32 operation
_CAPPED = 4.0  # times the cap: beyond it logits that differ may become equal
_NUCLEUS = 512  # rows among which a nucleus is looked for
_SLACK = 0.02  # of a sum of V exponentials in float32, and of the exponentials


@dataclass(frozen=True, slots=True)
class Narrowed:
    """The only ids that each place may be given, and how to choose among them.

    Attributes:
        ids: one tensor int64 [R] a place, ascending.
        sampler: what draws from those as the sampler asked about draws from all.
    """

    ids: tuple[Tensor, ...]
    sampler: Sampler


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """What logits are sure to lie between, before a cap: float32 [N V] each."""

    lower: Tensor
    upper: Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HeadScan:
    """A coarse copy of a head. It is memory to spare for reading less: V x W bytes with 8 bits.

    Attributes:
        bits: 8 or 4, of a weight.
        parts: the codes and scales, as the quantised layers keep them.
        error: float32 [V], at least ||w_v - c_v||.
        norm: float32 [V], at least ||w_v||.
        width: W.
        shared: the head itself multiplies integers, with the same h' as the copy.
        cap: of the logits, None for none.
    """

    bits: int
    parts: dict[str, Tensor]
    error: Tensor
    norm: Tensor
    width: int
    shared: bool
    cap: float | None = None

    @classmethod
    def of(cls, table: nn.Module, bits: int = 8, *, cap: float | None = None) -> HeadScan:
        """The copy of an embedding table that serves as head.

        Args:
            table: float, or quantised to 8 bits; on the CPU.
            bits: 8 or 4. Of a table of 8 bits only a copy of 4 reads less.
            cap: the final cap on logits.

        Raises:
            ConfigError: bits that no copy has, a copy no smaller than the table, or a table whose
                products are not float32.
        """
        if bits not in (4, 8) or (isinstance(table, QuantEmbedding) and bits == 8):
            raise ConfigError(f"got bits={bits}; expected 8 or 4, and 4 for a table of 8 bits")
        rows, width, take = _rows_of(table)
        scheme = INT8 if bits == 8 else INT4
        parts: list[dict[str, Tensor]] = []
        error, norm = torch.empty(rows), torch.empty(rows)
        for first in range(0, rows, _STEP):
            piece = take(first, min(rows, first + _STEP)).float()
            coarse = encode(piece, scheme)
            missed = piece.double() - decode(coarse, scheme, len(piece), width).double()
            error[first : first + _STEP] = _rounded_up(_length(missed))
            norm[first : first + _STEP] = _rounded_up(_length(piece.double()))
            parts.append(coarse)
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        shared = isinstance(table, QuantEmbedding)
        return cls(
            bits=bits, parts=whole, error=error, norm=norm, width=width, shared=shared, cap=cap
        )

    def bounds(self, hidden: Tensor) -> Bounds:
        """Hidden float32 [N W] -> what each logit lies between."""
        exact = hidden.double()
        work = products(hidden.device)
        count = len(hidden)
        codes = work.quantise_rows(hidden)
        read = _value(codes, self.width)
        if self.shared:
            centre, missed = self._product(codes), torch.zeros(count, dtype=torch.float64)
        else:  # what the first eight bits of h left out, in eight more
            rest = work.quantise_rows((exact - read).float())
            both = self._product(tuple(map(torch.cat, zip(codes, rest, strict=True))))
            centre = both[:count] + both[count:]
            read = read + _value(rest, self.width)
            missed = _length(exact - read)
        gamma = (self.width + 16) * _UNIT * 2  # of both products, in whatever order they add
        length = _length(read)
        per_error = length * (1 + gamma)
        per_norm = missed + gamma * (length + _length(exact))
        slack = _outer(per_error, self.error) + _outer(per_norm, self.norm)
        return Bounds(centre - slack, centre + slack)

    def narrow(
        self, hidden: Tensor, sampler: Sampler, forbidden: Tensor | None, exact: Exact
    ) -> Narrowed | None:
        """The ids that a sampler could choose, or None where the bounds do not say.

        Args:
            hidden: float32 [N W].
            sampler: Greedy, TopK and TopP can be narrowed, others need every logit.
            forbidden: bool [V], ids that count as no tokens.
            exact: the product with some rows of the head.
        """
        if not isinstance(sampler, Greedy | TopK | TopP):
            return None
        bounds = self.bounds(hidden)
        if forbidden is not None:
            bounds.lower.masked_fill_(forbidden, -math.inf)
            bounds.upper.masked_fill_(forbidden, -math.inf)
        if isinstance(sampler, TopP):
            return self._nucleus(bounds, sampler, exact)
        best = 1 if isinstance(sampler, Greedy) else min(sampler.k, bounds.lower.shape[1])
        bar = bounds.lower.topk(best, dim=1).values[:, -1:]
        if self.cap is not None:
            if bool((bar > _CAPPED * self.cap).any()):
                return None
            bar = bar - self.cap * 2.0**-10  # what the cap may bring so near that it rounds alike
        few = len(self.norm) // 8
        ids = [row.nonzero()[:, 0] for row in bounds.upper >= bar]
        usable = all(0 < len(found) <= few for found in ids)
        return Narrowed(tuple(ids), sampler) if usable else None

    def _nucleus(self, bounds: Bounds, sampler: TopP, exact: Exact) -> Narrowed | None:
        """The ids that reach p together, where it is certain which those are."""
        if self.cap is not None or len(bounds.upper[0]) <= _NUCLEUS:
            return None
        upper, likely = bounds.upper.topk(_NUCLEUS + 1, dim=1)
        likely = likely[:, :-1].sort(dim=1).values
        kept: list[Tensor] = []
        for row, ids in enumerate(likely):
            logits = exact(ids)[row]
            rest = [
                side[row].index_fill(0, ids, -math.inf) for side in (bounds.lower, bounds.upper)
            ]
            inside = _reaches(logits, rest, float(upper[row, -1]), sampler)
            if inside is None:
                return None
            kept.append(ids[inside])
        return Narrowed(tuple(kept), Temperature(sampler.t))

    def _product(self, codes: tuple[Tensor, ...]) -> Tensor:
        """Codes of N rows -> h'.c_v, float32 [N V]."""
        work = products(codes[0].device)
        packed, scale = self.parts["packed"], self.parts["scale"]
        if self.bits == 8:
            return work.product8(*codes, packed, scale)
        return work.product4(*codes, packed, scale, channels=len(self.norm))


def _reaches(
    logits: Tensor, rest: Sequence[Tensor], highest: float, sampler: TopP
) -> Tensor | None:
    """Which of some tokens make the nucleus, bool [R]; None if that depends on the others.

    Args:
        logits: float32 [R], the exact ones of the likeliest tokens.
        rest: lower and upper bounds of all logits, float32 [V], -inf for those R.
        highest: no other logit is above it.
        sampler: p and temperature.
    """
    top = logits.amax()
    if not bool(top.isfinite()):
        return None
    heated = (logits - top) / sampler.t  # as the sampler computes it
    ranked = heated.sort(descending=True).values
    reached = ranked.double().exp().cumsum(0)
    places: list[int] = []
    for side, wrong in zip(rest, (-_SLACK, _SLACK), strict=True):
        tail = float(((side - top) / sampler.t).exp().sum()) * (1 + wrong)
        share = reached / (reached[-1] + tail)
        places.append(int((share < sampler.p + math.copysign(1e-9, wrong)).sum()))
    if places[0] != places[1] or places[1] >= len(ranked):
        return None
    cutoff = ranked[places[0]]
    outside = (torch.tensor(highest) - top) / sampler.t
    return heated >= cutoff if bool(outside < cutoff) else None


def _rows_of(table: nn.Module) -> tuple[int, int, Callable[[int, int], Tensor]]:
    """V, W, and what gives rows first..last - 1 of a table."""
    if isinstance(table, QuantEmbedding):
        packed, scale, width = table.packed, table.scale, table.embedding_dim
        if packed.device.type != "cpu":
            raise ConfigError(f"the table rests on {packed.device}; scans are for the CPU")
        count = table.num_embeddings
        return count, width, lambda a, b: take_rows(packed, scale, torch.arange(a, b), width)
    weight = table.get_parameter("weight").detach()
    if weight.device.type != "cpu":
        raise ConfigError(
            f"the table rests on {weight.device}; bounds hold for products in float32, which only "
            "the CPU is sure to make of any table"
        )
    return weight.shape[0], weight.shape[1], lambda a, b: weight[a:b]


def _value(codes: tuple[Tensor, ...], width: int) -> Tensor:
    """What quantised rows stand for, float64 [N W]."""
    return codes[0][:, :width].double() * codes[1].double()[:, None]


def _length(rows: Tensor) -> Tensor:
    """The norm of each row, [N W] -> [N]."""
    return rows.square().sum(dim=1).sqrt()


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """float64 [N], float32 [V] -> float32 [N V], never below the true product."""
    return _rounded_up(left)[:, None] * right * (1 + 4 * _UNIT)


def _rounded_up(values: Tensor) -> Tensor:
    """float64 -> float32, a little larger."""
    return (values * (1 + 2.0**-20)).float()
