"""Gemma without pictures, as one calls it: text goes on, is scored, or becomes hidden states.

lm = heliodor.load_gemma("google/gemma-2-2b-it")
lm.chat([{"role": "user", "content": "Why is the sky blue?"}]).text

B rows, T tokens, W width, V rows of the embedding table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heliodor import zoo
from heliodor.checkpoints import open_checkpoint
from heliodor.checkpoints.contents import Contents
from heliodor.checkpoints.language import LanguageCheckpoint, save_language
from heliodor.checkpoints.native import NativeGemmaCheckpoint
from heliodor.checkpoints.native import save as save_native
from heliodor.checkpoints.quantised import check_float, chosen_recipe, load_quantised_gemma
from heliodor.checkpoints.recognise import Kind
from heliodor.checkpoints.transformers import TransformersCheckpoint
from heliodor.checkpoints.weights import Weight
from heliodor.errors import ConfigError, InputError, PromptError
from heliodor.generation import Greedy, Sampler, score
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.quant.apply import recipe_of
from heliodor.quant.scheme import Recipe
from heliodor.quant.stored import accelerate
from heliodor.see.engine import Generation
from heliodor.see.inputs import check_device, check_texts
from heliodor.see.writer import Writer
from heliodor.text import Tokenizer
from heliodor.text.chat import Message, encode_chat, end_of_turn
from heliodor.text.pieces import TURNS
from heliodor.text.tokenizer import open_tokenizer

__all__ = ["HiddenStates", "LanguageModel", "ScoredText", "load_gemma"]

_SCORED = 128  # positions whose logits are held at a time: 128 MB of Gemma's vocabulary


def load_gemma(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    tokenizer: str | Path | None = None,
    quantize: str | Recipe | None = None,
) -> LanguageModel:
    """Load a Gemma 1 or 2, or the decoder of a PaliGemma.

    Args:
        source: a folder in transformers layout, a native file, or a hub id such as
            ``google/gemma-2-2b-it``. Of a PaliGemma in any form that :func:`heliodor.load` takes,
            "tiny" too, the decoder is loaded; it was trained to answer about pictures, and on text
            alone is mainly of use for its hidden states.
        revision: branch, tag or commit of a hub id.
        dtype: in which the weights rest, ``"float32"``, ``"bfloat16"`` or ``"float16"``; by
            default the file's own.
        device: "cpu", "cuda", ...
        tokenizer: a ``tokenizer.json`` or SentencePiece file, where the source carries none.
        quantize: "int8", "int4" or a :class:`~heliodor.quant.Recipe`: weights are stored in so many
            bits, quantised as they are read. A file that is quantised already needs no such wish.

    Raises:
        CheckpointError: the files are missing, broken, or of another family.
        HubError: the download failed.
        InputError: a device that is not there, or a revision of what is not on the hub.
    """
    check_device(device)
    accelerate()
    if source == "tiny":
        if revision is not None:
            raise InputError(f"tiny ships in the package and has no revision {revision!r}")
        place: object = LanguageCheckpoint(folder=zoo.TINY, source="tiny")
        dtype = "float32" if dtype is None else dtype
    else:
        place = open_checkpoint(source, revision=revision)
    if isinstance(place, TransformersCheckpoint):
        place = LanguageCheckpoint(folder=place.folder, source=place.source)
    recipe = chosen_recipe(place, quantize, adapter=False)
    if not isinstance(place, LanguageCheckpoint | NativeGemmaCheckpoint):
        return _decoder_of(place, recipe=recipe, dtype=dtype, device=device, tokenizer=tokenizer)
    kind = Tokenizer.from_file if place.has_pictures else open_tokenizer
    return LanguageModel(
        model=place.load(dtype=dtype, device=device)
        if recipe is None
        else load_quantised_gemma(place, recipe, dtype=dtype, device=device),
        tokenizer=place.tokenizer() if tokenizer is None else kind(tokenizer),
        ends=place.ends(),
        chat_template=place.chat_template(),
    )


def _decoder_of(
    place: Any,
    *,
    recipe: Recipe | None,
    dtype: str | torch.dtype | None,
    device: str | torch.device,
    tokenizer: str | Path | None,
) -> LanguageModel:
    """The decoder of a PaliGemma in one of the formats that hold nothing else."""
    if not isinstance(place.config(), PaliGemmaConfig):
        raise ConfigError(
            f"{place.source} is neither a Gemma nor a PaliGemma, of which the decoder would be "
            "taken"
        )
    words = place.tokenizer() if tokenizer is None else Tokenizer.from_file(tokenizer)
    if recipe is not None:
        model = load_quantised_gemma(place, recipe, dtype=dtype, device=device)
        return LanguageModel(model=model, tokenizer=words)
    network: PaliGemma = place.load(dtype=dtype, device=device)
    return LanguageModel(model=network.language, tokenizer=words)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HiddenStates:
    """What a Gemma makes of texts, for a model that is built on it.

    Attributes:
        states: float32 [B T W]; what stands at padding means nothing.
        mask: bool [B T], False on padding, which comes behind the text.
        tokens: int64 [B T], ``<bos>`` first.
    """

    states: Tensor = field(repr=False)
    mask: Tensor = field(repr=False)
    tokens: Tensor = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredText:
    """How likely a model finds a text.

    Attributes:
        text: what was scored.
        tokens: its ids.
        logprobs: natural logarithm of each one's probability, given all before it.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def total(self) -> float:
        """Natural logarithm of the whole text's probability."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability of a token, at least 1."""
        return math.exp(-self.total / len(self.logprobs))

    def to_dict(self) -> dict[str, Any]:
        """``{"text", "total", "tokens", "logprobs"}``, in JSON's own types."""
        return {
            "text": self.text,
            "total": self.total,
            "tokens": list(self.tokens),
            "logprobs": list(self.logprobs),
        }


