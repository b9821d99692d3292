"""The tokenizer files of a checkpoint folder in transformers' layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from heliodor.errors import TokenizerError
from heliodor.text.pieces import IMAGE, LOC, SEG, TURNS, JsonPieces, Pieces, added_token

__all__ = ["save_gemma_tokenizer", "save_tokenizer"]

_PROBES = (
    "answer en What is on the left?\n",
    " ; two  spaces   three, 12.50 (€) don't",
    "caption zh 一只狗 ñandú Bär кот 🦊 \t<b>\n\n",
)

_CONFIG: dict[str, Any] = {
    "tokenizer_class": "GemmaTokenizer",
    "processor_class": "PaliGemmaProcessor",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "image_token": IMAGE,
    "extra_special_tokens": {"image_token": IMAGE},
    "add_bos_token": False,  # the processor puts <bos> after the image tokens itself
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 10**30,
    "padding_side": "left",
}

_GEMMA_CONFIG: dict[str, Any] = {
    "tokenizer_class": "GemmaTokenizer",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "add_bos_token": True,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 10**30,
    "padding_side": "left",
}

_SPECIAL: dict[str, str] = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}


def save_tokenizer(pieces: Pieces, folder: Path) -> list[Path]:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    Args:
        pieces: the vocabulary, with its loc and seg tokens.
        folder: made if it does not exist.

    Returns:
        The three paths.

    Raises:
        TokenizerError: a SentencePiece model that a tokenizer.json cannot express (one that is
            not BPE): checked on sample texts before anything is written.
    """
    return _write(pieces, _with_tokens(pieces.document(), pieces.size), _CONFIG, folder)


def save_gemma_tokenizer(
    pieces: Pieces, folder: Path, chat_template: str | None = None
) -> list[Path]:
    """The same three files for a Gemma without pictures, whose tokenizer puts ``<bos>`` in front.

    Args:
        pieces: the vocabulary.
        folder: made if it does not exist.
        chat_template: jinja text for transformers' ``apply_chat_template``, kept as it stands.

    Returns:
        The three paths.

    Raises:
        TokenizerError: as :func:`save_tokenizer`.
    """
    config = _GEMMA_CONFIG | ({} if chat_template is None else {"chat_template": chat_template})
    turns = [name for name in TURNS if pieces.find(name) is not None]
    if turns:
        config["additional_special_tokens"] = turns
    document = pieces.document() | {"post_processor": _opening(pieces.find("<bos>"))}
    return _write(pieces, document, config, folder)


def _opening(bos: int | None) -> dict[str, Any]:
    """``<bos>`` before every text, in the tokenizers library's own words."""
    first: dict[str, Any] = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    text: dict[str, Any] = {"Sequence": {"id": "A", "type_id": 0}}
    other = [
        {"SpecialToken": {"id": "<bos>", "type_id": 1}},
        {"Sequence": {"id": "B", "type_id": 1}},
    ]
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, *other],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [bos], "tokens": ["<bos>"]}},
    }


def _write(
    pieces: Pieces, document: dict[str, Any], config: dict[str, Any], folder: Path
) -> list[Path]:
    """Write the three files, once the vocabulary has been found to cut sample texts alike."""
    _check_same(pieces, document)
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, Any] = {
        "tokenizer.json": document,
        "tokenizer_config.json": config,
        "special_tokens_map.json": _SPECIAL,
    }
    for name, content in contents.items():
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    return [folder / name for name in contents]


def _with_tokens(document: dict[str, Any], size: int) -> dict[str, Any]:
    """Loc and seg as plain added tokens, <image> as a special one."""
    added: list[dict[str, Any]] = document["added_tokens"]
    located = frozenset(LOC + SEG)
    kept = [
        token | {"special": token["special"] and token["content"] not in located} for token in added
    ]
    if all(token["content"] != IMAGE for token in kept):
        kept.append(added_token(size, IMAGE, special=True))
    return document | {"added_tokens": kept}


def _check_same(pieces: Pieces, document: dict[str, Any]) -> None:
    from tokenizers import Tokenizer  # noqa: PLC0415  (loads a compiled library)

    written = JsonPieces(Tokenizer.from_str(json.dumps(document)))
    for probe in _PROBES:
        if written.encode(probe) != pieces.encode(probe):
            raise TokenizerError(
                f"this vocabulary cannot be written as a tokenizer.json: {probe!r} would become "
                f"{written.encode(probe)} instead of {pieces.encode(probe)}. Only BPE models can; "
                "copy the original file beside the weights instead"
            )
