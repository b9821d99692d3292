"""big_vision's npz of a PaliGemma: ways of naming, types, pieces, what is refused, memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.peak import loading

from heliodor.checkpoints import bigvision
from heliodor.checkpoints.bigvision import BigVisionCheckpoint
from heliodor.errors import (
    CheckpointError,
    ConfigError,
    FileFormatError,
    KeyMismatchError,
    TokenizerError,
)
from heliodor.image import Resize
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemma
from heliodor.zoo import TOKENIZER

FIRST = replace(tiny.LANGUAGE, norm_eps=1e-6, rope_base=10000.0)
SECOND = replace(
    FIRST,
    sandwich=True,
    query_scale=12**-0.5,
    attention_cap=50.0,
    final_cap=30.0,
    window=4096,
)
LANGUAGES = {"first": FIRST, "second": SECOND, "joint": replace(FIRST, num_kv_heads=4)}


def make(language: GemmaConfig, **changes: Any) -> PaliGemma:
    return tiny.paligemma(language=language, **changes)


@pytest.fixture(scope="module", params=LANGUAGES)
def model(request: pytest.FixtureRequest) -> PaliGemma:
    """All of its rows stand for tokens, so that nothing of it is left out."""
    return make(LANGUAGES[request.param], image_token=None)


def arrays_of(model: PaliGemma, folder: Path) -> dict[str, Any]:
    bigvision.save(model, folder / "whole.npz")
    with np.load(folder / "whole.npz") as file:
        return {name: file[name] for name in file.files}


def saved(folder: Path, arrays: dict[str, Any], save: Callable[..., None] = np.savez) -> Path:
    save(folder / "x.npz", **arrays)
    return folder / "x.npz"


def assert_same(found: PaliGemma, expected: PaliGemma, dtype: torch.dtype = torch.float32) -> None:
    state = found.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert state[name].dtype == dtype
        assert torch.equal(state[name], value.to(dtype)), name


def test_a_model_comes_back_as_it_was(model: PaliGemma, tmp_path: Path) -> None:
    bigvision.save(model, tmp_path / "x.npz")
    found = bigvision.load(tmp_path / "x.npz")
    assert_same(found, model)
    assert found.config.vision == model.config.vision
    assert replace(found.config.language, context=512) == model.config.language
    assert not found.training


def test_names_and_shapes_of_the_published_layout(tmp_path: Path) -> None:
    """As fact sheets and the released files have them, for widths that are all different."""
    arrays = arrays_of(make(SECOND, image_token=None), tmp_path)
    shapes = {name: array.shape for name, array in arrays.items()}
    block, attention = "params/img/Transformer/encoderblock", "MultiHeadDotProductAttention_0"
    layers = "params/llm/layers"
    expected = {
        "params/img/embedding/kernel": (8, 8, 3, 24),
        "params/img/embedding/bias": (24,),
        "params/img/pos_embedding": (1, 16, 24),
        **{f"{block}/LayerNorm_{n}/{kind}": (2, 24) for n in (0, 1) for kind in ("scale", "bias")},
        f"{block}/MlpBlock_0/Dense_0/kernel": (2, 24, 40),
        f"{block}/MlpBlock_0/Dense_0/bias": (2, 40),
        f"{block}/MlpBlock_0/Dense_1/kernel": (2, 40, 24),
        f"{block}/MlpBlock_0/Dense_1/bias": (2, 24),
        **{f"{block}/{attention}/{n}/kernel": (2, 24, 3, 8) for n in ("query", "key", "value")},
        **{f"{block}/{attention}/{n}/bias": (2, 3, 8) for n in ("query", "key", "value")},
        f"{block}/{attention}/out/kernel": (2, 3, 8, 24),
        f"{block}/{attention}/out/bias": (2, 24),
        "params/img/Transformer/encoder_norm/scale": (24,),
        "params/img/Transformer/encoder_norm/bias": (24,),
        "params/img/head/kernel": (24, 32),
        "params/img/head/bias": (32,),
        "params/llm/embedder/input_embedding": (48, 32),
        f"{layers}/attn/q_einsum/w": (3, 4, 32, 12),
        f"{layers}/attn/kv_einsum/w": (3, 2, 2, 32, 12),
        f"{layers}/attn/attn_vec_einsum/w": (3, 4, 12, 32),
        f"{layers}/mlp/gating_einsum": (3, 2, 32, 56),
        f"{layers}/mlp/linear": (3, 56, 32),
        **{
            f"{layers}/{place}_{part}_norm/scale": (3, 32)
            for place in ("pre", "post")
            for part in ("attention", "ffw")
        },
        "params/llm/final_norm/scale": (32,),
    }
    assert shapes == expected


def test_key_and_value_gate_and_up_lie_in_their_order(tmp_path: Path) -> None:
    model = make(FIRST, image_token=None)
    arrays = arrays_of(model, tmp_path)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    layer = "language.layers.2"
    kv = arrays["params/llm/layers/attn/kv_einsum/w"][2]
    for part, name in enumerate("kv"):
        for head in range(2):
            rows = state[f"{layer}.attention.{name}.weight"][12 * head : 12 * head + 12]
            np.testing.assert_array_equal(kv[part, head], rows.T)
    gating = arrays["params/llm/layers/mlp/gating_einsum"][2]
    for part, name in enumerate(("gate", "up")):
        np.testing.assert_array_equal(gating[part], state[f"{layer}.mlp.{name}.weight"].T)
    out = arrays["params/llm/layers/attn/attn_vec_einsum/w"][2]
    np.testing.assert_array_equal(out.reshape(48, 32), state[f"{layer}.attention.out.weight"].T)


@pytest.mark.parametrize("root", ["params/", "", "opt/target/"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_root_of_names_is_read(
    model: PaliGemma, tmp_path: Path, root: str, save: Callable[..., None]
) -> None:
    arrays = arrays_of(model, tmp_path)
    renamed = {root + name.removeprefix("params/"): array for name, array in arrays.items()}
    assert_same(bigvision.load(saved(tmp_path, renamed, save)), model)


def test_a_training_run_s_state_is_passed_over(model: PaliGemma, tmp_path: Path) -> None:
    arrays = arrays_of(model, tmp_path)
    more = {"opt/0/mu/img/head/bias": np.zeros(3, np.float32), "opt/1/count": np.int64(5)}
    assert_same(bigvision.load(saved(tmp_path, {**arrays, **more})), model)


def unstacked(arrays: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        for base, mark in (("encoderblock/", "_"), ("llm/layers/", "/")):
            if base in name:
                start, _, end = name.partition(base)
                for layer, value in enumerate(array):
                    found[f"{start}{base[:-1]}{mark}{layer}/{end}"] = value
                break
        else:
            found[name] = array
    return found


def test_layers_that_are_not_stacked_are_read(model: PaliGemma, tmp_path: Path) -> None:
    assert_same(bigvision.load(saved(tmp_path, unstacked(arrays_of(model, tmp_path)))), model)


def test_arrays_in_fortran_order_are_read(model: PaliGemma, tmp_path: Path) -> None:
    arrays = {n: np.asfortranarray(a) for n, a in arrays_of(model, tmp_path).items()}
    assert_same(bigvision.load(saved(tmp_path, arrays)), model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_type_is_kept_and_converted(
    model: PaliGemma, tmp_path: Path, dtype: torch.dtype
) -> None:
    bigvision.save(model, tmp_path / "x.npz", dtype=dtype)
    found = bigvision.load(tmp_path / "x.npz")
    assert_same(found, model, dtype)
    wide = bigvision.load(tmp_path / "x.npz", dtype="float32")
    for name, value in found.state_dict().items():
        assert torch.equal(wide.state_dict()[name], value.float())


def test_mixed_types_rest_in_the_widest(tmp_path: Path) -> None:
    """big_vision's notebook trains attention alone, in float32, and keeps the rest in float16."""
    model = make(FIRST, image_token=None)
    arrays = arrays_of(model, tmp_path)
    mixed = {n: a if "/attn/" in n else a.astype(np.float16) for n, a in arrays.items()}
    found = bigvision.load(saved(tmp_path, mixed)).state_dict()
    assert {value.dtype for value in found.values()} == {torch.float32}
    name = "language.layers.0.attention.q.weight"
    assert torch.equal(found[name], model.state_dict()[name])
    assert torch.equal(found["projector.bias"], model.projector.bias.half().float())


