"""Embeddings and logits of big_vision's own code: scripts/golden/record_bigvision_siglip.py.

Three pairs: SigLIP's layout, one array for each layer ("single"); SigLIP 2's, stacked, with a
narrower text tower ("stacked"); an old file whose text positions are in two arrays ("twice").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import relative_error

from heliodor.checkpoints.bigvision_arrays import write_arrays
from heliodor.checkpoints.bigvision_layout import Stacking
from heliodor.checkpoints.siglip_npz import SiglipNpzCheckpoint, pair_arrays
from heliodor.models.pair import SiglipPair

GOLDEN = Path(__file__).parents[2] / "golden/bigvision_siglip.npz"
CASES = ("single", "stacked", "twice")
CLOSE = 1e-5
SECOND = "params/txt/Encoder_0/pos_embedding"


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    with np.load(GOLDEN) as file:
        start = f"{request.param}/"
        arrays = {n.removeprefix(start): file[n] for n in file.files if n.startswith(start)}
    return request.param, arrays


def weights(arrays: dict[str, Any]) -> dict[str, Any]:
    return {n: a.astype(np.float32) for n, a in arrays.items() if n.startswith("params/")}


@pytest.fixture(scope="module")
def checkpoint(
    case: tuple[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> SiglipNpzCheckpoint:
    path = tmp_path_factory.mktemp("siglip") / "x.npz"
    np.savez(path, allow_pickle=False, **weights(case[1]))
    return SiglipNpzCheckpoint(path=path, source="")


@torch.no_grad()
def outputs(model: SiglipPair, arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    pixels = torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2)
    tokens = torch.from_numpy(arrays["text"]).long()
    return {
        "images": model.embed_images(pixels),
        "texts": model.embed_texts(tokens),
        "logits": model(pixels, tokens),
    }


def test_the_configuration_is_found_from_the_shapes(
    case: Any, checkpoint: SiglipNpzCheckpoint
) -> None:
    name, _ = case
    vision, text = checkpoint.config().vision, checkpoint.config().text
    assert (vision.image_size, vision.patch_size, vision.width) == (16, 4, 16)
    assert (vision.num_heads, vision.mlp_width) == (2, 20)
    assert (text.vocab_size, text.length, text.mlp_width) == (24, 6, 20)
    depths = {"single": (1, 2), "stacked": (2, 3), "twice": (1, 1)}
    assert (vision.depth, text.depth) == depths[name]
    narrow = {"stacked": (12, 3, 16)}
    assert (text.width, text.num_heads, text.out_width) == narrow.get(name, (16, 4, None))


@pytest.mark.parametrize("what", ["images", "texts", "logits"])
def test_embeddings_and_logits(case: Any, checkpoint: SiglipNpzCheckpoint, what: str) -> None:
    _, arrays = case
    found = outputs(checkpoint.load(), arrays)[what]
    assert relative_error(found, torch.from_numpy(arrays[what])) < CLOSE


def test_saving_gives_back_what_big_vision_read(
    case: Any, checkpoint: SiglipNpzCheckpoint, tmp_path: Path
) -> None:
    name, arrays = case
    model, stacked = checkpoint.load(), name == "stacked"
    layout = pair_arrays(model.config, Stacking(vision=stacked, language=stacked))
    write_arrays(layout, model.state_dict(), tmp_path / "y.npz", dtype=None)
    expected = weights(arrays)
    if name == "twice":
        expected["params/txt/pos_embedding"] += expected.pop(SECOND)
    with np.load(tmp_path / "y.npz") as file:
        assert set(file.files) == expected.keys()
        for key in file.files:
            np.testing.assert_array_equal(file[key], expected[key])


@pytest.mark.parametrize("change", ["turned heads", "keys for values", "norms", "scale", "padding"])
def test_the_recorded_logits_notice_a_wrong_reading(
    case: Any, checkpoint: SiglipNpzCheckpoint, change: str
) -> None:
    """What the most likely mistakes would do to logits is far beyond the tolerance."""
    _, arrays = case
    model, arrays = checkpoint.load(dtype="float32"), dict(arrays)
    pool, block = model.pool, model.text.blocks[-1]
    with torch.no_grad():
        if change == "turned heads":
            heads = pool.q.weight.view(pool.num_heads, -1, 16)
            pool.q.weight.copy_(heads.transpose(0, 1).reshape(-1, 16).clone())
        elif change == "keys for values":
            pool.k.weight, pool.v.weight = pool.v.weight, pool.k.weight
        elif change == "norms":
            block.norm1, block.norm2 = block.norm2, block.norm1
        elif change == "scale":
            model.logit_scale.copy_(model.logit_scale + 0.01)
        else:
            arrays["text"] = np.where(arrays["text"] == 1, 0, arrays["text"])
    found = outputs(model, arrays)["logits"]
    assert relative_error(found, torch.from_numpy(arrays["logits"])) > 100 * CLOSE
