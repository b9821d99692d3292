"""The machine under the verbs of a Gemma alone: texts in, continuations out, as one batch.

B rows, T tokens, V rows of the embedding table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index
from typing import Self

import torch
from torch import Tensor

from heliodor.errors import ConfigError, InputError, PromptError
from heliodor.generation import (
    Beam,
    Constraint,
    Decoded,
    Finish,
    GemmaReader,
    Greedy,
    Plan,
    PromptLookup,
    Sampler,
    decode,
    generate,
)
from heliodor.models.causal import CausalGemma
from heliodor.models.gemma import Gemma
from heliodor.nn.cache import Kept, KVCache
from heliodor.see.ending import ending_rules
from heliodor.see.engine import Generation, check_settings, row_generators
from heliodor.see.inputs import check_texts, pad_left, pad_right
from heliodor.text import GemmaTokenizer
from heliodor.text.stop import Ending, check_stops, cut

__all__ = ["Settings", "Writer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What :meth:`Writer.generate` was asked for, checked."""

    plan: Plan
    stops: tuple[str, ...]
    constraint: Constraint | Sequence[Constraint | None] | None
    seed: int | None

    def ending_with(self, end: int) -> Self:
        """The same, with one more token that ends a row."""
        return replace(self, plan=replace(self.plan, stop=self.plan.stop | {end}))