class LanguageModel(Writer):
    """A Gemma and what one asks of it."""

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int = 512,
        sampler: Sampler = Greedy(),  # noqa: B008 - frozen and without state
        stop: str | Sequence[str] = (),
        seed: int | None = None,
    ) -> Generation:
        """The model's turn in a chat, for the instruction-tuned ("-it") checkpoints.

        Args:
            messages: ``{"role": "user", "content": ...}`` and ``{"role": "assistant", ...}`` by
                turns, the user first and last.
            max_new_tokens: tokens at most.
            sampler: how a token is chosen.
            stop: strings that end the answer, beside ``<end_of_turn>``.
            seed: of the sampler.

        Raises:
            ConfigError: the model came with a chat template of another kind than Gemma's.
            InputError: a setting of the wrong kind.
            PromptError: no message, a role out of turn or "system", or no room left.
            TokenizerError: the vocabulary has no turn tokens.
        """
        row, end = self._turns(messages)
        settings = self._settings(max_new_tokens, sampler, stop, None, seed)
        return self._answers([row], settings.ending_with(end))[0]

    def stream_chat(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int = 512,
        sampler: Sampler = Greedy(),  # noqa: B008 - frozen and without state
        stop: str | Sequence[str] = (),
        seed: int | None = None,
    ) -> Iterator[str]:
        """The text of :meth:`chat` piece by piece. Arguments and errors are those of it."""
        row, end = self._turns(messages)
        settings = self._settings(max_new_tokens, sampler, stop, None, seed)
        return self._pieces(row, settings.ending_with(end))

    @torch.no_grad()
    def hidden_states(
        self, prompts: Sequence[str], layer: int = -2, *, max_length: int | None = None
    ) -> HiddenStates:
        """What stands behind a layer, for every token: Gemma as a text encoder.

        The numbering is that of transformers' ``output_hidden_states``: of a model of N layers
        there are N + 1 entries. 0 is the scaled embedding, i up to N - 1 what layer i left in the
        residual stream, N (or -1) the last layer's after the final norm. So -2 has no norm, and
        the last layer is not even run.

        Args:
            prompts: B texts; ``<bos>`` is put before them.
            layer: which entry.
            max_length: tokens at most, ``<bos>`` included; what is longer is cut at the end.

        Raises:
            InputError: no such layer.
            PromptError: a text longer than the model's context.
        """
        count = self.model.config.depth
        if not -count - 1 <= index(layer) <= count:
            raise InputError(
                f"layer is {layer}; a model of {count} layers has entries {-count - 1} to {count}"
            )
        if max_length is not None and max_length < 1:
            raise InputError(f"max_length is {max_length}; expected at least 1, <bos>")
        rows = [row[:max_length] for row in self._rows(prompts)]
        tokens, valid = self._padded(rows)
        depth = index(layer) % (count + 1)
        states = self._causal.hidden(tokens, valid, depth=None if depth == count else depth)
        return HiddenStates(states=states, mask=valid, tokens=tokens)

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> Tensor:
        """Logits over whole texts, without a cache: for tests and research.

        Args:
            texts: B texts; ``<bos>`` is put before them.

        Returns:
            float32 [B T V]. Index i predicts the token after position i, position 0 being
            ``<bos>``; rows shorter than T are padded behind.
        """
        tokens, valid = self._padded(self._rows(texts))
        return self.model.logits(self._causal.hidden(tokens, valid))

    @torch.no_grad()
    def logprobs(self, prompt: str, text: str, *, ended: bool = False) -> ScoredText:
        """How likely a text is after a prompt.

        Args:
            prompt: what stands before it, "" for nothing but ``<bos>``.
            text: what is scored; it is cut into tokens apart from the prompt, so a word that goes
                on needs its leading space.
            ended: whether the text must also end there: ``<eos>`` is scored as its last token.

        Raises:
            PromptError: an empty text, or one that exceeds the model's context.
        """
        check_texts([prompt, text], "prompt or text", "texts")
        before = self.tokenizer.encode_text(prompt)
        wanted = self.tokenizer.encode(text) + ([self.tokenizer.eos] if ended else [])
        if not wanted:
            raise PromptError("the text to score is empty: give at least one token")
        tokens, valid = self._padded([[*before, *wanted[:-1]]])
        hidden = self._causal.hidden(tokens, valid, keep=len(wanted))[0]
        target = torch.tensor(wanted, device=self.device)
        found: list[Tensor] = []
        for start in range(0, len(wanted), _SCORED):
            piece = slice(start, start + _SCORED)
            logits = self.model.logits(hidden[piece])
            found.append(score(logits, target[piece], self._forbidden).cpu())
        return ScoredText(
            text=text, tokens=tuple(wanted), logprobs=tuple(map(float, torch.cat(found)))
        )

    def save(
        self,
        path: str | Path,
        format: str = "transformers",  # noqa: A002 - the public name
        dtype: str | torch.dtype | None = None,
    ) -> None:
        """Write the model, whole or not at all.

        Args:
            path: a folder, made if it does not exist; for the native format a file.
            format: "transformers": a folder that ``AutoModelForCausalLM`` loads; "native": one
                ``.safetensors`` file with everything in it.
            dtype: of the tensors in the file; None keeps the model's.

        Raises:
            CheckpointError: the disk refused.
            ConfigError: a format that is not written, or the tokenizer has more tokens than the
                model has rows.
        """
        if format == "native":
            save_native(self._contents(), path, dtype=dtype)
            return
        if format != "transformers":
            raise ConfigError(
                f"format {format!r} is not written; there are 'transformers' and 'native'"
            )
        check_float(self.model, format)
        save_language(
            self.model,
            self.tokenizer,
            path,
            dtype=dtype,
            ends=sorted(self.ends),
            chat_template=self.chat_template,
        )

    def _contents(self) -> Contents:
        state = self.model.state_dict()
        return Contents(
            kind=Kind.NATIVE,
            family="gemma",
            config=self.model.config,
            weights={name: Weight.of(name, tensor) for name, tensor in state.items()},
            tokenizer=self.tokenizer,
            processor=None,
            extra={"ends": sorted(self.ends), "chat_template": self.chat_template},
            recipe=recipe_of(self.model),
        )

    def _turns(self, messages: Sequence[Message]) -> tuple[list[int], int]:
        """A chat as ids, and the id that ends the model's turn."""
        template = self.chat_template
        if template is not None and not all(name in template for name in TURNS):
            raise ConfigError(
                f"the model came with a chat template that does not write {TURNS[0]} and "
                f"{TURNS[1]}: it was trained on chats of another kind. Put the prompt together as "
                "its makers say, and give it to generate()"
            )
        ids = encode_chat(self.tokenizer, messages)
        if len(messages) % 2 == 0:
            raise PromptError("the last message is the model's own: there is nothing to answer")
        return ids, end_of_turn(self.tokenizer)
