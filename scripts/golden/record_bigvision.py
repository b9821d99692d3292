"""Record what big_vision makes of small random PaliGemmas.

    git clone https://github.com/google-research/big_vision    # 0127fb6 was used
    python scripts/golden/record_bigvision.py big_vision

Needs jax, flax, einops, ml_collections, orbax-checkpoint and scipy (jax 0.10.2, flax 0.12.8 were
used), which no test needs; TensorFlow, with which big_vision opens remote files alone, is replaced
by an empty module where it is missing. Nothing of big_vision is kept but numbers.

Writes tests/golden/bigvision.npz. For each of ``CASES`` as CASE:

    CASE/params/...          the weights, float16, named as in the npz that big_vision itself read
    CASE/image [B S S 3]     pixels in -1..1
    CASE/text [B T]          prompt and answer, padded at the end with 0
    CASE/prompt, CASE/length [B]  tokens of the prompt, and of both
    CASE/logits [B T V]      of the training forward, ``text_logits``
    CASE/tokens [B L]        written by ``decode`` with the greedy sampler, from the prompt alone
    CASE/steps [B L V]       the logits from which each was chosen: prefill, then ``extend_cache``
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TARGET = Path(__file__).parents[2] / "tests/golden/bigvision.npz"
VISION = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "patch_size": (4, 4)}
SIZE, VOCAB, LENGTH, STEPS = 16, 48, 8, 6
GEMMA_2 = {"post_norms": True, "attn_logits_softcap": 50.0, "final_logits_softcap": 30.0}
DECODER = {
    "width": 32,
    "depth": 2,
    "mlp_dim": 40,
    "num_heads": 4,
    "num_kv_heads": 1,
    "head_dim": 8,
    "norm_eps": 1e-6,
    "vocab_size": VOCAB,
    "scan": True,
    "remat_policy": "nothing_saveable",
}
CASES: dict[str, dict[str, Any]] = {
    "first": DECODER,
    "joint": {**DECODER, "depth": 1, "num_heads": 2, "num_kv_heads": 2},
    "second": {**DECODER, **GEMMA_2, "depth": 3, "num_kv_heads": 2},
    "wide": {
        **DECODER,
        **GEMMA_2,
        "depth": 1,
        "num_heads": 2,
        "head_dim": 128,
        "query_pre_attn_norm": "rsqrt_emb_per_head",
    },
}
"""Decoders: Gemma 1; as many key-value heads as query heads; Gemma 2; Gemma 2 as the 27B has it."""


@contextlib.contextmanager
def importable(checkout: Path) -> Iterator[None]:
    """Within it big_vision can be imported, with or without TensorFlow."""
    import flax.training.checkpoints  # noqa: F401, PLC0415 - it looks for TensorFlow as well
    import orbax.checkpoint  # noqa: F401, PLC0415

    sys.path.insert(0, str(checkout))
    absent = importlib.util.find_spec("tensorflow") is None
    empty = ("tensorflow", "tensorflow.io", "tensorflow.io.gfile") if absent else ()
    sys.modules |= {name: types.ModuleType(name) for name in empty}
    for whole, _, part in (name.rpartition(".") for name in empty[1:]):
        setattr(sys.modules[whole], part, sys.modules[f"{whole}.{part}"])
    yield
    for name in empty:  # einops takes a module of this name for the real one
        del sys.modules[name]


def big_vision(checkout: Path) -> tuple[Any, Any, Any]:
    """Its modules: the model, the decoder's configurations, the prediction functions."""
    with importable(checkout):
        from big_vision.models.ppp import gemma  # noqa: PLC0415
        from big_vision.models.proj.paligemma import paligemma  # noqa: PLC0415
        from big_vision.trainers.proj.paligemma import predict_fns  # noqa: PLC0415

        importlib.import_module("big_vision.models.proj.paligemma.gemma_bv")  # it is imported late
        importlib.import_module("big_vision.models.vit")
    return paligemma, gemma, predict_fns


FAN_IN: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("q_einsum/w", (-2,)),
    ("kv_einsum/w", (-2,)),
    ("attn_vec_einsum/w", (-3, -2)),
    ("gating_einsum", (-2,)),
    ("mlp/linear", (-2,)),
    ("out/kernel", (-3, -2)),
    ("query/kernel", (-3,)),
    ("key/kernel", (-3,)),
    ("value/kernel", (-3,)),
    ("img/embedding/kernel", (0, 1, 2)),
    ("kernel", (-2,)),
    ("pos_embedding", (0,)),
)
"""Axes over which an array is summed, by the first ending that fits."""
SIZES = (
    ("qkv_einsum/w", 3.0),
    ("q_einsum/w", 3.0),
    ("scale", 0.3),
    ("bias", 0.3),
    ("input_embedding", 0.05),
)
"""Spread around the centre, 1 by default; queries are large, so that caps bend their scores."""
CENTRES = (
    ("llm/final_norm/scale", 30.0),
    ("LayerNorm_0/scale", 1.0),
    ("LayerNorm_1/scale", 1.0),
    ("encoder_norm/scale", 1.0),
)
"""The table is small and the last norm large, so that decoding does not repeat the last token."""


