r"""The tokenizer of PaliGemma: text to ids, ids to text, and text as it arrives.

    sequence = image tokens | <bos> prompt "\n" | suffix <eos>

``encode_prefix`` makes the middle, ``encode_suffix`` the end. The newline is encoded apart from the
prompt, as big_vision does, so that no merge can swallow it. No leading space is invented: "answer"
and " answer" differ, and so do their ids.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from heliodor.errors import InputError, PromptError, TokenizerError
from heliodor.text.pieces import IMAGE, LOC, SEG, SPACE, Pieces, read_pieces
from heliodor.text.save import save_tokenizer

__all__ = ["StreamDecoder", "Tokenizer"]

_LOCATION = re.compile(r"(<loc\d{4}>|<seg\d{3}>)")
_CONTROL_NAMES = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", IMAGE)


class Tokenizer:
    r"""A Gemma vocabulary with the 1024 location and 128 segmentation tokens of PaliGemma.

    Attributes:
        vocab_size: ids run from 0 to vocab_size - 1, loc, seg and <image> included.
        pad, eos, bos, unk: ids of the control tokens.
        newline: id of "\n", which ends every prompt.
        loc_start: id of <loc0000>; <loc1023> is 1023 further on.
        seg_start: id of <seg000>, right after the last loc.
        image_token: id of <image>, the stand-in for image features, or None.
    """

    def __init__(self, pieces: Pieces, source: str = "the vocabulary") -> None:
        """Check a vocabulary and find its special tokens.

        Args:
            pieces: an opened vocabulary file.
            source: how error messages call it.

        Raises:
            TokenizerError: bos, eos, pad, unk, the newline, or a loc or seg token is missing; loc
                and seg are not one run of 1152 ids; the vocabulary invents leading spaces.
        """
        self._pieces = pieces
        self._source = source
        self.vocab_size = pieces.size
        self.pad = self._require("<pad>")
        self.eos = self._require("<eos>")
        self.bos = self._require("<bos>")
        self.unk = self._require("<unk>")
        self.newline = self._require("\n")
        self.loc_start = self._require_run(LOC)
        self.seg_start = self._require_run(SEG)
        self.image_token = pieces.find(IMAGE)
        self._check_order()
        located = range(self.loc_start, self.seg_start + len(SEG))
        named = {pieces.find(name) for name in _CONTROL_NAMES} - {None}
        control = {token for token in pieces.special | named if token is not None}
        self._control = frozenset(control - set(located))
        names = sorted((pieces.piece(token) for token in self._control), key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, filter(None, names))))
        bytes_found = {pieces.find(f"<0x{value:02X}>"): value for value in range(256)}
        self._byte_values = {token: v for token, v in bytes_found.items() if token is not None}

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a ``tokenizer.json`` or a SentencePiece ``.model``.

        A SentencePiece model without loc and seg tokens is extended by them, at the end of its own
        ids (256000.. for Gemma). A tokenizer.json has to hold them.

        Raises:
            TokenizerError: no such file, another format, or tokens missing.
        """
        return cls(read_pieces(Path(path)), str(path))

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read ``tokenizer.json``, else ``tokenizer.model``, from a checkpoint folder.

        Raises:
            TokenizerError: the folder has neither, or the file cannot be used.
        """
        folder = Path(folder)
        for name in ("tokenizer.json", "tokenizer.model"):
            if (folder / name).is_file():
                return cls.from_file(folder / name)
        found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        raise TokenizerError(
            f"{folder} holds no tokenizer.json and no tokenizer.model "
            f"({'it has ' + ', '.join(found[:8]) if found else 'it is empty or not a folder'}): "
            "pass tokenizer=<path to a tokenizer.json or SentencePiece model>"
        )

    def encode(self, text: str) -> list[int]:
        """Text to ids, without bos and eos.

        ``<loc0000>`` and ``<seg000>`` become their single ids. The names of control tokens
        (``<bos>``, ``<eos>``, ``<image>``, ...) are text like any other: their ids never come out.

        Raises:
            PromptError: the text holds half a surrogate pair, which has no UTF-8 form.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the text holds half a surrogate pair at position {error.start}, which is no "
                "character: decode the text from UTF-8 or UTF-16 before passing it"
            ) from None
        ids: list[int] = []
        for part in _LOCATION.split(text):
            token = self._pieces.find(part) if _LOCATION.fullmatch(part) else None
            ids += [token] if token is not None else self._encode_words(part)
        return ids

    def encode_prefix(self, prompt: str) -> list[int]:
        r"""A prompt to ``<bos> prompt "\n"``: what stands between the image and the answer."""
        return [self.bos, *self.encode(prompt), self.newline]

    def encode_suffix(self, text: str) -> list[int]:
        """An answer to its ids and ``<eos>``: what a model is trained to give."""
        return [*self.encode(text), self.eos]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text: control tokens dropped, loc and seg as their names, spaces as they were.

        Bytes that form no UTF-8 character become U+FFFD. Equal to what ``stream`` gives in pieces.

        Raises:
            InputError: an id outside 0..vocab_size-1.
        """
        return b"".join(map(self._render, ids)).decode("utf-8", errors="replace")

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one by one."""
        return StreamDecoder(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the files that transformers' AutoTokenizer and AutoProcessor read.

        ``<image>`` is added as the last id where the vocabulary lacks it, as transformers would.

        Args:
            folder: made if it does not exist; files of the same names are replaced.

        Returns:
            The paths of tokenizer.json, tokenizer_config.json and special_tokens_map.json.
        """
        return save_tokenizer(self._pieces, Path(folder))

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
                "(tokenizer.json or SentencePiece model of a PaliGemma checkpoint)"
            )
        return token

    def _require_run(self, names: Sequence[str]) -> int:
        """The id of the first name, when the ids of all names count up from it."""
        first, last = names[0], names[-1]
        missing = [name for name in names if self._pieces.find(name) is None]
        if missing:
            raise TokenizerError(
                f"{self._source} lacks {len(missing)} of the {len(names)} tokens {first}..{last} "
                f"(first {missing[0]}): take the tokenizer of a PaliGemma checkpoint, or Gemma's "
                "SentencePiece model, which is extended by them"
            )
        start = self._require(first)
        for offset, name in enumerate(names):
            if self._pieces.find(name) != start + offset:
                raise TokenizerError(
                    f"{self._source}: {name} has id {self._pieces.find(name)}, but {first} has "
                    f"{start} and {first}..{last} must count up from it by one"
                )
        return start

    def _check_order(self) -> None:
        if self.seg_start != self.loc_start + len(LOC):
            raise TokenizerError(
                f"{self._source}: {SEG[0]} has id {self.seg_start}, expected "
                f"{self.loc_start + len(LOC)}, right after {LOC[-1]}"
            )
        if self._pieces.encode("\n") != [self.newline]:
            raise TokenizerError(
                f"{self._source} cuts a newline into {self._pieces.encode(chr(10))} where the "
                f"single token {self.newline} is expected: PaliGemma ends its prompts with it"
            )
        opening = self._pieces.encode("a")[:1]
        if opening and self._pieces.piece(opening[0]).startswith(SPACE):
            raise TokenizerError(
                f"{self._source} puts a space before every text, which Gemma's vocabulary does "
                "not: this is the tokenizer of another model"
            )


class StreamDecoder:
    """Text from ids that come one by one; it never gives half a character.

    The pieces that ``push`` and then ``flush`` return join to ``Tokenizer.decode`` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
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
