"""Every error the library raises on purpose, one tree.

    HeliodorError
    |- InputError (ValueError)         something the caller passed cannot be used
    |  |- ImageError                   not an image, truncated, too large, empty
    |  |- PromptError                  empty, too long, of an unknown task or language
    |- CheckpointError                 a file or folder of weights cannot be used
    |  |- FileFormatError              truncated, lying or hostile file
    |  |- KeyMismatchError             tensor names or shapes differ from what the config asks for
    |  |- ConfigError (ValueError)     a config that is missing, contradictory or of another family
    |  |- TokenizerError               no tokenizer, or one without the tokens that PaliGemma needs
    |- HubError                        a hub download failed: gated, offline, unknown id
    |- GenerationError                 decoding met logits it cannot sample from
    |- PaintingError                   sampling or decoding a picture came to NaN
    |- CancelledError                  the caller asked to stop
    |- TrainingError                   a run cannot start, resume or go on
    |- DataError                       a data set, font or artwork pack is missing or broken
    |- MissingExtraError (ImportError) an optional dependency is not installed

A message says what came, what was expected and what to do about it. ``assert`` is for mistakes of
our own; nothing a user passes can reach one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = [
    "CancelledError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FileFormatError",
    "GenerationError",
    "HeliodorError",
    "HubError",
    "ImageError",
    "InputError",
    "KeyMismatchError",
    "MissingExtraError",
    "PaintingError",
    "PromptError",
    "TokenizerError",
    "TrainingError",
]


class HeliodorError(Exception):
    """The root: ``except HeliodorError`` catches whatever this library raises on purpose."""


class InputError(HeliodorError, ValueError):
    """Something the caller passed cannot be used."""


class ImageError(InputError):
    """Not an image, truncated, empty, or larger than the decoding limits."""


class PromptError(InputError):
    """A prompt that is empty where text is needed, too long, or of an unknown task or language."""


class CheckpointError(HeliodorError):
    """A file or folder of weights cannot be used."""


class FileFormatError(CheckpointError):
    """A truncated, lying or hostile file: its header and its bytes disagree."""


class KeyMismatchError(CheckpointError):
    """Tensor names or shapes in a file differ from what the configuration asks for."""


class ConfigError(CheckpointError, ValueError):
    """A configuration that is missing, contradicts itself, or belongs to another family."""


class TokenizerError(CheckpointError):
    """No tokenizer was found, or it lacks tokens that the model needs."""


class HubError(HeliodorError):
    """A download from the hub failed: gated repository, no network, unknown id or revision."""


class GenerationError(HeliodorError):
    """Decoding met logits that it cannot sample from (NaN, or every token ruled out)."""


class PaintingError(HeliodorError):
    """Painting came to numbers that are no picture: NaN or infinity in latents or pixels."""


class CancelledError(HeliodorError):
    """The caller asked to stop before the work was done.

    Attributes:
        finished: what was done by then, by its number counted from 0; what is not done is not in
            it. A painter puts its pictures there, or latents where those were asked for.
    """

    def __init__(self, message: str, *, finished: Mapping[int, Any] | None = None) -> None:
        """Keep what was done.

        Args:
            message: what was stopped, and where.
            finished: as the attribute.
        """
        super().__init__(message)
        self.finished: dict[int, Any] = dict(finished or {})


class TrainingError(HeliodorError):
    """A training run cannot start, resume or go on."""


class DataError(HeliodorError):
    """A data set, font or artwork pack is missing or broken."""


class MissingExtraError(HeliodorError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed: "
            f"pip install 'heliodor[{extra}]'"
        )
        self.package = package
        self.extra = extra
