r"""The tokenizer of PaliGemma: text to ids, ids to text, and text as it arrives.

    sequence = image tokens | <bos> prompt "\n" | suffix <eos>

``encode_prefix`` makes the middle, ``encode_suffix`` the end. The newline is encoded apart from the
prompt, as big_vision does, so that no merge can swallow it. No leading space is invented: "answer"
and " answer" differ, and so do their ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from heliodor.errors import TokenizerError
from heliodor.text.gemma import GemmaTokenizer, check_encodable
from heliodor.text.pieces import LOC, SEG, Pieces, read_pieces
from heliodor.text.save import save_tokenizer

__all__ = ["Tokenizer", "open_tokenizer"]

_LOCATION = re.compile(r"(<loc\d{4}>|<seg\d{3}>)")


class Tokenizer(GemmaTokenizer):
    r"""A Gemma vocabulary with the 1024 location and 128 segmentation tokens of PaliGemma.

    Attributes:
        vocab_size: ids run from 0 to vocab_size - 1, loc, seg and <image> included.
        pad, eos, bos, unk: ids of the control tokens.
        newline: id of "\n", which ends every prompt.
        loc_start: id of <loc0000>; <loc1023> is 1023 further on.
        seg_start: id of <seg000>, right after the last loc.
        image_token: id of <image>, the stand-in for image features, or None.
    """

    _located: ClassVar[bool] = True

    def __init__(self, pieces: Pieces, source: str = "the vocabulary") -> None:
        """Check a vocabulary and find its special tokens.

        Args:
            pieces: an opened vocabulary file.
            source: how error messages call it.

        Raises:
            TokenizerError: bos, eos, pad, unk, the newline, or a loc or seg token is missing; loc
                and seg are not one run of 1152 ids; the vocabulary invents leading spaces.
        """
        super().__init__(pieces, source)
        self.newline = self._require("\n")
        self.loc_start = self._require_run(LOC)
        self.seg_start = self._require_run(SEG)
        self._check_order()

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a ``tokenizer.json`` or a SentencePiece ``.model``.

        A SentencePiece model without loc and seg tokens is extended by them, at the end of its own
        ids (256000.. for Gemma). A tokenizer.json has to hold them.

        Raises:
            TokenizerError: no such file, another format, or tokens missing.
        """
        return super().from_file(path)

    def encode(self, text: str) -> list[int]:
        """Text to ids, without bos and eos.

        ``<loc0000>`` and ``<seg000>`` become their single ids. The names of control tokens
        (``<bos>``, ``<eos>``, ``<image>``, ...) are text like any other: their ids never come out.

        Raises:
            PromptError: the text holds half a surrogate pair, which has no UTF-8 form.
        """
        check_encodable(text)
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

    def spell(self, text: str) -> list[int]:
        """Text to the ids of its single characters, without bos and eos: the same text decoded."""
        return [token for letter in text for token in self.encode(letter)]

    def save(self, folder: str | Path) -> list[Path]:
        """Write the files that transformers' AutoTokenizer and AutoProcessor read.

        ``<image>`` is added as the last id where the vocabulary lacks it, as transformers would.

        Args:
            folder: made if it does not exist; files of the same names are replaced.

        Returns:
            The paths of tokenizer.json, tokenizer_config.json and special_tokens_map.json.
        """
        return save_tokenizer(self._pieces, Path(folder))

    def _find_control(self) -> frozenset[int]:
        """Without loc and seg, which some files mark as control tokens."""
        located = {self._pieces.find(name) for name in LOC + SEG}
        return super()._find_control() - located

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


def open_tokenizer(path: str | Path) -> GemmaTokenizer:
    """Read a vocabulary file: a :class:`Tokenizer` if it holds loc and seg tokens, else without.

    Raises:
        TokenizerError: no such file, another format, or tokens missing.
    """
    pieces = read_pieces(Path(path), located=False)
    kind = GemmaTokenizer if pieces.find(LOC[0]) is None else Tokenizer
    return kind(pieces, str(path))
