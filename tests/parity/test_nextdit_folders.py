"""Painters' folders: what diffusers writes is read, what is written diffusers reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import painting, talking, tiny

from heliodor.checkpoints.diffusers_config import read_transformer_config
from heliodor.checkpoints.diffusers_pipeline import (
    DiffusersPipeline,
    PainterParts,
    Scheduler,
    save_pipeline,
)
from heliodor.checkpoints.diffusers_transformer import (
    STEM,
    DiffusersTransformer,
    save_transformer,
)
from heliodor.checkpoints.lumina_places import find_painter
from heliodor.errors import ConfigError, InputError, KeyMismatchError

diffusers = pytest.importorskip("diffusers")
safetensors = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.parity

CLOSE = 1e-5
CONFIGS = {
    "small": painting.SMALL,
    "narrow MLP, 16 channels": replace(
        painting.SMALL, mlp_width=40, in_channels=16, learns_sigma=False, sample_size=32
    ),
    "as many key-value heads": replace(painting.SMALL, num_kv_heads=6, norm_eps=1e-6),
    "the usual MLP": replace(painting.SMALL, mlp_width=256, qk_norm=False),
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What diffusers saves."""
    place = tmp_path_factory.mktemp("theirs")
    painting.theirs(painting.nextdit()).save_pretrained(place)
    return place


def changed(folder: Path, place: Path, name: str) -> DiffusersTransformer:
    """Another value in one tensor."""
    tensors = safetensors.load_file(folder / f"{STEM}.safetensors")
    tensors[name][0] += 0.5
    safetensors.save_file(tensors, place / f"{STEM}.safetensors")
    (place / "config.json").write_bytes((folder / "config.json").read_bytes())
    return DiffusersTransformer(folder=place, source="")


def their_transformer(folder: Path, **options: Any) -> Any:
    from diffusers.models.transformers.lumina_nextdit2d import LuminaNextDiT2DModel

    loading: Any = LuminaNextDiT2DModel.from_pretrained
    found, report = loading(folder, output_loading_info=True, **options)
    assert not any(report.values()), report
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_their_folder_is_read_tensor_by_tensor(name: str, tmp_path: Path) -> None:
    model = painting.nextdit(CONFIGS[name])
    painting.theirs(model).save_pretrained(tmp_path)
    found = find_painter(tmp_path, "given")
    assert isinstance(found, DiffusersTransformer)
    assert found == DiffusersTransformer(folder=tmp_path, source="given")
    loaded = found.load()
    assert loaded.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shard", [40_000, 10**9])
def test_our_folder_is_read_by_them(name: str, shard: int, tmp_path: Path) -> None:
    model = painting.nextdit(CONFIGS[name])
    save_transformer(model, tmp_path, max_shard_size=shard)
    assert (tmp_path / f"{STEM}.safetensors.index.json").exists() is (shard == 40_000)
    expected = painting.theirs(model).state_dict()
    found = their_transformer(tmp_path).state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    again = DiffusersTransformer(folder=tmp_path, source="")
    assert again.config() == model.config
    assert torch.equal(again.load().last.out.weight, model.last.out.weight)


def test_bfloat16_is_kept_and_widened(tmp_path: Path) -> None:
    model = painting.nextdit()
    save_transformer(model, tmp_path, dtype="bfloat16")
    their = their_transformer(tmp_path, torch_dtype=torch.bfloat16)
    assert their.pad_token.dtype == torch.bfloat16
    assert torch.equal(their.pad_token, model.pad_token.bfloat16())
    kept = DiffusersTransformer(folder=tmp_path, source="").load()
    assert kept.pad_token.dtype == torch.bfloat16
    wide = DiffusersTransformer(folder=tmp_path, source="").load(dtype="float32")
    latents = painting.noise(1, 4, 8, 8)
    features, mask = painting.captions(4)
    with torch.no_grad():
        one = kept(latents, 0.5, kept.prepare(features, mask))
        two = wide(latents, 0.5, wide.prepare(features, mask))
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["layers.1.attn2.to_q.weight", "layers.0.attn1.norm_q.bias"])
def test_queries_that_were_trained_apart_are_refused_until_chosen(
    name: str, folder: Path, tmp_path: Path
) -> None:
    checkpoint = changed(folder, tmp_path, name)
    with pytest.raises(KeyMismatchError, match=r"differs from layers.*merge='self' or merge='cap"):
        checkpoint.load()
    stored = safetensors.load_file(tmp_path / f"{STEM}.safetensors")
    layer, kind = name.split(".")[1], name.split(".", 3)[3]
    ours = (
        f"layers.{layer}.attention."
        + {"to_q.weight": "q.weight", "norm_q.bias": "q_norm.bias"}[kind]
    )
    for merge, attention in (("self", "attn1"), ("caption", "attn2")):
        chosen = replace(checkpoint, merge=merge).load()
        expected = stored[f"layers.{layer}.{attention}.{kind}"]
        assert torch.equal(chosen.state_dict()[ours], expected)


