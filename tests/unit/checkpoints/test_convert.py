"""Converting: values key by key, losses refused, progress, memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import sentences, tiny
from tests.unit.checkpoints.small import ALL, LANGUAGE, LANGUAGE2, TABLE, VISION, WEIGHTS, made

import heliodor
from heliodor import zoo
from heliodor.checkpoints.convert import convert
from heliodor.checkpoints.language import save_language
from heliodor.checkpoints.transformers import save
from heliodor.errors import CheckpointError, ConfigError, TokenizerError
from heliodor.image import ImageProcessor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("source2") / "model", LANGUAGE2)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


@pytest.mark.parametrize("source", ["folder", "second"])
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_through_the_native_file_and_back_every_tensor_is_the_same(
    request: pytest.FixtureRequest, tmp_path: Path, source: str, dtype: str | None
) -> None:
    folder: Path = request.getfixturevalue(source)
    convert(folder, tmp_path / "x.safetensors", dtype=dtype)
    done = convert(tmp_path / "x.safetensors", tmp_path / "back")
    before = load_file(folder / WEIGHTS)
    if dtype is not None:
        before = {name: value.to(getattr(torch, dtype)) for name, value in before.items()}
    assert equal(load_file(tmp_path / "back" / WEIGHTS), before)
    assert (done.format, done.tensors, done.dropped) == ("transformers", len(before), ())
    for path in folder.iterdir():
        if path.suffix == ".json" and (dtype is None or path.name != "config.json"):
            assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes(), path.name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "x.safetensors"]


@pytest.mark.parametrize("source", ["folder", "second"])
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_through_an_npz_and_back_every_tensor_is_the_same_but_for_padding(
    request: pytest.FixtureRequest, tmp_path: Path, source: str, dtype: str | None
) -> None:
    folder: Path = request.getfixturevalue(source)
    first = convert(folder, tmp_path / "x.npz", dtype=dtype, drop=ALL)
    assert first.dropped == ALL
    convert(tmp_path / "x.npz", tmp_path / "y.safetensors", tokenizer=folder / "tokenizer.json")
    convert(tmp_path / "y.safetensors", tmp_path / "back")
    before = load_file(folder / WEIGHTS)
    before[TABLE] = before[TABLE][: tiny.tokenizer().image_token]
    if dtype is not None:
        before = {name: value.to(getattr(torch, dtype)) for name, value in before.items()}
    assert equal(load_file(tmp_path / "back" / WEIGHTS), before)
    again = convert(tmp_path / "back", tmp_path / "again.npz", drop=ALL)
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "x.npz").read_bytes()
    assert again.dropped == ("tokenizer",)


def test_numpy_reads_the_npz_in_big_visions_layout(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "x.npz", drop=ALL)
    theirs = load_file(folder / WEIGHTS)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as ours:
        gates = ours["params/llm/layers/mlp/gating_einsum"]
        query = ours["params/llm/layers/attn/q_einsum/w"]
    stem = "language_model.model.layers.1"
    assert np.array_equal(gates[1, 1], theirs[f"{stem}.mlp.up_proj.weight"].numpy().T)
    projected = theirs[f"{stem}.self_attn.q_proj.weight"].numpy().reshape(4, 6, 16)
    assert np.array_equal(query[1], projected.transpose(0, 2, 1))


def test_shards_become_one_file_and_answers_stay(folder: Path, tmp_path: Path) -> None:
    sharded = made(tmp_path / "shards", max_shard_size=20_000)
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    convert(sharded, tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()
    picture, said = tiny.picture(2), [" a bee"]
    expected = heliodor.load(folder).logits([picture], ["caption en"], said)
    found = heliodor.load(tmp_path / "y.safetensors").logits([picture], ["caption en"], said)
    assert tiny.relative_error(found, expected) < 1e-6


def test_each_tensor_keeps_its_own_type_unless_told(folder: Path, tmp_path: Path) -> None:
    mixed = made(tmp_path / "mixed")
    tensors = load_file(mixed / WEIGHTS)
    tensors[TABLE] = tensors[TABLE].bfloat16()
    save_file(tensors, mixed / WEIGHTS)
    convert(mixed, tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert found["language.embedding.weight"].dtype == torch.bfloat16
    assert {v.dtype for n, v in found.items() if "embedding" not in n} == {torch.float32}


def test_an_adapter_is_merged_on_the_way(folder: Path, tmp_path: Path) -> None:
    stem = "base_model.model.multi_modal_projector.linear"
    up, down = torch.randn(16, 2), torch.randn(2, 12)
    tensors = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "x.safetensors", adapter=tmp_path)
    before, after = load_file(folder / WEIGHTS), load_file(tmp_path / "x.safetensors")
    plain = before["multi_modal_projector.linear.weight"]
    assert tiny.relative_error(after["projector.weight"], plain + 3 * (up @ down)) < 1e-6
    table = after["language.embedding.weight"]
    assert torch.equal(table, before[TABLE])


def test_a_pair_goes_to_an_npz_and_back(tmp_path: Path) -> None:
    source = sentences.pair_folder(tmp_path / "pair")
    drop = ("tokenizer", "processor")
    convert(source, tmp_path / "x.npz", dtype="bfloat16", drop=drop)
    words = source / "spiece.model"
    convert(tmp_path / "x.npz", tmp_path / "back", tokenizer=words, drop=drop)
    before = {n: v.bfloat16() for n, v in load_file(source / WEIGHTS).items()}
    assert equal(load_file(tmp_path / "back" / WEIGHTS), before)
    assert (tmp_path / "back" / "spiece.model").read_bytes() == words.read_bytes()
    with pytest.raises(ConfigError, match="merged into PaliGemma alone, not into a siglip"):
        convert(source, tmp_path / "y", adapter=tmp_path)


def test_a_gemma_goes_to_another_type(tmp_path: Path) -> None:
    words = tiny.tokenizer()
    config = replace(LANGUAGE2, vocab_size=words.vocab_size)
    save_language(tiny.gemma(config), words, tmp_path / "a", ends=(107,), chat_template="{{ x }}")
    convert(tmp_path / "a", tmp_path / "b", dtype="float16")
    before = {n: v.half() for n, v in load_file(tmp_path / "a" / WEIGHTS).items()}
    assert equal(load_file(tmp_path / "b" / WEIGHTS), before)
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_the_mask_codec_goes_along(tmp_path: Path) -> None:
    model = tiny.vlm()
    model.save(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c")
    for place in ("b.safetensors", "c"):
        back = heliodor.load(tmp_path / place).codec.state_dict()
        assert all(torch.equal(back[n], v) for n, v in model.codec.state_dict().items())


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ((), r"would lose the tokenizer.*rows 3712 to 3719 of the embedding table.*"
             r"say --drop tokenizer,padding$"),
        (("padding",), r"would lose the tokenizer, .*say --drop tokenizer$"),
        (("tokenizer",), r"would lose rows 3712 to 3719 .*say --drop padding$"),
    ],
)  # fmt: skip
def test_what_an_npz_cannot_hold_is_refused(
    folder: Path, tmp_path: Path, drop: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(folder, tmp_path / "x.npz", drop=drop)
    assert list(tmp_path.iterdir()) == []


def test_processor_codec_and_context_are_losses_too(tmp_path: Path) -> None:
    words = tiny.tokenizer()
    language = replace(LANGUAGE, vocab_size=words.vocab_size, context=512)
    model = tiny.paligemma(vision=VISION, language=language, image_token=words.image_token)
    save(model, words, ImageProcessor(size=16), tmp_path / "a")
    (tmp_path / "a" / "maskcodec.npz").write_bytes(zoo.MASK_CODEC.read_bytes())
    with pytest.raises(CheckpointError) as refused:
        convert(tmp_path / "a", tmp_path / "x.npz", drop=("tokenizer",))
    for said in (
        "the mask codec",
        "how pictures are resized (transformers, read back as big_vision)",
        "that the model takes 512 positions, read back as 8192",
        "say --drop codec,processor,padding,context",
    ):
        assert said in str(refused.value)
    every = ("tokenizer", "codec", "processor", "padding", "context")
    assert convert(tmp_path / "a", tmp_path / "x.npz", drop=every).dropped == every


@pytest.mark.parametrize("change", [{"rope_base": 500.0}, {"norm_eps": 1e-5}])
def test_a_model_that_an_npz_would_make_another_of_is_refused(
    tmp_path: Path, change: dict[str, float]
) -> None:
    (name,) = change
    source = made(tmp_path / "a", replace(LANGUAGE, **change))
    with pytest.raises(ConfigError, match=rf"language\.{name}"):
        convert(source, tmp_path / "x.npz", drop=ALL)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_broken_tokenizer_is_not_taken_for_none(tmp_path: Path) -> None:
    (made(tmp_path / "a") / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        convert(tmp_path / "a", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_an_npz_becomes_a_folder_only_with_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "x.npz", drop=ALL)
    with pytest.raises(ConfigError, match=r"needs a tokenizer, which big_vision does not carry"):
        convert(tmp_path / "x.npz", tmp_path / "back")


@pytest.mark.parametrize(("stored", "wanted"), [("float32", "float16"), ("bfloat16", "float16")])
@pytest.mark.parametrize("target", ["x.safetensors", "folder", "x.npz"])
def test_a_value_that_a_type_cannot_hold_is_refused(
    tmp_path: Path, stored: str, wanted: str, target: str
) -> None:
    source = made(tmp_path / "a", dtype=stored)
    tensors = load_file(source / WEIGHTS)
    tensors[TABLE][5, 3] = 1e6
    save_file(tensors, source / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"holds values that torch\.float16 cannot"):
        convert(source, tmp_path / target, dtype=wanted, drop=ALL)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_nan_is_carried_as_it_is(tmp_path: Path) -> None:
    source = made(tmp_path / "a")
    tensors = load_file(source / WEIGHTS)
    tensors[TABLE][5, 3] = float("nan")
    save_file(tensors, source / WEIGHTS)
    convert(source, tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")["language.embedding.weight"]
    assert found.isnan().nonzero().tolist() == [[5, 3]]


def test_progress_runs_to_the_end_of_both_stages(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    convert(folder, tmp_path / "x.safetensors", progress=lambda *step: told.append(step))
    total = sum(value.numel() for value in load_file(folder / WEIGHTS).values())
    assert [step for step in told if step[1] == total] == [
        ("writing", total, total),
        ("verifying", total, total),
    ]
    assert [stage for stage, _, _ in told] == sorted((s for s, _, _ in told), reverse=True)
    assert {step[2] for step in told} == {total}


SCRIPT = """
import sys, torch
from pathlib import Path
from heliodor.checkpoints.convert import convert
def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
torch.ones(4, 4).to(torch.bfloat16).float() @ torch.ones(4, 4)
convert(sys.argv[1], Path(sys.argv[3]) / "first.safetensors")
before = peak()
target = Path(sys.argv[3]) / sys.argv[4]
convert(sys.argv[2], target, dtype="bfloat16", drop=("tokenizer", "padding"))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("target", ["x.safetensors", "x.npz"])
def test_memory_does_not_grow_with_the_model(folder: Path, tmp_path: Path, target: str) -> None:
    """120 MB of float32 in tensors of at most 20 MB; 16 MB are held at a time, on either side."""
    language = replace(LANGUAGE, width=640, depth=6, mlp_width=2600, head_dim=64)
    large = made(tmp_path / "large", language)
    size = (large / WEIGHTS).stat().st_size
    assert size > 110 * 2**20
    command = [sys.executable, "-c", SCRIPT, str(folder), str(large), str(tmp_path), target]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(out.stdout) < 60 * 2**20
