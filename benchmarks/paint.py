"""Painting at full size beside diffusers' pipeline: seconds a step, and memory.

    python benchmarks/paint.py                # Next-DiT 2B and Gemma 2B, 256 pixels
    python benchmarks/paint.py --layers 4     # a slice of both, in a minute

Weights are random float32, drawn in memory once; both engines' parameters lie in the same memory,
of which diffusers' transformer holds the queries twice. Engines take turns in one process, each
turn in another order. A ratio is taken within a turn and its median stands first, above one where
ours is faster. A step is one of Euler with guidance, a batch of two, as ``LuminaPipeline`` makes it
on its own grid; ours is what ``Painter.paint(**DIFFUSERS)`` does from features to latents.
All start from the same noise and features, and their latents are compared after the last step.

Memory is what each way holds of weights, counted, and the growth of resident memory while it runs,
measured. diffusers holds text encoder and transformer together; ours, staged, one at a time. The
autoencoder is the same in both and left out.

Floors: 1.3 times diffusers' speed with the same latents (1e-4), 2.5 times in int8. Prints a table
and one JSON line; exits 1 if a floor is missed.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.lumina_nextdit2d import LuminaNextDiT2DModel
from diffusers.pipelines.lumina.pipeline_lumina import LuminaPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor, nn
from transformers import GemmaConfig as TheirConfig
from transformers import GemmaModel

from heliodor.bench.machine import describe, line, peak_memory
from heliodor.bench.timing import Spread, median, ratio, timed, turns
from heliodor.bench.weights import drawn, same_tensors
from heliodor.checkpoints.blueprint import unfilled
from heliodor.checkpoints.config import language_values
from heliodor.checkpoints.diffusers_config import transformer_values
from heliodor.checkpoints.language import language_keys
from heliodor.checkpoints.lumina_keys import DIFFUSERS_SELF
from heliodor.models.causal import CausalGemma
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NEXTDIT_2B_GQA, NextDiTConfig
from heliodor.paint import DIFFUSERS
from heliodor.paint.denoiser import Denoiser
from heliodor.paint.integrate import integrate
from heliodor.paint.settings import Settings
from heliodor.paint.text import TextFeatures
from heliodor.quant.apply import apply_empty, quantise
from heliodor.quant.products import engine
from heliodor.quant.scheme import recipe

FLOORS = {"float32": 1.3, "int8": 2.5}
CLOSE = 1e-4
PEER = "diffusers"
GEMMA_2B = GemmaConfig(
    vocab_size=256_000,
    width=2048,
    depth=18,
    num_heads=8,
    num_kv_heads=1,
    head_dim=256,
    mlp_width=16_384,
)
_MIB = 2**20


class Pipeline:
    """diffusers' ``LuminaPipeline`` around the tensors of one of our networks."""

    def __init__(self, model: NextDiT, features: Sequence[TextFeatures], side: int) -> None:
        values = {k: v for k, v in transformer_values(model.config).items() if k[0] != "_"}
        network = unfilled(lambda: LuminaNextDiT2DModel(**values))
        state, keys = model.state_dict(), DIFFUSERS_SELF
        named = {
            name: state[keys.to_ours(name) or keys.to_tied(name) or ""]
            for name in network.state_dict()
        }
        network.load_state_dict(named, strict=True, assign=True)
        self.nbytes = sum(each.nbytes for each in named.values())
        self._run: Any = LuminaPipeline(
            transformer=network.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=None,  # pyright: ignore[reportArgumentType] - latents are asked for
            text_encoder=None,  # pyright: ignore[reportArgumentType] - features are given
            tokenizer=None,
        )
        self._run.set_progress_bar_config(disable=True)
        self._side = side
        self._embeds, self._masks = [], []
        longest = max(len(each.states) for each in features)
        for each in features:  # as its encode_prompt pads them
            missing = longest - len(each.states)
            self._embeds.append(nn.functional.pad(each.states, (0, 0, 0, missing))[None])
            self._masks.append((torch.arange(longest) < len(each.states)).long()[None])

    def __call__(self, noise: Tensor, steps: int) -> Tensor:
        """Latents after all steps."""
        return self._run(
            prompt_embeds=self._embeds[0],
            negative_prompt_embeds=self._embeds[1],
            prompt_attention_mask=self._masks[0],
            negative_prompt_attention_mask=self._masks[1],
            width=self._side,
            height=self._side,
            num_inference_steps=steps,
            latents=noise.clone(),
            output_type="latent",
        ).images


class Ours:
    """Our network as the painter samples with it."""

    def __init__(self, model: NextDiT, features: Sequence[TextFeatures]) -> None:
        self.nbytes = held(model)
        self._model = model
        self._features = features

    def __call__(self, noise: Tensor, steps: int) -> Tensor:
        """Latents after all steps; captions are read first, as for every painting."""
        settings = Settings.choose(steps=steps, **DIFFUSERS)
        words, none = self._features
        size = (noise.shape[2], noise.shape[3])
        velocity = Denoiser(self._model, [words], [none], size, settings)
        return integrate(velocity, noise, settings.grid.times(steps), settings.solver).latents


