"""big_vision's npz of a SigLIP pair: its arrays, read by plain numpy, give what our model gives."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests import tiny
from tests.peak import loading
from tests.sentences import write_spiece

from heliodor.checkpoints.bigvision_arrays import write_arrays
from heliodor.checkpoints.bigvision_layout import Stacking
from heliodor.checkpoints.siglip import pair_shapes
from heliodor.checkpoints.siglip_npz import (
    SiglipNpzCheckpoint,
    npz_config,
    pair_arrays,
    save_pair_npz,
    write_pair_npz,
)
from heliodor.errors import ConfigError, KeyMismatchError, TokenizerError
from heliodor.image import Resize
from heliodor.models.pair import SiglipPair, SiglipPairConfig
from heliodor.see.pair import load_siglip
from heliodor.text.fixed import Cleaning

Arrays = dict[str, NDArray[Any]]
TOKENS = torch.tensor([[3, 4, 5, 1, 1, 1, 1], [9, 8, 7, 6, 5, 4, 1]])


def norm(arrays: Arrays, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]


def dense(arrays: Arrays, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]


def mlp(arrays: Arrays, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = dense(arrays, f"{name}/MlpBlock_0/Dense_0", x)
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return dense(arrays, f"{name}/MlpBlock_0/Dense_1", x)


def attention(
    arrays: Arrays, name: str, queries: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """flax's: kernels are [D H K] inwards and [H K D] outwards."""
    name = f"{name}/MultiHeadDotProductAttention_0"
    q, k, v = (
        np.einsum("btd,dhk->bthk", source, arrays[f"{name}/{part}/kernel"])
        + arrays[f"{name}/{part}/bias"]
        for part, source in (("query", queries), ("key", x), ("value", x))
    )
    weights = np.exp(np.einsum("bqhk,bthk->bhqt", q, k) / np.sqrt(q.shape[-1]))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhqt,bthk->bqhk", weights, v)
    return (
        np.einsum("bqhk,hkd->bqd", mixed, arrays[f"{name}/out/kernel"]) + arrays[f"{name}/out/bias"]
    )


def encoder(arrays: Arrays, name: str, x: NDArray[np.float64], depth: int) -> NDArray[np.float64]:
    for layer in range(depth):
        block = f"{name}/encoderblock_{layer}"
        y = norm(arrays, f"{block}/LayerNorm_0", x)
        x = x + attention(arrays, block, y, y)
        x = x + mlp(arrays, block, norm(arrays, f"{block}/LayerNorm_1", x))
    return norm(arrays, f"{name}/encoder_norm", x)


def unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def reference(arrays: Arrays, pixels: NDArray[np.float64], tokens: NDArray[np.int64]) -> Arrays:
    """Both towers as big_vision describes them, channels last."""
    kernel = arrays["img/embedding/kernel"]
    size = kernel.shape[0]
    batch, height, width, _ = pixels.shape
    patches = pixels.reshape(batch, height // size, size, width // size, size, 3)
    x = np.einsum("bipjqc,pqcd->bijd", patches, kernel).reshape(batch, -1, kernel.shape[-1])
    x = x + arrays["img/embedding/bias"] + arrays["img/pos_embedding"]
    x = encoder(arrays, "img/Transformer", x, depth=2)
    probe = np.tile(arrays["img/MAPHead_0/probe"], (batch, 1, 1))
    y = attention(arrays, "img/MAPHead_0", probe, x)
    y = y + mlp(arrays, "img/MAPHead_0", norm(arrays, "img/MAPHead_0/LayerNorm_0", y))
    z = arrays["txt/Embed_0/embedding"][tokens] + arrays["txt/pos_embedding"]
    z = encoder(arrays, "txt/Encoder_0", z, depth=2)
    images, texts = unit(y[:, 0]), unit(dense(arrays, "txt/head", z[:, -1]))
    logits = images @ texts.T * np.exp(arrays["t"]) + arrays["b"]
    return {"images": images, "texts": texts, "logits": logits}


def pair() -> SiglipPair:
    found = tiny.pair()
    with torch.no_grad():
        found.logit_scale.fill_(1.1)
        found.logit_bias.fill_(-0.7)
    return found


def write(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def stored(path: Path) -> Arrays:
    with np.load(path) as file:
        assert all(name.startswith("params/") for name in file)
        return {name.removeprefix("params/"): file[name] for name in file}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_pair_npz(pair(), tmp_path / "pair.npz")
    return tmp_path / "pair.npz"


@torch.no_grad()
def test_the_arrays_mean_to_big_vision_what_they_mean_to_us(path: Path) -> None:
    pixels = tiny.pixels(2)
    arrays = {name: value.astype(np.float64) for name, value in stored(path).items()}
    expected = reference(arrays, pixels.permute(0, 2, 3, 1).double().numpy(), TOKENS.numpy())
    model = SiglipNpzCheckpoint(path=path, source="").load()
    found = {
        "images": model.embed_images(pixels),
        "texts": model.embed_texts(TOKENS),
        "logits": model(pixels, TOKENS),
    }
    for name, value in found.items():
        worst = np.abs(value.numpy() - expected[name]).max() / np.abs(expected[name]).max()
        assert worst <= 1e-5, name


def test_the_arrays_have_flax_shapes(path: Path) -> None:
    shapes = {name: value.shape for name, value in stored(path).items()}
    assert len(shapes) == 2 * 2 * 16 + 3 + 2 + 1 + 8 + 2 + 4 + 2 + 2 + 2 + 2
    block = "img/Transformer/encoderblock_1"
    assert shapes["img/embedding/kernel"] == (8, 8, 3, 24)
    assert shapes["img/pos_embedding"] == (1, 16, 24)
    assert shapes[f"{block}/MultiHeadDotProductAttention_0/query/kernel"] == (24, 3, 8)
    assert shapes[f"{block}/MultiHeadDotProductAttention_0/query/bias"] == (3, 8)
    assert shapes[f"{block}/MultiHeadDotProductAttention_0/out/kernel"] == (3, 8, 24)
    assert shapes[f"{block}/MlpBlock_0/Dense_0/kernel"] == (24, 40)
    assert shapes["img/MAPHead_0/probe"] == (1, 1, 24)
    assert shapes["txt/pos_embedding"] == (1, 7, 24)
    assert shapes["txt/Embed_0/embedding"] == (40, 24)
    assert shapes["t"] == shapes["b"] == (1,)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    model = pair().to(getattr(torch, dtype))
    save_pair_npz(model, tmp_path / "pair.npz")
    checkpoint = SiglipNpzCheckpoint(path=tmp_path / "pair.npz", source="")
    assert checkpoint.config() == model.config
    again = checkpoint.load().state_dict()
    assert again.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert again[name].dtype == value.dtype
        assert torch.equal(again[name], value), name


def test_a_dtype_given_is_the_dtype_loaded(path: Path) -> None:
    model = SiglipNpzCheckpoint(path=path, source="").load(dtype="bfloat16")
    for name, value in pair().state_dict().items():
        assert torch.equal(model.state_dict()[name], value.bfloat16()), name


def test_positions_stored_twice_are_added(path: Path, tmp_path: Path) -> None:
    arrays = stored(path)
    arrays["txt/Encoder_0/pos_embedding"] = arrays["txt/pos_embedding"] * 0.5
    other = write(tmp_path / "old.npz", {f"params/{n}": value for n, value in arrays.items()})
    found = SiglipNpzCheckpoint(path=other, source="").load().text.position
    torch.testing.assert_close(found, pair().text.position * 1.5)


def test_sizes_that_were_published() -> None:
    shapes = {
        "img/embedding/kernel": (14, 14, 3, 1152),
        "img/pos_embedding": (1, 729, 1152),
        "txt/pos_embedding": (1, 64, 1152),
        "txt/head/kernel": (1152, 1152),
        "txt/Embed_0/embedding": (32000, 1152),
    }
    for tower in ("img/Transformer", "txt/Encoder_0"):
        for layer in range(27):
            block = f"{tower}/encoderblock_{layer}"
            shapes[f"{block}/MultiHeadDotProductAttention_0/query/kernel"] = (1152, 16, 72)
            shapes[f"{block}/MlpBlock_0/Dense_0/kernel"] = (1152, 4304)
            shapes[f"{block}/LayerNorm_0/scale"] = (1152,)
    large = npz_config(shapes, Path("so400m.npz"))
    assert (large.vision.image_size, large.vision.num_tokens) == (384, 729)
    assert (large.vision.depth, large.text.depth, large.text.num_heads) == (27, 27, 16)
    small = npz_config(
        {**shapes, "img/pos_embedding": (1, 256, 1152), "txt/pos_embedding": (1, 16, 1152)},
        Path("so400m.npz"),
    )
    assert (small.vision.image_size, small.text.length) == (224, 16)


def test_an_array_missing_and_one_too_many_are_told(path: Path, tmp_path: Path) -> None:
    arrays = {f"params/{name}": value for name, value in stored(path).items()}
    del arrays["params/txt/head/bias"]
    write(tmp_path / "less.npz", arrays | {"params/txt/more": np.zeros(3, np.float32)})
    told = r"(?s)not those of a SigLIP pair.*missing.*txt/head/bias.*unknown.*txt/more"
    with pytest.raises(KeyMismatchError, match=told):
        SiglipNpzCheckpoint(path=tmp_path / "less.npz", source="").load()


def test_an_array_of_another_shape_is_told(path: Path, tmp_path: Path) -> None:
    arrays = {f"params/{name}": value for name, value in stored(path).items()}
    arrays["params/img/MAPHead_0/probe"] = np.zeros((1, 2, 24), np.float32)
    write(tmp_path / "bad.npz", arrays)
    with pytest.raises(KeyMismatchError, match=r"probe is \[1, 2, 24\]"):
        SiglipNpzCheckpoint(path=tmp_path / "bad.npz", source="").load()


def test_what_a_training_run_saves_beside_the_model_is_passed_over(
    path: Path, tmp_path: Path
) -> None:
    arrays: Arrays = {f"params/{name}": value for name, value in stored(path).items()}
    state = {"opt/0/count": np.zeros((), np.int32), "opt/0/mu/t": np.ones(1, np.float32)}
    other = write(tmp_path / "run.npz", arrays | state)
    found = SiglipNpzCheckpoint(path=other, source="").load().state_dict()
    for name, value in pair().state_dict().items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_either_tower_may_be_stacked(path: Path, tmp_path: Path, tower: str) -> None:
    arrays = stored(path)
    base = {"img": "img/Transformer/encoderblock", "txt": "txt/Encoder_0/encoderblock"}[tower]
    for end in [n.removeprefix(f"{base}_0/") for n in arrays if n.startswith(f"{base}_0/")]:
        layers = [arrays.pop(f"{base}_{layer}/{end}") for layer in range(2)]
        arrays[f"{base}/{end}"] = np.stack(layers)
    other = write(tmp_path / "other.npz", {f"params/{n}": value for n, value in arrays.items()})
    checkpoint = SiglipNpzCheckpoint(path=other, source="")
    assert checkpoint.config() == pair().config
    found = checkpoint.load().state_dict()
    for name, value in pair().state_dict().items():
        assert torch.equal(found[name], value), name


def test_layers_are_stacked_with_the_vocabulary_of_siglip_2(tmp_path: Path) -> None:
    text = replace(tiny.TEXT, vocab_size=256_000, width=4, num_heads=2, depth=3, out_width=24)
    save_pair_npz(tiny.pair(text=text), tmp_path / "second.npz", dtype="bfloat16")
    with np.load(tmp_path / "second.npz") as file:
        assert file["params/txt/Encoder_0/encoderblock/LayerNorm_0/scale"].shape == (3, 4)
        assert file["params/img/Transformer/encoderblock/LayerNorm_0/scale"].shape == (2, 24)
    checkpoint = SiglipNpzCheckpoint(path=tmp_path / "second.npz", source="")
    assert checkpoint.config().text == text


def test_a_paligemma_is_told(tmp_path: Path) -> None:
    write(tmp_path / "other.npz", {"params/llm/final_norm/scale": np.zeros(4, np.float32)})
    with pytest.raises(KeyMismatchError, match=r"no array img/embedding/kernel: it is no SigLIP"):
        SiglipNpzCheckpoint(path=tmp_path / "other.npz", source="").config()


def test_what_the_format_cannot_say_is_not_written(tmp_path: Path) -> None:
    odd = tiny.pair(replace(tiny.VISION, norm_eps=1e-5))
    with pytest.raises(ConfigError, match=r"vision\.norm_eps is 1e-05"):
        save_pair_npz(odd, tmp_path / "odd.npz")
    cut = tiny.pair(replace(tiny.VISION, image_size=35))
    with pytest.raises(ConfigError, match=r"image_size is 35, .* means 32"):
        save_pair_npz(cut, tmp_path / "cut.npz")
    with pytest.raises(ConfigError, match=r"must end in \.npz"):
        save_pair_npz(tiny.pair(), tmp_path / "pair.bin")
    assert list(tmp_path.iterdir()) == []


def test_the_tokenizer_is_asked_for_or_lies_beside(path: Path, tmp_path: Path) -> None:
    text = replace(tiny.TEXT, vocab_size=110)
    save_pair_npz(tiny.pair(text=text), path)
    with pytest.raises(TokenizerError, match="pass tokenizer="):
        load_siglip(path)
    given = load_siglip(path, tokenizer=write_spiece(tmp_path / "words", "c4_en.model"))
    write_spiece(tmp_path)
    beside = load_siglip(path)
    for found in (given, beside):
        assert found.tokenizer.cleaning is Cleaning.BIG_VISION
        assert found.tokenizer.length == 7
        assert found.processor.resize is Resize.BIG_VISION
    assert given.tokenizer.encode("A cat!") == beside.tokenizer.encode("A cat!")
    other = load_siglip(path, cleaning=Cleaning.TRANSFORMERS)
    assert other.tokenizer.encode("A cat!") != beside.tokenizer.encode("A cat!")


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 MB of float32, two fifths of them in the table."""
    wide = {"width": 512, "depth": 2, "num_heads": 8, "mlp_width": 1024}
    config = SiglipPairConfig(
        vision=replace(tiny.VISION, **wide), text=replace(tiny.TEXT, vocab_size=14000, **wide)
    )
    state = {name: torch.full(shape, 0.5) for name, shape in pair_shapes(config).items()}
    folder = tmp_path_factory.mktemp("heavy")
    write_pair_npz(config, state, folder / "single.npz")
    write_arrays(pair_arrays(config, Stacking()), state, folder / "stacked.npz", dtype=None)
    with np.load(folder / "single.npz") as file:
        np.savez_compressed(folder / "deflated.npz", **{n: file[n] for n in file.files})
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("single", "float32"), ("stacked", "bfloat16"), ("deflated", "bfloat16")],
)
def test_the_peak_is_little_above_the_weights(heavy: Path, name: str, dtype: str) -> None:
    call = "load(path=Path(sys.argv[1]), source='').load(dtype=sys.argv[2])"
    path = heavy / f"{name}.npz"
    grown, weights = loading(
        path, dtype, module="siglip_npz", load="SiglipNpzCheckpoint", call=call
    )
    assert weights > 30e6
    assert grown < 1.15 * weights + 8 * 2**20
