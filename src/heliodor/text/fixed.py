"""Texts of one fixed length, as SigLIP's text tower reads them.

    text -> cleaned -> pieces, at most length - 1 -> </s> -> </s> ... up to length

The tower has no mask and its last position speaks for the text, so every position counts: a text is
always filled up with the padding id (1, ``</s>``, in SigLIP; 0 in SigLIP 2), and one that is too
long is cut and still ends in ``</s>`` ("sticky").

What is done to the words before they are cut into pieces differs between the references; see
:class:`Cleaning`. Sources: big_vision ``pp/ops_text.py`` (``tokenize`` with ``eos="sticky"``) and
``configs/proj/image_text/SigLIP_demo.ipynb``; transformers ``tokenization_siglip.py``.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, cast

from heliodor.errors import PromptError, TokenizerError
from heliodor.text.pieces import SPACE, JsonPieces, Pieces, SentencePieces, read_pieces

__all__ = ["Cleaning", "FixedTokenizer", "SpiecePieces"]

SPIECE = "spiece.model"
JSON = "tokenizer.json"
CONFIG = "tokenizer_config.json"
_KEY = "heliodor_cleaning"
_UNK = "<unk>"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_SIGLIP_ENDS = ("</s>", "</s>")
_GEMMA_ENDS = ("<eos>", "<pad>")


class Cleaning(Enum):
    """What happens to a text before it is cut; the value is its name in configuration files.

    - TRANSFORMERS: all letters lower, ASCII punctuation out, runs of white space one blank, none at
      the ends. The default of folders that carry SigLIP's own SentencePiece vocabulary.
    - TRANSFORMERS_CASED: the same, letters as they are (``do_lower_case`` false).
    - BIG_VISION: the letters A to Z lower, nothing else. What SigLIP was trained with; the default
      of npz files.
    - LOWER: all letters lower, nothing else. SigLIP 2, whose vocabulary is Gemma's.
    - VERBATIM: as it stands.
    """

    TRANSFORMERS = "transformers"
    TRANSFORMERS_CASED = "transformers_cased"
    BIG_VISION = "big_vision"
    LOWER = "lower"
    VERBATIM = "verbatim"

    def __call__(self, text: str) -> str:
        """The text as it is cut into pieces."""
        if self is Cleaning.BIG_VISION:
            return text.translate(_ASCII_LOWER)
        if self in (Cleaning.TRANSFORMERS, Cleaning.LOWER):
            text = text.lower()
        if self in (Cleaning.TRANSFORMERS, Cleaning.TRANSFORMERS_CASED):
            text = re.sub(r"\s+", " ", text.translate(_NO_PUNCTUATION)).strip()
        return text

    @property
    def canonical(self) -> bool:
        """Whether punctuation and white space are simplified, as ``SiglipTokenizer`` does."""
        return self in (Cleaning.TRANSFORMERS, Cleaning.TRANSFORMERS_CASED)


class SpiecePieces(SentencePieces):
    """A SentencePiece model with the ids that it has: unlike PaliGemma's, extended by nothing."""

    def serialized(self) -> bytes:
        """The model file's content."""
        content: bytes = self._backend.serialized_model_proto()
        return content


