"""heliodor.load and VisionLanguageModel.save: what comes back, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests import tiny

import heliodor
from heliodor import zoo
from heliodor.errors import CheckpointError, ConfigError, InputError, TokenizerError
from heliodor.nn.norm import RMSNorm
from heliodor.see.vlm import VisionLanguageModel

PICTURE = tiny.picture(1)
PROMPTS = ["caption en", "x"]


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny.vlm()


@pytest.fixture(scope="module")
def folder(model: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    model.save(path)
    return path


def test_a_saved_model_comes_back_with_the_same_logits_and_text(
    model: VisionLanguageModel, folder: Path
) -> None:
    back = heliodor.load(folder)
    assert back.model.config == model.model.config
    assert back.processor == model.processor
    said = [" a bee", " <loc0012>"]
    expected = model.logits([PICTURE], PROMPTS, said)
    assert tiny.relative_error(back.logits([PICTURE], PROMPTS, said), expected) < 1e-6
    for one, other in zip(
        back.generate([PICTURE], PROMPTS, max_new_tokens=9),
        model.generate([PICTURE], PROMPTS, max_new_tokens=9),
        strict=True,
    ):
        assert (one.text, one.tokens) == (other.text, other.tokens)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_type_of_the_file_is_chosen_when_saving(
    model: VisionLanguageModel, tmp_path: Path, dtype: str
) -> None:
    model.save(tmp_path, dtype=dtype)
    back = heliodor.load(tmp_path)
    weight = model.model.language.embedding.weight
    found = back.model.language.embedding.weight
    assert str(found.dtype) == f"torch.{dtype}"
    assert torch.equal(found, weight.to(found.dtype))


def test_the_type_in_memory_is_chosen_when_loading(folder: Path) -> None:
    assert heliodor.load(folder).model.projector.weight.dtype == torch.float32
    narrow = heliodor.load(folder, dtype="bfloat16")
    assert {p.dtype for p in narrow.model.parameters()} == {torch.bfloat16}
    again = heliodor.load(folder, dtype=torch.float16)
    assert {p.dtype for p in again.model.parameters()} == {torch.float16}


def test_another_resolution_is_chosen_when_loading(folder: Path) -> None:
    sharp = heliodor.load(folder, image_size=48)
    assert sharp.processor.size == 48
    assert sharp.encode_image(PICTURE).tokens.shape == (36, 32)
    assert sharp.caption(PICTURE, max_new_tokens=2).text


def test_tiny_is_the_model_in_the_package_and_a_path_is_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder called tiny in the present directory is not the shipped model, nor the reverse."""
    monkeypatch.setattr(zoo, "TINY", folder)
    expected = heliodor.load(folder).caption(PICTURE, max_new_tokens=5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert heliodor.load("tiny").caption(PICTURE, max_new_tokens=5) == expected
    assert heliodor.load().caption(PICTURE, max_new_tokens=5) == expected
    for empty in (Path("tiny"), "./tiny"):
        with pytest.raises(ConfigError, match=r"config\.json"):
            heliodor.load(empty)


def test_the_shipped_model_rests_in_float32_unless_told_otherwise(
    model: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save(tmp_path, dtype="bfloat16")
    monkeypatch.setattr(zoo, "TINY", tmp_path)
    assert heliodor.load("tiny").model.projector.weight.dtype == torch.float32
    assert heliodor.load("tiny", dtype="float16").model.projector.weight.dtype == torch.float16


def test_a_revision_of_what_is_not_on_the_hub_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="tiny ships in the package and has no revision 'main'"):
        heliodor.load("tiny", revision="main")
    with pytest.raises(InputError, match="is a folder, which has no revision 'main'"):
        heliodor.load(folder, revision="main")


def test_a_tokenizer_is_taken_from_another_file_where_the_folder_has_none(
    model: VisionLanguageModel, tmp_path: Path
) -> None:
    model.save(tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(TokenizerError, match="pass tokenizer=<path"):
        heliodor.load(tmp_path)
    back = heliodor.load(tmp_path, tokenizer=zoo.TOKENIZER)
    assert (
        back.caption(PICTURE, max_new_tokens=5).text
        == model.caption(PICTURE, max_new_tokens=5).text
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype is 'int8'; expected one of float32, bfloat16, float16"),
        ({"image_size": 3}, "image_size is 3; expected at least 8, one patch"),
        ({"device": "gpu"}, "device 'gpu'"),
        ({"device": "cuda:99"}, "device 'cuda:99'"),
    ],
)
def test_options_that_cannot_be_had_are_refused(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        heliodor.load(folder, **options)


@pytest.mark.parametrize("source", ["no/such/folder/here", "nowhere", "", Path("nowhere")])
def test_a_source_that_is_nowhere_is_refused(source: str | Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist|letters long|config\.json"):
        heliodor.load(source)


@pytest.mark.parametrize(("format", "name"), [("native", "x.safetensors"), ("big_vision", "x.npz")])
def test_other_formats_come_back_with_the_same_logits(
    tmp_path: Path, format: str, name: str
) -> None:
    model = tiny.vlm()
    language = dataclasses.replace(model.model.config.language, norm_eps=1e-6, context=8192)
    config = dataclasses.replace(model.model.config, language=language)
    model.model.config = config
    for module in model.model.modules():
        if isinstance(module, RMSNorm):
            module.eps = 1e-6
    model.save(tmp_path / name, format=format)
    back = heliodor.load(tmp_path / name, tokenizer=zoo.TOKENIZER)
    back.processor = model.processor  # big_vision resizes in another way
    said = [" a bee", " <loc0012>"]
    expected = model.logits([PICTURE], PROMPTS, said)
    found = back.logits([PICTURE], PROMPTS, said)[..., : expected.shape[-1]]
    assert tiny.relative_error(found, expected[..., : found.shape[-1]]) < 1e-6
    if format == "big_vision":
        with pytest.raises(TokenizerError, match="as no npz does"):
            heliodor.load(tmp_path / name)


def test_an_adapter_is_merged_when_loading(folder: Path, tmp_path: Path) -> None:
    plain = heliodor.load(folder).model.state_dict()["projector.weight"]
    stem = "base_model.model.multi_modal_projector.linear"
    up, down = torch.randn(32, 2), torch.randn(2, 24)
    tensors = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    merged = heliodor.load(folder, adapter=tmp_path)
    found = merged.model.state_dict()["projector.weight"]
    assert tiny.relative_error(found, plain + 3 * (up @ down)) < 1e-6
    half = heliodor.load(folder, adapter=tmp_path, dtype="bfloat16", image_size=48)
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert half.model.config.vision.image_size == 48
    merged.save(tmp_path / "whole")
    assert torch.equal(
        heliodor.load(tmp_path / "whole").model.state_dict()["projector.weight"], found
    )
    with pytest.raises(ConfigError, match="does not exist"):
        heliodor.load(folder, adapter="nowhere")
    with pytest.raises(ConfigError, match=r"has no adapter_config\.json"):
        heliodor.load(folder, adapter=folder)


@pytest.mark.parametrize("format", ["gguf", "npz", ""])
def test_a_format_that_is_not_written_is_refused(
    model: VisionLanguageModel, tmp_path: Path, format: str
) -> None:
    with pytest.raises(ConfigError, match=f"format '{format}' is not written; there are 'transf"):
        model.save(tmp_path / "new", format=format)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_one_error(
    model: VisionLanguageModel, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError):
        model.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"
    with pytest.raises(ConfigError, match="dtype is 'int4'"):
        model.save(tmp_path / "new", dtype="int4")
    assert not (tmp_path / "new").exists()
