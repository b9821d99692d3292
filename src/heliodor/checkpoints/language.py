"""Folders of a Gemma without pictures in transformers layout: Gemma 1 and Gemma 2.

What :func:`save_language` writes, ``AutoModelForCausalLM`` and ``AutoTokenizer`` of transformers
load; what they write, :class:`LanguageCheckpoint` loads. So are folders of the bare ``GemmaModel``
and ``Gemma2Model``, in which text encoders come, and of a PaliGemma, of which only the decoder is
loaded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from heliodor.checkpoints.blueprint import unfilled
from heliodor.checkpoints.config import (
    CONFIG,
    Section,
    Special,
    language_values,
    read_config,
    read_language,
)
from heliodor.checkpoints.files import Replacement, read_json, to_json
from heliodor.checkpoints.keymap import GEMMA, GEMMA2, KeyMap
from heliodor.checkpoints.processor import NESTED, PROCESSOR
from heliodor.checkpoints.shards import SHARD_SIZE, write_tensors
from heliodor.checkpoints.tensors import open_tensors
from heliodor.checkpoints.transformers import check_head, open_weights
from heliodor.checkpoints.weights import Weight, asked_dtype, fill, name_of
from heliodor.errors import ConfigError, FileFormatError, KeyMismatchError
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.quant.scheme import Recipe
from heliodor.text import GemmaTokenizer, Tokenizer
from heliodor.text.gemma import find_vocabulary
from heliodor.text.tokenizer import open_tokenizer

GENERATION = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"

_FAMILIES = ("gemma", "gemma2")
_WITH_PICTURES = "paligemma"
_LANGUAGE = "language."
EMBEDDING = "embedding.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageCheckpoint:
    """A folder in transformers layout on this machine, of a Gemma or around one.

    Attributes:
        folder: where it lies.
        source: what the user asked for, a folder or a hub id.
        variant: of the files' names, such as "fp16"; see
            :mod:`~heliodor.checkpoints.variants`.
    """

    folder: Path
    source: str
    variant: str | None = None

    def config(self) -> GemmaConfig:
        """Shapes from ``config.json``.

        Raises:
            ConfigError: no ``config.json``, another family, or a field that cannot be used.
            FileFormatError: ``config.json`` is not JSON.
        """
        top = _top(self.folder)
        if top.values.get("model_type") == _WITH_PICTURES:
            return read_config(self.folder).language
        top.require("use_bidirectional_attention", [False], "a Gemma reads its text one way")
        return read_language(top)

    def weights(self) -> dict[str, Weight]:
        """The decoder's tensors by our names, none of them read but duplicates, to compare them.

        Raises:
            FileFormatError: the weights are broken or of a type that is not read.
            KeyMismatchError: names or shapes are not those that the configuration asks for.
        """
        if self.has_pictures:
            found = open_weights(self.folder, read_config(self.folder))
            return {
                name.removeprefix(_LANGUAGE): weight
                for name, weight in found.items()
                if name.startswith(_LANGUAGE)
            }
        config, tensors = self.config(), open_tensors(self.folder, variant=self.variant)
        state = unfilled(lambda: Gemma(config)).state_dict()
        wanted = {name: tuple(value.shape) for name, value in state.items()}
        shapes = {name: tensors.entry(name).shape for name in tensors}
        match = language_keys(config).match(wanted, shapes, self.folder)
        check_head(tensors, match, "Gemma")
        untied = _top(self.folder).values.get("tie_word_embeddings") is False
        if untied and not match.tied:
            raise KeyMismatchError(
                f"{self.folder}: {CONFIG} says that the output head is a tensor of its own "
                "(tie_word_embeddings is false), but there is no lm_head.weight"
            )
        return {ours: tensors.weight(theirs) for ours, theirs in match.source.items()}

    def load(
        self, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> Gemma:
        """The network with its weights, tensor by tensor.

        Args:
            dtype: in which the weights rest; None keeps the file's.
            device: where they rest. On a CPU, what needs no conversion stays mapped from its file.

        Raises:
            CheckpointError: a value that ``dtype`` cannot hold.
            ConfigError: the configuration cannot be used, or the type is unknown.
            FileFormatError: the weights are broken or of a type that is not read.
            KeyMismatchError: names or shapes are not those that the configuration asks for.
        """
        return assemble_gemma(
            self.config(), self.weights(), place=self.folder, dtype=dtype, device=device
        )

    def tokenizer(self) -> GemmaTokenizer:
        """The tokenizer that lies beside the weights.

        Raises:
            TokenizerError: there is none, or it cannot be used.
        """
        if self.has_pictures:
            return Tokenizer.from_folder(self.folder)
        return open_tokenizer(find_vocabulary(self.folder))

    def ends(self) -> tuple[int, ...]:
        """Ids at which the folder says that an answer ends, beside ``<eos>``; often none.

        Raises:
            ConfigError: ``eos_token_id`` is no id, or no list of them.
        """
        for name in (GENERATION, CONFIG):
            path = self.folder / name
            values = read_json(path) if path.is_file() else {}
            found: Any = values.get("eos_token_id")
            if found is not None:
                return read_ids(found, path)
        return ()

    def chat_template(self) -> str | None:
        """The chat template in jinja that lies beside the weights, as it stands; None if none.

        Raises:
            FileFormatError: its file is no text, or ``tokenizer_config.json`` is not JSON.
        """
        path = self.folder / TEMPLATE
        if path.is_file():
            try:
                return path.read_text("utf-8")
            except UnicodeDecodeError as error:
                raise FileFormatError(f"{path} is not text in UTF-8: {error}") from error
        path = self.folder / TOKENIZER_CONFIG
        found: Any = read_json(path).get("chat_template") if path.is_file() else None
        return found if isinstance(found, str) else None

    @property
    def has_pictures(self) -> bool:
        """Whether the folder is a PaliGemma's, of which this is the decoder."""
        return _top(self.folder).values.get("model_type") == _WITH_PICTURES


