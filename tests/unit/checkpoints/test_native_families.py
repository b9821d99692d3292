"""The native file of SigLIP pairs and of Gemma alone: all of it there, and back as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests import sentences, talking, tiny

import heliodor
from heliodor.checkpoints import (
    NativeGemmaCheckpoint,
    NativeSiglipCheckpoint,
    open_checkpoint,
    open_paligemma,
)
from heliodor.checkpoints.contents import Contents
from heliodor.checkpoints.convert import convert
from heliodor.checkpoints.native import save as save_native
from heliodor.checkpoints.recognise import Kind
from heliodor.checkpoints.weights import Weight
from heliodor.errors import (
    CheckpointError,
    ConfigError,
    FileFormatError,
    KeyMismatchError,
    TokenizerError,
)
from heliodor.see.lm import LanguageModel
from heliodor.see.pair import ImageTextModel
from heliodor.text.fixed import Cleaning

NAME = "model.safetensors"
LABELS = ["a red tulip", "Two dogs!", "the zoo"]
PICTURES = [tiny.picture(1), tiny.picture(2)]


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentences.pair_folder(tmp_path_factory.mktemp("pair") / "pair")


@pytest.fixture(scope="module")
def pair(pair_folder: Path) -> ImageTextModel:
    return heliodor.load_siglip(pair_folder)


@pytest.fixture(scope="module")
def pair_file(pair: ImageTextModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("native") / NAME
    pair.save(path, format="native")
    return path


@pytest.fixture(scope="module", params=["first", "second"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return talking.lm(talking.FIRST if request.param == "first" else talking.SECOND)


@pytest.fixture
def lm_file(lm: LanguageModel, tmp_path: Path) -> Path:
    lm.save(tmp_path / NAME, format="native")
    return tmp_path / NAME


def strings(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def rewritten(saved: Path, path: Path, **changes: str | None) -> Path:
    """The file with other strings in its head."""
    head: dict[str, str | None] = dict(strings(saved))
    head |= {f"heliodor.{key}": value for key, value in changes.items()}
    save_file(load_file(saved), path, metadata={n: v for n, v in head.items() if v is not None})
    return path


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


def test_a_pair_is_in_one_file_by_our_names(pair: ImageTextModel, pair_file: Path) -> None:
    assert equal(load_file(pair_file), pair.model.state_dict())
    head = strings(pair_file)
    assert (head["heliodor.family"], head["heliodor.scheme"]) == ("siglip", "none")
    assert json.loads(head["heliodor.config"]) == asdict(pair.model.config)
    assert isinstance(open_checkpoint(pair_file), NativeSiglipCheckpoint)


def test_a_pair_scores_as_it_did(pair: ImageTextModel, pair_file: Path) -> None:
    back = heliodor.load_siglip(pair_file)
    assert (back.model.config, back.processor) == (pair.model.config, pair.processor)
    assert torch.equal(back.logits(PICTURES, LABELS), pair.logits(PICTURES, LABELS))
    assert back.tokenizer.files() == pair.tokenizer.files(), "the vocabulary, byte for byte"


def test_the_cleaning_of_texts_goes_along(pair_folder: Path, tmp_path: Path) -> None:
    for cleaning in (Cleaning.BIG_VISION, Cleaning.VERBATIM):
        pair = heliodor.load_siglip(pair_folder, cleaning=cleaning)
        pair.save(tmp_path / NAME, format="native")
        back = heliodor.load_siglip(tmp_path / NAME)
        assert back.tokenizer.cleaning is cleaning
        assert back.tokenizer.encode("A Photo, of") == pair.tokenizer.encode("A Photo, of")


def test_parts_of_two_pairs_are_not_written_as_one(pair: ImageTextModel, tmp_path: Path) -> None:
    odd = ImageTextModel(model=pair.model, tokenizer=pair.tokenizer, processor=pair.processor)
    odd.processor = replace(pair.processor, size=40)
    with pytest.raises(ConfigError, match="makes pictures of 40 pixels, the model takes 32"):
        odd.save(tmp_path / NAME, format="native")
    assert not list(tmp_path.iterdir())


def test_a_gemma_is_in_one_file_by_our_names(lm: LanguageModel, lm_file: Path) -> None:
    assert equal(load_file(lm_file), lm.model.state_dict())
    head = strings(lm_file)
    assert head["heliodor.family"] == "gemma"
    assert json.loads(head["heliodor.config"]) == asdict(lm.model.config)
    assert "heliodor.processor" not in head
    assert isinstance(open_checkpoint(lm_file), NativeGemmaCheckpoint)


def test_a_gemma_speaks_as_it_did(lm: LanguageModel, lm_file: Path) -> None:
    back = heliodor.load_gemma(lm_file)
    assert back.model.config == lm.model.config
    assert (back.ends, back.chat_template) == (lm.ends, lm.chat_template)
    texts = ["a bee on the tulip", "two"]
    assert torch.equal(back.logits(texts), lm.logits(texts))
    message = [{"role": "user", "content": "hello bee"}]
    assert back.chat(message, max_new_tokens=6).tokens == lm.chat(message, max_new_tokens=6).tokens


def test_ends_and_template_are_what_the_file_says(lm: LanguageModel, tmp_path: Path) -> None:
    for ends, template in (((talking.END, 9), "{{ x }}"), ((), None)):
        model = LanguageModel(
            model=lm.model, tokenizer=lm.tokenizer, ends=ends, chat_template=template
        )
        model.save(tmp_path / NAME, format="native")
        back = heliodor.load_gemma(tmp_path / NAME)
        assert back.ends == {lm.tokenizer.eos, *ends}
        assert back.chat_template == template


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_types_are_chosen_when_saving_and_when_loading(
    pair: ImageTextModel, lm: LanguageModel, tmp_path: Path, dtype: str
) -> None:
    kind = getattr(torch, dtype)
    pair.save(tmp_path / "p.safetensors", format="native", dtype=dtype)
    lm.save(tmp_path / "g.safetensors", format="native", dtype=dtype)
    for name, before in (("p", pair.model.state_dict()), ("g", lm.model.state_dict())):
        narrow = {n: value.to(kind) for n, value in before.items()}
        path = tmp_path / f"{name}.safetensors"
        load = heliodor.load_siglip if name == "p" else heliodor.load_gemma
        assert equal(load_file(path), narrow)
        assert equal(load(path).model.state_dict(), narrow)
        wide = {n: value.float() for n, value in narrow.items()}
        assert equal(load(path, dtype="float32").model.state_dict(), wide)


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_a_pair_goes_through_native_and_npz_and_back(
    pair_folder: Path, tmp_path: Path, dtype: str | None
) -> None:
    source = tmp_path / "source"
    convert(pair_folder, source, dtype=dtype)
    convert(source, tmp_path / NAME)
    convert(tmp_path / NAME, tmp_path / "back")
    before = load_file(source / NAME)
    assert equal(load_file(tmp_path / "back" / NAME), before)
    for name in ("config.json", "spiece.model", "tokenizer_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()
    drop = ("tokenizer", "processor")
    convert(tmp_path / NAME, tmp_path / "x.npz", drop=drop)
    convert(
        tmp_path / "x.npz",
        tmp_path / "again.safetensors",
        tokenizer=source / "spiece.model",
        drop=drop,
    )
    assert equal(load_file(tmp_path / "again.safetensors"), load_file(tmp_path / NAME))
    convert(tmp_path / "x.npz", tmp_path / "bare.safetensors")
    with pytest.raises(TokenizerError, match="written without a tokenizer: pass tokenizer="):
        heliodor.load_siglip(tmp_path / "bare.safetensors")
    bare = heliodor.load_siglip(tmp_path / "bare.safetensors", tokenizer=source / "spiece.model")
    assert bare.model.state_dict().keys() == load_file(tmp_path / NAME).keys()


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_a_gemma_goes_through_native_and_back(
    lm: LanguageModel, tmp_path: Path, dtype: str | None
) -> None:
    LanguageModel(
        model=lm.model, tokenizer=lm.tokenizer, ends=(9,), chat_template=talking.TEMPLATE
    ).save(tmp_path / "source", dtype=dtype)
    convert(tmp_path / "source", tmp_path / NAME)
    convert(tmp_path / NAME, tmp_path / "back")
    names = {path.name for path in (tmp_path / "source").iterdir()}
    assert {path.name for path in (tmp_path / "back").iterdir()} == names
    for name in names - {NAME}:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "source" / name).read_bytes()
    assert equal(load_file(tmp_path / "back" / NAME), load_file(tmp_path / "source" / NAME))


def test_an_npz_has_no_layout_for_a_gemma(lm_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="big_vision has no layout for a gemma model"):
        convert(lm_file, tmp_path / "x.npz")


def test_the_wrong_call_is_told_the_right_one(pair_file: Path, lm_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"heliodor\.load_siglip\(\) loads it"):
        open_paligemma(pair_file)
    with pytest.raises(ConfigError, match=r"heliodor\.load_gemma\(\) loads it"):
        heliodor.load(lm_file)
    with pytest.raises(ConfigError, match="is no SigLIP pair"):
        heliodor.load_siglip(lm_file)
    with pytest.raises(ConfigError, match="is neither a Gemma nor a PaliGemma"):
        heliodor.load_gemma(pair_file)
    with pytest.raises(ConfigError, match="its family is 'siglip', where a gemma is wanted"):
        NativeGemmaCheckpoint(path=pair_file, source="x").config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "clip"}, "its family is 'clip'; this release reads 'paligemma', 'siglip'"),
        ({"config": '{"text": {"width": 0}}'}, "config.text.width is '0'"),
        ({"config": '{"text": {"num_heads": 5}}'}, "does not divide into 5 heads"),
        ({"config": "{}"}, "makes pictures of 32 pixels, its config says .* 224"),
        ({"processor": None}, r"has no heliodor\.processor"),
        ({"tokenizer": '{"spiece.model": {"base64": "?"}}'}, "bad file 'spiece.model'"),
        ({"tokenizer": '{"spiece.model": {"base64": 1}}'}, "bad file 'spiece.model'"),
        ({"tokenizer": '{"..": "x"}'}, r"bad file '\.\.'"),
        ({"tokenizer": "{}"}, "holds no spiece.model"),
        ({"tokenizer": '{"spiece.model": {"base64": "aGVsbG8="}}'}, "spiece.model"),
    ],
)
def test_a_pair_whose_header_is_wrong_is_refused(
    pair_file: Path, tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    path = rewritten(pair_file, tmp_path / NAME, **changes)
    with pytest.raises((CheckpointError, TokenizerError), match=message):
        heliodor.load_siglip(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": '{"width": 0}'}, "config.width is '0'"),
        ({"config": "{}"}, "not those that its config asks for"),
        ({"generation": None}, r"has no heliodor\.generation"),
        ({"generation": '{"eos_token_id": ["x"]}'}, "eos_token_id is "),
        ({"tokenizer": None}, "written without a tokenizer"),
    ],
)
def test_a_gemma_whose_header_is_wrong_is_refused(
    lm_file: Path, tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    path = rewritten(lm_file, tmp_path / "other.safetensors", **changes)
    with pytest.raises((CheckpointError, TokenizerError), match=message):
        heliodor.load_gemma(path)


def test_a_tensor_missing_or_too_many_is_named(pair_file: Path, tmp_path: Path) -> None:
    tensors = load_file(pair_file)
    tensors["pool.more"] = torch.zeros(2)
    del tensors["pool.probe"]
    save_file(tensors, tmp_path / NAME, metadata=strings(pair_file))
    with pytest.raises(KeyMismatchError, match=r"1 missing: pool\.probe; 1 unknown: pool\.more"):
        heliodor.load_siglip(tmp_path / NAME)


def test_a_gemma_out_of_a_paligemma_has_no_image_token_more(tmp_path: Path) -> None:
    """Its vocabulary is a PaliGemma's, and is written as a Gemma's all the same."""
    lm = heliodor.load_gemma("tiny")
    lm.save(tmp_path / NAME, format="native")
    back = heliodor.load_gemma(tmp_path / NAME)
    assert back.tokenizer.vocab_size == lm.tokenizer.vocab_size
    assert (
        back.generate(["a"], max_new_tokens=4)[0].tokens
        == lm.generate(["a"], max_new_tokens=4)[0].tokens
    )


def test_formats_are_named(pair: ImageTextModel, lm: LanguageModel, tmp_path: Path) -> None:
    for model in (pair, lm):
        with pytest.raises(ConfigError, match="format 'onnx' is not written; there are 'transf"):
            model.save(tmp_path / "x", format="onnx")
        with pytest.raises(ConfigError, match=r"does not end in \.safetensors"):
            model.save(tmp_path / "x", format="native")


def test_contents_without_ends_are_read_as_none(lm: LanguageModel, tmp_path: Path) -> None:
    state = lm.model.state_dict()
    contents = Contents(
        kind=Kind.NATIVE,
        family="gemma",
        config=lm.model.config,
        weights={name: Weight.of(name, tensor) for name, tensor in state.items()},
        tokenizer=None,
        processor=None,
    )
    save_native(contents, tmp_path / NAME)
    checkpoint = NativeGemmaCheckpoint(path=tmp_path / NAME, source="x")
    assert (checkpoint.ends(), checkpoint.chat_template()) == ((), None)
    with pytest.raises((TokenizerError, FileFormatError)):
        checkpoint.tokenizer()
