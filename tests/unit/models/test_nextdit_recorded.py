"""Next-DiT against values that the official code gave; see scripts/golden/record_lumina.py."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import tiny
from torch import Tensor

from heliodor.checkpoints.lumina import LAST, MODEL_TYPE, LuminaCheckpoint
from heliodor.models.nextdit import NextDiT

save_file = pytest.importorskip("safetensors.torch").save_file

CLOSE = 1e-5
CALLS = {"square": "grouped", "wide": "joint", "mixed": "grouped"}


@cache
def recorded() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[2] / "golden/lumina.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def part(name: str) -> dict[str, Tensor]:
    return {key[len(name) + 1 :]: v for key, v in recorded().items() if key.startswith(name + "/")}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NextDiT]:
    """Read from files with the names that the official code wrote; trained on 4 x 4 patches."""
    found: dict[str, NextDiT] = {}
    for name in ("grouped", "joint"):
        folder = tmp_path_factory.mktemp(name)
        save_file(part(f"{name}/params"), folder / LAST)
        checkpoint = LuminaCheckpoint(path=folder / LAST, source=name)
        values = asdict(replace(checkpoint.config(), sample_size=8))
        (folder / "config.json").write_text(json.dumps({"model_type": MODEL_TYPE, **values}))
        found[name] = checkpoint.load(dtype="float32")
    return found


def images(values: dict[str, Tensor], kind: str) -> list[Tensor]:
    return [values[f"{kind}/{i}"] for i in range(len(values["time"]))]


def test_the_shapes_were_found(networks: dict[str, NextDiT]) -> None:
    grouped, joint = networks["grouped"].config, networks["joint"].config
    assert (grouped.num_heads, grouped.num_kv_heads, grouped.mlp_width) == (4, 2, 96)
    assert (joint.num_kv_heads, joint.in_channels, joint.qk_norm, joint.depth) == (4, 16, False, 1)


@pytest.mark.parametrize("call", CALLS)
def test_the_velocity_is_the_recorded_one(call: str, networks: dict[str, NextDiT]) -> None:
    values, model = part(call), networks[CALLS[call]]
    latents = images(values, "image")
    uniform = len({each.shape for each in latents}) == 1
    canvas = model.canvas([(x.shape[1], x.shape[2]) for x in latents], proportional=False)
    with torch.no_grad():
        found = model(
            torch.stack(latents) if uniform else latents,
            values["time"],
            model.prepare(values["features"], values["mask"]),
            canvas,
        )
    for mine, theirs in zip(found, images(values, "velocity"), strict=True):
        assert tiny.relative_error(mine, theirs) <= CLOSE


@pytest.mark.parametrize("call", ["guided early", "guided late"])
def test_extrapolated_and_guided_it_is_the_recorded_one(
    call: str, networks: dict[str, NextDiT]
) -> None:
    """On each side of the watershed, with sharpened attention; three channels are guided."""
    values, model = part(call), networks["grouped"]
    with torch.no_grad():
        latents = torch.stack(images(values, "image"))
        read = model.prepare(values["features"], values["mask"])
        with_prompt, without = model(latents, values["time"], read)
    guided = without + 4.0 * (with_prompt - without)
    expected = images(values, "velocity")
    assert tiny.relative_error(guided[:3], expected[0][:3]) <= CLOSE
    assert tiny.relative_error(guided[:3], expected[1][:3]) <= CLOSE
    assert tiny.relative_error(with_prompt[3:], expected[0][3:]) <= CLOSE
    assert tiny.relative_error(without[3:], expected[1][3:]) <= CLOSE


def test_the_two_rules_of_extrapolation_differ() -> None:
    early, late = part("guided early")["velocity/0"], part("guided late")["velocity/0"]
    assert tiny.relative_error(early, late) > 0.01