def held(network: nn.Module) -> int:
    """Bytes of a network's tensors."""
    return sum(each.numel() * each.itemsize for each in network.state_dict().values())


def growth(work: Callable[[], object]) -> int:
    """Bytes by which resident memory grows at most while something runs; 0 where unknown."""
    gc.collect()
    reset = Path("/proc/self/clear_refs")
    try:
        reset.write_text("5", encoding="ascii")
    except OSError:
        return 0
    before = peak_memory()
    work()
    return peak_memory() - before


def error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over largest magnitude."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def rms(found: Tensor, wanted: Tensor) -> float:
    """Size of the difference over the size."""
    return float((found - wanted).norm() / wanted.norm())


def sampling(config: NextDiTConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Steps of the transformer: diffusers, ours, ours in int8; and the error of int8 and int4."""
    model = drawn(unfilled(lambda: NextDiT(config)), seed=args.seed)
    random = torch.Generator().manual_seed(args.seed)
    lengths = (args.tokens, 1)  # of the prompt, and of the empty one
    features = [
        TextFeatures(text="", states=torch.randn(n, config.caption_width, generator=random))
        for n in lengths
    ]
    eighth = args.size // 8
    noise = torch.randn(1, config.in_channels, eighth, eighth, generator=random)
    small = same_tensors(model, unfilled(lambda: NextDiT(config)))
    quantise(small, recipe("int8"))
    engines: dict[str, Any] = {
        PEER: Pipeline(model, features, args.size),
        "float32": Ours(model, features),
        "int8": Ours(small, features),
    }
    grown, found = {}, {}
    for name, each in engines.items():  # the first call, not timed

        def first(name: str = name, each: Any = each) -> None:
            found[name] = each(noise, args.steps)

        grown[name] = growth(first)
    spans: dict[str, list[float]] = {name: [] for name in engines}
    for _, name in turns(list(engines), args.turns):
        span, _ = timed(lambda name=name: engines[name](noise, args.steps))
        spans[name].append(span / args.steps)
    return {
        "ratio": {n: _spread(ratio(spans[PEER], spans[n])) for n in FLOORS},
        "step_s": {name: median(each) for name, each in spans.items()},
        "weights": {name: each.nbytes for name, each in engines.items()},
        "work": grown,
        "error": error(found["float32"], found[PEER]),
        "off": {"int8": _off(model, features, noise, small)} | _off4(model, features, noise),
    }


def _off(model: NextDiT, features: Sequence[TextFeatures], noise: Tensor, small: NextDiT) -> float:
    """How far one velocity of a quantised network is off, halfway."""
    settings = Settings.choose(steps=2, **DIFFUSERS)
    size = (noise.shape[2], noise.shape[3])
    words, none = features
    half = torch.tensor(0.5)
    exact, found = (
        Denoiser(each, [words], [none], size, settings)(half, noise) for each in (model, small)
    )
    return rms(found, exact)


def _off4(model: NextDiT, features: Sequence[TextFeatures], noise: Tensor) -> dict[str, float]:
    smaller = same_tensors(model, unfilled(lambda: NextDiT(model.config)))
    quantise(smaller, recipe("int4"))
    return {"int4": _off(model, features, noise, smaller)}


def encoding(config: GemmaConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Features of a prompt and of the empty one: transformers' Gemma, and ours."""
    model = drawn(unfilled(lambda: Gemma(config)), seed=args.seed)
    theirs, tokens = _transformers(model), torch.arange(2, 2 + args.tokens)[None]
    valid = torch.arange(args.tokens)[None] < torch.tensor([[args.tokens], [1]])
    causal = CausalGemma(model)

    @torch.no_grad()
    def peer() -> Tensor:
        asked = [
            theirs(tokens, attention_mask=row[None].long(), output_hidden_states=True)
            for row in valid
        ]
        return torch.cat([each.hidden_states[-2] for each in asked])

    @torch.no_grad()
    def ours() -> Tensor:
        return causal.hidden(tokens.expand(2, -1), valid, depth=config.depth - 1)

    engines = {PEER: peer, "float32": ours}
    grown, found = {}, {}
    for name, work in engines.items():

        def first(name: str = name, work: Callable[[], Tensor] = work) -> None:
            found[name] = work()[valid]

        grown[name] = growth(first)
    spans: dict[str, list[float]] = {name: [] for name in engines}
    for _, name in turns(list(engines), args.turns):
        spans[name].append(timed(engines[name])[0])
    shorter = unfilled(lambda: Gemma(replace(config, depth=config.depth - 1)))
    whole = 4 * sum(each.numel() for each in shorter.state_dict().values())
    return {
        "ratio": _spread(ratio(spans[PEER], spans["float32"])),
        "s": {name: median(each) for name, each in spans.items()},
        "weights": {
            PEER: held(model),
            "float32": whole,
            "int8": held(apply_empty(shorter, recipe("int8"))),
        },
        "work": grown | {"int8": grown["float32"]},
        "error": error(found["float32"], found[PEER]),
    }


def _transformers(model: Gemma) -> Any:
    """transformers' Gemma around the same tensors."""
    special = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    values = TheirConfig(**language_values(model.config, dtype="float32", special=special))
    network: Any = unfilled(lambda: GemmaModel(values))
    keys = language_keys(model.config)
    state = {keys.to_theirs(name): value for name, value in model.state_dict().items()}
    network.load_state_dict(state, strict=True, assign=True)
    network.rotary_emb = type(network.rotary_emb)(values)  # tables that are no tensors of a file
    network.embed_tokens.embed_scale = torch.tensor(values.hidden_size**0.5)
    return network.eval()


def peaks(steps: dict[str, Any], text: dict[str, Any]) -> dict[str, int]:
    """The most that is held: by diffusers all at once, by ours one part at a time."""
    found: dict[str, int] = {}
    for name in steps["weights"]:
        reading = text["weights"][name] + text["work"][name]
        painting = steps["weights"][name] + steps["work"][name]
        found[name] = max(reading, painting)
    together = steps["weights"][PEER] + text["weights"][PEER]
    found[PEER] = together + max(steps["work"][PEER], text["work"][PEER])
    return found


def _spread(spread: Spread) -> list[float]:
    return [spread.middle, spread.low, spread.high]


def table(steps: dict[str, Any], text: dict[str, Any], most: dict[str, int]) -> list[str]:
    """Lines of a Markdown table, the ratio first."""
    lines = ["| ratio | lowest-highest | what | diffusers | heliodor |", "|---|---|---|---|---|"]
    for name in FLOORS:
        middle, low, high = steps["ratio"][name]
        theirs, ours = steps["step_s"][PEER], steps["step_s"][name]
        lines.append(
            f"| {middle:.2f} | {low:.2f}-{high:.2f} | {name}, a step | {theirs:.3f} s | "
            f"{ours:.3f} s |"
        )
    middle, low, high = text["ratio"]
    lines.append(
        f"| {middle:.2f} | {low:.2f}-{high:.2f} | float32, prompts read | {text['s'][PEER]:.3f} s "
        f"| {text['s']['float32']:.3f} s |"
    )
    return lines + [
        f"| {most[PEER] / most[name]:.2f} | | {name}, peak memory | {most[PEER] // _MIB} MiB | "
        f"{most[name] // _MIB} MiB |"
        for name in FLOORS
    ]


def verdicts(steps: dict[str, Any], text: dict[str, Any]) -> list[tuple[str, bool]]:
    """Each floor, and whether it is kept."""
    found = [
        (f"{name} at least {floor} times: {steps['ratio'][name][0]:.2f}", steps["ratio"][name][0])
        for name, floor in FLOORS.items()
    ]
    said = [(words, value >= FLOORS[words.split()[0]]) for words, value in found]
    for what, part in (("latents", steps), ("features", text)):
        said.append(
            (f"{what} within {CLOSE:g} of theirs: {part['error']:.1e}", part["error"] <= CLOSE)
        )
    return said


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--layers", type=int, help="of both networks; all by default")
    parser.add_argument("--width", type=int, help="of a smaller transformer, to try the script")
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument("--tokens", type=int, default=40, help="of the prompt")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def shapes(args: argparse.Namespace) -> tuple[NextDiTConfig, GemmaConfig]:
    """The networks' shapes."""
    painter, gemma = NEXTDIT_2B_GQA, GEMMA_2B
    if args.layers is not None:
        painter = replace(painter, depth=args.layers)
        gemma = replace(gemma, depth=args.layers, vocab_size=4096)
    if args.width is not None:
        painter = replace(painter, width=args.width, num_heads=4, num_kv_heads=2, mlp_width=256)
        painter = replace(painter, caption_width=64)
        gemma = replace(gemma, width=64, head_dim=16, mlp_width=128)
    return painter, gemma


def main(argv: Sequence[str] | None = None) -> int:
    """Text encoders first, whose weights go before the transformers' are drawn."""
    warnings.simplefilter("ignore")
    args = parse(argv)
    torch.set_num_threads(args.threads)
    painter, gemma = shapes(args)
    machine = describe(args.threads)
    whole = args.layers is None and args.width is None
    what = f"{painter.depth} and {gemma.depth} layers, {args.size} pixels, {args.tokens} tokens"
    print(f"{line(machine)}; int8 by {engine()}\n{what}{'' if whole else ', a slice'}\n")
    text = encoding(gemma, args)
    gc.collect()
    steps = sampling(painter, args)
    most, said = peaks(steps, text), verdicts(steps, text)
    print("\n".join(table(steps, text, most)), "\n")
    for words, kept in said:
        print(f"{'pass' if kept else 'FAIL'}: {words}")
    print(f"one velocity off, of its size: {steps['off']}")
    told = {"machine": machine, "what": what, "whole": whole, "steps": steps, "text": text}
    print(json.dumps(told | {"peaks": most, "floors": dict(said)}))
    return int(not all(kept for _, kept in said))


if __name__ == "__main__":
    sys.exit(main())
