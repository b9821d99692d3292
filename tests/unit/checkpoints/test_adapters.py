"""LoRA: merged values against numpy, and against peft where it is installed; the rest refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tests import tiny

import heliodor
from heliodor.checkpoints import open_checkpoint
from heliodor.checkpoints.adapters import merged, read_adapter_config
from heliodor.checkpoints.weights import Weight
from heliodor.errors import CheckpointError, ConfigError, FileFormatError, KeyMismatchError

OLD, NEW = "language_model.model.layers", "model.language_model.layers"
LAYERS = {  # ours -> theirs behind the layer's stem, [out, in]
    "language.layers.1.attention.q": (f"{NEW}.1.self_attn.q_proj", (48, 32)),
    "language.layers.0.attention.v": (f"{OLD}.0.self_attn.v_proj", (24, 32)),
    "language.layers.2.mlp.down": (f"{OLD}.2.mlp.down_proj", (32, 56)),
    "vision.blocks.1.attention.out": (
        "model.vision_tower.encoder.layers.1.self_attn.out_proj",
        (24, 24),
    ),
    "projector": ("multi_modal_projector.linear", (32, 24)),
}
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 3,
    "lora_alpha": 12,
    "bias": "none",
    "target_modules": ["q_proj", "v_proj", "down_proj", "out_proj", "linear"],
    "base_model_name_or_path": "google/paligemma-3b-pt-224",
}


def factors(rank: int = 3) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    made: dict[str, torch.Tensor] = {}
    for name, (rows, columns) in LAYERS.values():
        stem = f"base_model.model.{name}"
        made[f"{stem}.lora_A.weight"] = torch.randn(rank, columns, generator=random)
        made[f"{stem}.lora_B.weight"] = torch.randn(rows, rank, generator=random)
    return made


def adapter(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    save_file(factors() if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


def product(tensors: dict[str, torch.Tensor], theirs: str) -> NDArray[np.float64]:
    """B times A, a column at a time, in float64."""
    stem = f"base_model.model.{theirs}"
    a, b = (tensors[f"{stem}.lora_{side}.weight"].double().numpy() for side in "AB")
    return np.stack([b @ column for column in a.T], axis=1)


def base() -> tuple[dict[str, torch.Tensor], dict[str, Weight], Any]:
    model = tiny.paligemma()
    state = model.state_dict()
    return state, {name: Weight.of(name, tensor) for name, tensor in state.items()}, model.config


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, 12 / 3),
        ({"use_rslora": True}, 12 / 3**0.5),
        ({"lora_alpha": 1}, 1 / 3),
        ({"use_dora": False, "lora_bias": False, "trainable_token_indices": None}, 4.0),
    ],
)
def test_a_merged_layer_is_numpys_sum_and_the_others_are_untouched(
    tmp_path: Path, changes: dict[str, Any], scale: float
) -> None:
    state, weights, config = base()
    tensors = factors()
    found = merged(weights, adapter(tmp_path / "a", tensors, **changes), config)
    assert found.keys() == weights.keys()
    for name, weight in found.items():
        got, expected = weight.read(), state[name].double().numpy()
        layer = name.removesuffix(".weight")
        if layer in LAYERS and name.endswith(".weight"):
            expected = expected + scale * product(tensors, LAYERS[layer][0])
            np.testing.assert_allclose(got.numpy(), expected, rtol=2e-5, atol=2e-5)
            assert not torch.equal(got, state[name])
        else:
            assert got is state[name]


def test_ranks_and_alphas_may_differ_by_layer(tmp_path: Path) -> None:
    state, weights, config = base()
    tensors = {**factors(), **{n: t for n, t in factors(2).items() if "mlp" in n}}
    patterns = {"alpha_pattern": {"mlp.down_proj": 7, r"layers\.\d+\.self_attn\.q_proj": 5}}
    found = merged(weights, adapter(tmp_path / "a", tensors, **patterns), config)
    for layer, scale in (
        ("language.layers.2.mlp.down", 7 / 2),
        ("language.layers.1.attention.q", 5 / 3),
        ("language.layers.0.attention.v", 12 / 3),
    ):
        expected = state[f"{layer}.weight"].double().numpy()
        expected = expected + scale * product(tensors, LAYERS[layer][0])
        np.testing.assert_allclose(found[f"{layer}.weight"].read(), expected, rtol=2e-5, atol=2e-5)


def test_a_half_precision_weight_is_rounded_once(tmp_path: Path) -> None:
    state, _, config = base()
    weights = {name: Weight.of(name, tensor.bfloat16()) for name, tensor in state.items()}
    tensors = factors()
    found = merged(weights, adapter(tmp_path / "a", tensors), config)["projector.weight"].read()
    wide = state["projector.weight"].bfloat16().double().numpy()
    exact = torch.from_numpy(wide + 4 * product(tensors, "multi_modal_projector.linear"))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.float().bfloat16())


def test_whole_modules_replace_ours(tmp_path: Path) -> None:
    _, weights, config = base()
    saved = {
        "base_model.model.model.multi_modal_projector.linear.weight": torch.randn(32, 24),
        "base_model.model.model.multi_modal_projector.linear.bias": torch.randn(32),
        f"base_model.model.{OLD}.0.self_attn.v_proj.lora_A.weight": torch.randn(3, 32),
        f"base_model.model.{OLD}.0.self_attn.v_proj.lora_B.weight": torch.randn(24, 3),
    }
    folder = adapter(tmp_path / "a", saved, modules_to_save=["multi_modal_projector"])
    found = merged(weights, folder, config)
    for kind in ("weight", "bias"):
        theirs = f"base_model.model.model.multi_modal_projector.linear.{kind}"
        assert torch.equal(found[f"projector.{kind}"].read(), saved[theirs])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, r"use_dora is True; expected nothing: weight-decomposed \(DoRA\)"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; expected 'LORA'"),
        ({"peft_type": None}, "peft_type is None; expected 'LORA'"),
        ({"bias": "all"}, "bias is 'all'; expected 'none'"),
        ({"lora_bias": True}, "biased LoRA is not read"),
        ({"fan_in_fan_out": True}, "transposed LoRA is not read"),
        ({"trainable_token_indices": [1]}, "token-wise LoRA is not read"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the base model's weights too"),
        ({"r": 0}, "r is 0; expected a whole number"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'; expected a number above 0"),
        ({"alpha_pattern": {"a": -1}}, "alpha_pattern is .*numbers above 0"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern '\(' is no regular expression"),
    ],
)
def test_other_kinds_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    _, weights, config = base()
    with pytest.raises(ConfigError, match=message):
        merged(weights, adapter(tmp_path / "a", **changes), config)


def changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The factors with tensors set or removed; dots in names are written as ``__``."""
    tensors: dict[str, torch.Tensor | None] = dict(factors())
    tensors |= {f"base_model.model.{n.replace('__', '.')}": t for n, t in changes.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (changed(multi_modal_projector__linear__lora_A__weight=torch.zeros(3, 25)),
         r"trained beside google/paligemma-3b-pt-224, is for another model\. 1 have another shape: "
         r"projector\.weight: \[32 r\] times \[r 25\] onto \[32, 24\]"),
        (changed(multi_modal_projector__linear__lora_A__weight=torch.zeros(4, 24)),
         "another shape"),
        (changed(multi_modal_projector__linear__lora_A__weight=None),
         r"1 layers have only one of lora_A and lora_B: projector\.weight"),
        (changed(language_model__model__layers__9__mlp__up_proj__lora_A__weight=torch.ones(3, 32),
                 language_model__model__layers__9__mlp__up_proj__lora_B__weight=torch.ones(56, 3)),
         r"1 layers are not in the model: language\.layers\.9\.mlp\.up\.weight"),
        (changed(transformer__h__0__attn__lora_A__weight=torch.ones(3, 32)),
         r"names google/paligemma-3b-pt-224 as its base model\): 1 tensors fit no layer of a Pali"),
        (changed(lm_head__lora_A__weight=torch.ones(3, 32)), "1 tensors fit no layer"),
        (changed(model__language_model__embed_tokens__lora_embedding_A=torch.ones(3, 32)),
         "1 tensors fit no layer"),
        (changed(multi_modal_projector__linear__lora_magnitude_vector=torch.ones(3)),
         "1 tensors fit no layer"),
        (changed(multi_modal_projector__linear__lora_B__weight=torch.ones(32, 3).to(torch.int8)),
         "1 tensors fit no layer"),
        (changed(multi_modal_projector__linear__bias=torch.ones(31)),
         r"projector\.bias: \[31\] for \[32\]"),
        ({}, "it holds no tensors"),
    ],
)  # fmt: skip
def test_an_adapter_of_another_model_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    _, weights, config = base()
    with pytest.raises(KeyMismatchError, match=message):
        merged(weights, adapter(tmp_path / "a", tensors), config)


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    _, weights, config = base()
    with pytest.raises(ConfigError, match=r"has no adapter_config\.json: give the folder"):
        merged(weights, tmp_path, config)
    folder = adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(FileFormatError, match=r"a pickled adapter_model\.bin is not read"):
        merged(weights, folder, config)
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(CheckpointError):
        merged(weights, folder, config)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(FileFormatError, match="not valid JSON"):
        read_adapter_config(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "model"
    tiny.vlm().save(path)
    return path


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # between peft and transformers
@pytest.mark.parametrize("names", ["old", "new"])
@pytest.mark.parametrize("scale", ["plain", "rslora"])
def test_merged_weights_are_pefts(folder: Path, tmp_path: Path, scale: str, names: str) -> None:
    """The same adapter in peft, over transformers' own model."""
    peft: Any = pytest.importorskip("peft")
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = peft.get_peft_model(
        transformers.PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype="float32"),
        peft.LoraConfig(
            r=4,
            lora_alpha=10,
            use_rslora=scale == "rslora",
            target_modules=["q_proj", "o_proj", "gate_proj", "fc1", "linear"],
            rank_pattern={"o_proj": 2},
            alpha_pattern={"gate_proj": 3},
            init_lora_weights=False,
        ),
    )
    model.save_pretrained(tmp_path / "lora")
    if names == "old":
        rename_as_before_transformers_4_52(tmp_path / "lora" / "adapter_model.safetensors")
    model.merge_and_unload().save_pretrained(tmp_path / "theirs")
    expected = open_checkpoint(tmp_path / "theirs").load().state_dict()
    plain = open_checkpoint(folder).load().state_dict()
    ours = heliodor.load(folder, adapter=tmp_path / "lora").model.state_dict()
    for name, value in ours.items():
        assert tiny.relative_error(value, expected[name]) <= 1e-6, name
    moved = sorted(name for name, value in ours.items() if not torch.equal(value, plain[name]))
    q, out, gate = (
        [f"language.layers.{i}.{part}.weight" for i in range(3)]
        for part in ("attention.q", "attention.out", "mlp.gate")
    )
    tower = [
        f"vision.blocks.{i}.{part}.weight" for i in range(2) for part in ("attention.q", "mlp.up")
    ]
    assert moved == sorted([*q, *out, *gate, *tower, "projector.weight"])


def rename_as_before_transformers_4_52(path: Path) -> None:
    """The names that adapters on the hub from 2024 have."""
    renamed = {
        name.replace(
            "base_model.model.model.language_model.", "base_model.model.language_model.model."
        )
        .replace("base_model.model.model.", "base_model.model.")
        .replace("vision_tower.encoder", "vision_tower.vision_model.encoder"): value
        for name, value in load_file(path).items()
    }
    assert not any(name.startswith("base_model.model.model.") for name in renamed)
    save_file(renamed, path)
