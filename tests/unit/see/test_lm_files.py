"""Where a Gemma is loaded from, and what is saved of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests import talking, tiny
from tests.talking import PROMPTS

import heliodor
from heliodor import zoo
from heliodor.checkpoints.language import LanguageCheckpoint
from heliodor.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    KeyMismatchError,
    TokenizerError,
)
from heliodor.see.lm import LanguageModel, load_gemma


@pytest.fixture(scope="module", params=["gemma", "gemma2"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return talking.lm(talking.SECOND if request.param == "gemma2" else talking.FIRST)


class TestLoading:
    def test_a_save_comes_back_with_its_ends_and_template(
        self, lm: LanguageModel, tmp_path: Path
    ) -> None:
        told = LanguageModel(
            model=lm.model,
            tokenizer=lm.tokenizer,
            ends=[talking.END],
            chat_template=talking.TEMPLATE,
        )
        told.save(tmp_path)
        found = heliodor.load_gemma(tmp_path)
        assert found.ends == {1, talking.END}
        assert found.chat_template == talking.TEMPLATE
        assert found.model.config == lm.model.config
        assert torch.equal(found.logits(PROMPTS), lm.logits(PROMPTS))
        assert found.tokenizer.encode(" Bär 🦊\n\n") == lm.tokenizer.encode(" Bär 🦊\n\n")
        found.save(tmp_path, dtype="bfloat16")  # over the files that it is mapped from
        again = heliodor.load_gemma(tmp_path)
        assert again.model.embedding.weight.dtype == torch.bfloat16
        assert torch.equal(again.model.norm.scale, lm.model.norm.scale.bfloat16())

    def test_the_decoder_of_a_paligemma_folder(self, tmp_path: Path) -> None:
        model = tiny.vlm()
        model.save(tmp_path)
        lm = load_gemma(tmp_path)
        state, expected = lm.model.state_dict(), model.model.language.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in state.items())
        assert lm.tokenizer.encode("<loc0001>") == [tiny.tokenizer().loc_start + 1]
        lm.save(tmp_path / "alone")
        alone = load_gemma(tmp_path / "alone")
        assert torch.equal(alone.logits(PROMPTS), lm.logits(PROMPTS))
        assert alone.tokenizer.decode(alone.tokenizer.encode("a <loc0001>")) == "a <loc0001>"

    def test_the_decoder_of_a_native_file(self, tmp_path: Path) -> None:
        model = tiny.vlm()
        model.save(tmp_path / "all.safetensors", format="native")
        lm = load_gemma(tmp_path / "all.safetensors", dtype="bfloat16")
        table = model.model.language.embedding.weight
        assert torch.equal(lm.model.embedding.weight, table.bfloat16())
        assert lm.tokenizer.encode("<loc0001>") == [tiny.tokenizer().loc_start + 1]

    def test_a_siglip_pair_has_no_decoder(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(PAIR))
        with pytest.raises(ConfigError, match="neither a Gemma nor a PaliGemma"):
            load_gemma(tmp_path)

    def test_tiny_is_the_shipped_models_decoder(self) -> None:
        shipped = heliodor.load("tiny").model.language
        found = load_gemma("tiny").model
        assert torch.equal(found.embedding.weight, shipped.embedding.weight.float())
        with pytest.raises(InputError, match="revision"):
            load_gemma("tiny", revision="main")

    def test_a_tokenizer_may_come_from_elsewhere(self, tmp_path: Path) -> None:
        lm = talking.lm()
        lm.save(tmp_path)
        (tmp_path / "tokenizer.json").unlink()
        with pytest.raises(TokenizerError, match="tokenizer="):
            load_gemma(tmp_path)
        (tmp_path / "elsewhere").mkdir()
        path = talking.write_tokenizer(tmp_path / "elsewhere")
        assert load_gemma(tmp_path, tokenizer=path).tokenizer.encode("a") == [
            *lm.tokenizer.encode("a")
        ]
        with pytest.raises(ConfigError, match="2560 rows"):
            load_gemma(tmp_path, tokenizer=zoo.TOKENIZER)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"model_type": "gemma3_text"}, "gemma2"),
            ({"model_type": "llama"}, "gemma2"),
            ({"quantization_config": {"bits": 4}}, "unquantised"),
            ({"use_bidirectional_attention": True}, "one way"),
            ({"num_key_value_heads": 3}, "divisor"),
        ],
    )
    def test_a_config_of_something_else(
        self, tmp_path: Path, change: dict[str, object], said: str
    ) -> None:
        talking.lm().save(tmp_path)
        rewrite(tmp_path / "config.json", change)
        with pytest.raises(CheckpointError, match=said):
            load_gemma(tmp_path)
        with pytest.raises(CheckpointError, match=said):
            LanguageCheckpoint(folder=tmp_path, source="x").load()

    def test_ends_that_are_no_ids(self, tmp_path: Path) -> None:
        talking.lm().save(tmp_path)
        rewrite(tmp_path / "generation_config.json", {"eos_token_id": [1, "x"]})
        with pytest.raises(ConfigError, match="eos_token_id"):
            load_gemma(tmp_path)

    def test_keys_are_strict_and_a_head_must_be_the_table(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        talking.lm().save(tmp_path)
        path = tmp_path / "model.safetensors"
        tensors = load_file(path)
        table = tensors["model.embed_tokens.weight"]
        rewrite(tmp_path / "config.json", {"tie_word_embeddings": False})
        with pytest.raises(KeyMismatchError, match=r"no lm_head\.weight"):
            load_gemma(tmp_path)
        save_file({**tensors, "lm_head.weight": table.clone()}, path)
        assert torch.equal(load_gemma(tmp_path).model.embedding.weight, table)
        save_file({**tensors, "lm_head.weight": table + 1}, path)
        with pytest.raises(KeyMismatchError, match="differs"):
            load_gemma(tmp_path)
        save_file({**tensors, "model.layers.1.self_attn.q_proj.bias": table[0].clone()}, path)
        with pytest.raises(KeyMismatchError, match="unknown"):
            load_gemma(tmp_path)
        del tensors["model.layers.2.mlp.up_proj.weight"]
        save_file(tensors, path)
        with pytest.raises(KeyMismatchError, match=r"layers\.2\.mlp\.up"):
            load_gemma(tmp_path)


def rewrite(path: Path, change: dict[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


SIDE = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
PAIR = {
    "model_type": "siglip",
    "text_config": {**SIDE, "vocab_size": 40, "max_position_embeddings": 7},
    "vision_config": {**SIDE, "image_size": 32, "patch_size": 8},
}
