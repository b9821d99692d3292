"""The decoder alone beside llama.cpp, on files of the same shapes and of the same bits."""

from __future__ import annotations

from typing import Any

import torch

from heliodor.bench.engines import MissingEngineError, Ours, load_peer
from heliodor.bench.networks import Bench
from heliodor.bench.timing import median, timed, turns

__all__ = ["OPPONENTS", "measure_llama"]

OPPONENTS = {"int8": "Q8_0", "int4": "Q4_0"}
"""Our scheme -> the type of llama.cpp's tensors it is compared with, all of them of that type."""


def measure_llama(bench: Bench) -> dict[str, Any]:
    """Prefill and step of our decoder and of llama-bench's, in turns.

    Raises:
        MissingEngineError: no llama-bench was given, or no package to write its files with.
    """
    program = bench.settings.llama_bench
    if program is None:
        raise MissingEngineError(
            "llama.cpp was not given: build its llama-bench and name it with --llama-bench PROGRAM"
        )
    module = load_peer(bench.settings.peers, "llama_cpp")
    schemes = [scheme for scheme in bench.settings.schemes if scheme in OPPONENTS]
    ours = [bench.ours(scheme) for scheme in schemes]
    size = bench.settings.size
    peers: list[Any] = []
    for scheme in schemes:
        kind = OPPONENTS[scheme]
        bench.say(f"writing a {kind} file for llama.cpp")
        peer = module.Bench(program, size.config.language, kind, bench.settings.scratch)
        peer.measure(size.prefix, 2, bench.settings.threads)  # fills the page cache
        peers.append(peer)
    return _in_turns(bench, ours, peers)


def _in_turns(bench: Bench, ours: list[Ours], peers: list[Any]) -> dict[str, Any]:
    samples: dict[str, dict[str, list[float]]] = {}
    size, steps = bench.settings.size, bench.settings.steps
    limits: list[float] = []
    for one in ours:
        decoder_pass(bench, one)
    for turn, engine in turns([*ours, *peers], bench.settings.repetitions):
        if len(limits) <= turn:
            limits.append(bench.limits().read)
        if isinstance(engine, Ours):
            name, found = engine.name, decoder_pass(bench, engine)
        else:
            name, found = engine.name, engine.measure(size.prefix, steps, bench.settings.threads)
        row = samples.setdefault(name, {"prefill": [], "step": []})
        row["prefill"].append(found[0])
        row["step"].append(found[1])
        bench.say(f"turn {turn + 1}: {name} {found[0]:.2f} s, {1 / found[1]:.2f} tokens/s")
    versions = {peer.name: peer.version for peer in peers}
    return {"samples": samples, "read": limits, "versions": versions, "skipped": {}}


@torch.no_grad()
def decoder_pass(bench: Bench, ours: Ours) -> tuple[float, float]:
    """Seconds of a prefill of the decoder with its head, and of a step (their median)."""
    inputs = bench.inputs()
    config = bench.settings.size.config
    source = torch.Generator().manual_seed(1)
    features = torch.randn(1, config.vision.num_tokens, config.language.width, generator=source)
    prefill, (_, state) = timed(lambda: ours.prefill(features, inputs.tokens))
    spans: list[float] = []
    for token in inputs.following:
        span, (_, state) = timed(lambda t=token, s=state: ours.step(t, s))
        spans.append(span)
    return prefill, median(spans)
