"""The two vocabulary files of the Gemma family, read into one small interface.

``tokenizer.json`` (the ``tokenizers`` package) and SentencePiece ``.model`` hold the same thing:
pieces, their ids, and how a text is cut into them. Either package is imported when such a file is
opened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from heliodor.errors import TokenizerError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer as JsonTokenizer

__all__ = [
    "IMAGE",
    "LOC",
    "SEG",
    "SPACE",
    "TURNS",
    "JsonPieces",
    "Pieces",
    "SentencePieces",
    "added_token",
    "gemma_document",
    "read_pieces",
]

LOC = tuple(f"<loc{i:04d}>" for i in range(1024))
SEG = tuple(f"<seg{i:03d}>" for i in range(128))
IMAGE = "<image>"
TURNS = ("<start_of_turn>", "<end_of_turn>")
"""What opens and ends what one side says, in the chats of Gemma's instruction-tuned models."""
SPACE = "▁"
"""What a space looks like inside a piece."""


class Pieces(Protocol):
    """A vocabulary: pieces with ids 0..size-1, and the cutting of text into them."""

    @property
    def size(self) -> int:
        """Number of ids."""
        ...

    @property
    def special(self) -> frozenset[int]:
        """Ids that the file marks as control tokens (bos, padding, ...)."""
        ...

    def encode(self, text: str) -> list[int]:
        """Cut a text; the file's own bos and eos rules are not applied."""
        ...

    def piece(self, token: int) -> str:
        """The piece of an id in 0..size-1, with spaces as "▁" and bytes as "<0xNN>"."""
        ...

    def find(self, piece: str) -> int | None:
        """The id of a piece, or None."""
        ...

    def document(self) -> dict[str, Any]:
        """The vocabulary as the content of a tokenizer.json."""
        ...


class JsonPieces:
    """A ``tokenizer.json``."""

    def __init__(self, backend: JsonTokenizer) -> None:
        backend.encode_special_tokens = True  # "<bos>" in a user's text is text
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._added = backend.get_added_tokens_decoder()

    @classmethod
    def from_file(cls, path: Path) -> JsonPieces:
        """Read a tokenizer.json.

        Raises:
            TokenizerError: the file is not JSON, or not a tokenizer.
        """
        from tokenizers import Tokenizer  # noqa: PLC0415  (loads a compiled library)

        try:
            text = path.read_text("utf-8")
            json.loads(text)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise TokenizerError(f"{path} is not JSON: {error}") from None
        try:
            return cls(Tokenizer.from_str(text))
        except Exception as error:  # noqa: BLE001  (the package raises bare Exception)
            raise TokenizerError(
                f"{path} is JSON but not a tokenizer that the 'tokenizers' package reads: {error}"
            ) from None

    @property
    def size(self) -> int:
        """Number of ids, added tokens included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def special(self) -> frozenset[int]:
        """Ids that the file marks as control tokens."""
        return frozenset(index for index, token in self._added.items() if token.special)

    def encode(self, text: str) -> list[int]:
        """Cut a text, without bos and eos."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def piece(self, token: int) -> str:
        """The piece of an id in 0..size-1."""
        piece = self._backend.id_to_token(token)
        return "" if piece is None else piece  # a gap in the numbering

    def find(self, piece: str) -> int | None:
        """The id of a piece, or None."""
        return self._backend.token_to_id(piece)

    def document(self) -> dict[str, Any]:
        """The vocabulary as the content of a tokenizer.json."""
        return json.loads(self._backend.to_str())


