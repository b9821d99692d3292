"""diffusers' variants of file names: read where they are, asked for by name, never mixed up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.paint.small import painter, write_folder
from torch import Tensor

from heliodor.checkpoints.survey import survey
from heliodor.checkpoints.variants import variants_in, weight_names, weight_patterns
from heliodor.errors import FileFormatError, InputError
from heliodor.paint import Painter, load_painter, load_vae

STEM = "diffusion_pytorch_model"
FAST: dict[str, Any] = {"steps": 3, "solver": "euler", "size": (48, 32), "seed": 1}
PARTS = {"transformer": STEM, "text_encoder": "model", "vae": STEM}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("painter"))


@pytest.fixture
def both(made: Path, tmp_path: Path) -> Path:
    """A pipeline with its own files, and others of half the values as the variant fp16."""
    folder = Path(shutil.copytree(made, tmp_path / "both"))
    for part, stem in PARTS.items():
        tensors = load_file(folder / part / f"{stem}.safetensors")
        halved = {name: (value / 2).half() for name, value in tensors.items()}
        save_file(halved, folder / part / f"{stem}.fp16.safetensors")
    return folder


def only(folder: Path, *parts: str) -> Path:
    """Without the plain files of these parts."""
    for part in parts:
        (folder / part / f"{PARTS[part]}.safetensors").unlink()
    return folder


def latents(of: Painter) -> Tensor:
    found = of.paint("a dog", output="latents", **FAST)
    assert isinstance(found, Tensor)
    return found


def test_names_are_those_of_diffusers_and_transformers():
    assert weight_names() == ("model.safetensors", "model.safetensors.index.json")
    assert weight_names(STEM, "fp16") == (
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    )


@pytest.mark.parametrize("variant", ["", "../x", "a/b", "fp16.json", "*", "x" * 41])
def test_a_variant_is_a_plain_word(both, variant):
    with pytest.raises(InputError, match="expected a word such as 'fp16'"):
        load_painter(both, variant=variant)


def test_what_was_asked_for_is_read(both):
    assert torch.equal(latents(load_painter(both)), latents(painter()))
    half = load_painter(both, variant="fp16")
    assert half.sources.dtype_name == "float16"
    transformer = half.stages.use(half.sources.transformer)
    plain = load_painter(both)
    wanted = plain.stages.use(plain.sources.transformer).pad_token
    assert torch.equal(transformer.pad_token, (wanted / 2).half())
    encoder = half.stages.use(half.sources.text).model
    assert encoder.embedding.weight.dtype == torch.float16
    vae = half.stages.use(half.sources.vae).module.state_dict()["decoder.conv_in.bias"]
    theirs = plain.stages.use(plain.sources.vae).module.state_dict()["decoder.conv_in.bias"]
    assert torch.equal(vae, (theirs / 2).half().float())


def test_a_part_without_the_variant_is_read_as_it_is(both):
    for part in ("text_encoder", "vae"):
        (both / part / f"{PARTS[part]}.fp16.safetensors").unlink()
    opened = load_painter(both, variant="fp16")
    assert opened.stages.use(opened.sources.text).model.embedding.weight.dtype == torch.float32
    assert opened.sources.dtype_name == "float16"


def test_a_variant_that_is_not_there_is_said(both):
    with pytest.raises(InputError, match=r"no files of the variant 'bf16'; it has fp16"):
        load_painter(both, variant="bf16")


def test_files_of_a_variant_alone_are_named(both):
    only(both, *PARTS)
    with pytest.raises(FileFormatError, match="only those of a variant: ask for variant='fp16'"):
        load_painter(both)
    with pytest.raises(FileFormatError, match="only those of a variant: ask for variant='fp16'"):
        load_vae(both)
    facts = survey(both)
    assert facts["precision"] == "float16"
    assert facts["complete"] is True
    assert any("holds only the variant fp16" in odd for odd in facts["odd"])


def test_shards_of_a_variant_are_read(both):
    folder = only(both, "transformer") / "transformer"
    tensors = load_file(folder / f"{STEM}.fp16.safetensors")
    (folder / f"{STEM}.fp16.safetensors").unlink()
    names = sorted(tensors)
    shards = [names[:20], names[20:]]
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{STEM}.fp16-0000{number}-of-00002.safetensors"
        save_file({each: tensors[each] for each in shard}, folder / name)
        index |= dict.fromkeys(shard, name)
    text = json.dumps({"weight_map": index})
    (folder / f"{STEM}.safetensors.index.fp16.json").write_text(text)
    assert variants_in(folder, STEM) == ["fp16"]
    opened = load_painter(both, variant="fp16")
    found = opened.stages.use(opened.sources.transformer)
    assert torch.equal(found.pad_token, tensors["pad_token"])


def test_a_variant_is_saved_under_the_plain_names(both, tmp_path):
    load_painter(both, variant="fp16").save(tmp_path / "saved")
    for part, stem in PARTS.items():
        found = load_file(tmp_path / "saved" / part / f"{stem}.safetensors")
        assert {value.dtype for value in found.values()} == {torch.float16}
        assert variants_in(tmp_path / "saved" / part, stem) == []


def test_one_variant_is_fetched_and_plain_files_where_it_lacks(both, monkeypatch):
    asked: list[tuple[str, ...]] = []
    (both / "vae" / f"{STEM}.fp16.safetensors").unlink()
    vae = only(both, "vae") / "vae"

    def resolve(repo: str, *, revision: str | None = None, patterns: tuple[str, ...]) -> Path:
        del repo, revision
        asked.append(patterns)
        if f"vae/{STEM}.safetensors" in patterns:
            tensors = load_file(both / "transformer" / f"{STEM}.safetensors")
            save_file(tensors, vae / f"{STEM}.safetensors")
        return both

    monkeypatch.setattr("heliodor.checkpoints.hub.resolve", resolve)
    load_painter("Alpha-VLLM/Lumina-Next-SFT-diffusers", variant="fp16")
    first, second = asked
    assert f"transformer/{STEM}.fp16.safetensors" in first
    assert not any(name.endswith(f"/{STEM}.safetensors") for name in first)
    assert [name for name in second if f"/{STEM}.safetensors" in name and "json" not in name] == [
        f"vae/{STEM}.safetensors"
    ]
    assert weight_patterns(STEM) == (
        f"{STEM}.safetensors",
        f"{STEM}.safetensors.index.json",
        f"{STEM}-?????-of-?????.safetensors",
    )
