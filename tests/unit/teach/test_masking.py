"""The mask codec's lessons: masks by number, a book of running means, the loss, the recipe."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference import training as slow

from heliodor.checkpoints.maskcodec import read_mask_codec
from heliodor.errors import TrainingError
from heliodor.models.maskcodec import MaskCodec, MaskCodecConfig
from heliodor.teach.data import silhouettes
from heliodor.teach.data.artwork import HELD_OUT_STYLE, load_style
from heliodor.teach.data.silhouettes import MaskSource
from heliodor.teach.loop import train
from heliodor.teach.masking import (
    BookConfig,
    CodecObjective,
    MaskBatch,
    TrainedCodec,
    evaluate_codec,
)
from heliodor.teach.optim import Adam
from heliodor.teach.recipes import codec as recipe
from heliodor.teach.recipes.codec import CodecSettings, TinyCodec, stage
from heliodor.teach.state import Resumed, find_states, newest_model

MODEL = MaskCodecConfig(widths=(4, 4, 8, 8), code_width=8, num_codes=16, num_blocks=1)
SMALL = CodecSettings(
    model=MODEL, steps=6, masks=4, warmup=2, revive_every=2, held_out=8, sample_every=3
)
BOOK = BookConfig(average=0.75, revive_every=2, revive_until=0, seed=5)


def trained_codec(book: BookConfig = BOOK, seed: int = 0) -> TrainedCodec:
    torch.manual_seed(seed)
    return TrainedCodec(MaskCodec(MODEL), book).train()


def content(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


class TestMasks:
    def test_a_mask_is_a_function_of_seed_and_number(self) -> None:
        first, again, other = MaskSource(0), MaskSource(0), MaskSource(1)
        assert np.array_equal(first.mask(7), again.mask(7))
        assert not np.array_equal(first.mask(7), first.mask(8))
        assert not np.array_equal(first.mask(7), other.mask(7))
        assert torch.equal(first.batch(2, 3)[1, 0], torch.tensor(first.mask(7)))

    def test_masks_touch_all_four_sides_of_their_box(self) -> None:
        for mask in (MaskSource(0).mask(number) for number in range(40)):
            assert mask.shape == (64, 64)
            assert 0.0 <= mask.min() <= mask.max() <= 1.0
            assert min(side.max() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])) > 0.2

    def test_held_out_names_and_the_held_out_style_are_never_trained_on(self) -> None:
        every = silhouettes._silhouettes()
        learnt, held_out = MaskSource(0)._pictures, MaskSource(0, held_out=True)._pictures
        assert len(learnt) + len(held_out) == len(every)
        assert {id(alpha) for alpha in learnt} & {id(alpha) for alpha in held_out} == set()
        x, y, width, height = next(iter(load_style(HELD_OUT_STYLE).index.values()))
        unseen = np.asarray(load_style(HELD_OUT_STYLE).atlas)[y : y + height, x : x + width, 3]
        assert not any(np.array_equal(unseen, alpha) for _, alpha in every)


class TestBook:
    def test_it_starts_from_vectors_and_follows_them_as_running_means_do(self) -> None:
        """Five steps against plain numpy, which starts from the same random vectors."""
        model = trained_codec()
        features = [torch.randn(3, 16, 8) for _ in range(5)]
        rows = torch.randperm(48, generator=torch.Generator().manual_seed(BOOK.seed))[:16]
        book = slow.CodeBook(features[0].flatten(0, 1)[rows].double().numpy(), BOOK.average)
        for step, each in enumerate(features):
            before = book.rows
            chosen = model.quantise(each, step)
            codes = book.step(each.flatten(0, 1).double().numpy())
            np.testing.assert_allclose(chosen.flatten(0, 1), before[codes], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(model.codec.codebook, book.rows, rtol=1e-5, atol=1e-6)

    def test_a_dead_code_moves_onto_a_vector_and_stays_until_one_falls_to_it(self) -> None:
        model, vectors = trained_codec(), torch.randn(64, 8)
        model.counts.fill_(10.0)
        model.sums.copy_(model.codec.codebook * 10)
        model.counts[5] = 0.1
        before = model.codec.codebook.clone()
        assert model.revive(vectors, torch.Generator().manual_seed(0)) == 1
        moved = model.codec.codebook[5].clone()
        assert (moved == vectors).all(1).any()
        assert torch.equal(model.codec.codebook[:5], before[:5])
        assert torch.equal(model.codec.codebook[6:], before[6:])
        model.follow(vectors, torch.zeros(64, dtype=torch.int64))
        torch.testing.assert_close(model.codec.codebook[5], moved)

    @pytest.mark.parametrize(("step", "moved"), [(3, 0), (4, 1), (6, 1), (8, 0)])
    def test_dead_codes_move_at_their_steps_only(self, step: int, moved: int) -> None:
        """Every second step, and before the eighth."""
        model = trained_codec(replace(BOOK, revive_until=8))
        model.counts.fill_(1.0)
        model.sums.copy_(model.codec.codebook)
        model.codec.codebook[5] = 1e3  # no vector falls to it
        model.sums[5] = 0.0
        model.counts[5] = 0.0
        features = torch.randn(3, 16, 8)
        model.quantise(features, step)
        assert (model.codec.codebook[5] == features.flatten(0, 1)).all(1).sum() == moved
        assert int(model.counts[5] > 0) == moved

    def test_out_of_training_it_stands_still(self) -> None:
        model = trained_codec().eval()
        before = content(model)
        features = torch.randn(3, 16, 8)
        chosen = model.quantise(features, 0)
        assert same(content(model), before)
        assert torch.equal(chosen, model.codec.codebook[model.codec.nearest(features)])

    def test_codes_are_told_apart_in_float32_under_autocast(self) -> None:
        """Two codes 0.1 % apart are one in bfloat16."""
        model = trained_codec().eval()
        with torch.no_grad():
            model.codec.codebook.copy_(1 + torch.arange(16.0)[:, None].expand(16, 8) / 1000)
        features = model.codec.codebook.reshape(1, 16, 8) + 1e-4
        with torch.autocast("cpu", torch.bfloat16):
            chosen = model.quantise(features, 0)
        assert torch.equal(chosen[0], model.codec.codebook)

    def test_no_gradient_reaches_it(self) -> None:
        objective = stage(SMALL)[1]
        objective.loss(objective.batch(0))[0].backward()
        without = {name for name, p in objective.model.named_parameters() if p.grad is None}
        assert without == {"codec.codebook"}


class TestObjective:
    def test_loss_and_gradient_are_those_of_the_formula(self) -> None:
        """The last bias of the encoder is added to every vector: its gradient is their sum."""
        model = trained_codec().eval()
        masks = MaskSource(0).batch(0, 4)
        objective = CodecObjective(
            model=model, source=MaskSource(0), masks=4, commitment=0.25, held_out=masks
        )
        loss, figures = objective.loss(MaskBatch(step=3, masks=masks))
        loss.backward()

        with torch.no_grad():
            vectors = model.codec.features(masks)
        chosen = model.codec.codebook[model.codec.nearest(vectors)].detach().requires_grad_()
        drawn = model.codec.render(chosen)
        target = torch.where(masks[:, 0] > 0.5, 1.0, -1.0)
        soft = 2 * masks[:, 0] - 1
        assert (target != soft).any()  # masks have soft edges, which count
        error = ((drawn - soft) ** 2).mean()
        error.backward()
        away = vectors - chosen.detach()
        assert figures == {"error": pytest.approx(error.item(), rel=1e-5)}
        wanted = error.item() + 0.25 * (away**2).mean().item()
        assert loss.item() == pytest.approx(wanted, rel=1e-5)
        assert chosen.grad is not None
        gradient = (chosen.grad + 0.25 * 2 * away / away.numel()).sum((0, 1))
        bias = model.codec.get_parameter("encoder.9.bias").grad
        torch.testing.assert_close(bias, gradient)

    def test_a_batch_carries_its_step_and_stays_whole(self) -> None:
        objective = stage(SMALL)[1]
        batch = objective.batch(3)
        assert batch.step == 3
        assert torch.equal(batch.masks, MaskSource(0).batch(3, 4))
        assert objective.divide(batch, 2) == [(1.0, batch)]

    def test_samples_are_the_measures_of_held_out_masks(self) -> None:
        objective = stage(SMALL)[1]
        (line,) = objective.samples()
        found = evaluate_codec(objective.model.codec, MaskSource(0, held_out=True).batch(0, 8))
        words = line.removeprefix("held out: ").split()
        said = dict(zip(words[::2], map(float, words[1::2]), strict=True))
        assert said == pytest.approx(found, rel=1e-3)

    def test_a_few_steps_lower_the_error(self, tmp_path: Path) -> None:
        class Same(MaskSource):
            def batch(self, step: int, size: int) -> torch.Tensor:
                return masks

        masks = MaskSource(0).batch(0, 16)
        run, objective = stage(replace(SMALL, steps=60, masks=16, rate=5e-3, sample_every=0))
        run = replace(run, workers=0, log_every=1)
        train(run, replace(objective, source=Same(0)), tmp_path, quiet=True)
        errors = [json.loads(x)["error"] for x in (tmp_path / "log.jsonl").read_text().splitlines()]
        assert len(errors) == 60
        assert errors[-1] < 0.7 * errors[0]


class Echo(MaskCodec):
    """Draws the same disc whatever the codes."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        inside = (x - 31.5) ** 2 + (y - 31.5) ** 2 < 900
        return (inside.float() - 0.5).expand(len(codes), 64, 64)