def first_ending(name: str, rules: Any, default: Any) -> Any:
    """What the first rule says whose ending the name has."""
    return next((value for ending, value in rules if name.endswith(ending)), default)


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Any]:
    """float16 numbers of such a size that every branch matters, norms and biases too."""
    random = np.random.default_rng(seed)
    weights: dict[str, Any] = {}
    for name, shape in shapes.items():
        summed = np.prod([shape[axis] for axis in first_ending(name, FAN_IN, ())])
        size = first_ending(name, SIZES, 1.0) * summed**-0.5
        centre = first_ending(name, CENTRES, 0.0)
        weights[name] = (centre + size * random.standard_normal(shape)).astype(np.float16)
    return weights


def record(name: str, modules: tuple[Any, Any, Any], seed: int) -> dict[str, Any]:
    """One case: weights through big_vision's own loader, then forward and decoding."""
    import flax  # noqa: PLC0415
    import jax  # noqa: PLC0415
    import ml_collections  # noqa: PLC0415

    paligemma, gemma, predict_fns = modules
    gemma.get_config = lambda variant: ml_collections.ConfigDict(
        {"variant": variant, **CASES[variant]}
    )
    config = ml_collections.ConfigDict(
        {
            "img": {**VISION, "pool_type": "none", "scan": True},
            "llm": {"variant": name, "vocab_size": VOCAB, "cache_dtype": None},
        }
    )
    model = paligemma.Model(**ml_collections.FrozenConfigDict(config))
    random = np.random.default_rng(seed)
    image = random.uniform(-1, 1, (2, SIZE, SIZE, 3)).astype(np.float32)
    prompt, length = np.array([3, 5]), np.array([LENGTH, LENGTH - 1])
    text = random.integers(4, VOCAB, (2, LENGTH)).astype(np.int32)
    text[np.arange(LENGTH) >= length[:, None]] = 0
    causal = (np.arange(LENGTH) >= prompt[:, None]).astype(np.int32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), image, text, causal)["params"]
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    weights = random_weights({key: flat[key].shape for key in sorted(flat)}, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/{name}.npz"
        wide = {f"params/{key}": value.astype(np.float32) for key, value in weights.items()}
        np.savez(path, allow_pickle=False, **wide)
        params = paligemma.load(None, path, config)

    state = {"params": params}
    logits, _ = model.apply(state, image, text, causal)
    asked = np.arange(LENGTH) < prompt[:, None]
    batch = {
        "image": image,
        "text": np.where(asked, text, 0),
        "mask_input": asked,
        "mask_ar": np.zeros_like(text),
        "_mask": np.ones(2, bool),
    }
    tokens = predict_fns.get_all(model)["decode"](
        state, batch, devices=jax.devices(), max_decode_len=STEPS, eos_token=-1, sampler="greedy"
    )
    step, cache = predict_fns._prefill_cache(params, batch, model=model, max_decode_len=STEPS)
    steps = [step]
    for index in range(STEPS - 1):
        step, cache = predict_fns._extend_cache(
            params, cache, tokens[:, index : index + 1], model=model
        )
        steps.append(step)
    return {
        **{f"params/{key}": value for key, value in weights.items()},
        "image": image,
        "text": text,
        "prompt": prompt,
        "length": length,
        "logits": np.asarray(logits),
        "tokens": np.asarray(tokens),
        "steps": np.concatenate(steps, axis=1),
    }


def main() -> int:
    """Run big_vision and write the file."""
    parser = argparse.ArgumentParser(description="Record big_vision's numbers.")
    parser.add_argument("checkout", type=Path, help="a checkout of google-research/big_vision")
    modules = big_vision(parser.parse_args().checkout)
    arrays: dict[str, Any] = {}
    for seed, name in enumerate(CASES):
        for key, value in record(name, modules, seed).items():
            arrays[f"{name}/{key}"] = value
    np.savez_compressed(TARGET, allow_pickle=False, **arrays)
    for name in CASES:
        logits, steps = arrays[f"{name}/logits"], arrays[f"{name}/steps"]
        print(f"{name}: up to {abs(logits).max():.1f}, steps {abs(steps).max((0, 2)).round(1)}")
        print(arrays[f"{name}/tokens"].tolist())
    print(f"{TARGET.name}: {len(arrays)} arrays, {TARGET.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
