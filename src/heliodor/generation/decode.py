"""The one token generator. Tokens in, tokens out: it knows no text and no model class.

Legend: B rows, V vocabulary, W width.

``decode`` yields one ``Step`` per new token; streaming reads the steps, ``generate`` collects the
same rows, so the two cannot differ. The model is asked for more only when the next step is asked
for, so dropping the generator stops the work. How a pass goes is in ``run``.

Log-probabilities are the model's own: temperature, top-k, top-p and constraints change what is
chosen, not what is reported (big_vision, predict_fns.py, does the same). The one exception is
``Plan.forbidden``: rows that are no tokens, such as the padding rows of an embedding table, have
probability 0 in what is chosen and in what is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from heliodor.generation.constraint import Constraint
from heliodor.generation.plan import AnyCache, Decoded, Decoder, Plan, Reader, Step
from heliodor.generation.rows import Row
from heliodor.generation.run import Run
from heliodor.generation.sampler import Randomness
from heliodor.generation.source import AnyRewindable

__all__ = ["decode", "generate"]


def decode(
    decoder: Decoder[AnyCache] | Reader[AnyRewindable],
    first: Tensor,
    cache: AnyCache | AnyRewindable,
    plan: Plan,
    *,
    constraints: Sequence[Constraint | None] | None = None,
    generator: Randomness = None,
    prompts: Sequence[Sequence[int]] | None = None,
) -> Iterator[Step]:
    """Yield one ``Step`` per new token until every row has ended.

    Args:
        decoder: Gives the next logits, or for a ``Reader`` the next hidden states.
        first: From prefill, at the last position of the prompt: of a ``Reader`` the hidden states,
            float [B W], else the logits, float [B V].
        cache: The prompt's cache with room for ``plan.max_new_tokens`` tokens; it is written to.
        plan: Sampler, limits and stop tokens.
        constraints: One per row (None for a free row), or None. Rows may share one.
        generator: One for the batch, or one per row: then a row samples the same tokens alone.
        prompts: The tokens of each row's prompt, where guesses may look things up; None for none.

    Raises:
        InputError: Shapes or counts that do not fit together; at once, not at the first step.
        GenerationError: Logits that are NaN or +inf, or no token left to choose from.
    """
    run = Run(decoder, first, cache, plan, constraints, generator, prompts)
    return _steps(run, plan)


def generate(
    decoder: Decoder[AnyCache] | Reader[AnyRewindable],
    first: Tensor,
    cache: AnyCache | AnyRewindable,
    plan: Plan,
    *,
    constraints: Sequence[Constraint | None] | None = None,
    generator: Randomness = None,
    prompts: Sequence[Sequence[int]] | None = None,
) -> list[Decoded]:
    """Run ``decode`` to the end and collect each row. Arguments and errors are those of decode."""
    run = Run(decoder, first, cache, plan, constraints, generator, prompts)
    run.begin()
    while run.going:
        run.advance()
    run.settle()
    return [_decoded(row, plan) for row in run.rows]


def _steps(run: Run, plan: Plan) -> Iterator[Step]:
    run.begin()
    count = 0
    while True:
        run.settle()
        while (step := _step(run.rows, count, plan)) is not None:
            yield step
            count += 1
        if not run.going:
            return
        run.advance()


def _step(rows: Sequence[Row], count: int, plan: Plan) -> Step | None:
    """Step number ``count`` once every row has its token, or has ended before; else None."""
    new = [len(row.tokens) > count for row in rows]
    ready = [row.settled if plan.logprobs else len(row.tokens) for row in rows]
    late = any(
        row.finish is None or is_new
        for row, is_new, known in zip(rows, new, ready, strict=True)
        if known <= count
    )
    if late or not any(new):
        return None
    ended = [row.finish is not None and len(row.tokens) <= count + 1 for row in rows]
    logprobs = (
        row.logprobs[count] if is_new else 0.0 for row, is_new in zip(rows, new, strict=True)
    )
    return Step(
        tokens=tuple(
            row.tokens[count] if is_new else plan.pad for row, is_new in zip(rows, new, strict=True)
        ),
        logprobs=tuple(logprobs) if plan.logprobs else (),
        emitted=tuple(new),
        finish=tuple(row.finish if end else None for row, end in zip(rows, ended, strict=True)),
        surplus=tuple(row.surplus if end else 0 for row, end in zip(rows, ended, strict=True)),
    )


def _decoded(row: Row, plan: Plan) -> Decoded:
    assert row.finish is not None  # the run goes on until every row has ended
    kept = len(row.tokens) - row.surplus
    return Decoded(
        tokens=tuple(row.tokens[:kept]),
        logprobs=tuple(row.logprobs[:kept]) if plan.logprobs else (),
        finish=row.finish,
    )
