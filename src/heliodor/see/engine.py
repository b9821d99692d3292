"""The machine under the verbs: pictures and prompts in, continuations out, as one batch.

B rows, T text tokens, V rows of the embedding table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index
from typing import Any, SupportsIndex

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
from heliodor.image import ImageProcessor, ImageSource, open_image
from heliodor.models.paligemma import PaliGemma
from heliodor.nn.cache import Kept, KVCache
from heliodor.see.inputs import (
    ImageFeatures,
    Picture,
    Pictures,
    check_list,
    check_texts,
    collect_features,
    join_features,
    pad_left,
    pad_right,
    pair_up,
)
from heliodor.text import Tokenizer

__all__ = ["Engine", "Generation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One continuation of one prompt.

    Attributes:
        text: without control tokens.
        tokens: ids, the ending ``<eos>`` left out.
        logprobs: natural logarithm of each token's probability, whatever a constraint ruled out;
            one more than ``tokens`` where ``<eos>`` ended it.
        finish: "stop", "length" or "constraint".
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str

    @property
    def score(self) -> float:
        """Geometric mean of the token probabilities, 0..1: comparable between long and short."""
        return math.exp(sum(self.logprobs) / max(1, len(self.logprobs)))

    def to_dict(self) -> dict[str, Any]:
        """``{"text", "score", "finish"}``, in JSON's own types."""
        return {"text": self.text, "score": self.score, "finish": self.finish}