def test_pieces_are_read_without_joining_them(model: PaliGemma, tmp_path: Path) -> None:
    bigvision.save(model, tmp_path / "x.npz")
    data = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").unlink()
    for index in range(4):
        step = -(-len(data) // 4)
        (tmp_path / f"x.npz.part{index}").write_bytes(data[index * step : (index + 1) * step])
    assert_same(bigvision.load(tmp_path / "x.npz"), model)
    assert len(list(tmp_path.iterdir())) == 4


def test_another_resolution_stretches_the_positions(tmp_path: Path) -> None:
    model = make(FIRST, image_token=None)
    bigvision.save(model, tmp_path / "x.npz")
    found = bigvision.load(tmp_path / "x.npz", image_size=56)
    assert found.config.vision.image_size == 56
    position = found.vision.position
    assert position.shape == (49, 24)
    for ours, theirs in ((0, 0), (6, 3), (42, 12), (48, 15)):  # corners stay corners
        assert torch.equal(position[ours], model.vision.position[theirs])


def test_padding_rows_are_left_out(tmp_path: Path) -> None:
    model = make(FIRST, image_token=45)
    bigvision.save(model, tmp_path / "x.npz")
    found = bigvision.load(tmp_path / "x.npz")
    assert (found.config.language.vocab_size, found.config.image_token) == (45, None)
    assert torch.equal(found.language.embedding.weight, model.language.embedding.weight[:45])


def test_the_27b_scales_queries_by_its_width(tmp_path: Path) -> None:
    language = replace(SECOND, num_heads=2, num_kv_heads=1, head_dim=128, query_scale=16**-0.5)
    bigvision.save(make(language, image_token=None), tmp_path / "x.npz")
    assert bigvision.read_config(tmp_path / "x.npz").language.query_scale == 16**-0.5
    wrong = replace(language, query_scale=128**-0.5)
    with pytest.raises(ConfigError, match="query_scale"):
        bigvision.save(make(wrong, image_token=None), tmp_path / "y.npz")


@pytest.mark.parametrize(
    ("language", "name"),
    [
        (replace(FIRST, norm_eps=1e-5), "language.norm_eps"),
        (replace(FIRST, rope_base=700.0), "language.rope_base"),
        (replace(FIRST, query_scale=0.3), "language.query_scale"),
        (replace(FIRST, attention_cap=50.0), "language.attention_cap"),
        (replace(FIRST, window=7), "language.window"),
        (replace(SECOND, attention_cap=None), "language.attention_cap"),
        (replace(SECOND, final_cap=20.0), "language.final_cap"),
        (replace(SECOND, window=7), "language.window"),
    ],
)
def test_what_would_be_read_as_another_model_is_refused(
    tmp_path: Path, language: GemmaConfig, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"{name} is .*'transformers' or 'native'"):
        bigvision.save(make(language), tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())


def test_pixels_that_no_patch_covers_are_refused(tmp_path: Path) -> None:
    vision = replace(tiny.VISION, image_size=36)
    with pytest.raises(ConfigError, match=r"vision\.image_size is 36"):
        bigvision.save(make(FIRST, vision=vision), tmp_path / "x.npz")


def test_a_model_without_its_final_cap_can_be_saved(tmp_path: Path) -> None:
    bigvision.save(make(replace(SECOND, final_cap=None, window=None)), tmp_path / "x.npz")
    assert bigvision.read_config(tmp_path / "x.npz").language.final_cap == 30.0
    found = bigvision.load(tmp_path / "x.npz", final_cap=False)
    assert found.config.language.final_cap is None


def test_only_npz_names_are_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.npz"):
        bigvision.save(make(FIRST), tmp_path / "x.safetensors")


def test_a_value_that_does_not_fit_is_refused_both_ways(tmp_path: Path) -> None:
    model = make(FIRST, image_token=None)
    with torch.no_grad():
        model.language.norm.scale[3] = 1e6
    bigvision.save(model, tmp_path / "x.npz")
    before = (tmp_path / "x.npz").read_bytes()
    with pytest.raises(CheckpointError, match="llm/final_norm/scale holds values"):
        bigvision.load(tmp_path / "x.npz", dtype="float16")
    with pytest.raises(CheckpointError, match="llm/final_norm/scale holds values"):
        bigvision.save(model, tmp_path / "x.npz", dtype="float16")
    assert (tmp_path / "x.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


BIAS, SCALE = "params/img/head/bias", "params/llm/final_norm/scale"
VECTOR = "params/llm/layers/attn/attn_vec_einsum/w"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({BIAS: None}, r"1 missing from the file:\n    img/head/bias"),
        ({"params/more": np.zeros(2, np.float32)}, r"1 in the file but unknown:\n    more"),
        ({"more": np.zeros(2, np.float32)}, r"1 in the file but unknown:\n    more"),
        ({BIAS: np.zeros(31, np.float32)}, r"img/head/bias is \[31\], the other .* ask for \[32\]"),
        ({VECTOR: np.zeros((2, 4, 12, 32), np.float32)}, r"attn_vec_einsum/w is \[2, 4, 12, 32\]"),
        ({SCALE: np.zeros((1, 32), np.float32)}, r"final_norm/scale is \[1, 32\]"),
        ({"params/llm/embedder/input_embedding": None}, "has no array llm/embedder"),
        ({"params/img/pos_embedding": np.zeros((1, 15, 24), np.float32)}, "no square"),
        ({"params/img/pos_embedding": np.zeros((16, 24), np.float32)}, "expected 3 axes"),
        ({"params/llm/layers/mlp/linear": np.zeros((3, 0, 32), np.float32)}, "none empty"),
        (
            {"params/llm/layers/attn/kv_einsum/w": np.zeros((3, 2, 3, 32, 12), np.float32)},
            "do not divide among 3",
        ),
        ({"params/llm/layers/pre_attention_norm/scale": np.zeros((9999, 32))}, "9999 layers"),
    ],
)
def test_arrays_that_are_no_paligemma_are_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    arrays = {**arrays_of(make(FIRST, image_token=None), tmp_path), **change}
    path = saved(tmp_path, {n: a for n, a in arrays.items() if a is not None})
    with pytest.raises(KeyMismatchError, match=message):
        bigvision.read_config(path)