def assemble_gemma(
    config: GemmaConfig,
    weights: Mapping[str, Weight],
    *,
    place: Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    recipe: Recipe | None = None,
) -> Gemma:
    """A Gemma from weights by our names; see :func:`~heliodor.checkpoints.weights.fill`.

    Where ``dtype`` is None, all take the type of the embedding table.
    """
    return fill(
        unfilled(lambda: Gemma(config)),
        weights,
        lead=EMBEDDING,
        place=place,
        dtype=dtype,
        device=device,
        recipe=recipe,
    )


def language_keys(config: GemmaConfig) -> KeyMap:
    """The key table of a Gemma alone; ``model.``, which ``GemmaForCausalLM`` adds, may be there."""
    return GEMMA2 if config.is_gemma2 else GEMMA


def is_language(values: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is that of a Gemma without pictures."""
    return values.get("model_type") in _FAMILIES


def save_language(
    model: Gemma,
    tokenizer: GemmaTokenizer,
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = SHARD_SIZE,
    ends: Sequence[int] = (),
    chat_template: str | None = None,
) -> None:
    """Write a folder in transformers layout, whole or not at all.

    Args:
        model: the network.
        tokenizer: written beside it.
        folder: made if it does not exist; a checkpoint that lies there is replaced.
        dtype: of the tensors in the file; None keeps the model's.
        max_shard_size: bytes from which on the weights are divided among several files.
        ends: ids at which an answer ends, beside ``<eos>``.
        chat_template: jinja text for transformers, as it stands.

    Raises:
        CheckpointError: the disk is full, the folder cannot be written, or a value does not fit
            ``dtype``; what was there before is as it was.
        ConfigError: the tokenizer has more tokens than the model has rows.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model's embedding only "
            f"{model.config.vocab_size} rows"
        )
    state = model.state_dict()
    written = asked_dtype(dtype)
    resting = name_of(written or state[EMBEDDING].dtype)
    special: Special = {
        "bos_token_id": tokenizer.bos,
        "eos_token_id": _one_or_many(tokenizer.eos, ends),
        "pad_token_id": tokenizer.pad,
    }
    kind = "Gemma2ForCausalLM" if model.config.is_gemma2 else "GemmaForCausalLM"
    values = language_values(model.config, dtype=resting, special=special)
    keys = language_keys(model.config)
    with Replacement(Path(folder)) as new:
        new.write(CONFIG, to_json({**values, "architectures": [kind], "tie_word_embeddings": True}))
        new.write(GENERATION, to_json(dict(special)))
        with tempfile.TemporaryDirectory() as place:
            for path in tokenizer.save_as_gemma(place, chat_template):
                new.write(path.name, path.read_bytes())
        tensors = {f"model.{keys.to_theirs(name)}": value for name, value in state.items()}
        write_tensors(new, tensors, written, max_shard_size)
        for stale in (TEMPLATE, PROCESSOR, NESTED):
            new.remove_afterwards(stale)


def _top(folder: Path) -> Section:
    """The whole of ``config.json``, its family checked."""
    path = folder / CONFIG
    top = Section(read_json(path), f"{path}: ")
    if top.values.get("model_type") not in (*_FAMILIES, _WITH_PICTURES):
        raise top.wrong(
            "model_type",
            "'gemma' or 'gemma2' (google/gemma-2b, google/gemma-2-9b-it and the like), or "
            "'paligemma', of which the decoder is taken",
        )
    if top.values.get("quantization_config") is not None:
        raise top.wrong("quantization_config", "none: load the unquantised checkpoint")
    return top


def read_ids(found: Any, path: Path) -> tuple[int, ...]:
    """The ids in an ``eos_token_id``.

    Raises:
        ConfigError: it is no id, and no list of them.
    """
    given = repr(found)[:80]
    several = cast("list[object]", found) if isinstance(found, list) else [found]
    ids = tuple(each for each in several if type(each) is int and each >= 0)
    if len(ids) != len(several):
        raise ConfigError(
            f"{path}: eos_token_id is {given}; expected the id of the token that ends an answer, "
            "or a list of such ids"
        )
    return ids


def _one_or_many(eos: int, ends: Sequence[int]) -> int | list[int]:
    others = [end for end in dict.fromkeys(ends) if end != eos]
    return [eos, *others] if others else eos
