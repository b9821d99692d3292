"""The whole way from a prompt to latents and pixels against diffusers' LuminaPipeline."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.paint.small import write_folder
from torch import Tensor

import heliodor
from heliodor.paint import DIFFUSERS, Painter

pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

PROMPT = "a red apple left of a blue car"
NEGATIVE = "a cat"
CLOSE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("painter"))


@pytest.fixture(scope="module")
def ours(folder: Path) -> Painter:
    return heliodor.load_painter(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return pipeline(folder)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """diffusers and transformers warn of their own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def pipeline(folder: Path) -> Any:
    from diffusers.pipelines.lumina.pipeline_lumina import LuminaPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = LuminaPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def noise(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 4, height // 8, width // 8, generator=torch.manual_seed(11))


def worst(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("size", [(128, 128), (160, 96), (64, 240), (208, 176)])
@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_latents_are_diffusers(ours, theirs, size, guidance):
    start = noise(1, size[1], size[0])
    wanted = theirs(
        PROMPT,
        negative_prompt=NEGATIVE,
        width=size[0],
        height=size[1],
        num_inference_steps=6,
        guidance_scale=guidance,
        latents=start.clone(),
        output_type="latent",
    ).images
    found = ours.paint(
        PROMPT,
        negative=NEGATIVE,
        size=size,
        steps=6,
        guidance=guidance,
        latents=start,
        output="latents",
        **DIFFUSERS,
    )
    assert worst(found, wanted) <= CLOSE


def test_a_batch_of_prompts_is_diffusers(ours, theirs):
    prompts = [PROMPT, "a dog", "an unusually long description of a small green house"]
    start = noise(3, 96, 128)
    options: dict[str, Any] = {"width": 128, "height": 96, "num_inference_steps": 4}
    wanted = theirs(prompts, latents=start.clone(), output_type="latent", **options).images
    found = ours.paint(
        prompts, size=(128, 96), steps=4, latents=start, output="latents", **DIFFUSERS
    )
    assert worst(found, wanted) <= CLOSE


def test_the_watershed_is_diffusers_where_it_is_told_so(ours, theirs):
    start = noise(1, 192, 192)
    wanted = theirs(
        PROMPT,
        width=192,
        height=192,
        num_inference_steps=8,
        scaling_watershed=0.3,
        proportional_attn=False,
        latents=start.clone(),
        output_type="latent",
    ).images
    found = ours.paint(
        PROMPT,
        size=(192, 192),
        steps=8,
        solver="euler",
        grid="diffusers",
        proportional=False,  # "released" is that watershed, and the picture is larger than trained
        latents=start,
        output="latents",
    )
    assert worst(found, wanted) <= CLOSE


def test_the_official_grid_can_be_had_in_diffusers(ours, folder):
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    shifted = pipeline(folder)
    shifted.scheduler = FlowMatchEulerDiscreteScheduler(shift=4.0)
    start = noise(1, 128, 128)
    wanted = shifted(
        PROMPT,
        width=128,
        height=128,
        sigmas=np.linspace(1, 0, 9)[:-1].tolist(),
        latents=start.clone(),
        output_type="latent",
    ).images
    found = ours.paint(
        PROMPT, size=(128, 128), steps=9, solver="euler", latents=start, output="latents"
    )
    assert worst(found, wanted) <= CLOSE


def test_pixels_are_diffusers(ours, theirs):
    start = noise(1, 96, 128)
    options: dict[str, Any] = {"width": 128, "height": 96, "num_inference_steps": 4}
    wanted = np.asarray(theirs(PROMPT, latents=start.clone(), **options).images[0], np.int16)
    found = ours.paint(PROMPT, size=(128, 96), steps=4, latents=start, **DIFFUSERS)
    assert np.abs(np.asarray(found.image, np.int16) - wanted).max() <= 1
    assert wanted.std() > 10  # a picture of one grey would hide a difference


def test_what_we_save_diffusers_paints(ours, tmp_path):
    ours.save(tmp_path / "saved")
    again = pipeline(tmp_path / "saved")
    start = noise(1, 128, 128)
    wanted = np.asarray(
        again(PROMPT, width=128, height=128, num_inference_steps=4, latents=start.clone()).images[
            0
        ],
        np.int16,
    )
    found = ours.paint(PROMPT, size=(128, 128), steps=4, latents=start, **DIFFUSERS)
    assert np.abs(np.asarray(found.image, np.int16) - wanted).max() <= 2
