"""Loading and saving folders: leanly, strictly, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import opened

import heliodor
from heliodor.checkpoints.files import Replacement
from heliodor.checkpoints.keymap import TRANSFORMERS_5
from heliodor.checkpoints.positions import resize_positions
from heliodor.checkpoints.transformers import load, save
from heliodor.errors import (
    CheckpointError,
    ConfigError,
    FileFormatError,
    KeyMismatchError,
    TokenizerError,
)
from heliodor.image import ImageProcessor, Resize
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.models.siglip import SiglipVisionConfig
from heliodor.text import Tokenizer

TOKENIZER = Path(heliodor.__file__).parent / "zoo" / "tiny" / "tokenizer.json"
EMBEDDING = "language_model.model.embed_tokens.weight"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(TOKENIZER)


@pytest.fixture
def model(tokenizer: Tokenizer) -> PaliGemma:
    config = PaliGemmaConfig(
        vision=SiglipVisionConfig(
            image_size=16, patch_size=4, width=12, depth=2, num_heads=3, mlp_width=20
        ),
        language=GemmaConfig(
            vocab_size=tokenizer.vocab_size + 7,
            width=16,
            depth=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=6,
            mlp_width=24,
        ),
        image_token=tokenizer.image_token,
    )
    network = PaliGemma(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network


PROCESSOR = ImageProcessor(size=16)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Set or remove tensors; dots in names are written as ``__``."""
    tensors: dict[str, torch.Tensor | None] = dict(load_file(folder / "model.safetensors"))
    tensors |= {name.replace("__", "."): value for name, value in changes.items()}
    save_file({n: v for n, v in tensors.items() if v is not None}, folder / "model.safetensors")


