"""Flow matching, adapters, buckets and the cache, against plain numpy and walks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.painting import SMALL, captions, nextdit

from heliodor.errors import TrainingError
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_rope import Unscaled
from heliodor.teach.buckets import bucket_sizes, cut_to_bucket, nearest_buckets
from heliodor.teach.latents import CachedScenes, LatentCache, build_cache, cache_key
from heliodor.teach.lowrank import LowRank, adapt, merge
from heliodor.teach.painting import (
    FlowBatch,
    FlowObjective,
    LogitNormal,
    Uniform,
    choose_times,
    initialise_painter,
    pad_states,
)

CONFIG = replace(SMALL, sample_size=4)


def states_of(scene: int, slot: int) -> torch.Tensor:
    rising = torch.arange(20) % 4 + scene + slot / 10
    return rising.expand(1 + (scene + slot) % 3, 20).contiguous()


def made(numbers: range) -> CachedScenes:
    """Scenes whose numbers can be read from their latents; captions of one to three tokens."""
    latents = torch.stack([torch.full((4, 4, 4), float(n)) for n in numbers])
    states = [states_of(n, slot) for n in numbers for slot in range(2)]
    words = [f"{n} {slot} 红" for n in numbers for slot in range(2)]
    return CachedScenes(latents=latents, states=states, captions=words)


def build(folder: Path, scenes: int = 6, **about: object) -> LatentCache:
    return build_cache(
        folder,
        {"autoencoder": "a", **about},
        scenes=scenes,
        shard=3,
        empty=lambda: torch.full((1, 20), -1.0),
        make=made,
    )


@pytest.fixture
def cache(tmp_path: Path) -> LatentCache:
    return build(tmp_path / "cache")


class TestCache:
    def test_it_gives_back_what_was_put_in(self, cache: LatentCache) -> None:
        assert (len(cache), cache.per_scene, cache.sides) == (6, 2, (4, 4, 4))
        assert torch.equal(cache.empty, torch.full((1, 20), -1.0).half())
        for scene in range(6):
            assert torch.equal(cache.latents(scene), torch.full((4, 4, 4), float(scene)).half())
            assert cache.captions(scene) == [f"{scene} 0 红", f"{scene} 1 红"]
            for slot in range(2):
                wanted = states_of(scene, slot).half()
                assert torch.equal(cache.states(scene, slot), wanted)

    def test_a_stopped_run_goes_on_with_the_next_shard(self, tmp_path: Path) -> None:
        asked: list[range] = []

        def stopping(numbers: range) -> CachedScenes:
            asked.append(numbers)
            if len(asked) == 2:
                raise KeyboardInterrupt
            return made(numbers)

        folder = tmp_path / "cache"
        rest = {"shard": 3, "empty": lambda: torch.zeros(1, 20)}
        with pytest.raises(KeyboardInterrupt):
            build_cache(folder, {"autoencoder": "a"}, scenes=6, make=stopping, **rest)
        assert sorted(path.name for path in folder.iterdir()) == [
            "cache.json", "empty.safetensors", "latents-00000.safetensors",
        ]  # fmt: skip
        before = (folder / "latents-00000.safetensors").stat().st_mtime_ns
        found = build_cache(folder, {"autoencoder": "a"}, scenes=8, make=stopping, **rest)
        assert asked == [range(3), range(3, 6), range(3, 6), range(6, 9)]
        assert len(found) == 9
        assert (folder / "latents-00000.safetensors").stat().st_mtime_ns == before

    def test_the_key_is_of_content_not_of_order(self) -> None:
        one = cache_key({"vae": "x", "size": 128})
        assert one == cache_key({"size": 128, "vae": "x"})
        others = {cache_key({"vae": "y", "size": 128}), cache_key({"vae": "x", "size": 64}), one}
        assert len(others) == 3

    def test_another_autoencoder_needs_another_folder(self, tmp_path: Path) -> None:
        build(tmp_path / "cache")
        with pytest.raises(TrainingError, match="something else; it differs in autoencoder: use"):
            build(tmp_path / "cache", autoencoder="b")

    def test_a_gap_between_shards_is_refused(self, tmp_path: Path) -> None:
        build(tmp_path / "cache")
        (tmp_path / "cache" / "latents-00000.safetensors").unlink()
        with pytest.raises(TrainingError, match="not the first ones: make them with"):
            LatentCache(tmp_path / "cache")


def objective(cache: LatentCache, model: NextDiT | None = None, **more: object) -> FlowObjective:
    options = {"images": 4, "seed": 5, "times": Uniform(), **more}
    return FlowObjective(model=model or nextdit(CONFIG), cache=cache, **options)


class TestBatches:
    def test_each_pass_shows_every_scene_once(self, cache: LatentCache) -> None:
        lesson = objective(cache)
        seen = [float(x[0, 0, 0]) for step in range(3) for x in lesson.batch(step).latents]
        assert sorted(seen[:6]) == sorted(seen[6:]) == [0, 1, 2, 3, 4, 5]
        assert seen[:6] != seen[6:]

    def test_a_batch_is_a_function_of_its_step(self, cache: LatentCache) -> None:
        one, again, other = (objective(cache).batch(step) for step in (1, 1, 2))
        for name in ("latents", "noise", "times", "states", "valid"):
            assert torch.equal(getattr(one, name), getattr(again, name))
        assert not torch.equal(one.noise, other.noise)

    def test_captions_are_the_scenes_own_or_none(self, cache: LatentCache) -> None:
        """About a tenth are dropped, four in ten of the rest are first captions."""
        lesson = objective(cache, images=6)
        dropped = first = 0
        for step in range(150):
            batch = lesson.batch(step)
            for row, valid, latents in zip(batch.states, batch.valid, batch.latents, strict=True):
                value, scene = float(row[0, 0]), float(latents[0, 0, 0])
                if value == -1.0:
                    dropped += 1
                    assert valid.sum() == 1
                else:
                    slot = round((value - scene) * 10)
                    assert slot in (0, 1)
                    first += slot == 0
                    assert valid.sum() == 1 + (int(scene) + slot) % 3
                    assert (row[~valid] == 0).all()
        assert dropped / 900 == pytest.approx(0.1, abs=0.03)
        assert first / (900 - dropped) == pytest.approx(0.4, abs=0.05)

    def test_times(self) -> None:
        rng = np.random.default_rng(0)
        uniform = Uniform().draw(rng, 4000)
        assert np.quantile(uniform, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.03)
        middle = LogitNormal(mean=0.5, spread=2.0).draw(rng, 4000)
        logits = np.log(middle / (1 - middle))
        assert (logits.mean(), logits.std()) == pytest.approx((0.5, 2.0), abs=0.1)
        assert choose_times("lognorm") == LogitNormal()
        with pytest.raises(TrainingError, match="times=cosine: one of uniform, lognorm is wanted"):
            choose_times("cosine")


class TestLoss:
    def test_it_is_the_formula(self, cache: LatentCache) -> None:
        """x_t and the error in numpy; the network is asked for its velocity picture by picture."""
        model = nextdit(CONFIG)
        lesson = objective(cache, model)
        states, mask = captions(3, 5)
        rng = np.random.default_rng(1)
        x1, x0 = (rng.standard_normal((2, 4, 4, 4)).astype(np.float32) for _ in range(2))
        t = np.array([0.2, 0.7], np.float32)
        batch = FlowBatch(
            latents=torch.tensor(x1),
            noise=torch.tensor(x0),
            times=torch.tensor(t),
            states=states,
            valid=mask.bool(),
        )
        loss, figures = lesson.loss(batch)
        wanted: list[float] = []
        for row in range(2):
            length = int(mask[row].sum())
            prompt = model.prepare(states[row : row + 1, :length])
            canvas = model.canvas([(4, 4)], scaling=Unscaled(), proportional=False)
            mixed = t[row] * x1[row] + (1 - t[row]) * x0[row]
            velocity = model(torch.tensor(mixed)[None], float(t[row]), prompt, canvas)
            assert isinstance(velocity, torch.Tensor)
            error = velocity[0].detach().numpy() - (x1[row] - x0[row])
            wanted.append(float((error.astype(np.float64) ** 2).mean()))
        assert loss.item() == pytest.approx(np.mean(wanted), rel=1e-5)
        assert figures == pytest.approx({"noisy": wanted[0], "clear": wanted[1]}, rel=1e-5)

    @pytest.mark.parametrize("parts", [1, 3, 9])
    def test_parts_add_up(self, cache: LatentCache, parts: int) -> None:
        lesson = objective(cache)
        batch = lesson.batch(0)
        shares = lesson.divide(batch, parts)
        assert len(shares) == min(parts, 4)
        total = sum(share * lesson.loss(part)[0].item() for share, part in shares)
        assert total == pytest.approx(lesson.loss(batch)[0].item(), rel=1e-5)

    def test_padding(self) -> None:
        states, valid = pad_states([torch.ones(1, 3).half(), 2 * torch.ones(3, 3).half()])
        assert states.tolist() == [[[1] * 3, [0] * 3, [0] * 3], [[2] * 3] * 3]
        assert valid.tolist() == [[True, False, False], [True] * 3]

    def test_a_fresh_network_predicts_zero_and_every_weight_can_learn(
        self, cache: LatentCache
    ) -> None:
        model = NextDiT(CONFIG)
        initialise_painter(model, 0)
        lesson = objective(cache, model)
        batch = lesson.batch(0)
        loss, _ = lesson.loss(batch)
        target = (batch.latents - batch.noise).square().mean()
        assert loss.item() == pytest.approx(float(target), rel=1e-6)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for step in range(6):
            optimiser.zero_grad()
            lesson.loss(lesson.batch(step))[0].backward()
            optimiser.step()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        still = {name for name, grad in gradients.items() if grad is None or not grad.any()}
        assert still == {"pad_token"}  # pictures of one size are never padded

    def test_fresh_weights_are_a_function_of_the_seed(self) -> None:
        states = []
        for seed in (0, 0, 1):
            model = NextDiT(CONFIG)
            initialise_painter(model, seed)
            states.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert torch.equal(states[0], states[1])
        assert not torch.equal(states[0], states[2])


class TestAdapters:
    def test_a_fresh_adapter_changes_nothing_and_the_rest_is_frozen(
        self, cache: LatentCache
    ) -> None:
        plain, model = nextdit(CONFIG), nextdit(CONFIG)
        names = adapt(model, rank=2, alpha=4.0, seed=0)
        parts = ("attention.q", "attention.k", "attention.v", "attention.out")
        parts += ("mlp.gate", "mlp.up", "mlp.down")
        assert set(names) == {f"layers.{layer}.{part}" for layer in range(2) for part in parts}
        learning = {name for name, p in model.named_parameters() if p.requires_grad}
        assert learning == {f"{name}.{matrix}" for name in names for matrix in "ab"}
        batch = objective(cache).batch(0)
        losses = [objective(cache, each).loss(batch)[0].item() for each in (plain, model)]
        assert losses[0] == losses[1]

    def test_merged_it_gives_what_it_gave_beside(self, cache: LatentCache) -> None:
        model = nextdit(CONFIG)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        adapt(model, rank=3, alpha=6.0, seed=1)
        with torch.no_grad():
            for part in model.modules():
                if isinstance(part, LowRank):
                    part.b.normal_(std=0.3)
        layer = model.get_submodule("layers.1.mlp.down")
        assert isinstance(layer, LowRank)
        a, b = (p.detach().double().numpy() for p in (layer.a, layer.b))
        wanted = before["layers.1.mlp.down.weight"].double().numpy() + 2.0 * b @ a
        lesson = objective(cache, model)
        batch = lesson.batch(0)
        beside = lesson.loss(batch)[0].item()
        merge(model)
        assert lesson.loss(batch)[0].item() == pytest.approx(beside, rel=1e-5)
        assert set(model.state_dict()) == set(before)
        found = model.state_dict()["layers.1.mlp.down.weight"].numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(model.state_dict()["patch.weight"], before["patch.weight"])

    def test_no_such_layer(self) -> None:
        with pytest.raises(TrainingError, match="adapters of rank 2 on 0 layers"):
            adapt(nextdit(CONFIG), rank=2, alpha=1.0, seed=0, layers="nowhere")


def walked(side: int, multiple: int, longest: float) -> Iterator[tuple[int, int]]:
    """The staircase, step by step: up while there is room, else one narrower."""
    most = round((side / multiple) ** 2)
    width, height = most, 1
    while width > 0:
        if max(width, height) / min(width, height) <= longest:
            yield width * multiple, height * multiple
        if (height + 1) * width <= most:
            height += 1
        else:
            width -= 1


class TestBuckets:
    @pytest.mark.parametrize(("side", "count"), [(256, 49), (512, 97), (1024, 193)])
    def test_they_are_the_references(self, side: int, count: int) -> None:
        found = bucket_sizes(side)
        assert len(found) == count
        assert found == list(walked(side, 16, 4.0))
        assert found[0][0] / found[0][1] == 4.0
        assert (side, side) in found

    def test_other_multiples_and_ratios(self) -> None:
        assert bucket_sizes(96, multiple=32, longest=1.0) == list(walked(96, 32, 1.0))
        assert bucket_sizes(96, multiple=32, longest=9.0) == list(walked(96, 32, 9.0))
        with pytest.raises(TrainingError, match="a ratio of at least 1"):
            bucket_sizes(96, longest=0.5)

    def test_the_nearest_keep_most_of_a_picture(self) -> None:
        buckets = bucket_sizes(256)
        scores = {b: min(b[0] / 300, b[1] / 200) / max(b[0] / 300, b[1] / 200) for b in buckets}
        found = nearest_buckets((300, 200), buckets)
        assert len(found) == 4
        assert [scores[b] for b in found] == sorted(scores.values(), reverse=True)[:4]
        assert nearest_buckets((512, 512), buckets, most=1) == [(256, 256)]

    @pytest.mark.parametrize("size", [(40, 300), (700, 130), (64, 48)])
    def test_a_cut_covers_its_bucket_and_keeps_the_shape(self, size: tuple[int, int]) -> None:
        ramp = np.zeros((size[1], size[0], 3), np.uint8)
        ramp[..., 0] = np.linspace(0, 255, size[0])[None]
        ramp[..., 1] = np.linspace(0, 255, size[1])[:, None]
        cut = cut_to_bucket(np.random.default_rng(0), Image.fromarray(ramp), (64, 48))
        assert cut.size == (64, 48)
        scale = max(64 / size[0], 48 / size[1])
        pixels = np.asarray(cut, float)
        shares = np.ptp(pixels[24, :, 0]) / 255, np.ptp(pixels[:, 32, 1]) / 255
        wanted = 64 / (size[0] * scale), 48 / (size[1] * scale)
        assert shares == pytest.approx(wanted, abs=0.06)


def test_a_cache_is_told_in_words(tmp_path: Path) -> None:
    build(tmp_path / "cache")
    about = json.loads((tmp_path / "cache" / "cache.json").read_text())
    assert about["about"] == {"autoencoder": "a", "shard": 3}
    assert about["key"] == cache_key(about["about"])
