"""From hidden states to tokens: which rows of the head are multiplied, and what is drawn from them.

Legend: N places to fill, V vocabulary, R rows of the head that are multiplied, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heliodor.errors import GenerationError, InputError
from heliodor.generation.plan import Plan
from heliodor.generation.sampler import Draws, Greedy, Picker, Sampler
from heliodor.generation.source import Source
from heliodor.nn.linear import Rows

__all__ = ["Ask", "Chooser", "Chosen", "not_of_this_model"]

_ALIGNED = 16  # quantised heads are packed in blocks of so many rows
_PATIENCE = 4  # times in a row that a scan of the head may fail before the run does without
_GAP = 64  # ids that lie closer than this are read as one range, with what lies between


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """A token that is to be chosen.

    Attributes:
        row: of the batch as it came.
        place: how many tokens of the row come before it.
        allowed: ids int64 that it may be, None for any.
        rival: the id that stands against all other allowed ones together, or None.
    """

    row: int
    place: int
    allowed: Tensor | None
    rival: int | None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The tokens of several asks, and their log-probabilities where those cost nothing more."""

    tokens: list[int]
    logprobs: list[float] | None


class Chooser:
    """Chooses tokens as the plan says."""

    def __init__(self, source: Source, plan: Plan, forbidden: Tensor | None, draws: Draws) -> None:
        self._source = source
        self._plan = plan
        self._forbidden = forbidden
        self._never = None if forbidden is None else forbidden.nonzero()[:, 0]  # ids, mostly few
        self._draws = draws
        self._patience = _PATIENCE

    def choose(self, hidden: Tensor, asks: Sequence[Ask]) -> Chosen:
        """Hidden [N W] -> a token for each ask.

        Raises:
            GenerationError: Logits that are NaN or +inf, or no token left to choose from.
        """
        free = sum(ask.allowed is None for ask in asks)
        if free == 0 and not self._source.whole:
            return self._from_some(hidden, asks, self._plan.sampler)
        if free == len(asks) and self._patience:
            narrowed = self._source.narrow(hidden, self._plan.sampler, self._forbidden)
            self._patience = _PATIENCE if narrowed is not None else self._patience - 1
            if narrowed is not None:
                asks = [replace(a, allowed=i) for a, i in zip(asks, narrowed.ids, strict=True)]
                return self._from_some(hidden, asks, narrowed.sampler)
        return self._from_all(hidden, asks)

    def _from_all(self, hidden: Tensor, asks: Sequence[Ask]) -> Chosen:
        """Every row of the head: some ask is free."""
        logits = self._source.logits(hidden)
        if self._never is not None:
            fill = logits.index_fill if self._source.whole else logits.index_fill_
            logits = fill(1, self._never, -math.inf)
        tokens, best = self._draw(logits, asks, None, self._plan.sampler)
        peak = logits.amax(dim=-1)
        report = [tokens.float(), best, peak]  # float32 holds ids below 2^24 exactly
        if self._plan.logprobs:
            report.append(logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1))
        ids, bests, peaks, *rest = torch.stack(report).cpu().numpy().tolist()
        _check(asks, bests, peaks)
        return Chosen([int(token) for token in ids], rest[0] if rest else None)

    def _from_some(self, hidden: Tensor, asks: Sequence[Ask], sampler: Sampler) -> Chosen:
        """The rows of the head that the asks allow, and few others."""
        sets = [ask.allowed.numpy() for ask in asks if ask.allowed is not None]
        pieces = _pieces(np.unique(np.concatenate(sets)), self._source.vocabulary)
        columns = np.concatenate(pieces)
        on_device = torch.as_tensor(columns).to(hidden.device)
        wanted = [_rows(piece, hidden.device) for piece in pieces]
        logits = torch.cat([self._source.logits(hidden, rows) for rows in wanted], dim=1)
        if self._forbidden is not None:
            logits = logits.masked_fill_(self._forbidden[on_device], -math.inf)
        places, best = self._draw(logits, asks, columns, sampler)
        tokens = on_device[places].float()
        ids, bests = torch.stack([tokens, best]).cpu().numpy().tolist()
        _check(asks, bests, bests)
        return Chosen([int(token) for token in ids], None)

    def _draw(
        self,
        logits: Tensor,
        asks: Sequence[Ask],
        columns: NDArray[np.int64] | None,
        sampler: Sampler,
    ) -> tuple[Tensor, Tensor]:
        """Logits [N R] -> int64 [N] columns of the tokens, and the best allowed logit of each."""
        logits = _restrict(logits, asks, columns)
        rows = [ask.row for ask in asks]
        if isinstance(sampler, Greedy):
            tokens = sampler.sample(_weigh_rivals(logits, asks, columns))
        elif isinstance(sampler, Picker):
            points = self._draws.points(rows, [ask.place for ask in asks])
            tokens = sampler.pick(logits, points)
        else:
            tokens = sampler.sample(logits, self._draws.generators(rows))
        return tokens, logits.amax(dim=-1)