class FixedTokenizer:
    """Text to exactly ``length`` ids.

    Attributes:
        length: ids of every text.
        cleaning: what is done to a text first.
        eos: id that ends a text.
        pad: id that fills it up, in SigLIP the same.
        vocab_size: ids run from 0 to vocab_size - 1.
    """

    def __init__(
        self,
        pieces: Pieces,
        *,
        length: int,
        cleaning: Cleaning,
        ends: tuple[str, str] | None = None,
        source: str = "the vocabulary",
    ) -> None:
        """Check a vocabulary and find its special tokens.

        Args:
            pieces: an opened vocabulary file.
            length: positions of the text tower, 64 in most checkpoints.
            cleaning: what is done to a text first.
            ends: the pieces that end a text and fill it up; by default ``</s>`` and ``</s>``, or
                ``<eos>`` and ``<pad>`` of Gemma's vocabulary.
            source: how error messages call the vocabulary.

        Raises:
            TokenizerError: it lacks these pieces.
        """
        if ends is None:
            ends = _GEMMA_ENDS if _is_gemma(pieces) else _SIGLIP_ENDS
        self._pieces = pieces
        self._ends = ends
        self._source = source
        self.length = length
        self.cleaning = cleaning
        self.vocab_size = pieces.size
        self.eos, self.pad = (self._require(name) for name in ends)

    @classmethod
    def from_file(
        cls, path: str | Path, *, length: int, cleaning: Cleaning | None = None
    ) -> FixedTokenizer:
        """Read a SentencePiece ``.model`` or a ``tokenizer.json``.

        Args:
            path: the file; what a ``tokenizer_config.json`` beside it says holds for it.
            length: positions of the text tower.
            cleaning: by default as the configuration beside the file says, else TRANSFORMERS for
                SigLIP's vocabulary and LOWER for Gemma's.

        Raises:
            TokenizerError: no such file, another format, or tokens missing.
        """
        path = Path(path)
        pieces = _open(path)
        config = _read_config(path.parent / CONFIG)
        return cls(
            pieces,
            length=length,
            cleaning=cleaning or _cleaning(config, pieces, path),
            ends=_named_ends(config),
            source=str(path),
        )

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, length: int, cleaning: Cleaning | None = None
    ) -> FixedTokenizer:
        """Read ``spiece.model``, else ``tokenizer.json``, from a checkpoint folder.

        Raises:
            TokenizerError: the folder has neither, or the file cannot be used.
        """
        folder = Path(folder)
        for name in (SPIECE, JSON, "tokenizer.model"):
            if (folder / name).is_file():
                return cls.from_file(folder / name, length=length, cleaning=cleaning)
        raise TokenizerError(
            f"{folder} holds no {SPIECE} and no {JSON}: pass tokenizer=<path to SigLIP's "
            "SentencePiece model or tokenizer.json>"
        )

    def encode(self, text: str) -> list[int]:
        """Text to ``length`` ids. Names of special tokens are text like any other.

        Raises:
            PromptError: no string, or half a surrogate pair in it, which has no UTF-8 form.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PromptError(f"a text must be a string, not {type(text).__name__}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the text holds half a surrogate pair at position {error.start}, which is no "
                "character: decode the text from UTF-8 or UTF-16 before passing it"
            ) from None
        ids = self._cut(text)[: self.length - 1]
        return [*ids, self.eos, *[self.pad] * (self.length - len(ids) - 1)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text to ``length`` ids."""
        return [self.encode(text) for text in texts]

    def _cut(self, text: str) -> list[int]:
        """The ids of the words alone."""
        if not (self.cleaning.canonical and isinstance(self._pieces, SpiecePieces)):
            return self._pieces.encode(self.cleaning(text))
        # SiglipTokenizer puts its own blank before the text, and an <unk> before that so that
        # SentencePiece keeps the blank; after cleaning, a text that began with white space or
        # punctuation has two.
        lead = self._pieces.encode(_UNK)
        cleaned = self.cleaning(SPACE + text.replace(SPACE, " "))
        return self._pieces.encode(_UNK + cleaned)[len(lead) :]

    def files(self) -> dict[str, bytes]:
        """The files that transformers' AutoTokenizer and AutoProcessor read, by name.

        ``SiglipTokenizer`` reads a SentencePiece vocabulary; a tokenizer.json goes to the general
        class, with the cleaning written into it. transformers has no BIG_VISION: it cleans such a
        vocabulary's texts its own way, while this library finds the exact one under its own key.
        """
        config = {
            "processor_class": "SiglipProcessor",
            "eos_token": self._ends[0],
            "pad_token": self._ends[1],
            "unk_token": _UNK,
            "model_max_length": self.length,
            "model_input_names": ["input_ids"],
            "padding_side": "right",
            "clean_up_tokenization_spaces": False,
            _KEY: self.cleaning.value,
        }
        special = {name: config[name] for name in ("eos_token", "pad_token", "unk_token")}
        if isinstance(self._pieces, SpiecePieces):
            config["tokenizer_class"] = "SiglipTokenizer"
            config["do_lower_case"] = self.cleaning is not Cleaning.TRANSFORMERS_CASED
            vocabulary = {SPIECE: self._pieces.serialized()}
        else:
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
            vocabulary = {JSON: _to_bytes(self._document())}
        return {
            **vocabulary,
            CONFIG: _to_bytes(config),
            "special_tokens_map.json": _to_bytes(special),
        }

    def _document(self) -> dict[str, Any]:
        """A tokenizer.json that cleans and ends its texts itself."""
        document = self._pieces.document()
        document["normalizer"] = _with_steps(document.get("normalizer"), _steps(self.cleaning))
        document["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": self._ends[0], "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
                {"SpecialToken": {"id": self._ends[0], "type_id": 0}},
            ],
            "special_tokens": {
                self._ends[0]: {"id": self._ends[0], "ids": [self.eos], "tokens": [self._ends[0]]}
            },
        }
        return document

    def _require(self, piece: str) -> int:
        token = self._pieces.find(piece)
        if token is None:
            raise TokenizerError(
                f"{self._source} has no {piece!r} token: SigLIP's vocabulary is expected "
                f"({SPIECE} of a SigLIP checkpoint, tokenizer.json of SigLIP 2)"
            )
        return token


