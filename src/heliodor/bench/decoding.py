"""Decoding in other ways than one free token of one row: under a grammar, and in batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from heliodor.bench.engines import Ours
from heliodor.bench.networks import Bench
from heliodor.bench.sizes import Size
from heliodor.bench.timing import median, timed, turns
from heliodor.generation import Constraint, DetectGrammar, Plan, decode

__all__ = ["WIDE", "dog_grammar", "measure_batch", "measure_head"]

WIDE = 8  # rows of the batch that is compared with one row
_EOS = 1
_TURN = 24  # tokens of a turn, at least: four boxes with their labels


def measure_head(bench: Bench) -> dict[str, Any]:
    """Seconds a token of free text, and of boxes under the grammar of one label, in turns."""
    samples: dict[str, dict[str, list[float]]] = {}
    skipped: dict[str, str] = {}
    size = bench.settings.size
    kinds: dict[str, Constraint | None] = {"free": None, "detect": dog_grammar(size)}
    for scheme in _quantised(bench):
        ours = bench.ours(scheme)
        rows: dict[str, list[float]] = {kind: [] for kind in kinds}
        prompt = _prompt(bench, ours)
        for turn, kind in turns(list(kinds), bench.settings.repetitions + 1):
            seconds = _seconds_a_token(bench, ours, prompt, kinds[kind])
            if turn:  # the first one warms up
                rows[kind].append(seconds)
        samples[scheme] = rows
        bench.say(f"{scheme}: {1000 * median(rows['detect']):.1f} ms a token of a box")
    return {"samples": samples, "skipped": skipped}


def dog_grammar(size: Size) -> DetectGrammar:
    """The grammar of ``detect dog``; ids of the right kinds, since no time depends on which."""
    return DetectGrammar(
        loc_start=size.loc_start,
        labels=((size.first_word,),),
        separator=(size.first_word + 1,),
        eos=_EOS,
        allow_empty=False,
        duplicate_iou=None,
        ordered=False,
    )


@torch.no_grad()
def _prompt(bench: Bench, ours: Ours) -> tuple[Tensor, Any]:
    """Picture and prompt read: logits of the first token [V], and the cache."""
    inputs = bench.inputs()
    return ours.prefill(ours.model.encode_images(inputs.pixels), inputs.tokens)


@torch.no_grad()
def _seconds_a_token(
    bench: Bench, ours: Ours, prompt: tuple[Tensor, Any], constraint: Constraint | None
) -> float:
    """Mean over a turn's tokens. The first one of each text comes with the prefill: not counted.

    A text that the grammar ends early is begun again from a copy of the prompt's cache.
    """
    logits, read = prompt
    plan = Plan(max_new_tokens=max(bench.settings.steps, _TURN), stop=frozenset())
    spent, tokens = 0.0, 0
    while tokens < _TURN:
        cache = read.select(torch.zeros(1, dtype=torch.int64))
        steps = decode(ours.model, logits[None], cache, plan, constraints=[constraint])
        next(steps)
        span, count = timed(lambda steps=steps: sum(1 for _ in steps))
        spent, tokens = spent + span, tokens + count
    return spent / tokens


def measure_batch(bench: Bench) -> dict[str, Any]:
    """Seconds of a step of one row and of eight rows, in turns."""
    samples: dict[str, dict[str, list[float]]] = {}
    for scheme in _quantised(bench):
        samples[scheme] = _batches(bench, bench.ours(scheme))
        one, many = (median(samples[scheme][str(rows)]) for rows in (1, WIDE))
        bench.say(f"{scheme}: {1 / one:.1f} tokens/s of one row, {WIDE / many:.1f} of {WIDE}")
    return {"samples": samples, "rows": WIDE, "skipped": {}}


@torch.no_grad()
def _batches(bench: Bench, ours: Ours) -> dict[str, list[float]]:
    """Median seconds of a step, by the number of rows, turn by turn."""
    inputs = bench.inputs()
    _, prompt = _prompt(bench, ours)
    seconds: dict[str, list[float]] = {"1": [], str(WIDE): []}
    for turn, rows in turns([1, WIDE], bench.settings.repetitions + 1):
        cache = prompt.select(torch.zeros(rows, dtype=torch.int64))
        spans: list[float] = []
        for token in inputs.following:
            tokens = torch.full((rows,), token)
            spans.append(timed(lambda t=tokens, c=cache: ours.model.step(t, c))[0])
        if turn:  # the first one warms up
            seconds[str(rows)].append(median(spans))
    return seconds


def _quantised(bench: Bench) -> list[str]:
    """The quantised schemes of the run; float32 where there is none."""
    found = [scheme for scheme in bench.settings.schemes if scheme not in ("float32", "bfloat16")]
    return found or list(bench.settings.schemes[:1])
