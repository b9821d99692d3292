"""What a decode pass costs: several tokens at once, several rows, part of the head, a coarse copy.

A Gemma of Gemma 2B's width with few layers and a table of so many rows that the head has the share
of the weights that it has in PaliGemma 3B (a fifth). Weights are random. Medians; interleaved.

    python benchmarks/decoding.py --scheme int8
    python benchmarks/decoding.py --scheme float32 --json decoding.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from heliodor.generation import DetectGrammar, GemmaReader, Greedy, Plan, generate
from heliodor.models.causal import CausalGemma
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.quant.apply import quantise
from heliodor.quant.products import engine
from heliodor.quant.scheme import recipe

PROMPT, NEW, EOS = 268, 24, 1


def built(layers: int, vocabulary: int, scheme: str) -> Gemma:
    """Random weights of the size that trained ones have."""
    torch.manual_seed(0)
    model = (
        Gemma(GemmaConfig(depth=layers, vocab_size=vocabulary))
        .eval()
        .requires_grad_(requires_grad=False)
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.02)
    if scheme != "float32":
        quantise(model, recipe(scheme))
    return model


def median(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each, the runs by turns so that noise hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                taken[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(times) for name, times in taken.items()}


def passes(reader: GemmaReader, repeats: int) -> dict[str, float]:
    """One pass behind a prompt, rows x tokens, without the head."""
    causal = CausalGemma(reader.gemma)
    prompt = torch.randint(2, 999, (1, PROMPT))
    _, first = causal.read_prompt(prompt, torch.ones_like(prompt, dtype=torch.bool))
    runs: dict[str, Callable[[], object]] = {}
    for rows, tokens in [(1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (2, 1), (4, 1), (8, 1), (8, 2)]:
        cache = first.select(torch.zeros(rows, dtype=torch.int64))

        def run(cache=cache, rows=rows, tokens=tokens) -> None:  # noqa: ANN001
            reader.read(torch.full((rows, tokens), 7), cache)
            cache.retain([0] * rows, tokens)

        runs[f"{rows} x {tokens}"] = run
    return median(runs, repeats)


def heads(reader: GemmaReader, scanning: GemmaReader | None, repeats: int) -> dict[str, float]:
    """The head for one hidden state."""
    hidden = torch.randn(1, reader.gemma.config.width)
    runs: dict[str, Callable[[], object]] = {
        "whole": lambda: reader.logits(hidden),
        "1024 rows": lambda: reader.logits(hidden, (4096, 5120)),
    }
    if scanning is not None:
        scan = scanning.scan
        assert scan is not None
        runs["scan"] = lambda: scan.narrow(hidden, Greedy(), None, lambda _: hidden)
    return median(runs, repeats)


def texts(reader: GemmaReader, repeats: int) -> dict[str, float]:
    """Milliseconds a token of whole answers, prefill left out."""
    causal = CausalGemma(reader.gemma)
    prompt = torch.randint(2, 999, (1, PROMPT))
    hidden, cache = causal.read_prompt(prompt, torch.ones_like(prompt, dtype=torch.bool))
    grammar = DetectGrammar(
        loc_start=4096,
        labels=((40, 41),),
        separator=(50,),
        eos=EOS,
        allow_empty=False,
        duplicate_iou=None,
    )
    taken: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, rows, bound, logprobs in [
            ("free text", 1, False, True),
            ("free text, 8 rows", 8, False, True),
            ("detect", 1, True, True),
            ("detect, no scores", 1, True, False),
            ("detect, 8 rows", 8, True, True),
        ]:
            plan = Plan(max_new_tokens=NEW, stop=frozenset({EOS}), logprobs=logprobs)
            places = torch.zeros(rows, dtype=torch.int64)
            kept, rules = cache.select(places), [grammar] * rows if bound else None
            start = time.perf_counter()
            found = generate(reader, hidden[places], kept, plan, constraints=rules)
            written = sum(len(row.tokens) for row in found)
            taken.setdefault(name, []).append((time.perf_counter() - start) * 1000 / written)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheme", default="int8", choices=["float32", "int8", "int4"])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=28672)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scan", action="store_true", help="make a coarse copy and time it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    reader = GemmaReader(built(options.layers, options.vocabulary, options.scheme))
    scanning = GemmaReader.scanning(reader.gemma) if options.scan else None
    found: dict[str, object] = {
        "engine": engine(),
        "options": {k: str(v) for k, v in vars(options).items()},
    }
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "pass, rows x tokens, ms": lambda: passes(reader, options.repeats),
        "head of one row, ms": lambda: heads(reader, scanning, options.repeats),
        "text, ms a token": lambda: texts(reader, max(2, options.repeats // 2)),
    }
    with torch.no_grad():
        for name, part in parts.items():
            found[name] = part()
            print(name, found[name], file=sys.stderr, flush=True)
    json.dump(found, sys.stdout, indent=2)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