@pytest.mark.parametrize("limit", [10**9, 40_000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_saved_is_loaded(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer, dtype: str, limit: int
) -> None:
    folder = tmp_path / "new"
    save(model, tokenizer, PROCESSOR, folder, dtype=dtype, max_shard_size=limit)
    checkpoint = opened(folder)
    assert checkpoint.config() == model.config
    loaded = checkpoint.load()
    assert not loaded.training
    assert loaded.config == model.config
    expected = model.state_dict()
    state = loaded.state_dict()
    assert list(state) == list(expected)
    for name, value in state.items():
        assert torch.equal(value, expected[name].to(getattr(torch, dtype))), name
        assert value.device.type == "cpu"
    assert checkpoint.processor() == PROCESSOR
    assert checkpoint.processor(32) == replace(PROCESSOR, size=32)
    assert checkpoint.tokenizer().encode("red fox") == tokenizer.encode("red fox")
    assert len(list(folder.glob("*.safetensors"))) == (
        1 if limit == 10**9 else len(list(folder.glob("model-*-of-*.safetensors")))
    )
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("way", Resize)
def test_the_way_of_resizing_is_kept(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer, way: Resize
) -> None:
    processor = replace(PROCESSOR, resize=way)
    save(model, tokenizer, processor, tmp_path)
    assert opened(tmp_path).processor() == processor


def test_the_dtype_asked_for_is_the_dtype_loaded(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    save(model, tokenizer, PROCESSOR, tmp_path, dtype="float32")
    for dtype in ("bfloat16", torch.float16):
        state = load(tmp_path, dtype=dtype).state_dict()
        wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        expected = model.state_dict()
        assert all(torch.equal(v, expected[n].to(wanted)) for n, v in state.items())
    with pytest.raises(ConfigError, match="dtype is 'int8'; expected one of float32, bfloat16"):
        load(tmp_path, dtype="int8")
    with pytest.raises(ConfigError, match=r"dtype is torch\.int8"):
        save(model, tokenizer, PROCESSOR, tmp_path, dtype=torch.int8)


def test_float64_files_rest_in_float32(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    save(model, tokenizer, PROCESSOR, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({n: v.double() for n, v in tensors.items()}, tmp_path / "model.safetensors")
    expected = model.state_dict()
    assert all(torch.equal(v, expected[n]) for n, v in load(tmp_path).state_dict().items())


def test_another_resolution_resizes_the_position_embeddings(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    save(model, tokenizer, PROCESSOR, tmp_path)
    loaded = load(tmp_path, image_size=32)
    assert loaded.config.vision.image_size == 32
    expected = resize_positions(model.vision.position.detach(), 64)
    assert torch.equal(loaded.vision.position, expected)
    assert loaded.encode_images(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 16)
    with pytest.raises(ConfigError, match="image_size is 3; expected at least 4, one patch"):
        load(tmp_path, image_size=3)


def test_names_of_transformers_5_are_written_and_read(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    save(model, tokenizer, PROCESSOR, tmp_path, spelling=TRANSFORMERS_5)
    assert "model.language_model.embed_tokens.weight" in load_file(tmp_path / "model.safetensors")
    expected = model.state_dict()
    assert all(torch.equal(v, expected[n]) for n, v in load(tmp_path).state_dict().items())


def test_an_equal_head_is_accepted_and_another_refused(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    save(model, tokenizer, PROCESSOR, tmp_path)
    head = model.language.embedding.weight.detach().clone()
    edit_weights(tmp_path, language_model__lm_head__weight=head)
    assert torch.equal(load(tmp_path).language.embedding.weight, head)
    head[-1, -1] += 1
    edit_weights(tmp_path, language_model__lm_head__weight=head)
    with pytest.raises(KeyMismatchError, match=r"lm_head.weight differs from .*embed_tokens"):
        load(tmp_path)


def test_a_config_of_other_shapes_is_refused_by_tensor(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    save(model, tokenizer, PROCESSOR, tmp_path)
    text = json.loads((tmp_path / "config.json").read_text())["text_config"]
    rows = model.config.language.vocab_size
    edit(tmp_path / "config.json", text_config=text | {"vocab_size": 99})
    with pytest.raises(KeyMismatchError, match=rf"{EMBEDDING} is \[{rows}, 16\], .* \[99, 16\]"):
        load(tmp_path)
    edit(tmp_path / "config.json", text_config=text | {"num_hidden_layers": 3})
    with pytest.raises(KeyMismatchError, match=r"9 missing from the file"):
        load(tmp_path)
    edit(tmp_path / "config.json", text_config=text | {"num_hidden_layers": 1})
    with pytest.raises(KeyMismatchError, match=r"9 in the file but unknown"):
        load(tmp_path)


def test_a_missing_tensor_and_a_quantised_one_are_refused(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    save(model, tokenizer, PROCESSOR, tmp_path)
    edit_weights(tmp_path, multi_modal_projector__linear__bias=torch.zeros(16, dtype=torch.int8))
    with pytest.raises(FileFormatError, match=r"linear.bias is stored as torch.int8"):
        load(tmp_path)
    edit_weights(tmp_path, multi_modal_projector__linear__bias=None)
    with pytest.raises(KeyMismatchError, match=r"projector.bias \(multi_modal_projector.linear.bi"):
        load(tmp_path)


def test_values_beyond_float16_are_refused_in_both_directions(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    with torch.no_grad():
        model.projector.bias[0] = 1e5
    save(model, tokenizer, PROCESSOR, tmp_path)
    with pytest.raises(CheckpointError, match=r"linear.bias holds values that torch.float16"):
        load(tmp_path, dtype="float16")
    with pytest.raises(CheckpointError, match=r"linear.bias holds values that torch.float16"):
        save(model, tokenizer, PROCESSOR, tmp_path / "x", dtype="float16")
    assert not (tmp_path / "x").exists()


def test_a_processor_or_tokenizer_of_another_model_is_refused(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    with pytest.raises(ConfigError, match="pictures of 32 pixels, the model takes 16"):
        save(model, tokenizer, ImageProcessor(size=32), tmp_path)
    small = PaliGemma(replace(model.config, language=replace(model.config.language, vocab_size=50)))
    with pytest.raises(ConfigError, match=f"has {tokenizer.vocab_size} tokens, .* only 50 rows"):
        save(small, tokenizer, PROCESSOR, tmp_path)
    other = PaliGemma(replace(model.config, image_token=3))
    with pytest.raises(ConfigError, match=r"<image> is .* in the tokenizer and 3 in the model"):
        save(other, tokenizer, PROCESSOR, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_folder(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(model, tokenizer, PROCESSOR, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        model.projector.bias.zero_()
    real = Replacement.open

    def full(self: Replacement, name: str) -> Any:
        if name.endswith(".safetensors"):
            raise OSError(28, "No space left on device")
        return real(self, name)

    monkeypatch.setattr(Replacement, "open", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save(model, tokenizer, PROCESSOR, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_processor_that_contradicts_the_config_is_refused(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    save(model, tokenizer, PROCESSOR, tmp_path)
    checkpoint = opened(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    edit(path, size={"height": 32, "width": 32})
    with pytest.raises(ConfigError, match=r"pictures of 32 pixels, config\.json .* takes 16"):
        checkpoint.processor()
    edit(path, size={"height": 32, "width": 16})
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json: .*size"):
        checkpoint.processor()
    path.unlink()
    with pytest.raises(ConfigError, match=r"has no preprocessor_config\.json"):
        checkpoint.processor()


def test_a_folder_without_tokenizer_says_so(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    save(model, tokenizer, PROCESSOR, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        opened(tmp_path).tokenizer()


def test_loading_does_not_load_the_compiler(
    tmp_path: Path, model: PaliGemma, tokenizer: Tokenizer
) -> None:
    save(model, tokenizer, PROCESSOR, tmp_path)
    code = (
        "import sys; from heliodor.checkpoints import open_checkpoint; "
        f"open_checkpoint({str(tmp_path)!r}).load(); "
        "print([m for m in ('sympy', 'torch._inductor', 'huggingface_hub') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_training_a_mapped_model_leaves_its_file_alone(
    model: PaliGemma, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Weights that need no conversion stay in the file's pages, copied when written to."""
    save(model, tokenizer, ImageProcessor(size=16), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    mapped = load(tmp_path)
    with torch.no_grad():
        for parameter in mapped.parameters():
            parameter.add_(1.0)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    changed = mapped.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(changed[name], value + 1.0)


def test_a_save_over_its_own_folder_keeps_a_mapped_model(
    model: PaliGemma, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save(model, tokenizer, ImageProcessor(size=16), tmp_path)
    mapped = load(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    expected = load(tmp_path, dtype="float32").state_dict()
    expected = {name: value.clone() for name, value in expected.items()}
    save(model, tokenizer, ImageProcessor(size=16), tmp_path)
    for name, value in mapped.state_dict().items():
        assert torch.equal(value, expected[name])
    assert not load(tmp_path).language.embedding.weight.any()
