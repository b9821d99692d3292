"""What inspect says: names, counts and faults of folders, npz, native files and adapters."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests import tiny

from heliodor import zoo
from heliodor.checkpoints import bigvision
from heliodor.checkpoints.blueprint import blueprint
from heliodor.checkpoints.config import config_values
from heliodor.checkpoints.header import SIZES
from heliodor.checkpoints.heads import NAMES
from heliodor.checkpoints.keymap import HUB, TRANSFORMERS_5, paligemma_keys
from heliodor.checkpoints.survey import survey
from heliodor.checkpoints.tensors import DTYPES
from heliodor.errors import CheckpointError, ConfigError
from heliodor.models.paligemma import PaliGemmaConfig
from heliodor.models.presets import PUBLISHED

KINDS = {dtype: name for name, dtype in DTYPES.items()}


def sparse(path: Path, tensors: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """A safetensors file of any size whose values are a hole in the file."""
    header: dict[str, Any] = {}
    place = 0
    for name, (shape, kind) in tensors.items():
        size = torch.Size(shape).numel() * SIZES[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)


def published(folder: Path, config: PaliGemmaConfig, kind: str, shards: int = 1) -> Path:
    """A folder as the hub has it, at full size, with no values in it."""
    folder.mkdir()
    special = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    dtype = str(DTYPES[kind]).removeprefix("torch.")
    values = config_values(config, image_token=257152, special=special, dtype=dtype)
    (folder / "config.json").write_text(json.dumps(values))
    keys = paligemma_keys(config)
    names = {
        keys.to_theirs(name, HUB): (tuple(value.shape), kind)
        for name, value in blueprint(config).state_dict().items()
    }
    if shards == 1:
        sparse(folder / "model.safetensors", names)
        return folder
    placed = {
        n: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, n in enumerate(names)
    }
    for shard in set(placed.values()):
        sparse(folder / shard, {n: v for n, v in names.items() if placed[n] == shard})
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [  # counts of tensors and parameters: docs of the published files
        ("google/paligemma-3b-pt-224", "F32", ("PaliGemma", "3B", 224, 256, 603, 2_923_466_480)),
        ("google/paligemma-3b-mix-448", "BF16", ("PaliGemma", "3B", 448, 1024, 603, 2_924_351_216)),
        ("google/paligemma2-3b-pt-896", "BF16",
         ("PaliGemma 2", "3B", 896, 4096, 727, 3_036_518_640 + 64 * 2304)),
        ("google/paligemma2-10b-pt-224", "BF16",
         ("PaliGemma 2", "10B", 224, 256, 903, 9_662_409_456 + 64 * 3584)),
        ("google/paligemma2-28b-pt-224", "BF16",
         ("PaliGemma 2", "28B", 224, 256, 947, 27_650_192_112 + 64 * 4608)),
    ],
)  # fmt: skip
def test_published_sizes_have_their_names_and_counts(
    tmp_path: Path, name: str, kind: str, expected: tuple[Any, ...]
) -> None:
    facts = survey(published(tmp_path / "x", PUBLISHED[name], kind, shards=3))
    keys = ("family", "size", "resolution", "image_tokens", "tensors", "parameters")
    assert tuple(facts[key] for key in keys) == expected
    assert (facts["tower"], facts["precision"]) == ("so400m/14", NAMES[kind])
    assert facts["bytes"] == expected[-1] * SIZES[kind]
    assert (facts["complete"], facts["missing"], facts["broken"]) == (True, [], [])
    assert len(facts["files"]) == 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.vlm().save(tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change(folder: Path, tensors: dict[str, torch.Tensor | None]) -> None:
    path = folder / "model.safetensors"
    found: dict[str, torch.Tensor | None] = dict(load_file(path))
    save_file({n: t for n, t in (found | tensors).items() if t is not None}, path)


def test_a_sound_folder_has_one_oddity(folder: Path) -> None:
    facts = survey(folder)
    assert facts["odd"] == ["the embedding table is padded: rows 3712 to 3719 are no tokens"]
    assert facts["tokens"] == tiny.tokenizer().vocab_size
    assert (facts["size"], facts["tower"], facts["image_tokens"]) == ("custom", "custom/8", 16)
    assert facts["vision"] == {
        "image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "num_heads": 3, "mlp_width": 40,
    }  # fmt: skip
    assert facts["language"]["num_kv_heads"] == 2


def test_what_is_odd_is_said(folder: Path) -> None:
    table = load_file(folder / "model.safetensors")["language_model.model.embed_tokens.weight"]
    change(
        folder,
        {
            "language_model.lm_head.weight": table.clone(),
            "vision_tower.vision_model.head.probe": torch.zeros(1, 1, 24),
            "multi_modal_projector.linear.bias": torch.zeros(32).bfloat16(),
            "multi_modal_projector.linear.weight": None,
            "model.multi_modal_projector.linear.weight": torch.zeros(32, 24),
        },
    )
    edit(folder, hidden_size=2048, quantization_config={"bits": 4})
    (folder / "tokenizer.json").unlink()
    path = folder / "preprocessor_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"size": {"height": 40, "width": 40}})
    )
    said = "\n".join(survey(folder)["odd"])
    for part in (
        "hidden_size says 2048, the decoder is 32 wide (harmless",
        "language_model.lm_head.weight repeats the embedding table",
        "1 tensors that the model has not: vision_tower.vision_model.head.probe",
        "names of two releases mixed: 1 of 7",
        "types mixed: 69 of float32, 1 of bfloat16",
        "quantised by another library",
        "no tokenizer: give one when loading",
        "pictures are made 40 pixels wide, the tower takes 32",
    ):
        assert part in said, (part, said)


def test_the_names_of_transformers_5_are_told(folder: Path) -> None:
    keys = paligemma_keys(tiny.vlm().model.config)
    found = load_file(folder / "model.safetensors")
    ours = {keys.to_ours(name): value for name, value in found.items()}
    renamed = {keys.to_theirs(str(n), TRANSFORMERS_5): value for n, value in ours.items()}
    save_file(renamed, folder / "model.safetensors")
    facts = survey(folder)
    assert any("names of transformers since 4.52" in odd for odd in facts["odd"])
    assert facts["complete"]


def test_missing_tensors_and_another_precision_are_told(folder: Path) -> None:
    change(folder, {"language_model.model.layers.2.mlp.up_proj.weight": None})
    edit(folder, torch_dtype="bfloat16")
    facts = survey(folder)
    assert facts["missing"] == ["language_model.model.layers.2.mlp.up_proj.weight"]
    assert not facts["complete"]
    assert "config.json says bfloat16, the tensors are float32" in facts["odd"]


def test_missing_and_broken_shards_are_told(tmp_path: Path) -> None:
    config = tiny.vlm().model.config
    folder = published(tmp_path / "x", config, "F32", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    path = folder / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    facts = survey(folder)
    assert not facts["complete"]
    assert facts["missing"][0] == "model-00002-of-00003.safetensors (a shard)"
    assert "truncated download?" in facts["broken"][0]
    path.with_name("model.safetensors.index.json").write_text("{}")
    assert survey(folder)["broken"] == ["model.safetensors.index.json has no weight_map"]
    path.with_name("model.safetensors.index.json").unlink()
    assert survey(folder)["missing"] == ["model.safetensors"]


@pytest.mark.parametrize("pieces", [1, 3])
def test_an_npz_is_told_by_its_shapes(tmp_path: Path, pieces: int) -> None:
    language = tiny.replace(tiny.LANGUAGE, norm_eps=1e-6, rope_base=10000.0)
    model = tiny.paligemma(language=language, image_token=None)
    path = tmp_path / "pt.npz"
    bigvision.save(model, path, dtype="bfloat16")
    data = path.read_bytes()
    if pieces > 1:
        path.unlink()
        step = -(-len(data) // pieces)
        for number in range(pieces):
            part = data[number * step : (number + 1) * step]
            (tmp_path / f"pt.npz.part{number}").write_bytes(part)
    facts = survey(path)
    assert (facts["format"], facts["family"]) == ("big_vision", "PaliGemma")
    assert facts["precision"] == "bfloat16"
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert (facts["resolution"], facts["image_tokens"], facts["complete"]) == (32, 16, True)
    assert facts["language"] == {
        "vocab_size": 48, "width": 32, "depth": 3, "num_heads": 4, "num_kv_heads": 2,
        "head_dim": 12, "mlp_width": 56,
    }  # fmt: skip
    assert len(facts["files"]) == pieces
    assert any("no tokenizer, as in every npz" in odd for odd in facts["odd"])


def test_a_native_file_is_told_by_its_head(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    model = tiny.vlm()
    model.save(path, format="native", dtype="float16")
    facts = survey(path)
    assert (facts["format"], facts["version"], facts["scheme"]) == ("native", "1", "none")
    assert facts["tokens"] == tiny.tokenizer().vocab_size
    assert facts["odd"] == ["carries its mask codec"]
    assert facts["language"]["rope_base"] == 10000.0
    assert facts["complete"]
    names = load_file(path)
    del names["projector.bias"]
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(names, path, metadata=metadata)
    assert survey(path)["missing"] == ["projector.bias"]


def test_an_adapter_is_told(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["v", "q"]}
    config |= {"base_model_name_or_path": "google/x", "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    facts = survey(tmp_path)
    assert (facts["family"], facts["method"], facts["rank"], facts["alpha"]) == (
        "adapter", "LORA", 4, 8,
    )  # fmt: skip
    assert (facts["targets"], facts["base"]) == (["q", "v"], "google/x")
    assert (facts["complete"], facts["missing"]) == (False, ["adapter_model.safetensors"])
    assert facts["odd"] == ["use_rslora is set"]
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "adapter_model.safetensors")
    assert (survey(tmp_path)["complete"], survey(tmp_path)["parameters"]) == (True, 6)


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_values_in_the_json_files_are_described_or_refused(data: st.DataObject) -> None:
    """One field of one file is anything at all; nothing but the library's own error comes out."""
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(zoo.TINY, place, dirs_exist_ok=True)
        folder = Path(place)
        (folder / "tokenizer.json").write_text(SHORT)
        name = data.draw(st.sampled_from(["config", "preprocessor_config", "tokenizer"]))
        path = folder / f"{name}.json"
        values = json.loads(path.read_text())
        inside = [values, *(v for v in values.values() if isinstance(v, dict))]
        target = data.draw(st.sampled_from(inside))
        target[data.draw(st.sampled_from(sorted(target)))] = data.draw(HOSTILE)
        path.write_text(json.dumps(values))
        with contextlib.suppress(CheckpointError):
            assert json.dumps(survey(folder))


SHORT = json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "b", "id": 1}]})


def test_names_of_types_are_torchs() -> None:
    assert {name: str(dtype) for name, dtype in DTYPES.items()} == {
        name: f"torch.{said}" for name, said in NAMES.items()
    }


def test_no_torch_is_loaded_and_what_is_nothing_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from heliodor.cli.inspect import describe; describe('tiny');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ConfigError, match="is a mask codec"):
        survey(zoo.MASK_CODEC)