def test_the_evaluation_is_intersection_over_union() -> None:
    masks = torch.ones(2, 1, 64, 64)
    masks[1, :, :, 32:] = 0
    disc = (Echo(MODEL).decode(torch.zeros(1, 16)) > 0)[0]
    half = int(disc[:, :32].sum())
    area = 2 * half
    expected = (area / 4096 + half / (2048 + half)) / 2
    assert evaluate_codec(Echo(MODEL), masks)["iou"] == pytest.approx(expected)


class TestRecipe:
    @pytest.fixture(autouse=True)
    def shrunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The recipe with a network of a few channels, run without a worker."""

        def without_worker(run: Any, *rest: Any) -> Resumed:
            return train(replace(run, workers=0), *rest, quiet=True)

        monkeypatch.setattr(recipe, "train", without_worker)
        monkeypatch.setattr(recipe, "CodecSettings", lambda: SMALL)

    def test_it_leaves_a_codec_a_state_and_a_log(self, tmp_path: Path) -> None:
        TinyCodec().run(tmp_path, {}, resume=False)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["log.jsonl", "maskcodec.npz", "state-00000006"]
        lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "samples" in line] == [3, 6]
        state = newest_model(tmp_path)
        saved = read_mask_codec(tmp_path / "maskcodec.npz").state_dict()
        assert {f"codec.{name}" for name in saved} | {"counts", "sums"} == set(state)
        for name, value in saved.items():
            assert torch.equal(value, state[f"codec.{name}"].half().float()), name

    def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        TinyCodec().run(tmp_path / "straight", {}, resume=False)

        def stopping(source: MaskSource, step: int, size: int) -> torch.Tensor:
            if step == 2:
                signal.raise_signal(signal.SIGINT)
            return draw(source, step, size)

        draw = MaskSource.batch
        with monkeypatch.context() as patch:
            patch.setattr(MaskSource, "batch", stopping)
            with pytest.raises(KeyboardInterrupt):
                TinyCodec().run(tmp_path / "stopped", {}, resume=False)
        assert [path.name for path in find_states(tmp_path / "stopped")] == ["state-00000003"]
        assert not (tmp_path / "stopped" / "maskcodec.npz").exists()
        TinyCodec().run(tmp_path / "stopped", {}, resume=True)
        straight, stopped = newest_model(tmp_path / "straight"), newest_model(tmp_path / "stopped")
        assert same(straight, stopped)
        files = [tmp_path / name / "maskcodec.npz" for name in ("straight", "stopped")]
        assert files[0].read_bytes() == files[1].read_bytes()

    def test_fresh_weights_are_a_function_of_the_seed_alone(self) -> None:
        torch.manual_seed(1)
        first = content(stage(SMALL)[1].model)
        after = torch.rand(())
        torch.manual_seed(1)
        assert torch.equal(torch.rand(()), after)  # nobody else's random numbers were touched
        assert same(content(stage(SMALL)[1].model), first)
        assert not same(content(stage(replace(SMALL, seed=1))[1].model), first)

    def test_all_kernels_decay_and_no_bias_or_code(self) -> None:
        run, objective = stage(SMALL)
        chosen = {id(p) for p in Adam(objective.model, run.adam, run.schedule).decayed}
        named = dict(objective.model.named_parameters())
        decayed = {name for name, p in named.items() if id(p) in chosen}
        assert decayed == {name for name, p in named.items() if p.ndim == 4}
        assert "codec.encoder.0.weight" in decayed

    @pytest.mark.parametrize(
        "change", ["masks=5", "average=0.9", "commitment=0.1", "revive_every=3", "seed=1", "rate=1"]
    )
    def test_it_resumes_only_with_the_settings_it_began_with(
        self, tmp_path: Path, change: str
    ) -> None:
        TinyCodec().run(tmp_path, {"steps": "1"}, resume=False)
        name, _, value = change.partition("=")
        with pytest.raises(TrainingError, match="was written by a run with other settings"):
            TinyCodec().run(tmp_path, {"steps": "1", name: value}, resume=True)

    def test_a_folder_in_use_is_refused_without_resume(self, tmp_path: Path) -> None:
        TinyCodec().run(tmp_path, {"steps": "1"}, resume=False)
        with pytest.raises(TrainingError, match="pass --resume, or another --workdir"):
            TinyCodec().run(tmp_path, {"steps": "1"}, resume=False)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("masks", "0", "masks=0: at least 1 is wanted"),
            ("average", "1.5", "average=1.5: a share in 0..1 is wanted"),
            ("model", "3", "model=3: this setting is changed in Python only"),
        ],
    )
    def test_settings_that_cannot_be_are_refused(
        self, tmp_path: Path, name: str, value: str, message: str
    ) -> None:
        with pytest.raises(TrainingError, match=message):
            TinyCodec().run(tmp_path, {name: value}, resume=False)
        assert not list(tmp_path.iterdir())

    def test_fewer_vectors_than_codes_are_refused(self) -> None:
        with pytest.raises(TrainingError, match="their 64 vectors are too few to start 128 codes"):
            CodecSettings(masks=4)
