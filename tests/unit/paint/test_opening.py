"""Painters found on disk: every layout, what is missing, what is of another kind, and saving."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.painting import SMALL, nextdit
from tests.unit.paint.small import autoencoder, painter, write_folder
from torch import Tensor

from heliodor.checkpoints.lumina import save_lumina
from heliodor.errors import (
    ConfigError,
    FileFormatError,
    InputError,
    KeyMismatchError,
    MissingExtraError,
)
from heliodor.paint import Painter, load_painter, load_vae, opening
from heliodor.paint.vae_source import WEIGHTS

FAST: dict[str, Any] = {"steps": 3, "solver": "euler", "size": (48, 32), "seed": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("painter"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "painter"))


def latents(of: Painter, **options: Any) -> Tensor:
    asked: dict[str, Any] = {**FAST, **options}
    found = of.paint("a dog", output="latents", **asked)
    assert isinstance(found, Tensor)
    return found


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}))


def test_a_folder_paints_what_its_networks_paint(made):
    opened = load_painter(made)
    assert opened.sources.dtype_name == "float32"
    assert opened.sources.name == str(made)
    wanted = painter().paint("a dog", **FAST)
    found = opened.paint("a dog", **FAST)
    assert torch.equal(found.latents, wanted.latents)
    assert found.image.tobytes() == wanted.image.tobytes()


@pytest.mark.parametrize("name", ["LuminaPipeline", "LuminaText2ImgPipeline"])
def test_both_names_of_the_pipeline_are_read(folder, name):
    edit(folder / "model_index.json", _class_name=name)
    assert load_painter(folder).sources.config.width == SMALL.width


def test_the_text_encoder_is_read_without_its_last_layer(made):
    opened = load_painter(made)
    encoder = opened.stages.use(opened.sources.text)
    assert encoder.layers == len(encoder.model.layers) == 2


def test_the_official_file_takes_its_other_parts_from_elsewhere(made, tmp_path):
    save_lumina(nextdit(replace(SMALL, caption_width=32)), tmp_path / "official")
    parts: dict[str, Any] = {
        "text_encoder": made / "text_encoder",
        "tokenizer": made / "tokenizer" / "tokenizer.json",
        "vae": made / "vae",
    }
    opened = load_painter(tmp_path / "official", **parts)
    assert torch.equal(latents(opened), latents(painter()))
    with pytest.raises(ConfigError, match="has no text encoder: pass text_encoder="):
        load_painter(tmp_path / "official")
    bare = load_painter(tmp_path / "official", **{**parts, "vae": None})
    assert torch.equal(latents(bare), latents(painter()))
    with pytest.raises(ConfigError, match="official has no autoencoder: pass vae="):
        bare.paint("a dog", **FAST)


def test_parts_are_held_one_at_a_time(made):
    opened = load_painter(made, memory="staged")
    seen: list[list[str]] = []
    found = opened.paint("a dog", progress=lambda _: seen.append(opened.stages.held()), **FAST)
    assert seen[0] == ["transformer"]
    assert opened.stages.held() == ["autoencoder"]
    assert torch.equal(found.latents, latents(painter())[0])
    kept = load_painter(made, memory="all")
    kept.paint("a dog", **FAST)
    assert kept.stages.held() == ["text encoder", "transformer", "autoencoder"]


def test_remembered_prompts_need_no_text_encoder(made):
    opened = load_painter(made, memory="staged")
    latents(opened)
    opened.stages.drop()
    latents(opened, seed=2)
    assert opened.stages.held() == ["transformer"]


def test_the_plan_counts_what_is_loaded(made):
    opened = load_painter(made, memory="staged")
    plan = opened.plan((64, 64), pictures=2)
    parts = opened.sources
    transformer = opened.stages.use(parts.transformer)
    assert plan.transformer == sum(p.numel() * 4 for p in transformer.parameters())
    encoder = opened.stages.use(parts.text)
    assert plan.text_encoder == sum(p.numel() * 4 for p in encoder.model.parameters())
    vae = opened.stages.use(parts.vae)
    assert plan.autoencoder == sum(p.numel() * 4 for p in vae.module.parameters())
    stages = plan.stages
    assert plan.peak == max(stages.values())
    assert stages["sampling"] == plan.transformer + plan.sampling
    together = plan.text_encoder + plan.transformer + plan.autoencoder
    kept = load_painter(made, memory="all").plan((64, 64), pictures=2)
    assert kept.stages["sampling"] == together + plan.sampling
    assert opened.plan((64, 64), pictures=2, previews=True).stages["sampling"] == (
        plan.transformer + plan.autoencoder + plan.sampling
    )
    assert opened.plan((128, 64), pictures=2).sampling > plan.sampling
    half = load_painter(made, dtype="bfloat16").plan((64, 64))
    assert half.transformer == plan.transformer // 2


def test_half_precision_paints_nearly_the_same(made):
    half = load_painter(made, dtype="bfloat16")
    exact, found = latents(painter()), latents(half)
    assert half.sources.dtype_name == "bfloat16"
    assert half.stages.use(half.sources.transformer).pad_token.dtype == torch.bfloat16
    assert 0 < float((found - exact).abs().mean() / exact.abs().mean()) < 0.1
    assert half.paint("a dog", **FAST).record.dtype == "bfloat16"


def test_eight_bits_paint_nearly_the_same(made):
    small = load_painter(made, quantize="int8")
    exact, found = latents(painter()), latents(small)
    assert 0 < float((found - exact).abs().mean() / exact.abs().mean()) < 0.2
    plan, whole = small.plan((48, 32)), load_painter(made).plan((48, 32))
    held = small.stages.use(small.sources.transformer).state_dict().values()
    assert plan.transformer == sum(each.numel() * each.itemsize for each in held)
    assert plan.transformer < whole.transformer


def test_the_shift_of_diffusers_grid_is_the_folders(folder):
    edit(folder / "scheduler" / "scheduler_config.json", shift=3.0)
    found = load_painter(folder).paint("a dog", grid="diffusers", **FAST)
    assert found.record.settings.to_dict()["shift"] == 3.0
    wanted = latents(painter(), grid="diffusers", shift=3.0)
    assert torch.equal(found.latents, wanted[0])


def test_a_folder_in_the_zoo_is_the_tiny_painter(folder, monkeypatch):
    monkeypatch.setattr(opening, "TINY", folder)
    opened = load_painter("tiny")
    assert opened.sources.name == "tiny"
    assert torch.equal(latents(opened), latents(painter()))
    assert load_vae("tiny").factor == 8
    with pytest.raises(InputError, match="has no revision"):
        load_painter("tiny", revision="main")


def test_the_tiny_painter_may_leave_its_text_encoder_to_the_shipped_gemma(folder, monkeypatch):
    monkeypatch.setattr(opening, "TINY", folder)
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(ConfigError, match=r"the text encoder gives .* they do not belong together"):
        load_painter("tiny")


def test_a_tiny_painter_that_is_not_shipped_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "TINY", tmp_path / "painter")
    with pytest.raises(ConfigError, match="not shipped yet"):
        load_painter("tiny")


def test_queries_that_were_trained_apart_are_chosen(folder):
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["layers.0.attn2.to_q.weight"] = tensors["layers.0.attn2.to_q.weight"] * 2
    save_file(tensors, path)
    with pytest.raises(KeyMismatchError, match="merge='self' or merge='caption'"):
        latents(load_painter(folder))
    assert torch.equal(latents(load_painter(folder, merge="self")), latents(painter()))
    assert not torch.equal(latents(load_painter(folder, merge="caption")), latents(painter()))
    with pytest.raises(InputError, match="merge is 'both'"):
        load_painter(folder, merge="both")


def rename(folder: Path, names: dict[str, str]) -> None:
    path = folder / "vae" / WEIGHTS
    tensors = load_file(path)
    for new, old in names.items():
        for name in list(tensors):
            if f".{old}." in name and "attentions" in name:
                value = tensors.pop(name)
                shaped = value[:, :, None, None] if value.ndim == 2 else value
                tensors[name.replace(f".{old}.", f".{new}.")] = shaped.contiguous()
    save_file(tensors, path)


def test_old_names_of_the_autoencoders_attention_are_read(folder):
    rename(folder, {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"})
    found = load_vae(folder / "vae").module.state_dict()
    wanted = autoencoder().module.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_autoencoder_may_rest_in_bfloat16_and_not_in_float16(made):
    assert load_vae(made, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="float16 overflows to black pictures"):
        load_vae(made, dtype="float16")
    opened = load_painter(made, vae_dtype="bfloat16")
    assert opened.stages.use(opened.sources.vae).dtype == torch.bfloat16


def test_large_pictures_are_decoded_in_tiles():
    vae = autoencoder()
    row = torch.randn(1, 4, 4, 160, generator=torch.Generator().manual_seed(2))
    tiled = vae.decode(row)
    assert vae.module.use_tiling
    assert tiled.shape == (1, 3, 32, 1280)
    first = vae.decode(row[..., :128])  # one tile; the next begins at 96 and is blended from there
    assert not vae.module.use_tiling
    assert torch.allclose(tiled[..., :768], first[..., :768], atol=1e-5)


def test_pickles_are_not_read(folder):
    (folder / "vae" / WEIGHTS).rename(folder / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(FileFormatError, match="is a pickle and is not read"):
        load_painter(folder)


def test_an_autoencoder_that_lacks_a_tensor_is_refused(folder):
    path = folder / "vae" / WEIGHTS
    tensors = load_file(path)
    tensors.pop("decoder.conv_in.bias")
    save_file(tensors, path)
    with pytest.raises(KeyMismatchError, match=r"missing \['decoder.conv_in.bias'\]"):
        load_vae(folder)


def test_a_tensor_of_another_shape_is_refused(folder):
    path = folder / "vae" / WEIGHTS
    tensors = load_file(path)
    tensors["decoder.conv_in.bias"] = torch.zeros(3)
    save_file(tensors, path)
    with pytest.raises(KeyMismatchError, match=r"decoder.conv_in.bias is \[3\], expected \[16\]"):
        load_vae(folder)


def test_without_diffusers_it_is_said_before_painting(made, monkeypatch):
    monkeypatch.setattr("heliodor.paint.sources.find_spec", lambda name: None)
    opened = load_painter(made)
    seen: list[object] = []
    with pytest.raises(MissingExtraError, match=r"pip install 'heliodor\[paint\]'"):
        opened.paint("a dog", progress=seen.append, **FAST)
    assert seen == []
    assert opened.stages.held() == []
    assert latents(opened).shape == (1, 4, 4, 6)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        (
            "model_index.json",
            {"_class_name": "Lumina2Pipeline"},
            "_class_name is 'Lumina2Pipeline'",
        ),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "expected an AutoencoderKL"),
        ("vae/config.json", {"latent_channels": 16}, "has 16 channels, the transformer paints 4"),
        ("vae/config.json", {"block_out_channels": "many"}, "block_out_channels is 'many'"),
        ("text_encoder/config.json", {"model_type": "llama"}, "model_type"),
        ("scheduler/scheduler_config.json", {"shift": -1}, "shift is -1; expected a number"),
    ],
)
def test_a_folder_of_another_kind_is_refused(folder, file, values, message):
    edit(folder / file, **values)
    with pytest.raises(ConfigError, match=message):
        load_painter(folder)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"memory": "little"}, InputError, "memory is 'little'"),
        ({"scheduler": "x"}, InputError, "'scheduler' is no part of a painter"),
        ({"device": "abacus"}, InputError, "device 'abacus' cannot be used here"),
        ({"dtype": "int7"}, ConfigError, "dtype is 'int7'"),
        ({"quantize": "int3"}, ConfigError, "quantize is 'int3'"),
        ({"revision": "main"}, InputError, "has no revision"),
        ({"vae_dtype": "float16"}, ConfigError, "float16"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(made, options, error, message):
    with pytest.raises(error, match=message):
        load_painter(made, **options)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c/d", ""])
def test_a_source_that_is_not_there_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="expected a folder of diffusers"):
        load_painter(tmp_path / "x" / name)


def test_an_empty_folder_is_no_painter(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no painter but nothing; .*model_index\.json"):
        load_painter(tmp_path)


def test_a_hub_id_fetches_no_more_than_it_needs(made, tmp_path, monkeypatch):
    asked: list[tuple[str, str | None, tuple[str, ...]]] = []
    answers: list[Path] = []

    def resolve(repo: str, *, revision: str | None = None, patterns: tuple[str, ...]) -> Path:
        asked.append((repo, revision, patterns))
        return answers.pop(0)

    monkeypatch.setattr("heliodor.checkpoints.hub.resolve", resolve)
    answers.append(made)
    opened = load_painter("Alpha-VLLM/Lumina-Next-SFT-diffusers", revision="main")
    assert torch.equal(latents(opened), latents(painter()))
    ((repo, revision, patterns),) = asked
    assert (repo, revision) == ("Alpha-VLLM/Lumina-Next-SFT-diffusers", "main")
    assert not any(name.endswith((".bin", ".pth")) or name == "*" for name in patterns)
    save_lumina(nextdit(replace(SMALL, caption_width=32)), tmp_path / "official")
    answers.extend([tmp_path, tmp_path / "official"])
    opened = load_painter(
        "Alpha-VLLM/Lumina-Next-SFT",
        text_encoder=made / "text_encoder",
        tokenizer=made / "tokenizer" / "tokenizer.json",
    )
    assert torch.equal(latents(opened), latents(painter()))
    ema, last = "consolidated_ema.00-of-01.safetensors", "consolidated.00-of-01.safetensors"
    assert [(ema in found, last in found) for _, _, found in asked[1:]] == [
        (True, False),  # the moving average counts, and only without it the last weights are
        (False, True),
    ]
