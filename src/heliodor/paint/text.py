"""Prompts as a Gemma's hidden states, and which of them are words.

What stands behind the last layer but one goes on, without the final norm: transformers'
``hidden_states[-2]``, so that the last layer is not even run. A prompt goes in as it was typed:
no template, no cleaning, no lower case, ``<bos>`` in front and nothing behind.

B prompts, L tokens of the longest, W width of the Gemma. Source: Lumina-T2X
``lumina_next_t2i_mini/sample.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from heliodor.errors import ConfigError, PromptError
from heliodor.models.causal import CausalGemma
from heliodor.models.gemma import Gemma
from heliodor.text.gemma import GemmaTokenizer, check_encodable

__all__ = [
    "LIMIT",
    "PromptCutWarning",
    "PromptEncoder",
    "TextFeatures",
    "check_prompt",
    "join_features",
]

LIMIT = 256
"""Tokens of a prompt that the published models were trained with, ``<bos>`` included."""


class PromptCutWarning(UserWarning):
    """A prompt was longer than the model was trained for, and its end is not painted."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextFeatures:
    """One prompt as the transformer reads it.

    Attributes:
        text: the prompt, as it was typed.
        states: float32 [T W].
        cut: what of the text was left out at its end; "" if it fitted.
    """

    text: str
    states: Tensor = field(repr=False)
    cut: str = ""


class PromptEncoder:
    """A Gemma as a text encoder.

    Attributes:
        model: the network; its final norm is not used.
        tokenizer: words to ids.
        limit: tokens of a prompt at most, ``<bos>`` included.
        layers: of the network that are run.
    """

    def __init__(
        self,
        model: Gemma,
        tokenizer: GemmaTokenizer,
        *,
        layers: int | None = None,
        limit: int = LIMIT,
    ) -> None:
        """Put parts together.

        Args:
            model: the network.
            tokenizer: words to ids.
            layers: how many of the network's to run; None for all but the last.
            limit: tokens of a prompt at most, ``<bos>`` included.

        Raises:
            ConfigError: the tokenizer knows ids that the model has no rows for.
        """
        last = tokenizer.vocab_size - 1
        written = last - 1 if tokenizer.image_token == last else last
        if written >= model.config.vocab_size:
            raise ConfigError(
                f"the tokenizer's ids end at {written}, the text encoder has "
                f"{model.config.vocab_size} rows: they do not belong together"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.limit = limit
        self.layers = model.config.depth - 1 if layers is None else layers
        self._causal = CausalGemma(model)

    @property
    def width(self) -> int:
        """Channels of the features."""
        return self.model.config.width

    def ids(self, text: str) -> tuple[list[int], str]:
        """The ids of a prompt, ``<bos>`` first, and what of it was left out.

        Raises:
            PromptError: half a surrogate pair.
        """
        check_encodable(text)
        found = [self.tokenizer.bos, *self.tokenizer.encode(text)]
        return found[: self.limit], self.tokenizer.decode(found[self.limit :])

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[TextFeatures]:
        """Features of every prompt; equal ones are read once, and padding influences nothing.

        Raises:
            PromptError: half a surrogate pair.
        """
        distinct = list(dict.fromkeys(texts))
        rows = [self.ids(text) for text in distinct]
        for text, (_, cut) in zip(distinct, rows, strict=True):
            if cut:
                _warn_of_cut(text, cut, self.limit)
        tokens, valid = _padded([ids for ids, _ in rows], self.tokenizer.pad)
        device = self.model.norm.scale.device
        states = self._causal.hidden(tokens.to(device), valid.to(device), depth=self.layers)
        found = {
            text: TextFeatures(text=text, states=row[: len(ids)].clone(), cut=cut)
            for text, (ids, cut), row in zip(distinct, rows, states, strict=True)
        }
        return [found[text] for text in texts]


def join_features(
    features: Sequence[TextFeatures], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Float32 [B L W] and bool [B L]: each row with its own mask, padded behind with zeros."""
    longest = max(each.states.shape[0] for each in features)
    width = features[0].states.shape[1]
    states = torch.zeros(len(features), longest, width, device=device)
    valid = torch.zeros(len(features), longest, dtype=torch.bool, device=device)
    for row, each in enumerate(features):
        states[row, : each.states.shape[0]] = each.states.to(device)
        valid[row, : each.states.shape[0]] = True
    return states, valid


def check_prompt(text: object, what: str = "prompt", *, empty: bool = False) -> str:
    """A prompt that can be painted, as it came.

    Args:
        text: what the caller gave.
        what: how messages call it.
        empty: whether it may say nothing.

    Raises:
        PromptError: no string, or an empty one.
    """
    if not isinstance(text, str):
        raise PromptError(f"a {what} must be a string, not {type(text).__name__}")
    if not empty and not text.strip():
        raise PromptError(f"the {what} is empty: say what to paint")
    return text


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids int64 [B L] and bool [B L], short rows padded behind."""
    longest = max(len(row) for row in rows)
    tokens = [[*row, *[pad] * (longest - len(row))] for row in rows]
    valid = [[place < len(row) for place in range(longest)] for row in rows]
    return torch.tensor(tokens), torch.tensor(valid)


def _warn_of_cut(text: str, cut: str, limit: int) -> None:
    begin = text if len(text) <= 40 else text[:39] + "…"
    warnings.warn(
        f"the prompt {begin!r} is longer than {limit} tokens; left out at its end: {cut!r}",
        PromptCutWarning,
        stacklevel=2,
    )
