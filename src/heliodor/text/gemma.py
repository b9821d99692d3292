"""The tokenizer of a Gemma without pictures: text to ids, ids to text, and text as it arrives.

No leading space is invented: "answer" and " answer" differ, and so do their ids. The tokenizer of
PaliGemma, in ``tokenizer.py``, is this one with location and segmentation tokens.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Self

from heliodor.errors import InputError, PromptError, TokenizerError
from heliodor.text.pieces import IMAGE, SPACE, TURNS, Pieces, read_pieces
from heliodor.text.save import save_gemma_tokenizer

__all__ = ["GemmaTokenizer", "StreamDecoder"]

_CONTROL_NAMES = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", IMAGE, *TURNS)


class GemmaTokenizer:
    """A Gemma vocabulary.

    Attributes:
        vocab_size: ids run from 0 to vocab_size - 1.
        pad, eos, bos, unk: ids of the control tokens.
        image_token: id of <image>, the stand-in for image features, or None.
    """

    _located: ClassVar[bool] = False
    """Whether a SentencePiece model is extended by loc and seg."""

    def __init__(self, pieces: Pieces, source: str = "the vocabulary") -> None:
        """Check a vocabulary and find its special tokens.

        Args:
            pieces: an opened vocabulary file.
            source: how error messages call it.

        Raises:
            TokenizerError: bos, eos, pad or unk is missing; the vocabulary invents leading spaces.
        """
        self._pieces = pieces
        self._source = source
        self.vocab_size = pieces.size
        self.pad = self._require("<pad>")
        self.eos = self._require("<eos>")
        self.bos = self._require("<bos>")
        self.unk = self._require("<unk>")
        self.image_token = pieces.find(IMAGE)
        self._check_opening()
        self._control = self._find_control()
        names = sorted((pieces.piece(token) for token in self._control), key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, filter(None, names))))
        bytes_found = {pieces.find(f"<0x{value:02X}>"): value for value in range(256)}
        self._byte_values = {token: v for token, v in bytes_found.items() if token is not None}

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a ``tokenizer.json`` or a SentencePiece ``.model``.

        Raises:
            TokenizerError: no such file, another format, or tokens missing.
        """
        return cls(read_pieces(Path(path), located=cls._located), str(path))

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read ``tokenizer.json``, else ``tokenizer.model``, from a checkpoint folder.

        Raises:
            TokenizerError: the folder has neither, or the file cannot be used.
        """
        return cls.from_file(find_vocabulary(folder))

    def find(self, name: str) -> int | None:
        """The id of a token by its name, such as ``<end_of_turn>``; None if there is none."""
        return self._pieces.find(name)

    def encode(self, text: str) -> list[int]:
        """Text to ids, without bos and eos.

        The names of control tokens (``<bos>``, ``<eos>``, ``<end_of_turn>``, ...) are text like any
        other: their ids never come out.

        Raises:
            PromptError: the text holds half a surrogate pair, which has no UTF-8 form.
        """
        check_encodable(text)
        return self._encode_words(text)

    def encode_text(self, text: str) -> list[int]:
        """A text to ``<bos> text``: what a decoder on its own reads."""
        return [self.bos, *self.encode(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text: control tokens dropped, spaces as they were.

        Bytes that form no UTF-8 character become U+FFFD. Equal to what ``stream`` gives in pieces.

        Raises:
            InputError: an id outside 0..vocab_size-1.
        """
        return b"".join(map(self._render, ids)).decode("utf-8", errors="replace")

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one by one."""
        return StreamDecoder(self)

    def save_as_gemma(self, folder: str | Path, chat_template: str | None = None) -> list[Path]:
        """Write the files that transformers' AutoTokenizer reads for a Gemma without pictures.

        Args:
            folder: made if it does not exist; files of the same names are replaced.
            chat_template: written beside the vocabulary as it stands, for ``apply_chat_template``.

        Returns:
            The paths of tokenizer.json, tokenizer_config.json and special_tokens_map.json.
        """
        return save_gemma_tokenizer(self._pieces, Path(folder), chat_template)

    def _find_control(self) -> frozenset[int]:
        """Ids that stand for no text, by the file's marks or by their names."""
        named = {self._pieces.find(name) for name in _CONTROL_NAMES}
        return frozenset(t for t in self._pieces.special | named if t is not None)

    def _encode_words(self, text: str) -> list[int]:
        ids = self._pieces.encode(text) if text else []
        if self._control.isdisjoint(ids):
            return ids
        # The file itself spells a control token out: cut each name after its first character.
        cuts = [match.start() + 1 for match in self._control_pattern.finditer(text)]
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        return [token for part in parts for token in self._pieces.encode(part)]

    def _render(self, token: int) -> bytes:
        """The UTF-8 bytes an id stands for; a byte piece gives one byte of a character."""
        if not 0 <= token < self.vocab_size:
            raise InputError(
                f"{token} is no token of this vocabulary: ids run from 0 to {self.vocab_size - 1}"
            )
        if token in self._control:
            return b""
        value = self._byte_values.get(token)
        if value is not None:
            return bytes((value,))
        return self._pieces.piece(token).replace(SPACE, " ").encode("utf-8")

    def _require(self, piece: str) -> int:
        token = self._pieces.find(piece)
        if token is None:
            raise TokenizerError(
                f"{self._source} has no {piece!r} token: a Gemma vocabulary is expected "
                "(tokenizer.json or SentencePiece model of a Gemma or PaliGemma checkpoint)"
            )
        return token

    def _check_opening(self) -> None:
        opening = self._pieces.encode("a")[:1]
        if opening and self._pieces.piece(opening[0]).startswith(SPACE):
            raise TokenizerError(
                f"{self._source} puts a space before every text, which Gemma's vocabulary does "
                "not: this is the tokenizer of another model"
            )


class StreamDecoder:
    """Text from ids that come one by one; it never gives half a character.

    The pieces that ``push`` and then ``flush`` return join to ``decode`` of all ids.
    """

    def __init__(self, tokenizer: GemmaTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that became certain with this id: "" inside a character of several bytes.

        Raises:
            InputError: an id outside 0..vocab_size-1.
        """
        return self._decoder.decode(self._tokenizer._render(token))  # pyright: ignore[reportPrivateUsage]

    def flush(self) -> str:
        """What is left at the end: U+FFFD if the ids stopped inside a character, else ""."""
        return self._decoder.decode(b"", final=True)


def find_vocabulary(folder: str | Path) -> Path:
    """The vocabulary file of a checkpoint folder: ``tokenizer.json``, else ``tokenizer.model``.

    Raises:
        TokenizerError: the folder has neither.
    """
    folder = Path(folder)
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    raise TokenizerError(
        f"{folder} holds no tokenizer.json and no tokenizer.model "
        f"({'it has ' + ', '.join(found[:8]) if found else 'it is empty or not a folder'}): "
        "pass tokenizer=<path to a tokenizer.json or SentencePiece model>"
    )


def check_encodable(text: str) -> None:
    """Refuse text that has no UTF-8 form.

    Raises:
        PromptError: half a surrogate pair.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the text holds half a surrogate pair at position {error.start}, which is no "
            "character: decode the text from UTF-8 or UTF-16 before passing it"
        ) from None
