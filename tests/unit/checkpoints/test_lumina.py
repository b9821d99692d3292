"""The official layout of Lumina-Next: read, written, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests import painting
from torch import Tensor

from heliodor.checkpoints.blueprint import unfilled
from heliodor.checkpoints.lumina import (
    AVERAGE,
    LAST,
    LuminaCheckpoint,
    save_lumina,
)
from heliodor.checkpoints.lumina_config import find_consolidated, read_lumina_config
from heliodor.checkpoints.lumina_keys import OFFICIAL
from heliodor.checkpoints.lumina_places import find_painter
from heliodor.errors import (
    CheckpointError,
    ConfigError,
    FileFormatError,
    InputError,
    KeyMismatchError,
)
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NEXTDIT_2B_GQA, NextDiTConfig

safetensors = pytest.importorskip("safetensors.torch")

LAYER = {
    **{
        f"attention.{n}.weight": s
        for n, s in {
            "wq": (48, 48),
            "wk": (16, 48),
            "wv": (16, 48),
            "wk_y": (16, 20),
            "wv_y": (16, 20),
            "wo": (48, 48),
            "q_norm": (48,),
            "k_norm": (16,),
            "ky_norm": (16,),
        }.items()
    },
    "attention.q_norm.bias": (48,),
    "attention.k_norm.bias": (16,),
    "attention.ky_norm.bias": (16,),
    "attention.gate": (6,),
    "feed_forward.w1.weight": (64, 48),
    "feed_forward.w2.weight": (48, 64),
    "feed_forward.w3.weight": (64, 48),
    "attention_norm1.weight": (48,),
    "attention_norm2.weight": (48,),
    "ffn_norm1.weight": (48,),
    "ffn_norm2.weight": (48,),
    "attention_y_norm.weight": (20,),
    "adaLN_modulation.1.weight": (192, 48),
    "adaLN_modulation.1.bias": (192,),
}
SHAPES = {
    "pad_token": (48,),
    "x_embedder.weight": (48, 16),
    "x_embedder.bias": (48,),
    "t_embedder.mlp.0.weight": (48, 256),
    "t_embedder.mlp.0.bias": (48,),
    "t_embedder.mlp.2.weight": (48, 48),
    "t_embedder.mlp.2.bias": (48,),
    "cap_embedder.0.weight": (20,),
    "cap_embedder.0.bias": (20,),
    "cap_embedder.1.weight": (48, 20),
    "cap_embedder.1.bias": (48,),
    "final_layer.linear.weight": (32, 48),
    "final_layer.linear.bias": (32,),
    "final_layer.adaLN_modulation.1.weight": (48, 48),
    "final_layer.adaLN_modulation.1.bias": (48,),
    **{f"layers.{i}.{name}": shape for i in range(2) for name, shape in LAYER.items()},
}
"""The published names, written out by hand, at the sizes of ``painting.SMALL``."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lumina")
    save_lumina(painting.nextdit(), place)
    return place


def theirs(folder: Path) -> dict[str, Tensor]:
    return safetensors.load_file(folder / LAST)


def written(folder: Path, tensors: dict[str, Tensor], name: str = LAST) -> LuminaCheckpoint:
    folder.mkdir(exist_ok=True)
    safetensors.save_file(tensors, folder / name)
    return LuminaCheckpoint(path=folder / name, source="given")


def test_the_names_and_shapes_are_the_published_ones(folder: Path) -> None:
    assert {name: tuple(value.shape) for name, value in theirs(folder).items()} == SHAPES


def test_the_released_model_has_567_tensors_under_official_names() -> None:
    state = unfilled(lambda: NextDiT(NEXTDIT_2B_GQA)).state_dict()
    names = {OFFICIAL.to_theirs(name): tuple(value.shape) for name, value in state.items()}
    assert len(names) == 567
    assert sum(value.numel() for value in state.values()) == 1_627_386_400
    assert names["layers.23.attention.wk_y.weight"] == (576, 2048)
    assert names["layers.23.adaLN_modulation.1.weight"] == (9216, 1024)
    assert names["final_layer.linear.weight"] == (32, 2304)
    assert names["cap_embedder.1.weight"] == (1024, 2048)


def test_each_tensor_comes_back_where_it_was(folder: Path) -> None:
    before = painting.nextdit()
    after = LuminaCheckpoint(path=folder / LAST, source="").load()
    assert after.config == before.config
    assert after.state_dict().keys() == before.state_dict().keys()
    for name, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], value), name


