"""Folders exchanged with transformers in both directions, compared tensor by tensor and in text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.tiny import opened

import heliodor
from heliodor.checkpoints.keymap import HUB, PALIGEMMA, TRANSFORMERS_5, Spelling
from heliodor.checkpoints.transformers import save
from heliodor.image import ImageProcessor, open_image
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.models.siglip import SiglipVisionConfig
from heliodor.text import Tokenizer

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.parity,
    # transformers' processor hands a torch tensor to numpy.array
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

TOKENIZER = Path(heliodor.__file__).parent / "zoo" / "tiny" / "tokenizer.json"
PROMPT = "detect bee ; flower"
SIZE = 32
DTYPES = ["float32", "bfloat16", "float16"]


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(TOKENIZER)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def make_config(tokenizer: Tokenizer) -> PaliGemmaConfig:
    return PaliGemmaConfig(
        vision=SiglipVisionConfig(
            image_size=SIZE, patch_size=8, width=24, depth=2, num_heads=3, mlp_width=40
        ),
        language=GemmaConfig(
            vocab_size=tokenizer.vocab_size + 7,
            width=32,
            depth=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=12,
            mlp_width=48,
            norm_eps=1e-5,
            rope_base=700.0,
        ),
        image_token=tokenizer.image_token,
    )


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> PaliGemma:
    """Random numbers of a size at which every tensor counts; norms and biases are not neutral."""
    torch.manual_seed(5)
    network = PaliGemma(make_config(tokenizer)).eval()
    for name, parameter in network.named_parameters():
        deviation = 0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        torch.nn.init.normal_(parameter, float("norm" in name) * 0.5, deviation)
    return network


def their_model(folder: Path, **options: Any) -> Any:
    found, report = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True, **options
    )
    assert not any(report.values()), report
    return found.eval()


def assert_same_tensors(ours: PaliGemma, theirs: Any) -> None:
    """Each tensor of either side is, bit for bit, the one that the key table pairs it with."""
    their_state = {n: v for n, v in theirs.state_dict().items() if n != "lm_head.weight"}
    our_state = ours.state_dict()
    assert {PALIGEMMA.to_theirs(name, TRANSFORMERS_5) for name in our_state} == their_state.keys()
    for name, value in our_state.items():
        other = their_state[PALIGEMMA.to_theirs(name, TRANSFORMERS_5)]
        assert value.dtype == other.dtype
        assert torch.equal(value, other), name
    embedding = our_state["language.embedding.weight"]
    assert torch.equal(theirs.lm_head.weight, embedding)


@torch.no_grad()
def their_answer(folder: Path, picture: Image.Image) -> tuple[list[int], torch.Tensor, str]:
    """Prompt ids without placeholders, logits of the first step, and 20 greedy tokens as text."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    network = their_model(folder, dtype="float32")
    inputs = processor(images=picture, text=f"<image>{PROMPT}", return_tensors="pt")
    out = network.generate(
        **{k: v for k, v in inputs.items() if k != "labels"},
        max_new_tokens=20,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    ids = inputs["input_ids"][0].tolist()
    assert ids[:16] == [processor.image_token_id] * 16
    new = out.sequences[0, len(ids) :]
    return ids[16:], out.logits[0][0], processor.decode(new, skip_special_tokens=True)


@torch.no_grad()
def our_answer(folder: Path, picture: Image.Image) -> tuple[list[int], torch.Tensor, str]:
    """The same three through our own files."""
    checkpoint = opened(folder)
    network, tokenizer = checkpoint.load(), checkpoint.tokenizer()
    pixels = torch.from_numpy(checkpoint.processor()([open_image(picture)]))
    ids = tokenizer.encode_prefix(PROMPT)
    tokens = torch.tensor([ids])
    valid = torch.ones_like(tokens, dtype=torch.bool)
    first, cache = network.prefill(tokens, network.encode_images(pixels), valid)
    chosen = [int(first.argmax())]
    while len(chosen) < 20 and chosen[-1] != tokenizer.eos:
        chosen.append(int(network.step(torch.tensor(chosen[-1:]), cache).argmax()))
    assert max(chosen) < tokenizer.vocab_size, "the text would hold a padding row's token"
    return ids, first[0], tokenizer.decode(chosen)


def assert_same_answers(folder: Path, picture: Image.Image) -> None:
    their_ids, their_logits, their_text = their_answer(folder, picture)
    our_ids, our_logits, our_text = our_answer(folder, picture)
    assert our_ids == their_ids
    worst = (our_logits - their_logits).abs().max() / their_logits.abs().max()
    assert worst < 2e-6  # float32 roundings; the weights are the same bits
    assert our_text == their_text
    assert len(our_text) > 20


@pytest.mark.parametrize("limit", [10**9, 60_000], ids=["single", "sharded"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spelling", [HUB, TRANSFORMERS_5], ids=["hub names", "new names"])
def test_what_we_save_transformers_loads(
    tmp_path: Path,
    model: PaliGemma,
    tokenizer: Tokenizer,
    dtype: str,
    limit: int,
    spelling: Spelling,
) -> None:
    processor = ImageProcessor(size=SIZE)
    save(
        *(model, tokenizer, processor, tmp_path),
        dtype=dtype,
        max_shard_size=limit,
        spelling=spelling,
    )
    theirs = their_model(tmp_path)
    assert_same_tensors(opened(tmp_path).load(), theirs)
    assert theirs.dtype == getattr(torch, dtype), "config.json names the dtype of the files"
    text = theirs.config.text_config
    assert text.rope_parameters["rope_theta"] == 700.0
    assert text.rms_norm_eps == 1e-5
    assert text.use_bidirectional_attention
    assert theirs.generation_config.eos_token_id == tokenizer.eos


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_we_save_gives_the_same_text_in_transformers(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer, dtype: str, picture: Image.Image
) -> None:
    save(model, tokenizer, ImageProcessor(size=SIZE), tmp_path, dtype=dtype, max_shard_size=60_000)
    assert_same_answers(tmp_path, picture)


def their_folder(folder: Path, source: Path, *, dtype: str, limit: str) -> Path:
    """A folder that transformers wrote: its own weights, configuration, processor, tokenizer."""
    theirs = their_model(source, dtype=dtype)
    theirs.save_pretrained(folder, max_shard_size=limit)
    transformers.AutoProcessor.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("limit", ["1GB", "60KB"], ids=["single", "sharded"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_transformers_saves_we_load_and_the_text_is_the_same(
    tmp_path: Path,
    model: PaliGemma,
    tokenizer: Tokenizer,
    dtype: str,
    limit: str,
    picture: Image.Image,
) -> None:
    save(model, tokenizer, ImageProcessor(size=SIZE), tmp_path / "ours")
    folder = their_folder(tmp_path / "theirs", tmp_path / "ours", dtype=dtype, limit=limit)
    assert (folder / "model.safetensors.index.json").exists() == (limit == "60KB")
    loaded = opened(folder).load()
    assert loaded.config == model.config
    assert_same_tensors(loaded, their_model(folder))
    assert_same_answers(folder, picture)


def names_in(folder: Path) -> set[str]:
    return {name for path in folder.glob("*.safetensors") for name in load_file(path)}


def test_a_fresh_model_of_transformers_is_loaded(tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = transformers.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": 32,
            "patch_size": 8,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "vocab_size": tokenizer.vocab_size,
        },
        image_token_index=tokenizer.image_token,
        projection_dim=32,
        hidden_size=32,
    )
    theirs = transformers.PaliGemmaForConditionalGeneration(config)
    theirs.save_pretrained(tmp_path)
    assert "vision_tower.post_layernorm.weight" in names_in(tmp_path)
    assert_same_tensors(opened(tmp_path).load(), theirs)


@pytest.mark.parametrize("spelling", [HUB, TRANSFORMERS_5], ids=["hub names", "new names"])
def test_transformers_writes_the_names_that_we_write(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer, spelling: Spelling
) -> None:
    save(model, tokenizer, ImageProcessor(size=SIZE), tmp_path / "ours", spelling=spelling)
    folder = their_folder(tmp_path / "theirs", tmp_path / "ours", dtype="float32", limit="1GB")
    assert names_in(folder) == names_in(tmp_path / "ours")


def renamed(name: str, release: str) -> str:
    """A hub name as other releases write it."""
    if release == "4.52, in memory":
        name = name.replace("language_model.model", "language_model")
        return f"model.{name}"
    if release == "5, fresh":
        return name.replace("vision_tower.vision_model", "vision_tower")
    assert release == "base class"
    name = name.replace("language_model.model", "language_model")
    return name.replace("vision_tower.vision_model", "vision_tower")


@pytest.mark.parametrize("release", ["4.52, in memory", "5, fresh", "base class"])
@pytest.mark.parametrize("head", [None, "lm_head.weight", "language_model.lm_head.weight"])
def test_names_that_transformers_reads_we_read_with_the_same_result(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer, release: str, head: str | None
) -> None:
    save(model, tokenizer, ImageProcessor(size=SIZE), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {renamed(name, release): value for name, value in load_file(path).items()}
    assert not any(re.fullmatch(r"vision_tower\.vision_model\..*", name) for name in tensors)
    if head is not None:
        tensors[head] = model.language.embedding.weight.detach().clone()
    save_file(tensors, path, metadata={"format": "pt"})
    assert_same_tensors(opened(tmp_path).load(), their_model(tmp_path))


def test_the_index_names_the_sizes_that_transformers_writes(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    save(model, tokenizer, ImageProcessor(size=SIZE), tmp_path / "ours", max_shard_size=60_000)
    folder = their_folder(tmp_path / "theirs", tmp_path / "ours", dtype="float32", limit="60KB")
    name = "model.safetensors.index.json"
    ours, theirs = (json.loads((f / name).read_text()) for f in (tmp_path / "ours", folder))
    assert ours["metadata"] == theirs["metadata"]
    assert ours["weight_map"].keys() == theirs["weight_map"].keys()
