"""Shapes told without torch are those of the networks, and of what is written to npz files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny

from heliodor.checkpoints import bigvision
from heliodor.checkpoints.blueprint import unfilled
from heliodor.checkpoints.expected import network_shapes, unusable
from heliodor.checkpoints.npz_sizes import npz_sizes
from heliodor.checkpoints.siglip_npz import save_pair_npz
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.models.pair import SiglipPair, SiglipPairConfig, SiglipTextConfig
from heliodor.models.paligemma import PaliGemma
from heliodor.models.presets import PUBLISHED

NPZ_LANGUAGE = replace(tiny.LANGUAGE, norm_eps=1e-6, rope_base=10000.0)
NPZ_SECOND = replace(NPZ_LANGUAGE, sandwich=True, attention_cap=50.0, final_cap=30.0, window=4096)


def shapes_of(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@pytest.mark.parametrize("name", ["google/paligemma-3b-pt-448", "google/paligemma2-10b-pt-896"])
def test_a_published_paligemma(name: str) -> None:
    config = PUBLISHED[name]
    parts = {"vision": asdict(config.vision), "language": asdict(config.language)}
    found = network_shapes("paligemma", parts, sandwich=config.language.sandwich)
    assert found == shapes_of(unfilled(lambda: PaliGemma(config)))


@pytest.mark.parametrize("config", [tiny.LANGUAGE, tiny.LANGUAGE2, GemmaConfig(depth=2)])
def test_a_gemma(config: GemmaConfig) -> None:
    found = network_shapes("gemma", {"language": asdict(config)}, sandwich=config.sandwich)
    assert found == shapes_of(unfilled(lambda: Gemma(config)))


@pytest.mark.parametrize(
    "text", [tiny.TEXT, replace(tiny.TEXT, width=16, out_width=tiny.VISION.width)]
)
def test_a_pair(text: SiglipTextConfig) -> None:
    config = SiglipPairConfig(vision=tiny.VISION, text=text)
    parts = {"vision": asdict(config.vision), "text": asdict(config.text)}
    found = network_shapes("siglip", parts, sandwich=False)
    assert found == shapes_of(unfilled(lambda: SiglipPair(config)))


@pytest.mark.parametrize("value", [None, "8", 0, -1, True, 1.5, 2**40])
def test_what_is_no_size_is_named(value: Any) -> None:
    parts = {"language": asdict(tiny.LANGUAGE) | {"mlp_width": value}}
    assert unusable("gemma", parts) == ["language.mlp_width"]
    assert network_shapes("gemma", parts, sandwich=False) == {}
    assert unusable("gemma", {"language": asdict(tiny.LANGUAGE) | {"depth": 2000}}) == [
        "language.depth"
    ]


def stored(path: Path) -> dict[str, tuple[int, ...]]:
    with np.load(path) as arrays:
        return {name.removeprefix("params/"): arrays[name].shape for name in arrays.files}


@pytest.mark.parametrize(
    "language", [NPZ_LANGUAGE, NPZ_SECOND, replace(NPZ_LANGUAGE, num_heads=2, num_kv_heads=2)]
)
def test_an_npz_of_a_paligemma(tmp_path: Path, language: GemmaConfig) -> None:
    model = tiny.paligemma(language=language, image_token=None)
    bigvision.save(model, tmp_path / "x.npz")
    shapes = stored(tmp_path / "x.npz")
    sizes = npz_sizes(shapes, "paligemma")
    assert sizes.arrays == shapes
    for part, config in (("vision", tiny.VISION), ("language", language)):
        values = asdict(config)
        assert sizes.parts[part] == {name: values[name] for name in sizes.parts[part]}


@pytest.mark.parametrize("stacked", [("img/Transformer/encoderblock", "_"), ("llm/layers", "/")])
def test_layers_one_by_one(tmp_path: Path, stacked: tuple[str, str]) -> None:
    bigvision.save(tiny.paligemma(language=NPZ_LANGUAGE, image_token=None), tmp_path / "x.npz")
    start, mark = stacked
    single: dict[str, tuple[int, ...]] = {}
    for name, shape in stored(tmp_path / "x.npz").items():
        if name.startswith(f"{start}/"):
            rest = name.removeprefix(f"{start}/")
            single |= {f"{start}{mark}{i}/{rest}": shape[1:] for i in range(shape[0])}
        else:
            single[name] = shape
    sizes = npz_sizes(single, "paligemma")
    assert sizes.arrays == single
    assert sizes.parts == npz_sizes(stored(tmp_path / "x.npz"), "paligemma").parts


def test_an_npz_of_a_pair(tmp_path: Path) -> None:
    save_pair_npz(tiny.pair(), tmp_path / "x.npz")
    shapes = stored(tmp_path / "x.npz")
    sizes = npz_sizes(shapes, "siglip")
    assert sizes.arrays == shapes
    assert sizes.parts["text"] == {
        name: value
        for name, value in (asdict(tiny.TEXT) | {"out_width": 24}).items()
        if name != "norm_eps"
    }
    assert sizes.parts["vision"]["image_size"] == 32


def test_pictures_of_384_pixels_are_known_by_their_patches(tmp_path: Path) -> None:
    vision = replace(tiny.VISION, image_size=384, patch_size=14, depth=1)
    save_pair_npz(tiny.pair(vision), tmp_path / "x.npz")
    sizes = npz_sizes(stored(tmp_path / "x.npz"), "siglip")
    assert sizes.parts["vision"]["image_size"] == 384
    assert sizes.arrays["img/pos_embedding"] == (1, 729, 24)


def test_what_tells_a_size_and_is_not_there_is_named(tmp_path: Path) -> None:
    bigvision.save(tiny.paligemma(language=NPZ_LANGUAGE, image_token=None), tmp_path / "x.npz")
    shapes = stored(tmp_path / "x.npz")
    del shapes["llm/layers/mlp/linear"]
    shapes["img/pos_embedding"] = (16, 24)
    sizes = npz_sizes(shapes, "paligemma")
    assert sizes.missing == ["llm/layers/mlp/linear"]
    assert sizes.broken == ["img/pos_embedding is [16, 24], expected 3 axes, none empty"]
    assert sizes.arrays == {}


def test_no_torch_is_loaded() -> None:
    code = (
        "import sys; import heliodor.checkpoints.npz_sizes, heliodor.checkpoints.survey;"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