class SentencePieces:
    """A SentencePiece model; loc and seg follow its own pieces where it has none, as in big_vision.

    google-research/big_vision, ``pp/ops_text.py``: the published base vocabulary has 256,000 pieces
    and the two token sets are appended, loc first.
    """

    def __init__(self, backend: SentencePieceProcessor, *, located: bool = True) -> None:
        self._backend = backend
        self._base: int = backend.get_piece_size()
        extended = not located or self._find_base(LOC[0]) is not None
        self._extra = () if extended else LOC + SEG
        self._extra_ids = {name: self._base + i for i, name in enumerate(self._extra)}

    @classmethod
    def from_file(cls, path: Path, *, located: bool = True) -> SentencePieces:
        """Read a SentencePiece .model; ``located`` adds loc and seg where it has none.

        Raises:
            TokenizerError: the file is empty, truncated or something else.
        """
        from sentencepiece import SentencePieceProcessor  # noqa: PLC0415  (compiled library)

        backend = SentencePieceProcessor()
        data = path.read_bytes()
        try:
            loaded = bool(data) and backend.LoadFromSerializedProto(data)
        except RuntimeError:
            loaded = False
        if not loaded or backend.get_piece_size() == 0:
            raise TokenizerError(
                f"{path} ({len(data)} bytes) is not a SentencePiece model: truncated, or another "
                "kind of file"
            )
        return cls(backend, located=located)

    @property
    def size(self) -> int:
        """Number of ids, added tokens included."""
        return self._base + len(self._extra)

    @property
    def special(self) -> frozenset[int]:
        """Ids that the file marks as control tokens."""
        backend = self._backend
        return frozenset(
            i for i in range(self._base) if backend.is_control(i) or backend.is_unknown(i)
        )

    def encode(self, text: str) -> list[int]:
        """Cut a text, without bos and eos."""
        ids: list[int] = self._backend.encode(text, out_type=int)
        return ids

    def piece(self, token: int) -> str:
        """The piece of an id in 0..size-1."""
        if token >= self._base:
            return self._extra[token - self._base]
        piece: str = self._backend.id_to_piece(token)
        return piece

    def find(self, piece: str) -> int | None:
        """The id of a piece, or None."""
        return self._extra_ids.get(piece, self._find_base(piece))

    def _find_base(self, piece: str) -> int | None:
        token: int = self._backend.piece_to_id(piece)
        return token if self._backend.id_to_piece(token) == piece else None

    def document(self) -> dict[str, Any]:
        """The vocabulary as the content of a tokenizer.json."""
        pieces: list[str] = [self._backend.id_to_piece(i) for i in range(self._base)]
        scores: list[float] = [self._backend.get_score(i) for i in range(self._base)]
        special = self.special | {i for i in map(self._find_base, TURNS) if i is not None}
        added = [(i, pieces[i], True) for i in sorted(special)]
        added += [(i, p, False) for i, p in enumerate(pieces) if p.startswith(("<loc", "<seg"))]
        added += [(self._base + i, name, False) for i, name in enumerate(self._extra)]
        named = {index for index, _, _ in added}
        return gemma_document(
            pieces,
            _merges(pieces, scores, named),
            [added_token(i, name, special=control) for i, name, control in added],
        )


def read_pieces(path: Path, *, located: bool = True) -> Pieces:
    """Open a vocabulary file; JSON is told from SentencePiece by its name, else by its first byte.

    Args:
        path: the file.
        located: extend a SentencePiece model by loc and seg where it has none.

    Raises:
        TokenizerError: no such file, or one that is neither format.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise TokenizerError(f"{path} {what}: pass a tokenizer.json or a SentencePiece .model file")
    with path.open("rb") as file:
        opening = file.read(64).lstrip()[:1]
    if path.suffix == ".json" or (path.suffix != ".model" and opening == b"{"):
        return JsonPieces.from_file(path)
    return SentencePieces.from_file(path, located=located)


def gemma_document(
    pieces: Sequence[str],
    merges: list[list[str]],
    added: list[dict[str, Any]],
    pre_tokenizer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A tokenizer.json of Gemma's form: BPE over pieces with bytes to fall back on, spaces as "▁".

    Args:
        pieces: in the order of their ids, added tokens included where the model knows them.
        merges: pairs, best first.
        added: entries of :func:`added_token`.
        pre_tokenizer: the tokenizers library's description of one.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: index for index, piece in enumerate(pieces)},
            "merges": merges,
        },
    }


def added_token(index: int, content: str, *, special: bool) -> dict[str, Any]:
    """One entry of a tokenizer.json's ``added_tokens``: matched as it stands, spaces untouched."""
    return {
        "id": index,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _merges(pieces: list[str], scores: list[float], skip: set[int]) -> list[list[str]]:
    """Merge rules that rebuild each piece from every pair of shorter ones, best score first.

    SentencePiece joins whichever neighbours make the best-scored piece, whatever the pair; a rule
    list has to spell the pairs out.
    """
    ids = {piece: i for i, piece in enumerate(pieces) if i not in skip}
    ranked: list[tuple[float, int, int, list[str]]] = []
    for piece, index in ids.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                ranked.append((-scores[index], ids[left], ids[right], [left, right]))
    ranked.sort(key=lambda rule: rule[:3])
    return [rule[3] for rule in ranked]
