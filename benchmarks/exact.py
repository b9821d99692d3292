"""Float weights: time to the first token and for a step, beside transformers on the same tensors.

    python benchmarks/exact.py                        # PaliGemma 3B, float32 and bfloat16
    python benchmarks/exact.py --layers 3 --towers 3  # a slice of it, in a minute

Both networks use one copy of the weights, which are random. They take turns in one process, each
turn in another order; a ratio is taken within a turn, and its median stands first, above one where
ours is faster. Before any timing, the logits of all passes are compared: in float32 with
transformers, in bfloat16 with our float32 network on the same rounded weights (a slice only; the
whole one would need three copies).

The last part keeps the keys and values of a 896-pixel prefix in 8 bits and says what that saves,
what it costs, and how far the logits move.

Prints a table and one JSON line; exits 1 if an exact mode is off by more than 1e-5.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from heliodor.bench.engines import Inputs, Ours, find_peers, load_peer
from heliodor.bench.machine import describe, line
from heliodor.bench.networks import FLOATS
from heliodor.bench.sizes import SIZES, Size
from heliodor.bench.timing import Spread, median, ratio, timed, turns
from heliodor.bench.weights import random_model
from heliodor.checkpoints.config import config_values
from heliodor.checkpoints.keymap import TRANSFORMERS_5, paligemma_keys
from heliodor.models.paligemma import PaliGemma
from heliodor.nn.cache import Kept, KVCache
from heliodor.quant.stored import accelerate

LIMIT = 1e-5
SPECIAL = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
PREFIX_896 = 4096 + 12


def sliced(size: Size, layers: int | None, towers: int | None) -> Size:
    """The same shapes with fewer layers in the decoder and in the image tower."""
    config = size.config
    language = replace(config.language, depth=layers or config.language.depth)
    vision = replace(config.vision, depth=towers or config.vision.depth)
    return replace(size, config=replace(config, language=language, vision=vision))


def theirs(model: PaliGemma, dtype: str) -> Any:
    """transformers' network around the same tensors."""
    config = model.config
    values = config_values(config, image_token=config.num_predicted, special=SPECIAL, dtype=dtype)
    keys = paligemma_keys(config)
    state = {keys.to_theirs(name, TRANSFORMERS_5): t for name, t in model.state_dict().items()}
    return load_peer(find_peers(None), "transformers").build(values, state, FLOATS[dtype])


def one_pass(engine: Any, inputs: Inputs) -> tuple[float, float, Tensor]:
    """Seconds to the first token, seconds of a step (median), and all logits [1+steps V]."""
    first, (logits, state) = timed(lambda: engine.first(inputs.pixels, inputs.tokens))
    spans, heard = [], [logits]
    for token in inputs.following:
        span, (logits, state) = timed(lambda t=token, s=state: engine.step(t, s))
        spans.append(span)
        heard.append(logits)
    return first, median(spans), torch.stack(heard).float()


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    return float((found - expected).abs().max() / expected.abs().max())


def beside_transformers(size: Size, dtype: str, args: argparse.Namespace) -> dict[str, Any]:
    """One type of weights: errors, then the two engines in turns."""
    model = random_model(size.config, dtype=FLOATS[dtype], seed=args.seed)
    engines = [Ours("heliodor", model), theirs(model, dtype)]
    inputs = Inputs.draw(size, args.steps, args.seed)
    heard = {engine.name: one_pass(engine, inputs)[2] for engine in engines}
    part: dict[str, Any] = {"apart": relative(heard["heliodor"], heard["transformers"])}
    if dtype == "float32":
        part["error"] = part["apart"]
    elif args.layers:
        wide = Ours("float32", copy.deepcopy(model).float())
        part["error"] = relative(heard["heliodor"], one_pass(wide, inputs)[2])
        del wide
    samples: dict[str, list[tuple[float, float]]] = {engine.name: [] for engine in engines}
    for _, engine in turns(engines, args.turns):
        samples[engine.name].append(one_pass(engine, inputs)[:2])
    for place, what in enumerate(("first token", "step")):
        mine, other = ([s[place] for s in samples[e.name]] for e in engines)
        part[what] = {
            "ratio": _spread(ratio(other, mine)),
            "heliodor_s": median(mine),
            "transformers_s": median(other),
        }
    return part


