"""Beam search, scored as big_vision scores it (trainers/proj/paligemma/predict_fns.py).

Legend: B examples, N beams of an example, V vocabulary, T tokens so far.

The score of a sequence is the plain sum of its log-probabilities, eos included: no length penalty,
no normalisation. At every step each live sequence is considered as if it ended now, and the best
ended sequence is remembered; then the live ones are replaced by the N best continuations that do
not end. An example is settled once its best live score is below its best ended score, since scores
only fall. A sequence that has not ended within the limit does not count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heliodor.errors import GenerationError, InputError
from heliodor.generation.plan import AnyCache, Decoded, Decoder, Finish
from heliodor.generation.run import check_logits

__all__ = ["Beam"]


@dataclass(frozen=True, slots=True)
class Beam:
    """Beam search with ``size`` live sequences per example.

    Args:
        size: At least 1. The published COCO captions used 2, TextCaps 3.

    Raises:
        InputError: ``size`` is below 1.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"got Beam(size={self.size}); at least 1 live sequence is needed")

    def search(
        self,
        decoder: Decoder[AnyCache],
        first_logits: Tensor,
        cache: AnyCache,
        *,
        max_new_tokens: int,
        eos: int,
        forbidden: Tensor | None = None,
    ) -> list[Decoded]:
        """Find the best ended sequence of each example.

        Args:
            decoder: Gives the next logits of B * size rows, those of one example side by side.
            first_logits: float [B V], the logits after the prompt, from prefill.
            cache: The prompt's cache, B rows; reordered and repeated with ``cache.select``.
            max_new_tokens: The longest sequence with its eos, at least 1.
            eos: The token that ends a sequence.
            forbidden: bool [V], rows that count as no tokens.

        Returns:
            One ``Decoded`` per example; it ends in eos and its score is ``sum(logprobs)``. Only if
            eos has probability 0 throughout, the best live sequence, with ``Finish.LENGTH``.

        Raises:
            InputError: Shapes that do not fit, or max_new_tokens below 1.
            GenerationError: Logits that are NaN or +inf.
        """
        forbidden = check_logits(first_logits, forbidden)
        if max_new_tokens < 1:
            raise InputError(f"got max_new_tokens={max_new_tokens}; it must be at least 1")
        if not 0 <= eos < first_logits.shape[1]:
            raise InputError(f"eos {eos} is outside the vocabulary of {first_logits.shape[1]} ids")
        live = _Live.begin(first_logits)
        best = _Best(first_logits.shape[0])
        logits = first_logits
        for position in range(max_new_tokens):
            logprobs = _logprobs(logits, forbidden, live, position)
            best.offer(live, logprobs[:, :, eos], eos)
            live, rows = live.extend(logprobs, eos, self.size)
            if position + 1 == max_new_tokens or best.settled(live):
                break
            cache = cache.select(rows)
            with torch.no_grad():
                logits = decoder.step(live.tokens[:, :, -1].flatten(), cache)
        return best.results(live)