class Engine:
    """A PaliGemma with its tokenizer and its way with pictures.

    Attributes:
        model: the network.
        tokenizer: words to ids.
        processor: pictures to pixels.
        kv: how keys and values are kept while an answer is written, "float" or "int8"; set it to
            "int8" where long prefixes need the memory (docs/design/exact.md).
    """

    def __init__(
        self, *, model: PaliGemma, tokenizer: Tokenizer, processor: ImageProcessor
    ) -> None:
        """Put parts together.

        Args:
            model: the network.
            tokenizer: words to ids.
            processor: pictures to pixels.

        Raises:
            ConfigError: parts that do not belong together: <loc> or <seg> ids that the model
                never predicts, or pictures of another size than it takes.
        """
        last = tokenizer.seg_start + 127
        predicted = min(model.config.num_predicted, model.config.language.vocab_size)
        if last >= predicted:
            raise ConfigError(
                f"the tokenizer's <loc> and <seg> end at id {last}, the model predicts ids below "
                f"{predicted}: they do not belong together"
            )
        if processor.size != model.config.vision.image_size:
            raise ConfigError(
                f"the processor makes pictures of {processor.size} pixels, the model takes "
                f"{model.config.vision.image_size}"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.processor = processor
        self.kv: Kept = "float"
        self._reader = GemmaReader(model.language)

    @property
    def device(self) -> torch.device:
        """Where the weights rest."""
        return self.model.language.norm.scale.device

    def scan_head(self, bits: int | None = None) -> None:
        """From now on read a coarse copy of the head for free text, and few rows of the head.

        What is written stays the same (docs/design/decoding.md). The copy takes vocabulary x width
        bytes, half of it with 4 bits; make it anew if the table changes.

        Args:
            bits: of the copy, 8 or 4; None for 8, or 4 where the table has 8 itself.

        Raises:
            ConfigError: a table that gains nothing, or that does not rest on the CPU.
        """
        self._reader = GemmaReader.scanning(self.model.language, bits)

    @torch.no_grad()
    def encode_image(self, image: Picture) -> ImageFeatures:
        """Run the image tower once, for many prompts about one picture."""
        return self.encode_images([image])[0]

    @torch.no_grad()
    def encode_images(self, images: Sequence[Picture]) -> list[ImageFeatures]:
        """Run the image tower once over several pictures, as one batch."""
        check_list(images, "pictures")
        return [row[0] for row in self._features([[image] for image in images])]

    def generate(
        self,
        images: Sequence[Pictures],
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 64,
        sampler: Sampler | Beam = Greedy(),  # noqa: B008 - frozen and without state
        constraint: Constraint | Sequence[Constraint | None] | None = None,
        seed: int | None = None,
        speculate: PromptLookup | None = None,
    ) -> list[Generation]:
        """Continue prompts about pictures, as one batch whose rows do not influence each other.

        Args:
            images: for each prompt a picture, a list of pictures, or None; one entry serves all.
                A picture that appears several times goes through the image tower once.
            prompts: the text before the newline, as :mod:`heliodor.see.prompt` writes it.
            max_new_tokens: tokens at most, ``<eos>`` included.
            sampler: how a token is chosen; Beam searches.
            constraint: what may be written: one for every row, or one a row, None for a free one.
            seed: of the sampler, row by row, so that a row does not depend on its neighbours; None
                draws from torch's own generator.
            speculate: guess tokens from the text so far and read several in one pass. What is
                written is what it would be without; text that repeats itself comes sooner.

        Raises:
            InputError: counts that do not pair up, or a setting of the wrong kind.
            PromptError: a prompt that leaves no room in the model's context.
            ImageError: a picture that cannot be opened.
        """
        check_settings(max_new_tokens, sampler, seed, speculate)
        if isinstance(sampler, Beam) and constraint is not None:
            raise InputError("Beam searches the model's own text and takes no constraint")
        rows = pair_up(images, prompts)
        texts = [self.tokenizer.encode_prefix(prompt) for prompt in prompts]
        hidden, cache = self._prefill(rows, texts, max_new_tokens)
        if isinstance(sampler, Beam):
            decoded = sampler.search(
                self.model,
                self._logits(hidden),
                cache,
                max_new_tokens=max_new_tokens,
                eos=self.tokenizer.eos,
                forbidden=self._forbidden,
            )
        else:
            decoded = generate(
                self._reader,
                hidden,
                cache,
                self._plan(max_new_tokens, sampler, speculate),
                constraints=_per_row(constraint, len(rows)),
                generator=row_generators(seed, len(rows)),
                prompts=texts,
            )
        return [self._generation(row) for row in decoded]

    def stream(
        self,
        image: Pictures,
        prompt: str,
        *,
        max_new_tokens: int = 64,
        sampler: Sampler | Beam = Greedy(),  # noqa: B008 - frozen and without state
        constraint: Constraint | None = None,
        seed: int | None = None,
        speculate: PromptLookup | None = None,
    ) -> Iterator[str]:
        """The text of :meth:`generate` piece by piece, as soon as each character is whole.

        What a constraint disowns at the end (a duplicate box, a repeated phrase) has been given by
        then. Arguments and errors are those of :meth:`generate`; Beam, which knows its text only
        at the end, is refused.
        """
        if isinstance(sampler, Beam):
            raise InputError("Beam knows its text only at the end and cannot be streamed")
        check_settings(max_new_tokens, sampler, seed, speculate)
        rows = pair_up([image], [prompt])
        texts = [self.tokenizer.encode_prefix(prompt)]
        hidden, cache = self._prefill(rows, texts, max_new_tokens)
        steps = decode(
            self._reader,
            hidden,
            cache,
            replace(self._plan(max_new_tokens, sampler, speculate), logprobs=False),
            constraints=None if constraint is None else [constraint],
            generator=row_generators(seed, 1),
            prompts=texts,
        )
        text = self.tokenizer.stream()
        for step in steps:
            if piece := text.push(step.tokens[0]):
                yield piece
        if rest := text.flush():
            yield rest

    @torch.no_grad()
    def logits(
        self,
        images: Sequence[Pictures],
        prompts: Sequence[str],
        suffixes: Sequence[str] | None = None,
    ) -> Tensor:
        """Logits over the whole text, without a cache: for tests, scoring and research.

        Args:
            images: as in :meth:`generate`.
            prompts: B prompts.
            suffixes: B answers, each scored with its ``<eos>``; None for the prompts alone.

        Returns:
            float32 [B T V]. Index i predicts the token after text position i, position 0 being
            ``<bos>``; image positions are not returned; rows shorter than T are padded behind.
        """
        pairs = pair_up(images, prompts)
        if suffixes is not None:
            check_texts(suffixes, "suffix", "suffixes")
            if len(suffixes) != len(prompts):
                raise InputError(f"{len(suffixes)} suffixes came with {len(prompts)} prompts")
        rows = self._features(pairs)
        if len({sum(f.tokens.shape[0] for f in row) for row in rows}) > 1:
            raise InputError("logits needs the same number of pictures for every prompt")
        prefixes = [self.tokenizer.encode_prefix(prompt) for prompt in prompts]
        answers = [self.tokenizer.encode_suffix(suffix) for suffix in suffixes or ()]
        texts = [p + a for p, a in zip(prefixes, answers, strict=True)] if answers else prefixes
        width = self.model.config.language.width
        features, _ = join_features(rows, width, self.device)
        tokens = pad_right(texts, self.tokenizer.pad, self.device)
        self._check_room(max(map(len, texts)), features, 0)
        prefix = torch.tensor([len(prefix) for prefix in prefixes], device=self.device)
        return self.model(tokens, features, prefix)

    def _generation(self, row: Decoded) -> Generation:
        ended = row.finish == Finish.STOP
        tokens = row.tokens[:-1] if ended else row.tokens
        text = self.tokenizer.decode(tokens)
        return Generation(text=text, tokens=tokens, logprobs=row.logprobs, finish=row.finish.value)

    @torch.no_grad()
    def _prefill(
        self, rows: Sequence[Sequence[Picture]], texts: Sequence[list[int]], max_new_tokens: int
    ) -> tuple[Tensor, KVCache]:
        """Pictures and the tokens of prompts -> hidden states [B W] of the last, and the cache."""
        features = self._features(rows)
        width = self.model.config.language.width
        joined, valid_features = join_features(features, width, self.device)
        self._check_room(max(map(len, texts)), joined, max_new_tokens)
        tokens, valid = pad_left(texts, self.tokenizer.pad, self.device)
        return self.model.read_prompt(
            tokens, joined, valid, valid_features, room=max_new_tokens, kv=self.kv
        )

    @torch.no_grad()
    def _logits(self, hidden: Tensor) -> Tensor:
        return self.model.language.logits(hidden)

    def _features(self, rows: Sequence[Sequence[Picture]]) -> list[list[ImageFeatures]]:
        return collect_features(rows, self._encode)

    def _encode(self, images: list[ImageSource]) -> list[ImageFeatures]:
        opened = [open_image(image) for image in images]
        pixels = torch.as_tensor(self.processor(opened)).to(self.device)
        tokens = self.model.encode_images(pixels)
        return [
            ImageFeatures(tokens=row, size=image.size)
            for row, image in zip(tokens, opened, strict=True)
        ]

    def _check_room(self, text: int, features: Tensor | None, new: int) -> None:
        context = self.model.config.language.context
        images = 0 if features is None else features.shape[1]
        if images + text + new > context:
            raise PromptError(
                f"{images} image tokens, {text} tokens of prompt and {new} of answer exceed the "
                f"model's context of {context}: shorten the prompt, or lower max_new_tokens"
            )

    @cached_property
    def _forbidden(self) -> Tensor:
        """Ids that are never an answer: padding rows of the table and control tokens."""
        rows = torch.arange(self.model.config.language.vocab_size, device=self.device)
        words = self.tokenizer
        control = [words.pad, words.bos]
        if words.image_token is not None:
            control.append(words.image_token)
        named = min(self.model.config.num_predicted, words.vocab_size)
        return (rows >= named) | torch.isin(rows, torch.tensor(control, device=self.device))

    def _plan(self, max_new_tokens: int, sampler: Sampler, speculate: PromptLookup | None) -> Plan:
        return Plan(
            max_new_tokens=max_new_tokens,
            stop=frozenset({self.tokenizer.eos}),
            sampler=sampler,
            forbidden=self._forbidden,
            pad=self.tokenizer.pad,
            speculate=speculate,
        )


def check_settings(
    max_new_tokens: object, sampler: object, seed: object, speculate: object = None
) -> None:
    """Refuse what would fail late, or, as half a token would, never.

    Raises:
        InputError: a count below 1 or not whole, a sampler that cannot sample, a seed of no number,
            guesses of no known kind.
    """
    if not isinstance(max_new_tokens, SupportsIndex) or index(max_new_tokens) < 1:
        raise InputError(f"got max_new_tokens={max_new_tokens}; it must be at least 1, and whole")
    if not isinstance(sampler, Beam) and not callable(getattr(sampler, "sample", None)):
        raise InputError(f"got the sampler {sampler!r}; expected one such as Greedy() or Beam(2)")
    if isinstance(sampler, type):
        raise InputError(
            f"got the class {sampler.__name__}; write {sampler.__name__}() to make one"
        )
    if seed is not None and not isinstance(seed, SupportsIndex):
        raise InputError(f"got the seed {seed!r}; expected a whole number or None")
    if not isinstance(speculate, PromptLookup | None):
        raise InputError(f"got speculate={speculate!r}; expected PromptLookup() or None")


def row_generators(seed: int | None, rows: int) -> list[torch.Generator] | None:
    """A source of randomness for each row, so that a row does not depend on its neighbours."""
    if seed is None:
        return None
    seeds = [(index(seed) + row) % 2**64 for row in range(rows)]  # as many as a generator has
    return [torch.Generator().manual_seed(each) for each in seeds]


def _per_row(
    constraint: Constraint | Sequence[Constraint | None] | None, rows: int
) -> Sequence[Constraint | None] | None:
    if constraint is None or isinstance(constraint, Sequence):
        return constraint
    return [constraint] * rows
