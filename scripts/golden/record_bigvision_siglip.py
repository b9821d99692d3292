"""Record what big_vision makes of small random SigLIP pairs.

    git clone https://github.com/google-research/big_vision    # 0127fb6 was used
    python scripts/golden/record_bigvision_siglip.py big_vision

Needs what record_bigvision.py needs. Nothing of big_vision is kept but numbers.

Writes tests/golden/bigvision_siglip.npz. For each of ``CASES`` as CASE:

    CASE/params/...          the weights, float16, named as in the npz that big_vision itself read
    CASE/image [B S S 3]     pixels in -1..1; S is no multiple of the patch
    CASE/text [C T]          tokens, filled up at the end
    CASE/images, CASE/texts  [B D], [C D] embeddings, ``img/normalized`` and ``txt/normalized``
    CASE/logits [B C]        from ``t`` and ``b`` as in ``trainers/proj/image_text/siglip.py``
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from record_bigvision import importable, random_weights

TARGET = Path(__file__).parents[2] / "tests/golden/bigvision_siglip.npz"
IMAGE = {"width": 16, "depth": 1, "mlp_dim": 20, "num_heads": 2, "patch_size": (4, 4)}
TEXT = {"width": 16, "depth": 2, "mlp_dim": 20, "num_heads": 4, "vocab_size": 24}
SIZE, LENGTH = 18, 6
CASES: dict[str, dict[str, Any]] = {
    "single": {"image": IMAGE, "text": TEXT},
    "stacked": {
        "image": {**IMAGE, "depth": 2, "scan": True},
        "text": {**TEXT, "depth": 3, "width": 12, "num_heads": 3, "scan": True},
    },
    "twice": {"image": IMAGE, "text": {**TEXT, "depth": 1}},
}
"""Towers: SigLIP's, one array for each layer; SigLIP 2's, with a narrower text tower, as in g-opt;
those of old files, whose text positions are the sum of two arrays."""
SECOND = "txt/Encoder_0/pos_embedding"


def record(name: str, two_towers: Any, seed: int) -> dict[str, Any]:
    """One case: weights through big_vision's own loader, then both towers."""
    import flax  # noqa: PLC0415
    import jax  # noqa: PLC0415
    import ml_collections  # noqa: PLC0415

    case = CASES[name]
    config = ml_collections.ConfigDict(
        {
            "image": {**case["image"], "pool_type": "map"},
            "text": case["text"],
            "out_dim": (None, IMAGE["width"]),
            "bias_init": -10.0,
        }
    )
    model = two_towers.Model(**ml_collections.FrozenConfigDict(config))
    random = np.random.default_rng(seed)
    image = random.uniform(-1, 1, (2, SIZE, SIZE, 3)).astype(np.float32)
    text = random.integers(2, TEXT["vocab_size"], (3, LENGTH)).astype(np.int32)
    text[np.arange(LENGTH) >= np.array([3, 5, LENGTH])[:, None]] = 1

    shapes = jax.eval_shape(model.init, jax.random.key(0), image, text)["params"]
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    wanted = {key: flat[key].shape for key in sorted(flat)}
    if name == "twice":
        wanted[SECOND] = wanted["txt/pos_embedding"]
    weights = random_weights(wanted, seed)
    weights["t"] += np.float16(2)  # so that cosines tell
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/{name}.npz"
        wide = {f"params/{key}": value.astype(np.float32) for key, value in weights.items()}
        np.savez(path, allow_pickle=False, **wide)
        params = two_towers.load(None, path, config)

    images, texts, out = model.apply({"params": params}, image, text)
    return {
        **{f"params/{key}": value for key, value in weights.items()},
        "image": image,
        "text": text,
        "images": np.asarray(images),
        "texts": np.asarray(texts),
        "logits": np.asarray(images @ texts.T * out["t"] + out["b"]),
    }


def main() -> int:
    """Run big_vision and write the file."""
    parser = argparse.ArgumentParser(description="Record big_vision's numbers.")
    parser.add_argument("checkout", type=Path, help="a checkout of google-research/big_vision")
    with importable(parser.parse_args().checkout):
        two_towers = importlib.import_module("big_vision.models.proj.image_text.two_towers")
        for late in ("vit", "proj.image_text.text_transformer"):
            importlib.import_module(f"big_vision.models.{late}")
    arrays: dict[str, Any] = {}
    for seed, name in enumerate(CASES):
        for key, value in record(name, two_towers, seed).items():
            arrays[f"{name}/{key}"] = value
        print(f"{name}: {arrays[f'{name}/logits'].round(3).tolist()}")
    np.savez_compressed(TARGET, allow_pickle=False, **arrays)
    print(f"{TARGET.name}: {len(arrays)} arrays, {TARGET.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