def test_parts_that_are_easily_swapped_have_the_meaning_that_they_have_there(folder: Path) -> None:
    state, file = painting.nextdit().state_dict(), theirs(folder)
    pairs = {
        "layers.1.mlp.gate.weight": "layers.1.feed_forward.w1.weight",
        "layers.1.mlp.up.weight": "layers.1.feed_forward.w3.weight",
        "layers.1.post_attention_norm.weight": "layers.1.attention_norm2.weight",
        "layers.1.pre_mlp_norm.weight": "layers.1.ffn_norm1.weight",
        "layers.0.attention.caption_k.weight": "layers.0.attention.wk_y.weight",
        "time.second.weight": "t_embedder.mlp.2.weight",
    }
    for ours, name in pairs.items():
        assert torch.equal(state[ours], file[name]), ours


def test_the_shape_is_found_without_a_word_beside_the_file(folder: Path, tmp_path: Path) -> None:
    found = written(tmp_path, theirs(folder)).config()
    assert found == replace(painting.SMALL, sample_size=128)


@pytest.mark.parametrize(
    "config",
    [
        replace(painting.SMALL, num_kv_heads=6, in_channels=16),
        replace(painting.SMALL, qk_norm=False),
        replace(painting.SMALL, learns_sigma=False, depth=1),
        replace(painting.SMALL, patch_size=1, norm_eps=1e-4, sample_size=7),
    ],
)
def test_other_shapes_come_back_too(config: NextDiTConfig, tmp_path: Path) -> None:
    save_lumina(painting.nextdit(config), tmp_path)
    assert LuminaCheckpoint(path=tmp_path / LAST, source="").config() == config


def test_bfloat16_is_written_and_read_as_such(tmp_path: Path) -> None:
    model = painting.nextdit()
    save_lumina(model, tmp_path, dtype="bfloat16")
    stored = theirs(tmp_path)
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    loaded = LuminaCheckpoint(path=tmp_path / LAST, source="").load(dtype="float32")
    expected = model.layers[1].get_parameter("mlp.up.weight").bfloat16().float()
    assert torch.equal(loaded.layers[1].get_parameter("mlp.up.weight"), expected)


def test_the_average_is_taken_where_there_is_one(folder: Path, tmp_path: Path) -> None:
    save_lumina(painting.nextdit(seed=1), tmp_path)
    save_lumina(painting.nextdit(seed=2), tmp_path, which="ema")
    assert find_consolidated(tmp_path) == tmp_path / AVERAGE
    assert find_consolidated(tmp_path, "last") == tmp_path / LAST
    assert find_consolidated(folder) == folder / LAST
    with pytest.raises(InputError, match=r"has no consolidated_ema\.00-of-01\.safetensors; it has"):
        find_consolidated(folder, "ema")


def test_a_folder_and_a_file_are_found(folder: Path) -> None:
    for path in (folder, folder / LAST):
        found = find_painter(path, "given")
        assert found == LuminaCheckpoint(path=folder / LAST, source="given")


@pytest.mark.parametrize("name", ["consolidated.00-of-01.pth", "model_args.pth"])
def test_a_pickle_is_never_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n")
    with pytest.raises(ConfigError, match=r"pickle|holds no painter but model_args"):
        find_painter(tmp_path, "")
    with pytest.raises(ConfigError, match="a pickle, which is never read"):
        find_painter(tmp_path / name, "")


def test_parts_for_several_gpus_are_refused(tmp_path: Path) -> None:
    (tmp_path / "consolidated.00-of-02.safetensors").touch()
    with pytest.raises(ConfigError, match="a part for one of several GPUs; expected one file"):
        find_painter(tmp_path, "")


def relative(folder: Path, kind: str) -> dict[str, Tensor]:
    """The tensors of related networks, so far as they tell what they are."""
    tensors = theirs(folder)
    if kind == "first release":
        for i in range(2):
            for old in ("attention_norm", "ffn_norm"):
                tensors[f"layers.{i}.{old}.weight"] = tensors.pop(f"layers.{i}.{old}2.weight")
            tensors[f"layers.{i}.adaLN_modulation.1.weight"] = torch.zeros(288, 48)
        return tensors
    name = {
        "Flag-DiT": "eol_token",
        "ImageNet": "y_embedder.embedding_table.weight",
        "Lumina-Image 2.0": "noise_refiner.0.attention.qkv.weight",
        "sound or music": "proj_in.weight",
    }[kind]
    return tensors | {name: torch.zeros(2)}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("first release", r"first published on 12 May 2024 \(8.42 GB\).*shifts.*take the current"),
        ("Flag-DiT", "Lumina-T2I with Flag-DiT.*take Lumina-Next-SFT"),
        ("ImageNet", "Next-DiT for ImageNet, which paints classes"),
        ("Lumina-Image 2.0", "holds Lumina-Image 2.0, another network"),
        ("sound or music", "a Lumina model for sound or music"),
    ],
)
def test_related_networks_are_named(kind: str, message: str, folder: Path, tmp_path: Path) -> None:
    checkpoint = written(tmp_path, relative(folder, kind))
    for look in (checkpoint.config, checkpoint.weights, checkpoint.load):
        with pytest.raises(ConfigError, match=message):
            look()
    with pytest.raises(ConfigError, match=message):
        find_painter(tmp_path / LAST, "")


