"""A model with its cache, as the decode loop asks both: tokens in, hidden states out, then logits.

Legend: B rows, T tokens of a pass, N hidden states, V vocabulary, W width, R rows of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from heliodor.generation.plan import AnyCache, Decoder, Reader, Rewindable
from heliodor.generation.sampler import Sampler
from heliodor.generation.scan import HeadScan, Narrowed
from heliodor.models.gemma import Gemma
from heliodor.nn.cache import KVCache
from heliodor.nn.linear import Rows
from heliodor.quant.linear import QuantEmbedding

__all__ = ["GemmaReader", "Source", "Split", "Whole"]

AnyRewindable = TypeVar("AnyRewindable", bound=Rewindable)


class Source(Protocol):
    """What a run of the loop reads from.

    Attributes:
        whole: hidden states are logits already: the head can neither wait nor be cut.
        vocabulary: V.
    """

    @property
    def whole(self) -> bool: ...  # noqa: D102 - see the class

    @property
    def vocabulary(self) -> int: ...  # noqa: D102 - see the class

    def read(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [B T] -> hidden [B T W]; T is 1 where ``whole``."""
        ...

    def logits(self, hidden: Tensor, rows: Rows = None) -> Tensor:
        """Hidden [N W] -> float32 [N V] or [N R]; the caller may write into it unless ``whole``."""
        ...

    def narrow(self, hidden: Tensor, sampler: Sampler, forbidden: Tensor | None) -> Narrowed | None:
        """The ids that could be chosen, where that can be known without every logit; or None."""
        ...

    def retain(self, counts: Sequence[int], fresh: int) -> None:
        """Of each row's ``fresh`` newest tokens keep the first ``counts[row]``."""
        ...

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        ...


@dataclass(slots=True, eq=False)
class Whole(Generic[AnyCache]):
    """A ``Decoder``: one token a pass, and its logits stand for hidden states."""

    decoder: Decoder[AnyCache]
    cache: AnyCache
    vocabulary: int
    whole: bool = True

    def read(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [B 1] -> logits [B 1 V]."""
        return self.decoder.step(tokens[:, 0], self.cache)[:, None]

    def logits(self, hidden: Tensor, rows: Rows = None) -> Tensor:
        """Logits [N V] as they are; ``rows`` is not used."""
        del rows
        return hidden.detach().float()

    def narrow(self, hidden: Tensor, sampler: Sampler, forbidden: Tensor | None) -> Narrowed | None:
        """None: all logits are there."""

    def retain(self, counts: Sequence[int], fresh: int) -> None:
        """Nothing: every token stays."""

    def select(self, rows: Sequence[int]) -> None:
        """Nothing: rows that have ended are fed padding."""


@dataclass(slots=True, eq=False)
class Split(Generic[AnyRewindable]):
    """A ``Reader``."""

    reader: Reader[AnyRewindable]
    cache: AnyRewindable
    device: torch.device
    whole: bool = False

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.reader.vocabulary

    def read(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [B T] -> hidden [B T W]."""
        return self.reader.read(tokens, self.cache)

    def logits(self, hidden: Tensor, rows: Rows = None) -> Tensor:
        """Hidden [N W] -> float32 [N V] or [N R]."""
        with torch.no_grad():
            return self.reader.logits(hidden, rows).float()

    def narrow(self, hidden: Tensor, sampler: Sampler, forbidden: Tensor | None) -> Narrowed | None:
        """What the reader's scan of the head leaves, if it has one."""
        scan: HeadScan | None = getattr(self.reader, "scan", None)
        if scan is None:
            return None
        return scan.narrow(hidden, sampler, forbidden, lambda ids: self.logits(hidden, ids))

    def retain(self, counts: Sequence[int], fresh: int) -> None:
        """Take back what was guessed wrong, and the padding of short rows."""
        if min(counts) < fresh:
            self.cache.retain(counts, fresh)

    def select(self, rows: Sequence[int]) -> None:
        """Let the others leave the batch."""
        self.cache = self.cache.select(torch.tensor(rows, device=self.device))


@dataclass(frozen=True, slots=True, eq=False)
class GemmaReader:
    """A Gemma behind its prompt, alone or in a PaliGemma: each new token sees all before it.

    Attributes:
        gemma: the network.
        scan: a coarse copy of its head, None to multiply the whole head for every free token.
    """

    gemma: Gemma
    scan: HeadScan | None = None

    @classmethod
    def scanning(cls, gemma: Gemma, bits: int | None = None) -> GemmaReader:
        """One that reads a coarse copy of the head for free text.

        Args:
            gemma: on the CPU. The copy does not follow if its table changes.
            bits: of the copy, 8 or 4; None for 8, or 4 where the table has 8 itself.

        Raises:
            ConfigError: a table that gains nothing, or whose products are not float32.
        """
        table = gemma.embedding
        size = bits or (4 if isinstance(table, QuantEmbedding) else 8)
        return cls(gemma, HeadScan.of(table, size, cap=gemma.config.final_cap))

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding table."""
        return self.gemma.config.vocab_size

    def read(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Tokens int64 [B T] -> float32 [B T W]."""
        positions = cache.begin_step(tokens.shape[1])
        sight = cache.sight(tokens.shape[1])
        return self.gemma(self.gemma.embed(tokens), positions, sight, cache)

    def logits(self, hidden: Tensor, rows: Rows = None) -> Tensor:
        """Hidden [N W] -> float32 [N V] or [N R]."""
        return self.gemma.logits(hidden, rows)