def test_a_choice_that_does_not_exist() -> None:
    with pytest.raises(InputError, match="merge is 'mean'; expected 'self', 'caption' or None"):
        DiffusersTransformer(folder=Path(), source="", merge="mean")  # pyright: ignore[reportArgumentType]


def test_a_lost_copy_is_a_missing_tensor(folder: Path, tmp_path: Path) -> None:
    checkpoint = changed(folder, tmp_path, "layers.0.gate")
    stored = safetensors.load_file(tmp_path / f"{STEM}.safetensors")
    del stored["layers.1.attn2.norm_q.weight"]
    safetensors.save_file(stored, tmp_path / f"{STEM}.safetensors")
    with pytest.raises(KeyMismatchError, match=r"lacks layers\.1\.attn2\.norm_q\.weight, the copy"):
        checkpoint.weights()
    del stored["norm_out.linear_2.bias"]
    safetensors.save_file(stored, tmp_path / f"{STEM}.safetensors")
    with pytest.raises(KeyMismatchError, match=r"last\.out\.bias \(norm_out\.linear_2\.bias\)"):
        checkpoint.weights()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another network": (
        {"_class_name": "Lumina2Transformer2DModel"},
        "expected 'LuminaNextDiT2DModel' .this is Lumina-Image 2.0",
    ),
    "no class": ({"_class_name": None}, "_class_name is None; expected 'LuminaNextDiT2DModel'"),
    "no depth": ({"num_layers": ...}, "num_layers is missing; expected a whole number"),
    "no key-value heads": ({"num_kv_heads": ...}, "num_kv_heads is missing; expected a number, or"),
    "odd heads": ({"num_attention_heads": 5}, "48 over 5 heads is 9.6 channels a head"),
    "a word for a flag": ({"qk_norm": "yes"}, "qk_norm is 'yes'; expected true or false"),
    "quantised": ({"quantization_config": {}}, "expected none: load the unquantised"),
    "one patch": ({"sample_size": 2}, "sample_size is 2; expected at least two patches of 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_configurations_that_cannot_be_used(name: str, folder: Path, tmp_path: Path) -> None:
    changes, message = BAD[name]
    values = json.loads((folder / "config.json").read_text())
    values = {key: value for key, value in (values | changes).items() if value is not ...}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=message):
        read_transformer_config(tmp_path)


def test_null_means_as_many_key_value_heads(folder: Path, tmp_path: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"num_kv_heads": None}))
    assert read_transformer_config(tmp_path).num_kv_heads == 6


