"""What a patch shows, said by the decoder's own words, as a lesson for the projector and the table.

PaliGemma puts what the tower saw before the decoder as if it were words, yet nothing makes it lie
near the words that name it: a small decoder wrote half of the names that its tower could tell. Told
apart from the answers, a patch's image token, read by the final norm and the table as the decoder's
own last state would be, gives the words for what lies in the patch. Then to name a thing is to copy
what one looks at, and to find a named thing is to look for what resembles its name.

B pictures, N patches, W width, K words, V rows of the table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from heliodor.models.gemma import Gemma
from heliodor.teach.data.concepts import load_concepts
from heliodor.teach.data.coverage import ALPHABET, KINDS, LETTERS, letter_of
from heliodor.teach.data.language import LANGUAGES, colour_word
from heliodor.teach.data.palette import COLOURS
from heliodor.teach.log import Mean
from heliodor.text import Tokenizer

__all__ = ["Words", "naming_loss", "told", "words_for"]

_ENGLISH = 0.5  # share of English among the words for a thing; other languages share the rest
_TOLD = 0.25  # share of a patch that must show something for the patch to be told


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """The words for what patches show.

    Attributes:
        ids: int64 [K], rising.
        share: float32 [KINDS K], how much of the naming of each kind each word is; rows sum to 1.
    """

    ids: Tensor
    share: Tensor


def words_for(tokenizer: Tokenizer) -> Words:
    """The pieces of every concept's and colour's names in all languages, and the letters."""
    kinds = [*_names(tokenizer), *_letters(tokenizer)]
    ids = sorted({token for kind in kinds for token in kind})
    place = {token: index for index, token in enumerate(ids)}
    share = torch.zeros(len(kinds), len(ids))
    for row, kind in zip(share, kinds, strict=True):
        for token, weight in kind.items():
            row[place[token]] = weight
    return Words(ids=torch.tensor(ids), share=share / share.sum(1, keepdim=True))


def _names(tokenizer: Tokenizer) -> Iterator[dict[int, float]]:
    """Weights of the pieces of concepts' and colours' names, each in all languages."""
    rest = (1.0 - _ENGLISH) / (len(LANGUAGES) - 1)
    weights = dict.fromkeys(LANGUAGES, rest) | {"en": _ENGLISH}
    named = [{lang: c.in_language(lang) for lang in weights} for c in load_concepts()]
    named += [{lang: colour_word(c.name, lang) for lang in weights} for c in COLOURS]
    for names in named:
        found: defaultdict[int, float] = defaultdict(float)
        for language, name in names.items():
            pieces = [*tokenizer.encode(name), *tokenizer.encode(f" {name}")]
            spoken = [token for token in pieces if tokenizer.decode([token]).strip()]
            for token in spoken:
                found[token] += weights[language] / len(spoken)
        yield dict(found)


def _letters(tokenizer: Tokenizer) -> Iterator[dict[int, float]]:
    """The tokens of the characters of each half of a patch."""
    for column in range(LETTERS, LETTERS + 2 * ALPHABET):
        yield dict.fromkeys(tokenizer.spell(letter_of(column)), 1.0)


def told(cover: Tensor) -> Tensor:
    """Which patches show enough to be told by words: uint8 [... KINDS+EDGES] -> bool [...]."""
    return cover[..., :KINDS].float().sum(-1) / 255.0 > _TOLD


def naming_loss(
    decoder: Gemma, seen: Tensor, cover: Tensor, words: Words
) -> tuple[Tensor, dict[str, float]]:
    """How far what image tokens say is from what their patches show.

    Args:
        decoder: whose norm and table read the image tokens.
        seen: float32 [B N W], image tokens.
        cover: uint8 [B N KINDS+EDGES], shares of 255; see
            :mod:`~heliodor.teach.data.coverage`.
        words: of the decoder's tokenizer.

    Returns:
        Mean over pictures of the mean over patches that show enough of the divergence in nats from
        the words for what a patch shows, in its shares, to the softmax over all words; 0 for
        pictures that show nothing. As figure "named" the same, over the pictures that show
        something.
    """
    chosen = told(cover)
    of_picture = chosen.nonzero()[:, 0]
    shown = cover[chosen][:, :KINDS].float()
    wanted = (shown / shown.sum(-1, keepdim=True)) @ words.share.to(shown.device)
    logits = decoder.logits(decoder.norm(seen[chosen]), words.ids.to(shown.device))
    apart = torch.xlogy(wanted, wanted) - wanted * logits.log_softmax(-1)
    each = 1.0 / chosen.sum(1)
    total = (apart.sum(-1) * each[of_picture]).sum()
    pictures = int(chosen.any(1).sum())
    figure = Mean(float(total.detach()) / max(1, pictures), over=pictures)
    return total / len(cover), {"named": figure}
