"""A small Gemma without pictures, with a vocabulary that has turns."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tests import tiny
from tokenizers import Tokenizer as JsonTokenizer

from heliodor import zoo
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.see.lm import LanguageModel
from heliodor.text import GemmaTokenizer
from heliodor.text.pieces import JsonPieces, added_token

START, END = 5, 6
"""Ids of the turn tokens: in Gemma's vocabulary too they are given to unused ones."""

PROMPTS = ["a red bee", "garden", "two dogs sit on the left of a tulip and sing", ""]
"""Texts of several lengths, the last of none."""

TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
"""The chat template of google/gemma-2b-it and google/gemma-2-9b-it."""

FIRST = replace(tiny.LANGUAGE, vocab_size=2560, rope_base=10000.0)
SECOND = replace(
    FIRST,
    sandwich=True,
    query_scale=20.0**-0.5,
    attention_cap=1.5,  # both caps bend what these weights give
    final_cap=4.0,
    window=4,  # shorter than the texts
)


def document() -> dict[str, Any]:
    """The shipped vocabulary without <loc>, <seg> and <image>, with turn tokens."""
    found = json.loads(zoo.TOKENIZER.read_text("utf-8"))
    added = [t for t in found["added_tokens"] if t["id"] < len(found["model"]["vocab"])]
    names = {START: "<start_of_turn>", END: "<end_of_turn>"}
    vocab = {names.get(i, piece): i for piece, i in found["model"]["vocab"].items()}
    turns = [added_token(i, name, special=True) for i, name in names.items()]
    model = found["model"] | {"vocab": vocab}
    return found | {"added_tokens": [*added, *turns], "model": model}


@cache
def tokenizer() -> GemmaTokenizer:
    """That vocabulary."""
    return GemmaTokenizer(JsonPieces(JsonTokenizer.from_str(json.dumps(document()))))


def write_tokenizer(folder: Path) -> Path:
    """That vocabulary as a file."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document()), "utf-8")
    return path


def gemma(config: GemmaConfig = FIRST, seed: int = 0) -> Gemma:
    """A decoder that is confident, and that does not only repeat the last token."""
    model = tiny.gemma(config, seed)
    with torch.no_grad():
        model.embedding.weight.mul_(0.3)
        model.norm.scale.add_(6.0)
    return model


def lm(config: GemmaConfig = FIRST, seed: int = 0, **others: Any) -> LanguageModel:
    """A model one can talk to, with random weights."""
    return LanguageModel(model=gemma(config, seed), tokenizer=tokenizer(), **others)