@torch.no_grad()
def long_prefix(size: Size, args: argparse.Namespace) -> dict[str, Any]:
    """Keys and values of a 896-pixel prefix, as they come and in 8 bits."""
    language = random_model(size.config, seed=args.seed).language
    x = torch.randn(
        1, PREFIX_896, size.config.language.width, generator=torch.manual_seed(args.seed)
    )
    valid = torch.ones(1, PREFIX_896, dtype=torch.bool)
    caches: dict[Kept, KVCache] = {}
    for kv in ("float", "int8"):
        caches[kv] = KVCache(valid, room=args.steps, kv=kv)
        language(x, valid.cumsum(-1) - 1, None, caches[kv], keep=1)
    spans: dict[Kept, list[float]] = {"float": [], "int8": []}
    error = 0.0
    for token in Inputs.draw(size, args.steps, args.seed).following:
        said: dict[Kept, Tensor] = {}
        for kv, cache in caches.items():
            embedded = language.embed(torch.tensor([[token]]))
            positions = cache.begin_step()
            span, hidden = timed(lambda e=embedded, p=positions, c=cache: language(e, p, c.mask, c))
            spans[kv].append(span)
            said[kv] = language.logits(hidden[0, 0])
        error = max(error, relative(said["int8"], said["float"]))
    return {
        "bytes_ratio": caches["float"].nbytes / caches["int8"].nbytes,
        "bytes": {kv: cache.nbytes for kv, cache in caches.items()},
        "step_ratio": _spread(ratio(spans["float"], spans["int8"])),
        "step_s": {kv: median(each) for kv, each in spans.items()},
        "logits_apart": error,
    }


def _spread(spread: Spread) -> list[float]:
    return [spread.middle, spread.low, spread.high]


def table(parts: dict[str, Any]) -> list[str]:
    """Lines of a Markdown table, the ratio first."""
    lines = [
        "| ratio | lowest-highest | what | transformers s | heliodor s |",
        "|---|---|---|---|---|",
    ]
    for dtype in FLOATS:
        for what in ("first token", "step"):
            if dtype in parts:
                row = parts[dtype][what]
                middle, low, high = row["ratio"]
                lines.append(
                    f"| {middle:.2f} | {low:.2f}-{high:.2f} | {dtype}, {what} | "
                    f"{row['transformers_s']:.3f} | {row['heliodor_s']:.3f} |"
                )
    for dtype in FLOATS:
        for key, words in (("error", "error"), ("apart", "apart from transformers")):
            if key in parts.get(dtype, {}):
                lines.append(f"| | | {dtype}, {words} | | {parts[dtype][key]:.1e} |")
    if "kv" in parts:
        kv = parts["kv"]
        middle, low, high = kv["step_ratio"]
        lines += [
            f"| {kv['bytes_ratio']:.2f} | | int8 keys and values at 896 px: bytes | | |",
            f"| {middle:.2f} | {low:.2f}-{high:.2f} | the same: step | | |",
            f"| | | the same: logits apart | | {kv['logits_apart']:.1e} |",
        ]
    return lines


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="3b-224")
    parser.add_argument("--layers", type=int, help="of the decoder; all by default")
    parser.add_argument("--towers", type=int, help="layers of the image tower; all by default")
    parser.add_argument("--parts", nargs="+", default=[*FLOATS, "kv"], choices=[*FLOATS, "kv"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts one after another, each with its own weights."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    size = sliced(SIZES[args.size], args.layers, args.towers)
    machine = describe(args.threads)
    native = accelerate()
    depth = f"{size.config.language.depth} and {size.config.vision.depth} layers"
    print(f"{line(machine)}\n{args.size}, {depth}, native products of bfloat16: {native}\n")
    parts: dict[str, Any] = {}
    for part in args.parts:
        parts[part] = (
            long_prefix(size, args) if part == "kv" else beside_transformers(size, part, args)
        )
    print("\n".join(table(parts)))
    print(json.dumps({"machine": machine, "size": args.size, "depth": depth, **parts}))
    errors = [parts[part]["error"] for part in parts if "error" in parts[part]]
    return int(max(errors, default=0.0) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
