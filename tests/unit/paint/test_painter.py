"""The painter as one calls it, on small networks: batches, seeds, progress, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.paint.small import autoencoder, painter
from torch import Tensor

from heliodor.errors import (
    CancelledError,
    ConfigError,
    ImageError,
    InputError,
    PaintingError,
    PromptError,
)
from heliodor.paint import DIFFUSERS, Guidance, Snapshot, read_record
from heliodor.paint.record import Record

FAST: dict[str, Any] = {"steps": 3, "solver": "euler", "size": (48, 32)}
PROMPTS = ["a red apple left of a blue car", "a dog", "蓝色汽车左边的红苹果"]


def latents(prompt: Any = PROMPTS[0], seed: Any = 1, **options: Any) -> Tensor:
    asked: dict[str, Any] = {**FAST, **options}
    found = painter().paint(prompt, seed=seed, output="latents", **asked)
    assert isinstance(found, Tensor)
    return found


def worst(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_a_prompt_becomes_a_picture_of_its_size():
    found = painter().paint("a dog", seed=4, negative="cat", **FAST)
    assert found.image.size == found.size == (48, 32)
    assert found.image.mode == "RGB"
    assert found.latents.shape == (4, 4, 6)
    assert (found.seed, found.record.prompt, found.record.negative) == (4, "a dog", "cat")
    assert found.record.model == "small"
    assert found.record.dtype == "float32"
    wanted = autoencoder().decode(found.latents[None])[0].permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(found.image), np.round(wanted * 255).astype(np.uint8))


def test_the_default_size_is_the_trained_one():
    found = painter().paint("a dog", steps=2, solver="euler", output="latents")
    assert found.shape == (1, 4, 16, 16)


def test_a_batch_is_its_pictures_alone():
    together = latents(PROMPTS, seed=[5, 6, 2**63 - 1], negative=["", "cat", "a long walk"])
    for row, (prompt, seed, negative) in enumerate(
        zip(PROMPTS, [5, 6, 2**63 - 1], ["", "cat", "a long walk"], strict=True)
    ):
        alone = latents(prompt, seed=seed, negative=negative)
        assert worst(together[row], alone[0]) <= 1e-5
    assert worst(together[0], together[1]) > 0.1


def test_several_pictures_of_several_prompts_keep_their_prompts():
    together = latents(PROMPTS[:2], seed=7, count=2)
    wanted = [(PROMPTS[0], 7), (PROMPTS[0], 8), (PROMPTS[1], 9), (PROMPTS[1], 10)]
    for row, (prompt, seed) in enumerate(wanted):
        assert worst(together[row], latents(prompt, seed=seed)[0]) <= 1e-5


def test_small_batches_give_what_a_large_one_gives():
    assert worst(latents(PROMPTS, batch_size=1), latents(PROMPTS, batch_size=8)) <= 1e-5


def test_pictures_of_several_sizes_come_in_the_order_of_their_prompts():
    sizes = [(32, 32), (48, 16), (32, 32)]
    found = painter().paint(PROMPTS, size=sizes, seed=3, steps=2, solver="euler")
    assert [each.size for each in found] == [each.image.size for each in found] == sizes
    assert [each.record.prompt for each in found] == PROMPTS
    alone = painter().paint(PROMPTS[2], size=(32, 32), seed=5, steps=2, solver="euler")
    assert worst(found[2].latents, alone.latents) <= 1e-5


def test_a_seed_paints_the_same_picture_again():
    first, again, other = latents(seed=9), latents(seed=9), latents(seed=10)
    assert torch.equal(first, again)
    assert worst(first, other) > 0.1


def test_a_seed_that_was_drawn_is_told():
    found = painter().paint("a dog", **FAST)
    again = painter().paint("a dog", seed=found.seed, **FAST)
    assert torch.equal(found.latents, again.latents)


def test_latents_take_the_place_of_noise():
    noise = torch.randn(4, 4, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(latents(seed=99, latents=noise, size=None), latents(seed=1))
    found = painter().paint("a dog", latents=noise, steps=2)
    assert found.record.noise == "given"


@pytest.mark.parametrize(
    "options",
    [
        {"guidance": 2.0},
        {"guidance": Guidance(channels=None)},
        {"guidance": Guidance(interval=(0.0, 0.1))},
        {"negative": "cat"},
        {"solver": "midpoint"},
        {"solver": "heun"},
        {"solver": "rk4"},
        {"steps": 4},
        {"grid": "diffusers"},
        {"shift": 1.0},
        {"scaling": "diffusers"},
        {"proportional": False},
    ],
    ids=str,
)
def test_every_option_changes_the_picture(options):
    assert worst(latents(**options), latents()) > 1e-4


def test_scaling_changes_pictures_larger_than_trained_alone():
    large: dict[str, Any] = {"size": (192, 160), "steps": 3}
    assert worst(latents(scaling="off", **large), latents(**large)) > 1e-3
    assert worst(latents(scaling="paper", **large), latents(**large)) > 1e-3
    assert torch.equal(latents(scaling="off"), latents())


def test_guidance_of_one_is_the_prompt_alone():
    assert worst(latents(guidance=1.0), latents(guidance=Guidance(scale=1.0 + 1e-6))) <= 1e-4
    assert torch.equal(latents(guidance=1.0), latents(guidance=1.0, negative="cat"))


def test_named_settings_are_diffusers():
    assert torch.equal(
        latents(**{**FAST, **DIFFUSERS}),
        latents(solver="euler", grid="diffusers", scaling="diffusers"),
    )


def test_progress_comes_after_every_step_with_a_preview():
    seen: list[Snapshot] = []
    previews: list[Image.Image] = []

    def watch(now: Snapshot) -> None:
        seen.append(now)
        previews.extend(now.preview())

    found = painter(memory="staged").paint(
        PROMPTS[:2], seed=1, steps=4, size=(32, 32), progress=watch, batch_size=1
    )
    assert [(s.step, s.steps, s.pictures) for s in seen] == [
        (1, 3, (0,)),
        (2, 3, (0,)),
        (3, 3, (0,)),
        (1, 3, (1,)),
        (2, 3, (1,)),
        (3, 3, (1,)),
    ]
    assert {preview.size for preview in previews} == {(32, 32)}
    assert previews[2].tobytes() == found[0].image.tobytes()  # the last estimate is the picture


def test_a_large_preview_is_made_small():
    sizes: set[tuple[int, int]] = set()

    def watch(now: Snapshot) -> None:
        sizes.update(p.size for p in now.preview())

    painter().paint("a dog", seed=1, steps=2, solver="euler", size=(272, 128), progress=watch)
    assert sizes == {(136, 64)}


def test_painting_can_be_cancelled_between_steps():
    seen: list[Snapshot] = []
    with pytest.raises(CancelledError, match="after 2 of 9 steps"):
        painter().paint(
            "a dog", steps=10, size=(32, 32), progress=seen.append, cancelled=lambda: len(seen) == 2
        )
    with pytest.raises(CancelledError, match="before its first step"):
        painter().paint("a dog", cancelled=lambda: True, **FAST)


def stopped(calls: int, **options: Any) -> dict[int, Any]:
    """What three prompts gave when they were stopped after some steps of three each."""
    seen: list[Snapshot] = []
    prompts = ["a dog", "a cat", "a bird"]
    with pytest.raises(CancelledError, match="after 1 of 3 steps") as caught:
        painter().paint(
            prompts,
            seed=1,
            steps=4,
            solver="euler",
            progress=seen.append,
            cancelled=lambda: len(seen) == calls,
            **options,
        )
    return caught.value.finished


def alone(prompt: str, seed: int) -> Tensor:
    return painter().paint(prompt, seed=seed, steps=4, solver="euler", size=(32, 32)).latents


def test_pictures_that_were_finished_before_a_stop_are_handed_over():
    """Sizes are painted apart: the wide picture, number 1, comes after both small ones."""
    finished = stopped(4, size=[(32, 32), (48, 32), (32, 32)])
    assert list(finished) == [0, 2]
    assert torch.allclose(finished[0].latents, alone("a dog", 1), atol=1e-3)
    assert torch.allclose(finished[2].latents, alone("a bird", 3), atol=1e-3)
    assert finished[2].record.prompt == "a bird"
    assert finished[2].image.size == (32, 32)
    assert stopped(1, size=(32, 32)) == {}


def test_latents_that_were_finished_before_a_stop_are_handed_over():
    finished = stopped(4, size=(32, 32), output="latents", batch_size=2)
    assert list(finished) == [0, 1]
    assert torch.allclose(finished[1], alone("a cat", 2), atol=1e-3)


def test_nan_in_sampling_names_the_type():
    broken = painter(seed=1)
    model = broken.stages.use(broken.sources.transformer)
    with torch.no_grad():
        model.pad_token.data = model.pad_token.data.half()
        model.last.out.weight[0] = torch.inf
    with pytest.raises(PaintingError, match=r"step 1 of 2 .*float32"):
        broken.paint("a dog", **FAST)


def test_nan_in_decoding_saves_no_black_picture():
    vae = autoencoder()
    with pytest.raises(PaintingError, match=r"decoding came to NaN .* load the autoencoder as"):
        vae.decode(torch.full((1, 4, 4, 4), torch.nan))


def photograph(size: tuple[int, int]) -> Image.Image:
    return Image.effect_noise(size, 60).convert("RGB")


def test_painting_over_meets_the_picture_on_its_way():
    picture = photograph((48, 32))
    seen: list[Snapshot] = []
    painter().paint(
        "a dog",
        image=picture,
        strength=0.5,
        seed=8,
        steps=10,
        solver="euler",
        guidance=1.0,
        progress=seen.append,
    )
    assert seen[0].steps == 4  # points 5 to 9 of 10
    random = torch.Generator().manual_seed(8)
    noise = torch.randn(4, 4, 6, generator=random)
    met = autoencoder().encode([picture], [random])[0]
    even = np.arange(10) / 9
    start, after = (t / (t + 4 - 4 * t) for t in even[5:7])
    wanted = (1 - start) * noise + start * met
    first = seen[0].progress
    backwards = first.latents[0] - (after - start) * (
        (first.estimate[0] - first.latents[0]) / (1 - after)
    )
    assert worst(backwards, wanted) <= 1e-4


def test_little_strength_keeps_more_of_the_picture():
    picture = photograph((48, 32))
    met = autoencoder().encode([picture])[0]
    distances = [
        float((latents(image=picture, strength=s, steps=20, size=None)[0] - met).abs().mean())
        for s in (0.1, 0.5, 1.0)
    ]
    assert distances == sorted(distances)


def test_a_picture_is_scaled_and_cut_to_the_size():
    found = painter().paint(
        "a dog", image=photograph((90, 33)), size=(32, 32), steps=5, solver="euler", seed=1
    )
    assert found.size == (32, 32)
    assert found.record.settings.strength == 0.6
    found = painter().paint("a dog", image=photograph((90, 33)), steps=5, solver="euler", seed=1)
    assert found.size == (80, 32)


def test_a_saved_picture_says_how_to_paint_it_again(tmp_path):
    found = painter().paint(PROMPTS[2], seed=4, guidance=2.5, grid="diffusers", **FAST)
    found.save(tmp_path / "a.png")
    record = read_record(tmp_path / "a.png")
    assert record == found.record
    assert isinstance(record, Record)
    again = painter().paint(
        record.prompt,
        negative=record.negative,
        seed=record.seed,
        size=record.size,
        steps=record.settings.steps,
        solver=record.settings.solver,
        grid=record.settings.grid,
        guidance=record.settings.guidance,
    )
    assert torch.equal(again.latents, found.latents)
    assert found.to_dict()["seed"] == 4


def test_without_an_autoencoder_only_latents_are_painted():
    bare = painter(with_vae=False)
    assert bare.paint("a dog", output="latents", **FAST).shape == (1, 4, 4, 6)
    with pytest.raises(ConfigError, match="small has no autoencoder: pass vae="):
        bare.paint("a dog", **FAST)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt": ""}, PromptError, "the prompt is empty"),
        ({"prompt": []}, InputError, "no prompts were given"),
        ({"prompt": ["dog", " "]}, PromptError, "the prompt is empty"),
        ({"prompt": 7}, InputError, "a prompt must be a string"),
        ({"negative": None}, PromptError, "a negative prompt must be a string"),
        ({"negative": ["a", "b"]}, InputError, "2 were given for 1 prompts"),
        ({"size": (50, 32)}, InputError, "expected multiples of 16, from 16: 48 or 64 for 50"),
        ({"size": (0, 32)}, InputError, "expected multiples of 16"),
        ({"size": 512}, InputError, r"expected \(width, height\)"),
        ({"size": (32.0, 32)}, InputError, r"expected \(width, height\)"),
        ({"size": (2**20, 2**20)}, InputError, "the machine has .*: take a smaller size"),
        ({"steps": 0}, InputError, "steps is 0"),
        ({"solver": "dpm"}, InputError, "solver is 'dpm'"),
        ({"seed": -1}, InputError, "a seed is -1"),
        ({"seed": 2**63}, InputError, "a seed is 9223372036854775808"),
        ({"seed": 2**63 - 1, "count": 2}, InputError, "a seed is 9223372036854775808"),
        ({"seed": "7"}, InputError, "a seed is '7'"),
        ({"seed": [1, 2]}, InputError, "2 seeds came for 1 pictures"),
        ({"count": 0}, InputError, "count is 0"),
        ({"batch_size": 0}, InputError, "batch_size is 0"),
        ({"output": "tensor"}, InputError, "output is 'tensor'"),
        ({"latents": torch.zeros(1, 3, 4, 6)}, InputError, r"expected \[1 4 h w\]"),
        ({"latents": torch.zeros(1, 4, 4, 4)}, InputError, r"needs \[4, 4, 6\]"),
        ({"latents": torch.full((4, 4, 6), torch.nan)}, InputError, "hold NaN"),
        ({"latents": [0.0]}, InputError, "latents are list"),
        ({"strength": 0.5}, InputError, "strength belongs to a picture"),
        ({"image": "nowhere.png"}, ImageError, "nowhere.png"),
        ({"guidance": -3}, InputError, "guidance is -3"),
        ({"skipping": "much"}, InputError, "skipping is 'much'"),
    ],
)
def test_bad_input_is_told_what_is_wrong(options, error, message):
    asked: dict[str, Any] = {"prompt": "a dog", "seed": 1, **FAST, **options}
    with pytest.raises(error, match=message):
        painter().paint(**asked)


def test_a_strength_out_of_range_is_refused():
    with pytest.raises(InputError, match="strength is 2"):
        painter().paint("a dog", image=photograph((32, 32)), strength=2.0)


def test_skipping_is_told_and_its_error_measured():
    """What docs/guides/paint.md says of it: an approximation, whose error grows."""
    steps: dict[str, Any] = {"steps": 30, "solver": "euler", "guidance": 1.0}
    exact = latents(**steps)
    assert torch.equal(latents(skipping=0.0, **steps), exact)
    errors = [worst(latents(skipping=threshold, **steps), exact) for threshold in (0.05, 0.5)]
    assert 0 < errors[0] < errors[1]
    found = painter().paint("a dog", seed=1, size=(32, 32), skipping=0.2, steps=30)
    assert 0 < found.skipped < 28
    assert found.record.settings.to_dict()["skipping"] == 0.2
