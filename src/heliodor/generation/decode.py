"""The one token generator. Tokens in, tokens out: it knows no text and no model class.

Legend: B rows, V vocabulary.

``decode`` yields one ``Step`` per new token; streaming reads the steps, ``generate`` collects them,
so the two cannot differ. The model is asked for the next logits only when the next step is asked
for, so dropping the generator stops the work. Each step costs one transfer from the device.

Log-probabilities are the model's own: temperature, top-k, top-p and constraints change what is
chosen, not what is reported (big_vision, predict_fns.py, does the same). The one exception is
``Plan.forbidden``: rows that are no tokens, such as the padding rows of an embedding table, have
probability 0 in what is chosen and in what is reported.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from heliodor.errors import GenerationError, InputError
from heliodor.generation.constraint import Constraint, Walk
from heliodor.generation.sampler import Greedy, Randomness, Sampler

__all__ = [
    "Cache",
    "Decoded",
    "Decoder",
    "Finish",
    "Plan",
    "Step",
    "check_logits",
    "decode",
    "generate",
    "score",
]


class Cache(Protocol):
    """What a decoder remembers of the tokens so far, one row per sequence."""

    def select(self, rows: Tensor, /) -> Self:
        """The cache of the given rows, int64 [B'], which may repeat."""
        ...


AnyCache = TypeVar("AnyCache", bound=Cache)
_CacheIn = TypeVar("_CacheIn", bound=Cache, contravariant=True)


class Decoder(Protocol[_CacheIn]):
    """Whatever can turn the latest tokens into the next logits."""

    def step(self, tokens: Tensor, cache: _CacheIn, /) -> Tensor:
        """Tokens int64 [B] -> logits float32 [B V], noting the tokens in the cache."""
        ...


class Finish(enum.StrEnum):
    """Why a row ended."""

    STOP = "stop"
    """It produced a stop token."""
    LENGTH = "length"
    """It reached max_new_tokens."""
    CONSTRAINT = "constraint"
    """Its constraint ended it: a duplicate box, a repeated phrase."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """What stays the same for all rows and all steps.

    Args:
        max_new_tokens: At least 1.
        stop: Tokens that end a row; they are part of its output.
        sampler: How a token is chosen.
        forbidden: bool [V], True for ids that must never be produced and that do not count as
            tokens: embedding rows past the vocabulary, and whatever the caller adds (pad, bos,
            <image>). None forbids nothing.
        pad: What rows that have ended are fed and report.

    Raises:
        InputError: max_new_tokens is below 1 or ``forbidden`` is not a vector of booleans.
    """

    max_new_tokens: int
    stop: frozenset[int]
    sampler: Sampler = field(default_factory=Greedy)
    forbidden: Tensor | None = None
    pad: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"got max_new_tokens={self.max_new_tokens}; it must be at least 1")
        mask = self.forbidden
        if mask is not None and (mask.dtype != torch.bool or mask.ndim != 1):
            raise InputError(
                f"got forbidden of {mask.dtype} and shape {tuple(mask.shape)}; "
                "it must be torch.bool [V], True for the ids to rule out"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One new token of each row.

    Attributes:
        tokens: [B]; pad for rows that ended before this step.
        logprobs: [B], natural logarithm; 0 for rows that ended before this step.
        emitted: [B], True where the token is new, False where it is padding.
        finish: [B], the reason for rows that end with this step or ended before, else None.
        surplus: [B], how many of a row's last tokens its constraint disowns (``Walk.surplus``).
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    emitted: tuple[bool, ...]
    finish: tuple[Finish | None, ...]
    surplus: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """One row's output.

    Attributes:
        tokens: The stop token included, surplus tokens of a constraint left out.
        logprobs: One per token, natural logarithm.
        finish: Why the row ended.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish


def decode(
    decoder: Decoder[AnyCache],
    first_logits: Tensor,
    cache: AnyCache,
    plan: Plan,
    *,
    constraints: Sequence[Constraint | None] | None = None,
    generator: Randomness = None,
) -> Iterator[Step]:
    """Yield one ``Step`` per new token until every row has ended.

    Args:
        decoder: Gives the next logits; ``decoder.step`` is called one time less than steps.
        first_logits: float [B V], the logits after the prompt, from prefill.
        cache: The prompt's cache with room for ``plan.max_new_tokens`` tokens; it is written to.
        plan: Sampler, limits and stop tokens.
        constraints: One per row (None for a free row), or None. Rows may share one.
        generator: One for the batch, or one per row: then a row samples the same tokens alone.

    Raises:
        InputError: Shapes or counts that do not fit together; at once, not at the first step.
        GenerationError: Logits that are NaN or +inf, or no token left to choose from.
    """
    forbidden = check_logits(first_logits, plan.forbidden)
    rows = first_logits.shape[0]
    if constraints is not None and len(constraints) != rows:
        raise InputError(
            f"got {len(constraints)} constraints for {rows} rows; pass one per row, None for a "
            "free one"
        )
    walks = [one.start() if one else None for one in constraints or [None] * rows]
    return _steps(decoder, first_logits, cache, _Batch(plan, forbidden, walks, generator))


def generate(
    decoder: Decoder[AnyCache],
    first_logits: Tensor,
    cache: AnyCache,
    plan: Plan,
    *,
    constraints: Sequence[Constraint | None] | None = None,
    generator: Randomness = None,
) -> list[Decoded]:
    """Run ``decode`` to the end and collect each row. Arguments and errors are those of decode."""
    steps = list(
        decode(decoder, first_logits, cache, plan, constraints=constraints, generator=generator)
    )
    return [_collect(steps, row) for row in range(first_logits.shape[0])]


def score(logits: Tensor, tokens: Tensor, forbidden: Tensor | None = None) -> Tensor:
    """Log-probabilities of given tokens.

    Args:
        logits: float [... V].
        tokens: int64 [...], each in 0..V-1, on the same device.
        forbidden: bool [V], rows that count as no tokens (``Plan.forbidden``).

    Returns:
        float32 [...]; -inf for a forbidden token.
    """
    logits = logits.float()
    if forbidden is not None:
        logits = logits.masked_fill(forbidden.to(logits.device), -math.inf)
    chosen = logits.gather(-1, tokens[..., None])[..., 0]
    return chosen - logits.logsumexp(dim=-1)


def check_logits(first_logits: Tensor, forbidden: Tensor | None) -> Tensor | None:
    """Check that prefill's logits are [B V] and fit ``forbidden``; return it on their device."""
    if first_logits.ndim != 2 or 0 in first_logits.shape:
        raise InputError(
            f"got logits of shape {tuple(first_logits.shape)}; decoding starts from [B V], the "
            "logits at the last position of each of B >= 1 prompts"
        )
    if forbidden is None:
        return None
    if forbidden.shape[0] != first_logits.shape[1]:
        raise InputError(
            f"forbidden covers {forbidden.shape[0]} ids but the logits have "
            f"{first_logits.shape[1]}; build it from the model's vocab_size"
        )
    return forbidden.to(first_logits.device)


class _Batch:
    """The rows being decoded: which go on, why the others ended."""

    def __init__(
        self,
        plan: Plan,
        forbidden: Tensor | None,
        walks: list[Walk | None],
        generator: Randomness,
    ) -> None:
        self.plan = plan
        self._forbidden = forbidden
        self._walks = walks
        self._generator = generator
        self._finish: list[Finish | None] = [None] * len(walks)
        self._count = 0

    @property
    def done(self) -> bool:
        return all(self._finish)

    def choose(self, logits: Tensor) -> tuple[Step, Tensor]:
        """logits [B V] -> the step, and its tokens int64 [B] on the logits' device."""
        logits = logits.detach().float()
        if self._forbidden is not None:
            logits = logits.masked_fill(self._forbidden, -math.inf)
        open_logits = _restrict(logits, [self._allowed(row) for row in range(len(self._walks))])
        if isinstance(self.plan.sampler, Greedy):
            open_logits = self._weigh_rivals(open_logits)
        tokens = self.plan.sampler.sample(open_logits, self._generator)
        total = logits.logsumexp(dim=-1)
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - total
        report = torch.stack([tokens.float(), logprobs, total, open_logits.amax(dim=-1)])
        # the one transfer of this step; float32 holds ids below 2^24 exactly
        ids, chances, totals, best = report.cpu().numpy().tolist()
        self._check(totals, best)
        step = self._advance([int(token) for token in ids], chances)
        if not all(step.emitted):
            tokens = torch.tensor(step.tokens, device=tokens.device)
        return step, tokens

    def _allowed(self, row: int) -> Tensor | None:
        walk = self._walks[row]
        return None if walk is None or self._finish[row] else walk.allowed()

    def _weigh_rivals(self, logits: Tensor) -> Tensor:
        """Rule out a row's rival token, or all others, by which of them has more probability."""
        rivals = [
            (row, rival)
            for row, walk in enumerate(self._walks)
            if walk is not None and not self._finish[row] and (rival := walk.rival()) is not None
        ]
        if not rivals:
            return logits
        rows, columns = (list(part) for part in zip(*rivals, strict=True))
        others = logits[rows].clone()
        places = list(range(len(rows)))
        alone = torch.full_like(others, -math.inf)
        alone[places, columns] = others[places, columns]
        others[places, columns] = -math.inf
        wins = alone[places, columns] > others.logsumexp(dim=-1)
        logits = logits.clone()
        logits[rows] = torch.where(wins[:, None], alone, others)
        return logits

    def _check(self, totals: list[float], best: list[float]) -> None:
        going = [row for row, finish in enumerate(self._finish) if finish is None]
        broken = [row for row in going if math.isnan(totals[row]) or totals[row] == math.inf]
        if broken:
            raise GenerationError(_not_finite(broken, self._count))
        stuck = [row for row in going if best[row] == -math.inf]
        if stuck:
            raise GenerationError(
                f"no token is left to choose from in rows {stuck} at new token {self._count}: each "
                "one is forbidden, outside the constraint or of logit -inf; check that the "
                "constraint's ids are not among the forbidden ones"
            )

    def _advance(self, tokens: list[int], logprobs: list[float]) -> Step:
        emitted = tuple(finish is None for finish in self._finish)
        self._count += 1
        for row, token in enumerate(tokens):
            if emitted[row]:
                self._finish[row] = self._push(row, token)
            else:
                tokens[row], logprobs[row] = self.plan.pad, 0.0
        return Step(
            tokens=tuple(tokens),
            logprobs=tuple(logprobs),
            emitted=emitted,
            finish=tuple(self._finish),
            surplus=tuple(walk.surplus if walk else 0 for walk in self._walks),
        )

    def _push(self, row: int, token: int) -> Finish | None:
        walk = self._walks[row]
        if walk is not None:
            walk.push(token)
            if walk.surplus:  # before the stop token counts: it is among what is dropped
                return Finish.CONSTRAINT
        if token in self.plan.stop:
            return Finish.STOP
        if walk is not None and walk.done:
            return Finish.CONSTRAINT
        return Finish.LENGTH if self._count >= self.plan.max_new_tokens else None


def _steps(
    decoder: Decoder[AnyCache], logits: Tensor, cache: AnyCache, batch: _Batch
) -> Iterator[Step]:
    while True:
        step, tokens = batch.choose(logits)
        yield step
        if batch.done:
            return
        with torch.no_grad():
            logits = decoder.step(tokens, cache)


def _restrict(logits: Tensor, allowed: list[Tensor | None]) -> Tensor:
    """Logits [B V] with -inf wherever a row's constraint does not allow the token."""
    bound = [(row, ids) for row, ids in enumerate(allowed) if ids is not None]
    if not bound:
        return logits
    columns = torch.cat([ids for _, ids in bound])
    if int(columns.max()) >= logits.shape[1]:
        raise InputError(
            f"a constraint allows token {int(columns.max())} but the model has "
            f"{logits.shape[1]} ids; build the constraint from the model's own tokenizer"
        )
    counts = torch.tensor([len(ids) for _, ids in bound])
    rows = torch.tensor([row for row, _ in bound]).repeat_interleave(counts)
    index = torch.stack([rows, columns]).to(logits.device)
    out = logits.clone()
    out[[row for row, _ in bound]] = -math.inf
    out[index[0], index[1]] = logits[index[0], index[1]]
    return out


def _not_finite(rows: list[int], position: int) -> str:
    return (
        f"the logits of rows {rows} at new token {position} are NaN or +inf; finite numbers were "
        "expected. float16 overflows above 65504: load the model with dtype='bfloat16' or "
        "'float32'; if it is float32 already, its weights are damaged"
    )


def _collect(steps: list[Step], row: int) -> Decoded:
    emitted = [step for step in steps if step.emitted[row]]
    kept = emitted[: len(emitted) - steps[-1].surplus[row]]
    finish = steps[-1].finish[row]
    assert finish is not None  # decode goes on until every row has ended
    return Decoded(
        tokens=tuple(step.tokens[row] for step in kept),
        logprobs=tuple(step.logprobs[row] for step in kept),
        finish=finish,
    )