def _open(path: Path) -> Pieces:
    pieces = read_pieces(path, located=False)
    if isinstance(pieces, JsonPieces):
        return pieces
    return SpiecePieces.from_file(path, located=False)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config: Any = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise TokenizerError(f"{path} holds no object")
    return cast("dict[str, Any]", config)


def _named_ends(config: dict[str, Any]) -> tuple[str, str] | None:
    """The end and padding tokens that a configuration names."""
    eos, pad = (_token(config.get(name)) for name in ("eos_token", "pad_token"))
    return None if eos is None or pad is None else (eos, pad)


def _token(value: Any) -> str | None:
    """A token by name; older files hold an object with its ``content``."""
    content: Any = (
        cast("dict[str, Any]", value).get("content") if isinstance(value, dict) else value
    )
    return content if isinstance(content, str) else None


def _is_gemma(pieces: Pieces) -> bool:
    """Gemma's vocabulary has ``</s>`` too, as the end of struck-out text in HTML."""
    return pieces.find(_GEMMA_ENDS[0]) is not None


def _cleaning(config: dict[str, Any], pieces: Pieces, path: Path) -> Cleaning:
    named = config.get(_KEY)
    if named is not None:
        try:
            return Cleaning(named)
        except ValueError:
            known = ", ".join(cleaning.value for cleaning in Cleaning)
            raise TokenizerError(
                f"{path.parent / CONFIG}: {_KEY} is {named!r}, expected one of {known}"
            ) from None
    if _is_gemma(pieces):
        return Cleaning.LOWER
    lower = config.get("do_lower_case", True) is not False
    return Cleaning.TRANSFORMERS if lower else Cleaning.TRANSFORMERS_CASED


def _steps(cleaning: Cleaning) -> list[dict[str, Any]]:
    """A cleaning in the words of a tokenizer.json."""
    steps: list[dict[str, Any]] = []
    if cleaning in (Cleaning.TRANSFORMERS, Cleaning.LOWER, Cleaning.BIG_VISION):
        steps.append({"type": "Lowercase"})
    if cleaning.canonical:
        marks = "[" + "".join(f"\\{mark}" for mark in string.punctuation) + "]"
        steps += [
            {"type": "Replace", "pattern": {"Regex": marks}, "content": ""},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Strip", "strip_left": True, "strip_right": True},
        ]
    return steps


def _with_steps(normalizer: dict[str, Any] | None, steps: list[dict[str, Any]]) -> Any:
    """A normaliser that begins with some steps; one that does so already stays as it is."""
    if not steps:
        return normalizer
    if normalizer is None:
        return {"type": "Sequence", "normalizers": steps}
    nested = normalizer.get("type") == "Sequence"
    present: list[dict[str, Any]] = normalizer["normalizers"] if nested else [normalizer]
    if present[: len(steps)] == steps:
        return normalizer
    return {"type": "Sequence", "normalizers": [*steps, *present]}


def _to_bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
