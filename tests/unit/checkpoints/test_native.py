"""The native file: everything in it, read by any safetensors library, refused where it must be."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests import hostile, tiny

import heliodor
from heliodor import zoo
from heliodor.checkpoints import NativeCheckpoint, open_checkpoint, open_paligemma
from heliodor.errors import (
    CheckpointError,
    ConfigError,
    FileFormatError,
    KeyMismatchError,
    TokenizerError,
)
from heliodor.image import ImageProcessor, Resize
from heliodor.see.vlm import VisionLanguageModel

PICTURE = tiny.picture(1)
NAME = "model.heliodor.safetensors"


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny.vlm()


@pytest.fixture(scope="module")
def saved(model: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("native") / NAME
    model.save(path, format="native")
    return path


def strings(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def rewritten(saved: Path, path: Path, **changes: str | None) -> Path:
    """The file with other strings in its head."""
    head: dict[str, Any] = strings(saved) | {f"heliodor.{k}": v for k, v in changes.items()}
    kept = {name: value for name, value in head.items() if value is not None}
    save_file(load_file(saved), path, metadata=kept)
    return path


def test_the_safetensors_library_reads_our_names_and_values(
    model: VisionLanguageModel, saved: Path
) -> None:
    found = load_file(saved)
    expected = dict(model.model.state_dict())
    expected |= {f"mask_codec.{n}": v for n, v in model.codec.state_dict().items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    head = strings(saved)
    assert (head["format"], head["heliodor.format"]) == ("pt", "1")
    assert (head["heliodor.family"], head["heliodor.scheme"]) == ("paligemma", "none")
    assert json.loads(head["heliodor.config"]) == asdict(model.model.config)
    vocabulary = json.loads(json.loads(head["heliodor.tokenizer"])["tokenizer.json"])
    assert vocabulary["model"] == json.loads(zoo.TOKENIZER.read_text())["model"]


def test_what_is_saved_is_loaded(model: VisionLanguageModel, saved: Path) -> None:
    checkpoint = open_checkpoint(saved)
    assert isinstance(checkpoint, NativeCheckpoint)
    assert checkpoint.config() == model.model.config
    back = heliodor.load(saved)
    assert back.processor == model.processor
    said = [" a bee <loc0012>"]
    expected = model.logits([PICTURE], ["caption en"], said)
    assert tiny.relative_error(back.logits([PICTURE], ["caption en"], said), expected) < 1e-6
    for name, value in model.codec.state_dict().items():
        assert torch.equal(back.codec.state_dict()[name], value)


def test_the_image_processor_comes_back_whatever_it_is(tmp_path: Path) -> None:
    model = tiny.vlm()
    model.processor = ImageProcessor(size=32, resize=Resize.BIG_VISION, mean=(0.4, 0.5, 0.6))
    model.save(tmp_path / NAME, format="native")
    assert heliodor.load(tmp_path / NAME).processor == model.processor


def test_weights_that_need_no_conversion_stay_mapped(saved: Path) -> None:
    before = saved.read_bytes()
    loaded = open_paligemma(saved).load()
    with torch.no_grad():
        loaded.projector.weight.zero_()
    assert saved.read_bytes() == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_types_are_chosen_when_saving_and_when_loading(
    model: VisionLanguageModel, tmp_path: Path, dtype: str
) -> None:
    model.save(tmp_path / NAME, format="native", dtype=dtype)
    kind = getattr(torch, dtype)
    weight = model.model.language.embedding.weight
    found = load_file(tmp_path / NAME)
    assert torch.equal(found["language.embedding.weight"], weight.to(kind))
    assert found["mask_codec.codebook"].dtype == torch.float32, "masks lose nothing"
    wide = heliodor.load(tmp_path / NAME, dtype="float32").model.language.embedding.weight
    assert torch.equal(wide, weight.to(kind).float())


def test_another_resolution_is_chosen_when_loading(saved: Path) -> None:
    sharp = heliodor.load(saved, image_size=48)
    assert sharp.processor.size == 48
    assert sharp.encode_image(PICTURE).tokens.shape == (36, 32)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "2", r"version '2' of the native format, this release reads '1': update"),
        ("family", "lumina", r"its family is 'lumina'; this release reads 'paligemma'"),
        (
            "scheme",
            "int8",
            r"its scheme is 'int8' and no heliodor\.recipe says",
        ),
        ("scheme", None, "its scheme is None"),
        ("config", None, r"its header has no heliodor\.config"),
        ("config", "[1]", "list where an object was expected"),
        ("config", "{}", r"config\.vision\.|config\.language\.|tensors"),
        ("processor", None, r"no heliodor\.processor"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(
    saved: Path, tmp_path: Path, key: str, value: str | None, message: str
) -> None:
    path = rewritten(saved, tmp_path / NAME, **{key: value})
    with pytest.raises(CheckpointError, match=message):
        heliodor.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language": {"width": 0}}, "language.width is '0'; expected a whole number from 1"),
        ({"language": {"width": True}}, "language.width is 'True'"),
        (
            {"language": {"depth": 10**6}},
            "depth is '1000000'; expected a whole number from 1 to 10",
        ),
        ({"language": {"norm_eps": "1"}}, "norm_eps is '1'; expected a number above 0"),
        ({"language": {"sandwich": 1}}, "sandwich is '1'; expected true or false"),
        ({"language": {"colour": 1}}, "language.colour is unknown: a later release"),
        ({"language": {"window": -1}}, "window is '-1'; expected a whole number from 0"),
        ({"vision": 5}, "config.vision is 5; expected an object"),
        ({"image_token": 1.5}, "image_token is '1.5'"),
        (
            {"language": {"head_dim": 2**24, "num_heads": 2**24, "width": 2**24}},
            "no machine holds the sizes",
        ),
        ({"language": {"mlp_width": 57}}, "of another shape: language.layers.0.mlp.down.weight"),
        ({"language": {"depth": 2}}, r"9 unknown: language\.layers\.2\.attention\.k\.weight"),
        ({"language": {"sandwich": True}}, r"6 missing: language\.layers\.0\.post_attention_norm"),
    ],
)
def test_a_config_that_is_wrong_is_refused(
    saved: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = json.loads(strings(saved)["heliodor.config"])
    for name, value in changes.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    path = rewritten(saved, tmp_path / NAME, config=json.dumps(config))
    with pytest.raises((ConfigError, KeyMismatchError), match=message):
        open_checkpoint(path).load()


def test_fields_that_came_later_take_their_defaults(saved: Path, tmp_path: Path) -> None:
    config = json.loads(strings(saved)["heliodor.config"])
    for name in ("sandwich", "window", "final_cap"):
        del config["language"][name]
    path = rewritten(saved, tmp_path / NAME, config=json.dumps(config))
    assert open_checkpoint(path).config() == open_checkpoint(saved).config()


def test_a_file_without_a_tokenizer_takes_one_from_elsewhere(saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / NAME, tokenizer=None)
    with pytest.raises(TokenizerError, match="written without a tokenizer: pass tokenizer="):
        heliodor.load(path)
    back = heliodor.load(path, tokenizer=zoo.TOKENIZER)
    expected = heliodor.load(saved).caption(PICTURE, max_new_tokens=4)
    assert back.caption(PICTURE, max_new_tokens=4).tokens == expected.tokens


@pytest.mark.parametrize("files", ['{"../x": "y"}', '{"a": 1}', "[]"])
def test_a_tokenizer_that_would_leave_its_place_is_refused(
    saved: Path, tmp_path: Path, files: str
) -> None:
    path = rewritten(saved, tmp_path / NAME, tokenizer=files)
    with pytest.raises(FileFormatError):
        heliodor.load(path)
    assert not (tmp_path / "x").exists()


def test_tensors_of_a_type_that_is_no_weight_are_refused(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved)
    tensors["projector.bias"] = tensors["projector.bias"].to(torch.int8)
    save_file(tensors, tmp_path / NAME, metadata=strings(saved))
    with pytest.raises(KeyMismatchError, match=r"1 of a type that is no weight: projector\.bias"):
        open_checkpoint(tmp_path / NAME).load()


def test_the_name_must_say_what_it_is(model: VisionLanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not end in \.safetensors; the native format is"):
        model.save(tmp_path / "model", format="native")
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(ConfigError, match="is a folder; the native format is one file"):
        model.save(tmp_path / "x.safetensors", format="native")


def test_a_processor_of_another_size_is_refused(saved: Path, tmp_path: Path) -> None:
    values = replace(heliodor.load(saved).processor, size=40).to_preprocessor_config(16)
    path = rewritten(saved, tmp_path / NAME, processor=json.dumps(values))
    with pytest.raises(ConfigError, match=r"makes pictures of 40 pixels, its config .* 32"):
        heliodor.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heliodor.config": "\ud800"}, "holds half a surrogate pair, which is no text"),
        ({"\ud800": "x"}, "holds half a surrogate pair, which is no text"),
        ({"heliodor.config": r'{"\ud800": 1}'}, r"config\.\\ud800 is unknown"),
        ({"heliodor.config": r'{"vision": "\ud800"}'}, r"config\.vision is \\ud800; expected"),
    ],
)
def test_half_a_character_is_refused_in_a_message_that_can_be_printed(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    (tmp_path / NAME).write_bytes(hostile.with_strings(hostile.native(), changes))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path / NAME).load()
    assert str(caught.value).encode()