def _pieces(ids: NDArray[np.int64], vocabulary: int) -> list[NDArray[np.int64]]:
    """Ascending ids -> the same and few others, as ascending ranges and single ids by turns."""
    if ids[-1] >= vocabulary:
        raise InputError(not_of_this_model(int(ids[-1]), vocabulary))
    pieces: list[NDArray[np.int64]] = []
    single: list[NDArray[np.int64]] = []
    for run in np.split(ids, np.flatnonzero(np.diff(ids) > _GAP) + 1):
        if len(run) < _ALIGNED:
            single.append(run)
            continue
        first = int(run[0]) // _ALIGNED * _ALIGNED
        last = min(vocabulary, -(-int(run[-1] + 1) // _ALIGNED) * _ALIGNED)
        if single:
            pieces.append(np.concatenate(single))
            single = []
        pieces.append(np.arange(first, last))
    return [*pieces, np.concatenate(single)] if single else pieces


def _rows(piece: NDArray[np.int64], device: torch.device) -> Rows:
    """A range where the ids are one, which needs no copy of the head's rows."""
    first, last = int(piece[0]), int(piece[-1]) + 1
    if len(piece) >= _ALIGNED and last - first == len(piece):
        return first, last
    return torch.as_tensor(piece).to(device)


def _restrict(logits: Tensor, asks: Sequence[Ask], columns: NDArray[np.int64] | None) -> Tensor:
    """Logits [N R] with -inf wherever an ask does not allow the token of a column."""
    bound = [(n, ask.allowed.numpy()) for n, ask in enumerate(asks) if ask.allowed is not None]
    if all(columns is not None and np.array_equal(ids, columns) for _, ids in bound):
        return logits
    there = [ids if columns is None else np.searchsorted(columns, ids) for _, ids in bound]
    where = np.concatenate(there)
    if columns is None and where.max() >= logits.shape[1]:
        raise InputError(not_of_this_model(int(where.max()), logits.shape[1]))
    rows = np.repeat([n for n, _ in bound], [len(ids) for ids in there])
    index = torch.as_tensor(np.stack([rows, where])).to(logits.device)
    out = logits.clone()
    out[[n for n, _ in bound]] = -math.inf
    out[index[0], index[1]] = logits[index[0], index[1]]
    return out


def _weigh_rivals(logits: Tensor, asks: Sequence[Ask], columns: NDArray[np.int64] | None) -> Tensor:
    """Rule out a row's rival token, or all others, by which of them has more probability."""
    rivals = [(n, ask.rival) for n, ask in enumerate(asks) if ask.rival is not None]
    if not rivals:
        return logits
    rows = [n for n, _ in rivals]
    named = np.array([rival for _, rival in rivals])
    there = (named if columns is None else np.searchsorted(columns, named)).tolist()
    others = logits[rows].clone()
    places = list(range(len(rows)))
    alone = torch.full_like(others, -math.inf)
    alone[places, there] = others[places, there]
    others[places, there] = -math.inf
    wins = alone[places, there] > others.logsumexp(dim=-1)
    logits = logits.clone()
    logits[rows] = torch.where(wins[:, None], alone, others)
    return logits


def _check(asks: Sequence[Ask], best: list[float], peaks: list[float]) -> None:
    broken = [n for n, peak in enumerate(peaks) if math.isnan(peak) or peak == math.inf]
    if broken:
        raise GenerationError(not_finite(*_where(asks, broken)))
    stuck = [n for n, value in enumerate(best) if value == -math.inf]
    if stuck:
        rows, place = _where(asks, stuck)
        raise GenerationError(
            f"no token is left to choose from in rows {rows} at new token {place}: each one is "
            "forbidden, outside the constraint or of logit -inf; check that the constraint's ids "
            "are not among the forbidden ones"
        )


def _where(asks: Sequence[Ask], at: Sequence[int]) -> tuple[list[int], int]:
    """The first place of the asks at fault, and the rows that are at fault there."""
    place = min(asks[n].place for n in at)
    return [asks[n].row for n in at if asks[n].place == place], place


def not_finite(rows: list[int], place: int) -> str:
    """What to say of logits that are no numbers."""
    return (
        f"the logits of rows {rows} at new token {place} are NaN or +inf; finite numbers were "
        "expected. float16 overflows above 65504: load the model with dtype='bfloat16' or "
        "'float32'; if it is float32 already, its weights are damaged"
    )


def not_of_this_model(token: int, vocabulary: int) -> str:
    """What to say of a constraint's id that the model has no row for."""
    return (
        f"a constraint allows token {token} but the model has {vocabulary} ids; build the "
        "constraint from the model's own tokenizer"
    )
