"""The painter's recipes with small networks: an autoencoder, a cache, a transformer, a picture."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.paint.small import VAE as SMALL_VAE
from tests.unit.paint.small import encoder, kind

import heliodor
from heliodor import zoo
from heliodor.checkpoints.tensors import open_tensors
from heliodor.errors import TrainingError
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NextDiTConfig
from heliodor.paint.painter import load_vae
from heliodor.paint.vae import psnr, to_pictures
from heliodor.teach.compressing import (
    CompressLoss,
    encode,
    held_out_scenes,
    latent_scale,
    pixels_of,
    round_trip_psnr,
)
from heliodor.teach.latents import LatentCache
from heliodor.teach.loop import train
from heliodor.teach.recipes import RECIPES, painter, painter_cache
from heliodor.teach.recipes.painter import (
    TRANSFORMER,
    VAE,
    PainterSettings,
    TinyPainter,
    VaeSettings,
    painter_stage,
    vae_stage,
    write_vae,
)
from heliodor.teach.recipes.painter_cache import CacheSettings, SceneMaker

CONFIG = {**SMALL_VAE, "latent_channels": 2}
SETTINGS = VaeSettings(size=32, crop=16, pictures=8, steps=6, warmup=1, held_out=4, sample_every=0)
TINY = NextDiTConfig(
    in_channels=2,
    width=32,
    depth=1,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=32,
    caption_width=32,
    sample_size=4,
)


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return kind()(**CONFIG).eval()


class TestLossOfPixels:
    def test_it_is_the_formula(self) -> None:
        rng = np.random.default_rng(0)
        found, wanted = rng.standard_normal((2, 2, 3, 5, 6))
        mean, logvar = rng.standard_normal((2, 2, 4, 2, 2))
        terms = CompressLoss(squares=2.0, edges=0.7, kl=0.3)
        loss, figures = terms(*(torch.tensor(x).float() for x in (found, wanted, mean, logvar)))
        error = found - wanted
        across, down = np.abs(np.diff(error, axis=3)).mean(), np.abs(np.diff(error, axis=2)).mean()
        kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).mean()
        value = np.abs(error).mean() + 2.0 * (error**2).mean() + 0.35 * (across + down) + 0.3 * kl
        assert loss.item() == pytest.approx(value, rel=1e-5)
        assert figures["kl"] == pytest.approx(kl, rel=1e-5)
        assert figures["psnr"] == pytest.approx(10 * np.log10(4 / (error**2).mean()), rel=1e-5)

    def test_the_objectives_loss_samples_with_the_batchs_noise(self) -> None:
        _, objective = vae_stage(SETTINGS, CONFIG)
        batch = objective.batch(0)
        model: Any = objective.model.eval()
        with torch.no_grad():
            loss, _ = objective.loss(batch)
            wanted = batch.pixels.permute(0, 3, 1, 2) / 127.5 - 1
            moments = model.quant_conv(model.encoder(wanted))
            mean, logvar = moments.chunk(2, dim=1)
            latents = mean + (logvar / 2).exp() * batch.noise
            found = model.decoder(model.post_quant_conv(latents))
            again, _ = objective.loss_terms(found, wanted, mean, logvar)
        assert loss.item() == pytest.approx(again.item(), rel=1e-5)
        parts = objective.divide(batch, 3)
        assert [len(part.pixels) for _, part in parts] == [2, 3, 3]
        assert sum(share for share, _ in parts) == pytest.approx(1.0)
        assert torch.equal(torch.cat([part.noise for _, part in parts]), batch.noise)

    def test_cuts_first_whole_pictures_at_the_end(self) -> None:
        _, objective = vae_stage(replace(SETTINGS, steps=20, whole=0.25), CONFIG)
        assert objective.batch(14).pixels.shape == (8, 16, 16, 3)
        assert objective.batch(14).noise.shape == (8, 2, 2, 2)
        assert objective.batch(15).pixels.shape == (2, 32, 32, 3)
        assert torch.equal(objective.batch(3).pixels, objective.batch(3).pixels)


class TestMeasures:
    def test_psnr_is_that_of_the_pictures_shown(self) -> None:
        model, pictures = network(), held_out_scenes(3, size=32, strength=0.35)
        with torch.no_grad():
            mean = model.encode(pixels_of(pictures), return_dict=False)[0].mean
            back = model.decode(mean, return_dict=False)[0]
        shown = to_pictures((back / 2 + 0.5).clamp(0, 1))
        plain = to_pictures(pictures.permute(0, 3, 1, 2) / 255)
        wanted = [psnr(one, other) for one, other in zip(plain, shown, strict=True)]
        assert round_trip_psnr(model, pictures) == pytest.approx(wanted, rel=1e-5)

    def test_scaled_latents_have_a_deviation_of_one(self) -> None:
        model, pictures = network(), held_out_scenes(4, size=32, strength=0.35)
        scale = latent_scale(model, pictures)
        assert float((encode(model, pictures) * scale).std()) == pytest.approx(1.0, rel=1e-5)

    def test_held_out_scenes_are_others_than_trained_on(self) -> None:
        pictures = held_out_scenes(3, size=32, strength=0.35)
        assert torch.equal(held_out_scenes(2, size=32, strength=0.35, first=1), pictures[1:])
        assert not torch.equal(pictures[0], pictures[1])


def test_an_autoencoder_is_written_in_float16_and_read_as_float32(tmp_path: Path) -> None:
    model = network()
    write_vae(model, tmp_path / "vae", scale=0.5)
    stored = open_tensors(tmp_path / "vae", stem="diffusion_pytorch_model")
    assert {stored.entry(name).dtype for name in stored} == {torch.float16}
    found = load_vae(tmp_path / "vae")
    assert (found.scale, found.channels, found.factor) == (0.5, 2, 8)
    for name, value in found.module.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].half().float())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = kind().from_pretrained(tmp_path / "vae")
    assert theirs.config.scaling_factor == 0.5


def maker(vae: Path) -> SceneMaker:
    settings = CacheSettings(vae=str(vae), size=32, captions=3, shard=4, scenes=8)
    return SceneMaker(settings, load_vae(vae), encoder())


class TestCaching:
    @pytest.fixture
    def vae(self, tmp_path: Path) -> Path:
        write_vae(network(), tmp_path / "vae", scale=0.5)
        return tmp_path / "vae"

    def test_latents_and_features_are_those_of_the_parts(self, vae: Path) -> None:
        found = maker(vae)
        made = found.make(range(2, 4))
        picture = torch.as_tensor(found.scene(3).image.copy())[None]
        latents = encode(found.autoencoder.module, picture)[0] * 0.5
        torch.testing.assert_close(made.latents[1], latents, rtol=1e-4, atol=1e-5)
        assert list(made.captions[3:]) == found.captions(3, found.scene(3))
        for text, states in zip(made.captions, made.states, strict=True):
            (alone,) = found.encoder.encode([text])
            torch.testing.assert_close(states, alone.states, rtol=1e-4, atol=1e-5)

    def test_a_scene_is_told_in_english_and_two_other_languages(self, vae: Path) -> None:
        found = maker(vae)
        captions = [found.captions(n, found.scene(n)) for n in range(12)]
        assert all(len(each) == len(set(each)) == 3 for each in captions)
        assert all(each[0].isascii() for each in captions)
        rest = "".join(text for each in captions for text in each[1:])
        assert "的" in rest
        assert "の" in rest

    def test_it_depends_on_files_and_on_what_is_drawn(
        self, vae: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = maker(vae).about()
        assert maker(vae).about() == before
        write_vae(network(seed=1), vae, scale=0.5)
        after = maker(vae).about()
        assert {name for name in before if before[name] != after[name]} == {"autoencoder"}
        monkeypatch.setattr(painter_cache, "_WORDS", 99)
        words = maker(vae).about()
        assert {name for name in words if words[name] != after[name]} == {"drawing"}


class TestFromEndToEnd:
    """Six steps each, to a picture; what it shows does not matter."""

    @pytest.fixture(autouse=True)
    def shrunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def without_worker(run: Any, *rest: Any) -> Any:
            return train(replace(run, workers=0), *rest, quiet=True)

        class Source:
            encoder = staticmethod(lambda **_: encoder())

        monkeypatch.setattr(painter, "train", without_worker)
        monkeypatch.setattr(painter, "VAE", CONFIG)
        monkeypatch.setattr(painter_cache, "open_gemma", lambda _: Source)
        small = painter_stage
        monkeypatch.setattr(painter, "painter_stage", lambda settings: small(settings, TINY))

    def test_three_recipes_leave_a_painter(self, tmp_path: Path) -> None:
        vae, cache = tmp_path / "vae", tmp_path / "cache"
        painter.PainterVae(settings=SETTINGS).run(vae, {}, resume=False)
        found = load_vae(vae / "vae")
        assert 0 < found.scale < 1000
        assert found.scale != 1.0
        settings = CacheSettings(vae=str(vae / "vae"), size=32, shard=4, scenes=8)
        painter_cache.PainterCache(settings=settings).run(cache, {}, resume=False)
        assert (len(LatentCache(cache)), LatentCache(cache).sides) == (8, (2, 4, 4))
        lesson = PainterSettings(
            cache=str(cache), vae=str(vae / "vae"), images=4, steps=6, warmup=1
        )
        TinyPainter(settings=lesson).run(tmp_path / "run", {}, resume=False)
        folder = tmp_path / "run" / "painter"
        assert not (folder / "text_encoder").exists()
        index = json.loads((folder / "model_index.json").read_text())
        assert index["text_encoder"] == [None, None]
        gemma = tmp_path / "gemma"
        from heliodor.checkpoints.language import save_language

        save_language(encoder().model, encoder().tokenizer, gemma)
        made = heliodor.load_painter(folder, text_encoder=str(gemma))
        assert made.paint("a red apple", seed=1, steps=2).image.size == (32, 32)
        self.adapted(tmp_path, lesson, folder)

    @staticmethod
    def adapted(tmp_path: Path, lesson: PainterSettings, folder: Path) -> None:
        """Adapters move the adapted layers alone, and the result is an ordinary painter."""
        changes = {"start": str(folder), "rank": "2", "average": "0"}
        TinyPainter(settings=lesson).run(tmp_path / "low", changes, resume=False)
        stem = "diffusion_pytorch_model"
        before = open_tensors(folder / "transformer", stem=stem)
        after = open_tensors(tmp_path / "low" / "painter" / "transformer", stem=stem)
        assert set(before) == set(after)
        moved = {n for n in before if not torch.equal(before.read(n), after.read(n))}
        assert any("feed_forward" in name for name in moved)
        assert not any("norm" in name or "embed" in name for name in moved)


class TestSettings:
    def test_the_shipped_sizes(self) -> None:
        """Below 8 million weights, and below 14 MB in float16 as the folders hold them."""
        torch.manual_seed(0)
        vae = sum(p.numel() for p in kind()(**VAE).parameters())
        model = NextDiT(TRANSFORMER)
        count = sum(p.numel() for p in model.parameters())
        twice = sum(p.numel() for n, p in model.named_parameters() if ".attention.q" in n)
        assert 1e6 < vae < 2e6
        assert count < 8e6
        assert 2 * (vae + count + twice) < 14e6
        config = json.loads((zoo.TINY / "config.json").read_text())
        assert TRANSFORMER.caption_width == config["text_config"]["hidden_size"]
        patches = (TRANSFORMER.sample_size // TRANSFORMER.patch_size) ** 2
        assert (patches, TRANSFORMER.head_dim % 4) == (64, 0)

    def test_they_have_names(self) -> None:
        assert {"painter-vae", "painter-cache", "painter"} <= set(RECIPES)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"rank": 4}, "rank: adapters learn beside a painter: give start=FOLDER"),
            ({"times": "x"}, "times=x: one of uniform, lognorm"),
            ({"dropout": 2.0}, "shares in 0..1 are wanted"),
            ({"steps": 0}, "steps=0: at least 1 is wanted"),
        ],
    )
    def test_settings_that_cannot_be(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(TrainingError, match=message):
            PainterSettings(**changes)

    def test_cuts_that_do_not_divide(self) -> None:
        with pytest.raises(TrainingError, match="in multiples of 8, from 16, are wanted"):
            VaeSettings(crop=60)
