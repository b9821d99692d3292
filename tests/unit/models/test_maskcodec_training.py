"""The codec's recipe: masks by number, exact resume, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from heliodor.checkpoints.maskcodec import read_mask_codec
from heliodor.errors import TrainingError
from heliodor.models.maskcodec import MaskCodec, MaskCodecConfig
from heliodor.teach.data.artwork import HELD_OUT_STYLE, load_style
from heliodor.teach.recipes import codec as recipes
from heliodor.teach.recipes.codec import (
    CodecRecipe,
    MaskSource,
    TinyCodec,
    evaluate_codec,
    train_codec,
)

SMALL = CodecRecipe(
    model=MaskCodecConfig(widths=(4, 4, 8, 8), code_width=8, num_codes=16, num_blocks=1),
    steps=6,
    batch=4,
    warmup=2,
    revive_every=2,
    save_every=3,
    held_out=8,
    bfloat16=False,
)


def test_a_mask_is_a_function_of_seed_and_number():
    first, again, other = MaskSource(0), MaskSource(0), MaskSource(1)
    assert np.array_equal(first.mask(7), again.mask(7))
    assert not np.array_equal(first.mask(7), first.mask(8))
    assert not np.array_equal(first.mask(7), other.mask(7))
    assert torch.equal(first.batch(2, 3)[1, 0], torch.tensor(first.mask(7)))


def test_masks_touch_all_four_sides_of_their_box():
    for mask in (MaskSource(0).mask(number) for number in range(40)):
        assert mask.shape == (64, 64)
        assert 0.0 <= mask.min() <= mask.max() <= 1.0
        assert min(side.max() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])) > 0.2


def test_held_out_names_and_the_held_out_style_are_never_trained_on():
    silhouettes = recipes._silhouettes()
    train, held_out = MaskSource(0)._pictures, MaskSource(0, held_out=True)._pictures
    assert len(train) + len(held_out) == len(silhouettes)
    assert {id(alpha) for alpha in train} & {id(alpha) for alpha in held_out} == set()
    x, y, width, height = next(iter(load_style(HELD_OUT_STYLE).index.values()))
    unseen = np.asarray(load_style(HELD_OUT_STYLE).atlas)[y : y + height, x : x + width, 3]
    assert not any(np.array_equal(unseen, alpha) for _, alpha in silhouettes)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    straight = train_codec(SMALL, tmp_path / "straight")
    run = recipes._Run(SMALL)
    source = MaskSource(SMALL.seed)
    (tmp_path / "stopped").mkdir()
    for step in range(3):
        run.advance(source.batch(step, SMALL.batch))
    run.save(tmp_path / "stopped" / "state.npz")
    resumed = train_codec(SMALL, tmp_path / "stopped")
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_run_leaves_a_codec_and_a_log(tmp_path):
    model = train_codec(SMALL, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "log.jsonl",
        "maskcodec.npz",
        "state.npz",
    ]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    saved = read_mask_codec(tmp_path / "maskcodec.npz")
    torch.testing.assert_close(saved.codebook, model.codebook.detach().half().float())


def test_a_run_of_other_settings_is_not_continued(tmp_path):
    train_codec(SMALL, tmp_path)
    with pytest.raises(TrainingError, match="use its numbers, or another folder"):
        train_codec(replace(SMALL, learning_rate=1.0), tmp_path)
    with pytest.raises(TrainingError, match="pass --resume"):
        TinyCodec().run(tmp_path, {}, resume=False)


def test_a_loss_that_is_no_number_stops_the_run():
    run = recipes._Run(SMALL)
    with torch.no_grad():
        run.weights[0].fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss became nan at step 0"):
        run.advance(torch.zeros(4, 1, 64, 64))


def test_a_code_follows_the_mean_of_its_vectors():
    run = recipes._Run(replace(SMALL, decay=0.75))
    run.book.counts.fill_(2.0)
    run.book.sums.fill_(4.0)
    vectors = torch.tensor([[1.0] * 8, [5.0] * 8])
    run.book.follow(vectors, torch.tensor([3, 3]))
    assert run.model.codebook[3, 0].item() == pytest.approx((0.75 * 4 + 0.25 * 6) / 2.0)
    assert run.model.codebook[0, 0].item() == pytest.approx(2.0)


def test_a_code_that_nothing_uses_moves_to_a_vector_of_the_batch():
    run = recipes._Run(SMALL)
    run.book.counts.fill_(10.0)
    run.book.counts[5] = 0.0
    before = run.model.codebook.detach().clone()
    vectors = torch.randn(64, 8)
    assert run.book.revive(vectors, torch.Generator().manual_seed(0)) == 1
    assert (run.model.codebook[5] == vectors).all(1).any()
    assert torch.equal(run.model.codebook[:5], before[:5])


def test_a_few_steps_lower_the_error():
    run = recipes._Run(replace(SMALL, steps=120, learning_rate=5e-3))
    masks = MaskSource(0).batch(0, 16)
    errors = [run.advance(masks) for _ in range(120)]
    assert errors[-1] < 0.7 * errors[0]


class Echo(MaskCodec):
    """Draws the same disc whatever the codes."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        inside = (x - 31.5) ** 2 + (y - 31.5) ** 2 < 900
        return (inside.float() - 0.5).expand(len(codes), 64, 64)


def test_the_evaluation_is_intersection_over_union():
    masks = torch.ones(2, 1, 64, 64)
    masks[1, :, :, 32:] = 0
    disc = (Echo(SMALL.model).decode(torch.zeros(1, 16)) > 0)[0]
    half = int(disc[:, :32].sum())
    area = 2 * half
    expected = (area / 4096 + half / (2048 + half)) / 2
    assert evaluate_codec(Echo(SMALL.model), masks)["iou"] == pytest.approx(expected)
