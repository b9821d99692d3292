"""From picture to first token, and on from token to token: engines in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from heliodor.bench.accuracy import compare
from heliodor.bench.engines import Engine, Inputs, Ours, load_peer, refused
from heliodor.bench.networks import FLOATS, Bench
from heliodor.bench.roofline import (
    decoder_operations,
    resting_bytes,
    step_bytes,
    vision_operations,
)
from heliodor.bench.timing import turns

__all__ = ["TRANSFORMERS", "measure_bfloat16", "measure_ceilings", "measure_first", "run_pass"]

TRANSFORMERS = "transformers"
_LAYERS = 4  # whose products are timed alone: more bytes than any cache holds


def run_pass(engine: Engine, inputs: Inputs) -> tuple[float, list[float], list[Tensor]]:
    """One turn of one engine -> seconds to the first token, of each step, and all logits [V].

    The likeliest token is looked up within the time, as greedy decoding does.
    """
    found: list[Tensor] = []

    start = time.perf_counter()
    logits, state = engine.first(inputs.pixels, inputs.tokens)
    logits.argmax().item()
    first = time.perf_counter() - start
    found.append(logits)
    steps: list[float] = []
    for token in inputs.following:
        start = time.perf_counter()
        logits, state = engine.step(token, state)
        logits.argmax().item()
        steps.append(time.perf_counter() - start)
        found.append(logits)
    return first, steps, found


def measure_first(bench: Bench) -> dict[str, Any]:
    """First token and decoding of ours, scheme by scheme, beside transformers in float32."""
    skipped: dict[str, str] = {}
    schemes = bench.settings.schemes
    ours = [e for s in schemes for e in refused(lambda s=s: bench.ours(s), s, skipped)]
    peers = refused(lambda: transformers_engine(bench, "float32"), TRANSFORMERS, skipped)
    return in_turns(bench, [*ours, *peers], skipped)


def measure_bfloat16(bench: Bench) -> dict[str, Any]:
    """The same with weights that rest in bfloat16, here and in transformers."""
    bench.keep_only()
    skipped: dict[str, str] = {}
    ours = refused(lambda: bench.ours("bfloat16"), "bfloat16", skipped)
    peers = refused(lambda: transformers_engine(bench, "bfloat16"), TRANSFORMERS, skipped)
    found = in_turns(bench, [*ours, *peers], skipped)
    bench.keep_only()
    return found


def measure_ceilings(bench: Bench) -> dict[str, Any]:
    """The machine's limits alone, as often as there are turns; after one that warms up."""
    bench.limits()
    measured = [bench.limits() for _ in range(bench.settings.repetitions)]
    return {"limits": _columns(measured), "source": bench.ceilings.source}


def transformers_engine(bench: Bench, dtype: str) -> Engine:
    """transformers' network around our tensors: no weight exists twice."""
    from heliodor.checkpoints.config import config_values  # noqa: PLC0415 - peers alone need it
    from heliodor.checkpoints.keymap import TRANSFORMERS_5, paligemma_keys  # noqa: PLC0415

    module = load_peer(bench.settings.peers, TRANSFORMERS)
    model = bench.ours(dtype).model
    config = model.config
    image = config.num_predicted
    special = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    values = config_values(config, image_token=image, special=special, dtype=dtype)
    keys = paligemma_keys(config)
    state = {keys.to_theirs(n, TRANSFORMERS_5): t for n, t in model.state_dict().items()}
    return module.build(values, state, FLOATS[dtype])


def in_turns(bench: Bench, engines: Sequence[Engine], skipped: dict[str, str]) -> dict[str, Any]:
    """Warm each engine up, compare its logits, then time them in turns with the limits between."""
    inputs = bench.inputs()
    heard: dict[str, Tensor] = {}
    able: list[Engine] = []
    for engine in engines:
        bench.say(f"warming up {engine.name}")

        def warm(engine: Engine = engine) -> Engine:
            heard[engine.name] = torch.stack([x.float() for x in run_pass(engine, inputs)[2]])
            return engine

        able += refused(warm, engine.name, skipped)
    bench.reference = heard.get("float32", bench.reference)
    samples = {engine.name: _Sample() for engine in able}
    limits: list[Any] = []
    rates: dict[str, list[float]] = {}
    for turn, engine in turns(able, bench.settings.repetitions):
        if len(limits) <= turn:
            limits.append(bench.limits())
            _gemm_rates(bench, able, rates)
        first, steps, _ = run_pass(engine, inputs)
        samples[engine.name].add(first, steps)
        bench.say(f"turn {turn + 1}: {engine.name} {first:.2f} s to the first token")
    return {
        "samples": {name: sample.record() for name, sample in samples.items()},
        "limits": _columns(limits),
        "source": bench.ceilings.source,
        "gemm": rates,
        "costs": _costs(bench, able),
        "accuracy": _accuracy(heard, bench.reference),
        "skipped": skipped,
    }


class _Sample:
    """Seconds of one engine, turn by turn."""

    def __init__(self) -> None:
        self._first: list[float] = []
        self._steps: list[list[float]] = []

    def add(self, first: float, steps: list[float]) -> None:
        self._first.append(first)
        self._steps.append(steps)

    def record(self) -> dict[str, Any]:
        return {"first": self._first, "step": self._steps}


def _columns(limits: Sequence[Any]) -> dict[str, list[float]]:
    """One list for each limit."""
    rows = [asdict(each) for each in limits]
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _accuracy(heard: dict[str, Tensor], reference: Tensor | None) -> dict[str, dict[str, float]]:
    """Every engine against our float32 of this run, if there was one."""
    if reference is None:
        return {}
    return {n: compare(reference, x) for n, x in heard.items() if x is not reference}


def _costs(bench: Bench, engines: Sequence[Engine]) -> dict[str, Any]:
    """Operations of the passes, and bytes that a step of each of our engines reads."""
    size = bench.settings.size
    language = size.config.language
    middle = size.prefix + bench.settings.steps // 2
    return {
        "vision_operations": vision_operations(size.config.vision, language.width),
        "decoder_operations": decoder_operations(language, size.prefix),
        "step_operations": decoder_operations(language, 1),
        "step_bytes": {
            e.name: step_bytes(e.model.language, language, middle)
            for e in engines
            if isinstance(e, Ours)
        },
        "resting_bytes": {e.name: resting_bytes(e.model) for e in engines if isinstance(e, Ours)},
    }


def _gemm_rates(bench: Bench, engines: Sequence[Engine], rates: dict[str, list[float]]) -> None:
    """Note the rate of each of our engines' MLP products over a prefill's rows, now."""
    for engine in engines:
        if isinstance(engine, Ours):
            rates.setdefault(engine.name, []).append(gemm_rate(engine, bench.settings.size.prefix))


@torch.no_grad()
def gemm_rate(engine: Ours, rows: int) -> float:
    """Operations a second of the linear layers of some MLPs, quantising their input included.

    Args:
        engine: whose layers.
        rows: T, as many as a prefill has.
    """
    config = engine.model.config.language
    layers: list[Any] = list(engine.model.language.layers)[:_LAYERS]
    x = torch.randn(1, rows, config.width)
    y = torch.randn(1, rows, config.mlp_width)
    work: list[tuple[Callable[[Tensor], Tensor], Tensor]] = []
    for layer in layers:
        work += [(layer.mlp.gate, x), (layer.mlp.up, x), (layer.mlp.down, y)]
    work[0][0](x)
    start = time.perf_counter()
    for layer, given in work:
        layer(given)
    span = time.perf_counter() - start
    return len(layers) * 3 * 2 * rows * config.width * config.mlp_width / span