def test_a_base_that_diffusers_cannot_have(tmp_path: Path) -> None:
    model = painting.nextdit(replace(painting.SMALL, rope_base=500.0))
    with pytest.raises(ConfigError, match=r"rope_base is 500\.0; diffusers' layout cannot say so"):
        save_transformer(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("vae")
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    shape: Any = {
        "block_out_channels": (8,) * 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "norm_num_groups": 4,
        "latent_channels": 4,
    }
    AutoencoderKL(**shape).save_pretrained(place)
    (place / "left_over.bin").write_bytes(b"a pickle")
    return place


@pytest.fixture(scope="module")
def given(vae: Path) -> PainterParts:
    lm = talking.lm(talking.FIRST)
    config = replace(painting.SMALL, caption_width=lm.model.config.width)
    return PainterParts(
        config=config,
        state=painting.nextdit(config).state_dict(),
        text_config=lm.model.config,
        text_state=lm.model.state_dict(),
        tokenizer=lm.tokenizer,
        vae=vae,
        scheduler=Scheduler(shift=4.0),
    )


@pytest.fixture(scope="module")
def pipeline(given: PainterParts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ours") / "painter"
    save_pipeline(given, place)
    return place


def test_a_painter_is_read_back(pipeline: Path, given: Any) -> None:
    found = find_painter(pipeline, "given")
    assert isinstance(found, DiffusersPipeline)
    loaded = found.transformer.load()
    assert loaded.config == given.config
    assert torch.equal(
        loaded.layers[1].get_parameter("mlp.up.weight"), given.state["layers.1.mlp.up.weight"]
    )
    assert found.text_encoder is not None
    assert found.text_encoder.config() == given.text_config
    words = found.text_encoder.load().state_dict()
    assert words.keys() == given.text_state.keys()
    assert all(torch.equal(words[key], value) for key, value in given.text_state.items())
    text = "a red apple, 一个苹果"
    assert found.tokenizer().encode(text) == given.tokenizer.encode(text)
    assert found.scheduler() == Scheduler(train_steps=1000, shift=4.0)
    assert found.vae == pipeline / "vae"
    assert sorted(path.name for path in (pipeline / "vae").iterdir()) == [
        "config.json",
        f"{STEM}.safetensors",
    ]


def test_their_pipeline_paints_the_same_velocity(pipeline: Path, given: Any) -> None:
    from diffusers.pipelines.lumina.pipeline_lumina import LuminaPipeline

    theirs: Any = LuminaPipeline.from_pretrained(pipeline)
    theirs.set_progress_bar_config(disable=True)
    latents = painting.noise(1, 4, 16, 16)
    ids = [given.tokenizer.bos, *given.tokenizer.encode("a bee")]
    assert theirs.tokenizer("a bee").input_ids == ids
    features, mask = theirs._get_gemma_prompt_embeds("a bee", clean_caption=False)
    out = theirs(
        prompt_embeds=features,
        prompt_attention_mask=mask,
        negative_prompt_embeds=features,
        negative_prompt_attention_mask=mask,
        latents=latents.clone(),
        sigmas=[1.0],
        guidance_scale=1.0,
        height=128,
        width=128,
        output_type="latent",
    ).images
    model = find_painter(pipeline, "").transformer.load()  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        velocity = model(latents, 0.0, model.prepare(features, mask))
    assert tiny.relative_error(latents + velocity, out) <= CLOSE


def test_the_old_name_of_the_pipeline_is_read(pipeline: Path, tmp_path: Path) -> None:
    values = json.loads((pipeline / "model_index.json").read_text())
    for name in ("LuminaText2ImgPipeline", "Lumina2Pipeline"):
        (tmp_path / "model_index.json").write_text(json.dumps(values | {"_class_name": name}))
        if name == "Lumina2Pipeline":
            with pytest.raises(ConfigError, match="'Lumina2Pipeline'; expected LuminaPipeline or"):
                find_painter(tmp_path, "")
        else:
            found = find_painter(tmp_path, "")
            assert isinstance(found, DiffusersPipeline)
            assert (found.vae, found.text_encoder, found.vocabulary) == (None, None, None)


def test_a_pipeline_is_replaced_and_nothing_else(given: PainterParts, tmp_path: Path) -> None:
    place = tmp_path / "painter"
    save_pipeline(given, place)
    save_pipeline(replace(given, vae=None, text_config=None), place)
    assert not (place / "vae").exists()
    index = json.loads((place / "model_index.json").read_text())
    assert index["vae"] == index["text_encoder"] == [None, None]
    (place / "photograph.png").touch()
    with pytest.raises(InputError, match=r"exists and holds photograph\.png: only a folder with"):
        save_pipeline(given, place)
    assert [path.name for path in tmp_path.iterdir()] == ["painter"]


def test_a_save_that_fails_leaves_nothing(given: PainterParts, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no folder of an AutoencoderKL"):
        save_pipeline(replace(given, vae=tmp_path / "empty"), tmp_path / "painter")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
