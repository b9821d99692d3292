"""Next-DiT's network on one step of a painting, with guidance: int8 beside float32."""

from __future__ import annotations

from typing import Any

import torch

from heliodor.bench.accuracy import distances
from heliodor.bench.networks import Bench
from heliodor.bench.timing import median, timed, turns
from heliodor.bench.weights import drawn, same_tensors
from heliodor.checkpoints.blueprint import unfilled
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NextDiTConfig
from heliodor.quant.apply import quantise
from heliodor.quant.scheme import recipe

__all__ = ["measure_nextdit"]

_SIDE = 32  # of the latent: 256 patches
_WORDS = 40  # tokens of the caption
_TINY = NextDiTConfig(
    width=64, depth=2, num_heads=4, num_kv_heads=2, mlp_width=128, caption_width=64
)


def measure_nextdit(bench: Bench) -> dict[str, Any]:
    """Seconds of one evaluation for a picture with and without its prompt, in turns.

    All layers run, the caption has been read before, as between the steps of a painting.
    """
    bench.keep_only()
    config = NextDiTConfig() if bench.settings.size.full else _TINY
    bench.say("making Next-DiT in float32 and int8")
    plain = drawn(unfilled(lambda: NextDiT(config)), seed=bench.settings.seed)
    small = same_tensors(plain, unfilled(lambda: NextDiT(config)))
    quantise(small, recipe("int8"))
    networks = {"float32": plain, "int8": small}
    answers = {name: _step(network, config)[1] for name, network in networks.items()}
    steps: dict[str, list[float]] = {name: [] for name in networks}
    for _, name in turns(list(networks), bench.settings.repetitions):
        steps[name].append(_step(networks[name], config)[0])
    for name, spans in steps.items():
        bench.say(f"{name}: {median(spans):.2f} s a step")
    flat = {name: answer.flatten() for name, answer in answers.items()}
    relative = float(distances(flat["float32"], flat["int8"]))
    return {
        "samples": {name: {"step": spans} for name, spans in steps.items()},
        "accuracy": {"int8": {"relative": relative}},
        "parameters": sum(p.numel() for p in plain.parameters()),
        "skipped": {},
    }


@torch.no_grad()
def _step(network: NextDiT, config: NextDiTConfig) -> tuple[float, Any]:
    """Seconds of one evaluation, and the velocity float32 [2 C H W]."""
    source = torch.Generator().manual_seed(0)
    latent = torch.randn(1, config.in_channels, _SIDE, _SIDE, generator=source)
    features = torch.randn(2, _WORDS, config.caption_width, generator=source)
    prompt = network.prepare(features)
    canvas = network.canvas([(_SIDE, _SIDE)] * 2)
    latents = latent.expand(2, -1, -1, -1).contiguous()
    return timed(lambda: network(latents, 0.5, prompt, canvas))
