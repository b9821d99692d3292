"""Where a text encoder comes from: a Gemma in any form that the library reads, or a PaliGemma's.

Its last layer is never run, so it is never read either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from heliodor.checkpoints import LanguageCheckpoint, open_checkpoint
from heliodor.checkpoints.blueprint import unfilled
from heliodor.checkpoints.transformers import TransformersCheckpoint
from heliodor.checkpoints.weights import Weight, fill
from heliodor.errors import ConfigError
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.models.paligemma import PaliGemmaConfig
from heliodor.paint.text import PromptEncoder
from heliodor.text import GemmaTokenizer
from heliodor.text.tokenizer import open_tokenizer

__all__ = ["GemmaSource", "open_gemma"]

_EMBEDDING = "embedding.weight"
_LANGUAGE = "language."


@dataclass(frozen=True, kw_only=True, slots=True)
class GemmaSource:
    """A text encoder on this machine, not loaded yet.

    Attributes:
        place: an opened checkpoint.
        vocabulary: a tokenizer file that stands in for the checkpoint's own; None for its own.
    """

    place: Any
    vocabulary: Path | None = None

    def config(self, *, whole: bool = True) -> GemmaConfig:
        """The decoder's shape; not ``whole``, it lacks the last layer.

        Raises:
            ConfigError: the checkpoint holds no Gemma.
        """
        found = self.place.config()
        found = found.language if isinstance(found, PaliGemmaConfig) else found
        if not isinstance(found, GemmaConfig):
            raise ConfigError(f"{self.place.source} is no Gemma, which the text encoder must be")
        return found if whole else replace(found, depth=found.depth - 1)

    def stored(self) -> torch.dtype:
        """The type of the weights on disk."""
        return self.weights()[_EMBEDDING].dtype

    def weights(self) -> dict[str, Weight]:
        """The decoder's tensors by our names."""
        found: dict[str, Weight] = self.place.weights()
        if not isinstance(self.place.config(), PaliGemmaConfig):
            return found
        return {
            name.removeprefix(_LANGUAGE): weight
            for name, weight in found.items()
            if name.startswith(_LANGUAGE)
        }

    def tokenizer(self) -> GemmaTokenizer:
        """Words to ids.

        Raises:
            TokenizerError: the source has none, or one that cannot be used.
        """
        return (
            self.place.tokenizer() if self.vocabulary is None else open_tokenizer(self.vocabulary)
        )

    def load(
        self, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> Gemma:
        """The network without its last layer.

        Raises:
            CheckpointError: as for any model that is loaded.
        """
        config = self.config(whole=False)
        model = unfilled(lambda: Gemma(config))
        name = Path(str(getattr(self.place, "folder", None) or getattr(self.place, "path", "")))
        return fill(model, self.weights(), lead=_EMBEDDING, place=name, dtype=dtype, device=device)

    def encoder(
        self, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> PromptEncoder:
        """The network and its tokenizer, ready to read prompts."""
        model = self.load(dtype=dtype, device=device)
        return PromptEncoder(model, self.tokenizer(), layers=model.config.depth)


def open_gemma(
    source: str | Path, *, tokenizer: str | Path | None = None, revision: str | None = None
) -> GemmaSource:
    """Find a text encoder; arguments and errors are those of ``heliodor.load_gemma``."""
    place: Any = open_checkpoint(source, revision=revision)
    if isinstance(place, TransformersCheckpoint):
        place = LanguageCheckpoint(folder=place.folder, source=place.source)
    return GemmaSource(place=place, vocabulary=None if tokenizer is None else Path(tokenizer))