class Writer:
    """A Gemma with its tokenizer.

    Attributes:
        model: the network.
        tokenizer: words to ids.
        ends: ids that end an answer, ``<eos>`` among them.
        chat_template: jinja text that came with the model and is saved with it; never run here.
        kv: how keys and values are kept while an answer is written, "float" or "int8"; set it to
            "int8" where long prefixes need the memory (docs/design/exact.md).
    """

    def __init__(
        self,
        *,
        model: Gemma,
        tokenizer: GemmaTokenizer,
        ends: Sequence[int] = (),
        chat_template: str | None = None,
    ) -> None:
        """Put parts together; :func:`load_gemma` does it from files.

        Args:
            model: the network.
            tokenizer: words to ids.
            ends: ids that end an answer, beside ``<eos>``.
            chat_template: the chat template that belongs to the model, in jinja.

        Raises:
            ConfigError: the tokenizer knows ids that the model has no rows for.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.ends = frozenset({tokenizer.eos, *ends})
        self.chat_template = chat_template
        self.kv: Kept = "float"
        self._causal = CausalGemma(model)
        self._reader = GemmaReader(model)
        last = tokenizer.vocab_size - 1
        written = last if tokenizer.image_token == last else last + 1  # <image> is never written
        if max(written - 1, *self.ends) >= model.config.vocab_size:
            raise ConfigError(
                f"the tokenizer's ids end at {max(written - 1, *self.ends)}, the model has "
                f"{model.config.vocab_size} rows: they do not belong together"
            )

    @property
    def device(self) -> torch.device:
        """Where the weights rest."""
        return self.model.norm.scale.device

    def scan_head(self, bits: int | None = None) -> None:
        """From now on read a coarse copy of the head for free text, and few rows of the head.

        What is written stays the same (docs/design/decoding.md). The copy takes vocabulary x width
        bytes, half of it with 4 bits; make it anew if the table changes.

        Args:
            bits: of the copy, 8 or 4; None for 8, or 4 where the table has 8 itself.

        Raises:
            ConfigError: a table that gains nothing, or that does not rest on the CPU.
        """
        self._reader = GemmaReader.scanning(self.model, bits)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 64,
        sampler: Sampler = Greedy(),  # noqa: B008 - frozen and without state
        stop: str | Sequence[str] = (),
        constraint: Constraint | Sequence[Constraint | None] | None = None,
        seed: int | None = None,
        speculate: PromptLookup | None = None,
    ) -> list[Generation]:
        """Continue texts, as one batch whose rows do not influence each other.

        Args:
            prompts: texts as they stand; ``<bos>`` is put before them, nothing behind.
            max_new_tokens: tokens at most, the ending one included.
            sampler: how a token is chosen.
            stop: strings that end an answer and are left out of its text; the tokens that wrote
                them stay in ``tokens``.
            constraint: what may be written: one for every row, or one a row, None for a free one.
            seed: of the sampler, row by row, so that a row does not depend on its neighbours; None
                draws from torch's own generator.
            speculate: guess tokens from the text so far and read several in one pass. What is
                written is what it would be without; text that repeats itself comes sooner.

        Raises:
            InputError: a setting of the wrong kind.
            PromptError: a prompt that leaves no room in the model's context.
        """
        rows = self._rows(prompts)
        settings = self._settings(max_new_tokens, sampler, stop, constraint, seed, speculate)
        return self._answers(rows, settings)

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 64,
        sampler: Sampler = Greedy(),  # noqa: B008 - frozen and without state
        stop: str | Sequence[str] = (),
        constraint: Constraint | None = None,
        seed: int | None = None,
        speculate: PromptLookup | None = None,
    ) -> Iterator[str]:
        """The text of :meth:`generate` piece by piece, as soon as each character is whole.

        Arguments and errors are those of :meth:`generate`.
        """
        (row,) = self._rows([prompt])
        settings = self._settings(max_new_tokens, sampler, stop, constraint, seed, speculate)
        return self._pieces(row, settings)

    def _rows(self, prompts: Sequence[str]) -> list[list[int]]:
        check_texts(prompts, "prompt", "prompts")
        if not prompts:
            raise InputError("no prompts were given")
        return [self.tokenizer.encode_text(prompt) for prompt in prompts]

    def _settings(
        self,
        max_new_tokens: int,
        sampler: Sampler,
        stop: str | Sequence[str],
        constraint: Constraint | Sequence[Constraint | None] | None,
        seed: int | None,
        speculate: PromptLookup | None = None,
    ) -> Settings:
        check_settings(max_new_tokens, sampler, seed, speculate)
        if isinstance(sampler, Beam):
            raise InputError("Beam knows a single end; for text alone take Greedy() or TopP(0.9)")
        plan = Plan(
            max_new_tokens=index(max_new_tokens),
            stop=self.ends,
            sampler=sampler,
            forbidden=self._forbidden,
            pad=self.tokenizer.pad,
            speculate=speculate,
        )
        return Settings(plan=plan, stops=check_stops(stop), constraint=constraint, seed=seed)

    def _answers(self, rows: list[list[int]], settings: Settings) -> list[Generation]:
        hidden, cache = self._prefill(rows, settings.plan.max_new_tokens)
        decoded = generate(
            self._reader,
            hidden,
            cache,
            settings.plan,
            constraints=ending_rules(
                settings.constraint, self.tokenizer, settings.stops, len(rows)
            ),
            generator=row_generators(settings.seed, len(rows)),
            prompts=rows,
        )
        return [self._generation(row, settings.stops) for row in decoded]

    def _pieces(self, row: list[int], settings: Settings) -> Iterator[str]:
        hidden, cache = self._prefill([row], settings.plan.max_new_tokens)
        steps = decode(
            self._reader,
            hidden,
            cache,
            replace(settings.plan, logprobs=False),
            constraints=ending_rules(settings.constraint, self.tokenizer, settings.stops, 1),
            generator=row_generators(settings.seed, 1),
            prompts=[row],
        )
        text, ending = self.tokenizer.stream(), Ending(settings.stops)
        for step in steps:
            if piece := ending.push(text.push(step.tokens[0])):
                yield piece
        if rest := ending.push(text.flush()) + ending.flush():
            yield rest

    def _generation(self, row: Decoded, stops: tuple[str, ...]) -> Generation:
        ended = row.finish == Finish.STOP
        tokens = row.tokens[:-1] if ended else row.tokens
        text = self.tokenizer.decode(tokens)
        kept = cut(text, stops)
        finish = row.finish if len(kept) == len(text) else Finish.STOP
        return Generation(text=kept, tokens=tokens, logprobs=row.logprobs, finish=finish.value)

    @torch.no_grad()
    def _prefill(self, rows: Sequence[Sequence[int]], new: int) -> tuple[Tensor, KVCache]:
        self._check_room(max(map(len, rows)), new)
        tokens, valid = pad_left(rows, self.tokenizer.pad, self.device)
        return self._causal.read_prompt(tokens, valid, room=new, kv=self.kv)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids, and which are real: int64 [B T] and bool [B T], short rows padded behind."""
        longest = max(map(len, rows))
        self._check_room(longest, 0)
        tokens = pad_right(rows, self.tokenizer.pad, self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        return tokens, torch.arange(longest, device=self.device) < lengths[:, None]

    def _check_room(self, text: int, new: int) -> None:
        context = self.model.config.context
        if text + new > context:
            raise PromptError(
                f"{text} tokens of prompt and {new} of answer exceed the model's context of "
                f"{context}: shorten the text, or lower max_new_tokens"
            )

    @cached_property
    def _forbidden(self) -> Tensor | None:
        """Rows of the table that stand for no token; None if all do. The model may write any other.

        Control tokens are among those: whoever trained the model decides what it writes.
        """
        rows = torch.arange(self.model.config.vocab_size, device=self.device)
        image = -1 if self.tokenizer.image_token is None else self.tokenizer.image_token
        idle = (rows >= self.tokenizer.vocab_size) | (rows == image)
        return idle if bool(idle.any()) else None