def test_weights_that_are_no_floats_are_refused(tmp_path: Path) -> None:
    arrays = {**arrays_of(make(FIRST), tmp_path), BIAS: np.zeros(32, np.int8)}
    with pytest.raises(FileFormatError, match=r"img/head/bias' is stored as torch\.int8"):
        bigvision.load(saved(tmp_path, arrays))


def test_a_layer_that_is_missing_among_unstacked_ones(tmp_path: Path) -> None:
    arrays = unstacked(arrays_of(make(FIRST, image_token=None), tmp_path))
    kept = {n: a for n, a in arrays.items() if not n.startswith("params/llm/layers/1/")}
    with pytest.raises(KeyMismatchError, match=r"llm/layers/1/attn/q_einsum/w"):
        bigvision.load(saved(tmp_path, kept))


def test_the_tokenizer_lies_beside_the_file_and_the_size_in_the_positions(tmp_path: Path) -> None:
    bigvision.save(make(FIRST), tmp_path / "x.npz")
    checkpoint = BigVisionCheckpoint(path=tmp_path / "x.npz", source="x.npz")
    with pytest.raises(TokenizerError, match="pass tokenizer="):
        checkpoint.tokenizer()
    (tmp_path / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    assert checkpoint.tokenizer().vocab_size == tiny.tokenizer().vocab_size
    processor = checkpoint.processor()
    assert (processor.size, processor.resize) == (32, Resize.BIG_VISION)
    assert checkpoint.processor(64).size == 64


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 MB of float32 in six layers; the table comes before them, as in published files."""
    language = replace(
        FIRST, vocab_size=4000, width=512, depth=6, head_dim=64, mlp_width=1024, num_heads=8
    )
    folder = tmp_path_factory.mktemp("heavy")
    model = make(language, image_token=None)
    bigvision.save(model, folder / "stored.npz")
    with np.load(folder / "stored.npz") as file:
        np.savez_compressed(folder / "deflated.npz", **{n: file[n] for n in file.files})
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("stored", "float32"), ("stored", "bfloat16"), ("deflated", "float32")],
)
def test_the_peak_is_little_above_the_weights(heavy: Path, name: str, dtype: str) -> None:
    call = "load(sys.argv[1], dtype=sys.argv[2])"
    path = heavy / f"{name}.npz"
    grown, weights = loading(path, dtype, module="bigvision", load="load", call=call)
    assert weights > 25e6
    unpacked = 12 * 2**20 if name == "deflated" else 0  # one layer
    assert grown < 1.15 * weights + 8 * 2**20 + unpacked
