"""A Gemma without pictures against transformers: folders, logits, greedy tokens, hidden states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import talking, tiny
from torch import Tensor

import heliodor
from heliodor.models.gemma import GemmaConfig
from heliodor.see.lm import LanguageModel, load_gemma

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

CLOSE = 1e-5
GENERATIONS = {"gemma": talking.FIRST, "gemma2": talking.SECOND}
PROMPTS = ["a red bee", "garden", "two dogs sit on the left of a tulip and sing"]
CHAT = [
    {"role": "user", "content": "  What is that?\n\n"},
    {"role": "assistant", "content": " A bee, 12.50 (€).\tBär 🦊 "},
    {"role": "user", "content": "two  spaces\n\nand a line"},
]


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module", params=GENERATIONS)
def ours(request: pytest.FixtureRequest) -> LanguageModel:
    return talking.lm(GENERATIONS[request.param], ends=[talking.END])


@pytest.fixture(scope="module")
def folder(ours: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ours") / "folder"
    ours.save(place)
    return place


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return their_model(folder)


@pytest.fixture(scope="module")
def their_tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def their_model(folder: Path, **options: Any) -> Any:
    found, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", **options
    )
    assert not any(report.values()), report
    return found.eval()


def close(found: Tensor, expected: Tensor) -> bool:
    return tiny.relative_error(found.float(), expected.float()) < CLOSE


def test_what_we_write_transformers_loads_as_what_it_is(ours: LanguageModel, theirs: Any) -> None:
    second = ours.model.config.is_gemma2
    assert type(theirs).__name__ == ("Gemma2ForCausalLM" if second else "GemmaForCausalLM")
    assert theirs.generation_config.eos_token_id == [1, talking.END]
    assert (theirs.config.bos_token_id, theirs.config.pad_token_id) == (2, 0)
    if second:
        assert theirs.config.sliding_window == 4
        assert theirs.config.query_pre_attn_scalar == 20


def test_their_tokenizer_reads_what_we_write(ours: LanguageModel, their_tokenizer: Any) -> None:
    for text in [*PROMPTS, " two  spaces\n\nBär 🦊\t12.50", ""]:
        assert their_tokenizer(text).input_ids == ours.tokenizer.encode_text(text), text


@torch.no_grad()
def test_logits_equal_transformers(ours: LanguageModel, theirs: Any) -> None:
    rows = [ours.tokenizer.encode_text(prompt) for prompt in PROMPTS]
    found = ours.logits(PROMPTS)
    for index, row in enumerate(rows):
        expected = theirs(input_ids=torch.tensor([row])).logits[0]
        assert close(found[index, : len(row)], expected)


@torch.no_grad()
def test_greedy_tokens_of_a_ragged_batch_equal_transformers(
    ours: LanguageModel, theirs: Any, their_tokenizer: Any
) -> None:
    batch = their_tokenizer(PROMPTS, return_tensors="pt", padding=True)
    assert not batch.attention_mask.bool().all()
    made = theirs.generate(
        **batch,
        max_new_tokens=12,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    chances = torch.stack(made.logits, 1).log_softmax(-1)
    found = ours.generate(PROMPTS, max_new_tokens=12)
    texts = set()
    for index, row in enumerate(found):
        expected = made.sequences[index, batch.input_ids.shape[1] :]
        count = len(row.logprobs)
        assert row.tokens == tuple(expected[: len(row.tokens)].tolist())
        assert count == 12 or expected[count - 1] in (1, talking.END)
        expected_chances = chances[index, :count].gather(1, expected[:count, None])[:, 0]
        assert torch.allclose(torch.tensor(row.logprobs), expected_chances, rtol=1e-4, atol=1e-5)
        texts.add(row.tokens)
    assert len(texts) == len(PROMPTS)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2, -3, -4])
@torch.no_grad()
def test_hidden_states_equal_transformers_entry_by_entry(
    ours: LanguageModel, theirs: Any, their_tokenizer: Any, layer: int
) -> None:
    """Padding included, where the window leaves something real in its sight."""
    batch = their_tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="right")
    entries = theirs.model(**batch, output_hidden_states=True).hidden_states
    assert len(entries) == ours.model.config.depth + 1
    found = ours.hidden_states(PROMPTS, layer=layer)
    assert torch.equal(found.tokens, batch.input_ids)
    assert torch.equal(found.mask, batch.attention_mask.bool())
    assert close(found.states[found.mask], entries[layer][found.mask])
    if not ours.model.config.is_gemma2:
        assert close(found.states, entries[layer])


@torch.no_grad()
def test_the_default_layer_has_no_norm_and_the_last_entry_has(ours: LanguageModel) -> None:
    state = {name: ours.hidden_states(PROMPTS, layer=name).states for name in (-1, -2)}
    assert torch.equal(ours.hidden_states(PROMPTS).states, state[-2])
    with torch.no_grad():
        ours.model.norm.scale.mul_(2.0)
    moved = {name: ours.hidden_states(PROMPTS, layer=name).states for name in (-1, -2)}
    with torch.no_grad():
        ours.model.norm.scale.mul_(0.5)
    assert torch.equal(moved[-2], state[-2])
    assert not torch.allclose(moved[-1], state[-1])


@torch.no_grad()
def test_logprobs_of_a_text_equal_transformers(ours: LanguageModel, theirs: Any) -> None:
    words = ours.tokenizer
    before, wanted = words.encode_text(PROMPTS[0]), [*words.encode(" in a garden"), words.eos]
    logits = theirs(input_ids=torch.tensor([[*before, *wanted]])).logits[0].double()
    chances = logits.log_softmax(-1)[len(before) - 1 : -1]
    expected = [float(row[token]) for row, token in zip(chances, wanted, strict=True)]
    found = ours.logprobs(PROMPTS[0], " in a garden", ended=True)
    assert found.tokens == tuple(wanted)
    assert found.logprobs == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert found.total == pytest.approx(sum(expected), rel=1e-5)
    assert found.perplexity == pytest.approx(2.718281828 ** (-sum(expected) / len(expected)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("generation", GENERATIONS)
@torch.no_grad()
def test_what_transformers_writes_we_load(tmp_path: Path, generation: str, dtype: str) -> None:
    model = their_fresh(GENERATIONS[generation], 1).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    talking.write_tokenizer(tmp_path)
    found = load_gemma(tmp_path)
    assert found.model.config == GENERATIONS[generation]
    assert {p.dtype for p in found.model.parameters()} == {getattr(torch, dtype)}
    theirs = their_model(tmp_path, dtype=torch.float32)  # weights rounded alike, float32 products
    rows = torch.tensor([found.tokenizer.encode_text(PROMPTS[2])])
    assert close(found.logits([PROMPTS[2]]), theirs(input_ids=rows).logits)
    made = theirs.generate(rows, max_new_tokens=8, do_sample=False)[0, rows.shape[1] :].tolist()
    (ours,) = found.generate([PROMPTS[2]], max_new_tokens=8)
    assert list(ours.tokens) == made[: len(ours.tokens)]
    assert len(ours.logprobs) == len(made)


def their_fresh(config: GemmaConfig, seed: int) -> Any:
    """Their class with random numbers of their own making, norms not neutral."""
    shape = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.context,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
    }
    if config.is_gemma2:
        second = transformers.Gemma2Config(
            **shape,
            query_pre_attn_scalar=20,
            attn_logit_softcapping=config.attention_cap,
            final_logit_softcapping=config.final_cap,
            sliding_window=config.window,
        )
        model = transformers.Gemma2ForCausalLM(second)
    else:
        model = transformers.GemmaForCausalLM(transformers.GemmaConfig(**shape))
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=random)
        size = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.data.copy_(noise * size)
    return model.eval()


@torch.no_grad()
def test_a_bare_text_encoder_loads(tmp_path: Path) -> None:
    """``GemmaModel``, whose names lack ``model.``: so text encoders come."""
    model = their_fresh(talking.FIRST, 2).model
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["GemmaModel"]
    found = load_gemma(tmp_path, tokenizer=talking.write_tokenizer(tmp_path))
    rows = torch.tensor([found.tokenizer.encode_text("a bee")])
    expected = model(input_ids=rows, output_hidden_states=True).hidden_states[-2]
    assert close(found.hidden_states(["a bee"]).states, expected)


class TestChat:
    @pytest.mark.parametrize("count", [1, 2, 3])
    @pytest.mark.parametrize("reply", [True, False])
    def test_ids_and_text_equal_the_official_template(
        self, tmp_path: Path, *, count: int, reply: bool
    ) -> None:
        from heliodor.text.chat import encode_chat, render_chat

        words = talking.tokenizer()
        words.save_as_gemma(tmp_path, talking.TEMPLATE)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        options = {"add_generation_prompt": reply, "chat_template": talking.TEMPLATE}
        text = theirs.apply_chat_template(CHAT[:count], tokenize=False, **options)
        ids = theirs.apply_chat_template(CHAT[:count], return_dict=False, **options)
        assert render_chat(CHAT[:count], reply=reply) == text
        assert encode_chat(words, CHAT[:count], reply=reply) == ids
        assert ids.count(talking.START) == count + reply
        assert theirs.chat_template == talking.TEMPLATE

    def test_what_the_template_refuses_we_refuse(self, tmp_path: Path) -> None:
        from jinja2.exceptions import TemplateError

        from heliodor.text.chat import render_chat

        talking.tokenizer().save_as_gemma(tmp_path, talking.TEMPLATE)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        system = [{"role": "system", "content": "Be brief."}, *CHAT]
        for chat, said in ((system, "system"), (CHAT[1:], "alternate"), (CHAT + CHAT, "alternate")):
            with pytest.raises(TemplateError):
                theirs.apply_chat_template(chat, tokenize=False)
            with pytest.raises(heliodor.errors.PromptError, match=said):
                render_chat(chat)