def test_all_faults_are_listed_in_one_message(folder: Path, tmp_path: Path) -> None:
    tensors = theirs(folder)
    del tensors["layers.1.ffn_norm2.weight"]
    tensors["layers.0.attention.wo.weight"] = torch.zeros(48, 47)
    tensors["extra"] = torch.zeros(1)
    with pytest.raises(KeyMismatchError) as caught:
        written(tmp_path, tensors).load()
    message = str(caught.value)
    assert "layers.1.post_mlp_norm.weight (layers.1.ffn_norm2.weight)" in message
    assert "layers.0.attention.wo.weight is [48, 47], the config asks for [48, 48]" in message
    assert "1 in the file but unknown:\n    extra" in message


def test_a_file_without_its_last_layer_is_not_a_smaller_model() -> None:
    """Depth is counted, so the released model's is known by heart."""
    state = unfilled(lambda: NextDiT(NEXTDIT_2B_GQA)).state_dict()
    shapes = {OFFICIAL.to_theirs(n): tuple(v.shape) for n, v in state.items()}
    cut = {n: s for n, s in shapes.items() if not n.startswith("layers.23.")}
    assert read_lumina_config(shapes, Path("x")) == NEXTDIT_2B_GQA
    assert read_lumina_config(cut, Path("x")) == NEXTDIT_2B_GQA


@pytest.mark.parametrize("name", ["x_embedder.weight", "layers.0.attention.gate"])
def test_a_file_that_does_not_tell_its_shape(name: str, folder: Path, tmp_path: Path) -> None:
    tensors = theirs(folder)
    del tensors[name]
    with pytest.raises(KeyMismatchError, match=rf"not those of Next-DiT.*{name} is missing"):
        written(tmp_path, tensors).load()


def test_a_config_that_contradicts_the_tensors(folder: Path, tmp_path: Path) -> None:
    checkpoint = written(tmp_path, theirs(folder))
    values = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "width": 96}))
    with pytest.raises(ConfigError, match=r"says width 96; the tensors of .* say width 48"):
        checkpoint.config()
    (tmp_path / "config.json").write_text(json.dumps({**values, "qk_norm": 1}))
    with pytest.raises(ConfigError, match="qk_norm is 1; expected true or false"):
        checkpoint.config()
    (tmp_path / "config.json").write_text(json.dumps({**values, "colour": 1}))
    with pytest.raises(ConfigError, match="colour is 1; expected nothing else than in_channels"):
        checkpoint.config()
    del values["norm_eps"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="norm_eps is missing; expected a number above 0"):
        checkpoint.config()


def test_a_config_of_others_says_nothing(folder: Path, tmp_path: Path) -> None:
    checkpoint = written(tmp_path, theirs(folder))
    (tmp_path / "config.json").write_text(json.dumps({"model": "NextDiT_2B_GQA_patch2"}))
    assert checkpoint.config().sample_size == 128


def test_truncated_and_lying_files(folder: Path, tmp_path: Path) -> None:
    whole = (folder / LAST).read_bytes()
    path = tmp_path / LAST
    path.write_bytes(whole[:-5])
    with pytest.raises(FileFormatError, match="truncated download"):
        LuminaCheckpoint(path=path, source="").load()
    path.write_bytes(whole[:4])
    with pytest.raises(FileFormatError, match="4 bytes long"):
        find_painter(path, "")
    written(tmp_path, {n: v.to(torch.int8) for n, v in theirs(folder).items()})
    with pytest.raises(FileFormatError, match=r"stored as torch\.int8.*unquantised"):
        LuminaCheckpoint(path=path, source="").load()


def test_a_save_that_fails_leaves_what_was_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_lumina(painting.nextdit(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = painting.nextdit(seed=4)
    model.pad_token.data.fill_(1e38)
    with pytest.raises(CheckpointError, match=r"pad_token holds values that torch\.float16 cannot"):
        save_lumina(model, tmp_path, dtype="float16")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