@dataclass(frozen=True, slots=True)
class _Live:
    """Sequences that have not ended: scores [B N], tokens and their log-probabilities [B N T].

    A score of -inf marks a slot without a sequence (fewer than N continuations exist).
    """

    scores: Tensor
    tokens: Tensor
    logprobs: Tensor

    @classmethod
    def begin(cls, first_logits: Tensor) -> _Live:
        """One empty sequence per example."""
        examples, device = first_logits.shape[0], first_logits.device
        return cls(
            scores=torch.zeros(examples, 1, device=device),
            tokens=torch.zeros(examples, 1, 0, dtype=torch.int64, device=device),
            logprobs=torch.zeros(examples, 1, 0, device=device),
        )

    def extend(self, logprobs: Tensor, eos: int, size: int) -> tuple[_Live, Tensor]:
        """logprobs [B N V] -> the best ``size`` continuations other than eos, and cache rows.

        The rows, int64 [B * size], say which row of the present cache each new sequence goes on
        from.
        """
        examples, beams, vocabulary = logprobs.shape
        each = min(size + 1, vocabulary)  # one more than wanted, since eos may be among them
        gains, tokens = logprobs.topk(each, dim=-1)  # [B N each]
        scores = self.scores[:, :, None] + gains
        scores = scores.masked_fill(tokens == eos, -math.inf).flatten(1)
        short = size - scores.shape[1]
        if short > 0:
            scores = torch.nn.functional.pad(scores, (0, short), value=-math.inf)
        scores, chosen = scores.topk(size, dim=-1)  # [B size]
        chosen = chosen.clamp(max=beams * each - 1)  # slots beyond the end have score -inf
        parent = chosen // each
        token = tokens.flatten(1).gather(1, chosen)[..., None]  # [B size 1]
        gain = gains.flatten(1).gather(1, chosen)[..., None]
        grown = _Live(
            scores=scores,
            tokens=torch.cat([_take(self.tokens, parent), token], dim=-1),
            logprobs=torch.cat([_take(self.logprobs, parent), gain], dim=-1),
        )
        first = torch.arange(examples, device=parent.device)[:, None] * beams
        return grown, (first + parent).flatten()

    def read(self, example: int, beam: int) -> tuple[list[int], list[float]]:
        """Tokens and log-probabilities of one sequence, on the host."""
        return _list(self.tokens[example, beam]), _list(self.logprobs[example, beam])


class _Best:
    """The best ended sequence of each example so far, kept on the host."""

    def __init__(self, examples: int) -> None:
        self._scores = [-math.inf] * examples
        self._found: list[tuple[list[int], list[float]] | None] = [None] * examples

    def offer(self, live: _Live, eos_logprobs: Tensor, eos: int) -> None:
        """Consider each live sequence as if it ended now: eos_logprobs [B N]. A tie is no gain."""
        scores, beams = (live.scores + eos_logprobs).max(dim=1)
        for example, (score, beam) in enumerate(zip(_list(scores), _list(beams), strict=True)):
            if score > self._scores[example]:
                self._scores[example] = score
                last = float(eos_logprobs[example, beam])
                tokens, logprobs = live.read(example, beam)
                self._found[example] = ([*tokens, eos], [*logprobs, last])

    def settled(self, live: _Live) -> bool:
        """Whether no live sequence of any example can still win."""
        best_live = _list(live.scores.amax(dim=1))
        return all(
            alive < ended or alive == -math.inf
            for alive, ended in zip(best_live, self._scores, strict=True)
        )

    def results(self, live: _Live) -> list[Decoded]:
        """One result per example; live sequences stand in where nothing could end."""
        out: list[Decoded] = []
        for example, found in enumerate(self._found):
            finish = Finish.STOP if found else Finish.LENGTH
            tokens, logprobs = found or live.read(example, 0)
            out.append(Decoded(tokens=tuple(tokens), logprobs=tuple(logprobs), finish=finish))
        return out


def _logprobs(logits: Tensor, forbidden: Tensor | None, live: _Live, position: int) -> Tensor:
    """logits [B*N V] -> float32 log-probabilities [B N V]."""
    logits = logits.detach().float()
    if forbidden is not None:
        logits = logits.masked_fill(forbidden, -math.inf)
    examples, beams = live.scores.shape
    logprobs = logits.log_softmax(dim=-1).view(examples, beams, -1)
    broken = logprobs.isnan().any(dim=-1) & live.scores.isfinite()
    if bool(broken.any()):
        rows = [row for row, bad in enumerate(_list(broken.any(dim=-1))) if bad]
        raise GenerationError(
            f"the logits of examples {rows} at new token {position} are NaN, +inf or all -inf; "
            "finite numbers were expected. float16 overflows above 65504: load the model with "
            "dtype='bfloat16' or 'float32', and leave some token that is not forbidden"
        )
    return logprobs.nan_to_num(nan=-math.inf, neginf=-math.inf)  # slots without a sequence


def _take(values: Tensor, parent: Tensor) -> Tensor:
    """values [B N T], parent int64 [B M] -> [B M T]."""
    return values.gather(1, parent[..., None].expand(-1, -1, values.shape[-1]))


def _list(values: Tensor) -> list[Any]:
    return values.cpu().numpy().tolist()
