"""What Next-DiT promises beyond parity: batches, captions read once, and errors."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests import painting, tiny
from tests.painting import SMALL
from torch import Tensor

from heliodor.checkpoints.blueprint import unfilled
from heliodor.errors import ConfigError, InputError
from heliodor.models import nextdit_config
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_canvas import Canvas, patchify, unpatchify
from heliodor.models.nextdit_config import NEXTDIT_2B_GQA, NextDiTConfig, mlp_width
from heliodor.models.nextdit_prompt import Prompt
from heliodor.models.nextdit_rope import RELEASED, TimeAware, Unscaled, Watershed

SAME = 3e-6  # the same sums, in another order
SIZES = [(8, 12), (20, 16), (4, 4)]


@pytest.fixture(scope="module")
def model() -> NextDiT:
    return painting.nextdit()


def latents(sizes: Sequence[tuple[int, int]] = SIZES) -> list[Tensor]:
    return [painting.noise(4, *size, seed=i) for i, size in enumerate(sizes)]


def velocities(model: NextDiT, *args: Any) -> list[Tensor]:
    with torch.no_grad():
        return list(model(*args))


def test_patches_come_channel_first_and_leave_channel_last() -> None:
    picture = np.arange(2 * 4 * 6.0).reshape(2, 4, 6)
    into = [
        [picture[c, 2 * row + i, 2 * column + j] for c in (0, 1) for i in (0, 1) for j in (0, 1)]
        for row in (0, 1)
        for column in (0, 1, 2)
    ]
    tokens = patchify(torch.from_numpy(picture)[None], 2)
    np.testing.assert_array_equal(tokens[0].numpy(), np.array(into))
    outward = [
        [picture[c, 2 * row + i, 2 * column + j] for i in (0, 1) for j in (0, 1) for c in (0, 1)]
        for row in (0, 1)
        for column in (0, 1, 2)
    ]
    padded = torch.tensor([*outward, [99.0] * 8])[None]
    np.testing.assert_array_equal(unpatchify(padded, 2, 3, 2, 2)[0].numpy(), picture)
    np.testing.assert_array_equal(unpatchify(padded, 2, 3, 2, 1)[0].numpy(), picture[:1])


@pytest.mark.parametrize("scaling", [Unscaled(), RELEASED, TimeAware()])
def test_pictures_of_different_sizes_are_what_they_are_alone(model: NextDiT, scaling: Any) -> None:
    """Each with its own time, ratio and sharpness, on both sides of the watershed."""
    features, mask = painting.captions(5, 2, 7)
    times = torch.tensor([0.2, 0.25, 0.8])
    pictures = latents()
    together = velocities(
        model, pictures, times, model.prepare(features, mask), model.canvas(SIZES, scaling=scaling)
    )
    for i, size in enumerate(SIZES):
        prompt = model.prepare(features[i : i + 1], mask[i : i + 1])
        canvas = model.canvas([size], scaling=scaling)
        alone = velocities(model, pictures[i][None], float(times[i]), prompt, canvas)[0]
        assert tiny.relative_error(together[i], alone) <= SAME


def test_a_picture_of_one_patch_and_a_batch_of_one_list(model: NextDiT) -> None:
    features, mask = painting.captions(3)
    prompt = model.prepare(features, mask)
    picture = painting.noise(4, 2, 2)
    listed = model([picture], 0.4, prompt)
    assert isinstance(listed, list)
    assert torch.equal(listed[0], model(picture[None], 0.4, prompt)[0])
    assert bool(listed[0].isfinite().all())


def test_padding_is_neither_looked_at_nor_counted(model: NextDiT) -> None:
    """On either side, and whatever it holds."""
    features, _ = painting.captions(4)
    alone = model.prepare(features)
    assert alone.mask is None
    garbage = torch.full((1, 3, 20), math.nan)
    for mask, padded in (
        ([1, 1, 1, 1, 0, 0, 0], torch.cat((features, garbage), 1)),
        ([0, 0, 0, 1, 1, 1, 1], torch.cat((garbage, features), 1)),
    ):
        found = model.prepare(padded, torch.tensor([mask]))
        assert found.mask is None
        assert torch.equal(found.pooled, alone.pooled)
        for mine, theirs in zip(found.layers(), alone.layers(), strict=True):
            assert torch.equal(mine[0], theirs[0])
            assert torch.equal(mine[1], theirs[1])
    both = model.prepare(
        torch.cat((torch.cat((features, garbage), 1), painting.noise(1, 7, 20))),
        torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1] * 7]),
    )
    picture = painting.noise(1, 4, 8, 8)
    beside = velocities(model, picture.expand(2, -1, -1, -1), 0.5, both)[0]
    assert tiny.relative_error(beside, velocities(model, picture, 0.5, alone)[0]) <= SAME


def test_prompts_are_repeated_joined_and_chosen(model: NextDiT) -> None:
    features, mask = painting.captions(5, 2)
    one, two = (model.prepare(features[i : i + 1], mask[i : i + 1]) for i in (0, 1))
    joined = Prompt.join([one, two])
    assert (len(joined), joined.keys[0].shape) == (2, (2, 2, 5, 8))
    pictures = torch.stack([painting.noise(4, 8, 8, seed=i) for i in range(3)])
    found = velocities(model, pictures, 0.3, joined.select([1, 0, 1]))
    for i, prompt in enumerate((two, one, two)):
        alone = velocities(model, pictures[i : i + 1], 0.3, prompt)[0]
        assert tiny.relative_error(found[i], alone) <= SAME
    assert Prompt.join([one, one]).mask is None
    with pytest.raises(InputError, match=r"0 prompts came.*expected some"):
        Prompt.join([])
    shallow = painting.nextdit(replace(SMALL, depth=1)).prepare(features, mask)
    with pytest.raises(InputError, match=r"of \[2, 1\] layers; expected some, all prepared by one"):
        Prompt.join([one, shallow])


def test_tables_are_made_once_on_each_side_of_the_watershed(
    model: NextDiT, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []
    real = Watershed.frequencies

    def counted(self: Watershed, stage: float, **options: Any) -> Tensor:
        made.append(stage)
        return real(self, stage, **options)

    monkeypatch.setattr(Watershed, "frequencies", counted)
    canvas = model.canvas([(8, 8)] * 2)
    steps = [canvas.turn(t) for t in (0.0, 0.1, 0.29, 0.3001, 0.8)]
    assert made == [0.0, 1.0]
    assert steps[0] is steps[2]
    assert steps[3] is steps[4]
    assert torch.equal(canvas.turn(torch.tensor([0.1, 0.2])), steps[0])


def test_the_time_is_compared_as_the_network_sees_it(model: NextDiT) -> None:
    """In float32 0.3 lies above the threshold."""
    canvas = model.canvas([(32, 32)])
    assert canvas.turn(0.3) is canvas.turn(torch.tensor(0.3))
    assert canvas.turn(0.3) is not canvas.turn(0.29999998)


@pytest.mark.parametrize(
    ("latent", "expected"),
    [
        ((128, 96), 0.98255),
        ((128, 128), 1.0),
        ((128, 256), 1.04083),
        ((192, 192), 1.04761),
        ((208, 208), 1.05676),
        ((256, 256), 1.08012),
    ],
)
def test_attention_grows_sharper_with_the_picture(latent: tuple[int, int], expected: float) -> None:
    made = unfilled(lambda: NextDiT(replace(NEXTDIT_2B_GQA, depth=1)))
    assert made.canvas([latent]).focus == pytest.approx(expected, abs=5e-6)
    assert made.canvas([latent], proportional=False).focus == 1.0


def test_equal_sizes_have_no_mask_and_one_table(model: NextDiT) -> None:
    canvas = model.canvas([(8, 12)] * 3)
    assert (canvas.mask, canvas.valid, canvas.length) == (None, None, 24)
    assert canvas.turn(0.5).shape == (1, 24, 1, 4)
    turned = model.canvas([(8, 12), (12, 8)])
    assert turned.mask is None
    assert turned.turn(0.5).shape == (2, 24, 1, 4)


def test_bfloat16_weights_give_what_rounded_ones_give() -> None:
    narrow, wide = painting.nextdit().bfloat16(), painting.nextdit()
    wide.load_state_dict({name: v.float() for name, v in narrow.state_dict().items()})
    features, mask = painting.captions(5, 3, 2)
    for each in latents(), torch.stack(latents([(8, 8)] * 3)):
        one = velocities(narrow, each, 0.6, narrow.prepare(features, mask))
        two = velocities(wide, each, 0.6, wide.prepare(features, mask))
        assert all(a.dtype == torch.float32 for a in one)
        assert max(tiny.relative_error(a, b) for a, b in zip(one, two, strict=True)) <= SAME


def test_training_sees_what_painting_sees(model: NextDiT) -> None:
    features, mask = painting.captions(5, 2)
    picture = painting.noise(2, 4, 8, 8)
    found = model(picture, torch.tensor([0.1, 0.9]), model.prepare(features, mask))
    painted = velocities(model, picture, torch.tensor([0.1, 0.9]), model.prepare(features, mask))
    assert tiny.relative_error(found.detach(), torch.stack(painted)) <= SAME
    model.zero_grad()
    found.square().mean().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.zero_grad()
    shifts = {name for name in still if name.endswith("caption_k_norm.bias")}  # softmax cancels it
    assert {*still} - shifts == {"pad_token"}


PARAMETERS = {
    "NEXTDIT_2B_GQA": 1_627_386_400,
    "NEXTDIT_2B": 1_988_524_576,
    "NEXTDIT_2B_16_CHANNELS": 1_627_718_272,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_published_sizes(name: str) -> None:
    made = unfilled(lambda: NextDiT(getattr(nextdit_config, name)))
    assert sum(p.numel() for p in made.parameters()) == PARAMETERS[name]


def test_the_width_of_the_mlp() -> None:
    assert [mlp_width(w) for w in (2304, 1536, 3072, 4096)] == [6144, 4096, 8192, 11008]
    assert mlp_width(48, multiple_of=16) == 128
    assert mlp_width(2304, multiplier=1.3) == 8192


BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "odd heads": ({"num_heads": 5}, "width 48 over 5 heads is 9.6 channels a head"),
    "two channels a head": ({"num_heads": 24}, "is 2.0 channels a head; expected a multiple of 4"),
    "groups": ({"num_kv_heads": 4}, "6 query heads do not divide among 4"),
    "nothing": ({"depth": 0}, "sizes are .*expected each to be at least 1"),
    "one patch": ({"sample_size": 3}, "sample_size is 3; expected at least two patches of 2"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_shapes_that_cannot_be(name: str) -> None:
    changes, message = BAD_CONFIGS[name]
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **changes)


def refused(message: str) -> Any:
    return pytest.raises(InputError, match=re.escape(message))


def test_captions_that_cannot_be_read(model: NextDiT) -> None:
    features, mask = painting.captions(4, 2)
    with refused("features are [2, 4, 19]; expected [pictures, tokens, 20]"):
        model.prepare(features[..., 1:])
    with refused("the mask is [2, 3] and lets 5 tokens through; expected [2, 4]"):
        model.prepare(features, mask[:, :3])
    with refused("lets 4 tokens through; expected [2, 4], with at least one token in each row"):
        model.prepare(features, torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))


def test_pictures_that_cannot_be_painted(model: NextDiT) -> None:
    features, mask = painting.captions(4, 2)
    prompt = model.prepare(features, mask)
    with refused("latents are [2, 3, 8, 8]; expected [pictures, 4, height, width]"):
        model(torch.zeros(2, 3, 8, 8), 0.5, prompt)
    with refused("latents are [[4, 8, 8], [4, 8]]; expected"):
        model([torch.zeros(4, 8, 8), torch.zeros(4, 8)], 0.5, prompt)
    with refused("latents of [(7, 8), (7, 8)] (height, width) do not divide into patches of 2"):
        model(torch.zeros(2, 4, 7, 8), 0.5, prompt)
    with refused("3 pictures came with 2 prompts and 1 times"):
        model(torch.zeros(3, 4, 8, 8), 0.5, prompt)
    with refused("2 pictures came with 2 prompts and 3 times"):
        model(torch.zeros(2, 4, 8, 8), torch.zeros(3), prompt)
    with refused("the canvas is for [(2, 4), (2, 4)] (rows, columns of patches), the latents"):
        model(torch.zeros(2, 4, 8, 4), 0.5, prompt, model.canvas([(4, 8)] * 2))
    with refused("sizes are []; expected pictures of at least one patch"):
        Canvas(
            [],
            head_dim=8,
            base=1e4,
            native=64,
            scaling=Unscaled(),
            proportional=False,
            device=torch.device("cpu"),
        )
    with refused("sizes are []"):
        model([], 0.5, prompt)


def test_the_defaults_are_the_released_model() -> None:
    assert NextDiTConfig() == NEXTDIT_2B_GQA
    made = NEXTDIT_2B_GQA
    assert (made.head_dim, made.condition_width, made.out_channels) == (72, 1024, 8)
    assert made.native_patches == 4096
