"""Boxes in words: ``<loc0405><loc0119><loc0771><loc0955> car`` and the pixels it means.

A model writes an object as four location tokens (top, left, bottom, right), for segmentation
sixteen mask codes, then a label; objects are joined by `` ; ``. It can also write anything else.
``parse`` reads any string and never raises; its grammar, over the pieces LOC (0000..1023), SEG
(000..127), STOP (``;`` or a line break) and TEXT (the rest):

    answer   := stretch (STOP stretch)*
    stretch  := (TEXT | object)*
    object   := LOC LOC LOC LOC  SEG*     blanks and commas may stand between the tokens

* Of a run of LOC, each whole four is an object; a remainder of one to three is dropped.
* The first sixteen SEG after an object are its codes; with fewer it has none.
* The label is the TEXT after the object. Where a stretch opens with TEXT and ends with an object,
  labels stand before their objects instead. No TEXT: the label is empty.
* A label may hold anything but STOP: apostrophes, commas, ``<``, any script. Bits of broken tokens
  (``<loc00``, ``<loc9999>``) and control words (``<eos>``) are taken out of it, and blanks and
  commas trimmed; text that holds nothing else is no TEXT.

Importing this module loads no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate, pairwise
from typing import NamedTuple

from heliodor.errors import InputError
from heliodor.see.answers import Answer, Box, Detections, Segment, Segments

__all__ = [
    "CODES_PER_OBJECT",
    "Answer",
    "Box",
    "Detections",
    "LocScale",
    "ParsedBox",
    "ScoredBox",
    "Segment",
    "Segments",
    "TokenPiece",
    "encode_box",
    "format_object",
    "parse",
    "parse_tokens",
    "to_detections",
    "to_pixels",
]

LAST_BIN = 1023
CODES_PER_OBJECT = 16


class LocScale(Enum):
    """What a location number is divided by to give a share of the picture's side.

    ``BIG_VISION`` is the default everywhere: it is the inverse of the rounding that made the
    training data, round(share * 1023), so an object at the far edge comes back at the edge.
    ``HUGGING_FACE`` is what the published demo and blog divide by; boxes shrink by up to 0.1 %.
    """

    BIG_VISION = 1023
    HUGGING_FACE = 1024


class Span(NamedTuple):
    """A stretch of the parsed text, as ``text[start:stop]``."""

    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedBox:
    """One object as written.

    Attributes:
        label: its words, trimmed; empty when there were none.
        loc: top, left, bottom, right, each 0..1023, in the order they were written.
        codes: sixteen mask codes 0..127, or None.
        span: the object with its label.
        loc_span, codes_span, label_span: its parts; None for a part that is not there.
    """

    label: str
    loc: tuple[int, int, int, int]
    codes: tuple[int, ...] | None
    span: Span
    loc_span: Span
    codes_span: Span | None = None
    label_span: Span | None = None

    @property
    def proper(self) -> bool:
        """The bottom lies under the top and the right is right of the left."""
        top, left, bottom, right = self.loc
        return bottom > top and right > left


class TokenPiece(NamedTuple):
    """A generated token: the text it added (empty inside a character) and its log-probability."""

    text: str
    logprob: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredBox:
    """A parsed object with the model's confidence in its parts, each in 0..1.

    Attributes:
        parsed: the object.
        presence: product over the tokens between the previous object and this one: how sure the
            model was that the list goes on. 1 for the first object.
        box: geometric mean over the four location tokens.
        mask: geometric mean over the sixteen code tokens, or None.
        label: product over the label's tokens, the probability of the whole label; 1 without one.
    """

    parsed: ParsedBox
    presence: float
    box: float
    mask: float | None
    label: float

    @property
    def score(self) -> float:
        """Presence x box x label, and for a mask the square root of box x mask in box's place.

        A location is one of 1024 neighbouring bins, so a sure box still shares its probability
        among a few; the geometric mean keeps four such tokens on the scale of one, and ranks
        objects of one picture and of many, which is what average precision asks for. A label's
        tokens instead spell one choice, and their product is that choice's probability.
        """
        place = self.box if self.mask is None else math.sqrt(self.box * self.mask)
        return self.presence * place * self.label


_PIECE = re.compile(
    r"(?P<loc><loc(?P<bin>0[0-9]{3}|10[01][0-9]|102[0-3])>)"
    r"|(?P<seg><seg(?P<code>0[0-9]{2}|1[01][0-9]|12[0-7])>)"
    r"|(?P<stop>[;\n\r])"
)
_BROKEN = re.compile(r"<(?:loc|seg)[0-9]*>|<(?:loc|seg)[0-9]*$|<(?:bos|eos|pad|image)>")
_FILLER = re.compile(r"[\s,]*")


class _Piece(NamedTuple):
    """A token or a stretch of text; value is the number of a token."""

    kind: str
    span: Span
    value: int = 0


@dataclass(kw_only=True, slots=True)
class _Object:
    """An object before it has its label."""

    loc: tuple[int, int, int, int]
    span: Span
    codes: list[_Piece]


def parse(text: str) -> tuple[ParsedBox, ...]:
    """Read every object out of a model's answer; see the module's grammar. Never raises."""
    found: list[ParsedBox] = []
    stretch: list[_Object | Span] = []
    for item in _items(text):
        if item is None:
            found += _label(text, stretch)
            stretch = []
        else:
            stretch.append(item)
    found += _label(text, stretch)
    return tuple(found)


def _pieces(text: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    position = 0
    for match in _PIECE.finditer(text):
        if match.start() > position:
            pieces.append(_Piece("text", Span(position, match.start())))
        span, position = Span(*match.span()), match.end()
        if match["loc"]:
            pieces.append(_Piece("loc", span, int(match["bin"])))
        elif match["seg"]:
            pieces.append(_Piece("seg", span, int(match["code"])))
        else:
            pieces.append(_Piece("stop", span))
    if position < len(text):
        pieces.append(_Piece("text", Span(position, len(text))))
    return pieces


def _items(text: str) -> list[_Object | Span | None]:
    """Objects without labels, stretches of text, and None for each stop, in order."""
    items: list[_Object | Span | None] = []
    run: list[_Piece] = []
    for piece in [*_pieces(text), _Piece("stop", Span(len(text), len(text)))]:
        if piece.kind == "text":
            if _FILLER.fullmatch(text, *piece.span):
                continue
            items += _objects(run)
            run = []
            if _words(text[piece.span.start : piece.span.stop]):
                items.append(piece.span)
        elif piece.kind == "stop":
            items += [*_objects(run), None]
            run = []
        else:
            if piece.kind == "loc" and run and run[-1].kind == "seg":
                items += _objects(run)
                run = []
            run.append(piece)
    return items


def _objects(run: list[_Piece]) -> list[_Object]:
    """LOC* SEG* -> an object for each four locations, the last of them with the codes."""
    locations = [piece for piece in run if piece.kind == "loc"]
    codes = [piece for piece in run if piece.kind == "seg"]
    objects: list[_Object] = []
    for top, left, bottom, right in zip(*[iter(locations)] * 4, strict=False):
        loc = (top.value, left.value, bottom.value, right.value)
        objects.append(_Object(loc=loc, span=Span(top.span.start, right.span.stop), codes=[]))
    if objects and len(codes) >= CODES_PER_OBJECT:
        objects[-1].codes = codes[:CODES_PER_OBJECT]
    return objects


def _label(text: str, stretch: list[_Object | Span]) -> list[ParsedBox]:
    """Give each object of a stretch the text that stands beside it."""
    if stretch and isinstance(stretch[0], Span) and isinstance(stretch[-1], _Object):
        pairs = pairwise([None, *stretch])
        named = [(item, beside) for beside, item in pairs]
    else:
        named = list(pairwise([*stretch, None]))
    found: list[ParsedBox] = []
    for item, beside in named:
        if isinstance(item, _Object):
            found.append(_parsed(text, item, beside if isinstance(beside, Span) else None))
    return found


def _words(raw: str) -> str:
    """Text without broken tokens and control words, single-spaced, no comma at either end."""
    return " ".join(_BROKEN.sub(" ", raw).split()).strip(" ,")


def _parsed(text: str, item: _Object, words: Span | None) -> ParsedBox:
    codes_span = Span(item.codes[0].span.start, item.codes[-1].span.stop) if item.codes else None
    label = ""
    if words is not None:
        raw = text[words.start : words.stop]
        label = _words(raw)
        start = words.start + len(raw) - len(raw.lstrip())
        words = Span(start, start + len(raw.strip()))
    parts = [part for part in (item.span, codes_span, words) if part is not None]
    return ParsedBox(
        label=label,
        loc=item.loc,
        codes=tuple(piece.value for piece in item.codes) or None,
        span=Span(min(part.start for part in parts), max(part.stop for part in parts)),
        loc_span=item.span,
        codes_span=codes_span,
        label_span=words,
    )


def parse_tokens(pieces: Iterable[TokenPiece | tuple[str, float]]) -> tuple[ScoredBox, ...]:
    """Read every object out of generated tokens, with its scores.

    Args:
        pieces: the tokens in order: the text each one added to the answer, as a streaming decoder
            gives it, and its natural log-probability.

    Returns:
        The objects of ``parse`` on the joined text. A probability that is not a number counts as 0.
    """
    tokens = [TokenPiece(*piece) for piece in pieces]
    text = "".join(token.text for token in tokens)
    ends = list(accumulate((len(token.text) for token in tokens), initial=0))
    scored: list[ScoredBox] = []
    before: int | None = None
    for parsed in parse(text):
        between = None if before is None else Span(before, max(before, parsed.span.start))
        mask = _logprobs(tokens, ends, parsed.codes_span)
        scored.append(
            ScoredBox(
                parsed=parsed,
                presence=_product(_logprobs(tokens, ends, between)),
                box=_mean(_logprobs(tokens, ends, parsed.loc_span)),
                mask=_mean(mask) if parsed.codes is not None else None,
                label=_product(_logprobs(tokens, ends, parsed.label_span)),
            )
        )
        before = parsed.span.stop
    return tuple(scored)


def _logprobs(tokens: list[TokenPiece], ends: list[int], span: Span | None) -> list[float]:
    """Of the tokens that wrote a character of the span, and of the silent ones leading to them."""
    if span is None or span.start == span.stop:
        return []
    found: list[float] = []
    silent: list[float] = []
    for token, (start, stop) in zip(tokens, pairwise(ends), strict=True):
        logprob = -math.inf if math.isnan(token.logprob) else token.logprob
        if start == stop:
            silent.append(logprob)
            continue
        if start < span.stop and stop > span.start:
            found += [*silent, logprob]
        silent = []
    return found


def _product(logprobs: list[float]) -> float:
    return min(1.0, math.exp(min(0.0, sum(logprobs))))


def _mean(logprobs: list[float]) -> float:
    return _product([sum(logprobs) / max(1, len(logprobs))])


def to_pixels(
    loc: Sequence[int], size: tuple[int, int], scale: LocScale = LocScale.BIG_VISION
) -> tuple[float, float, float, float]:
    """Location numbers (top, left, bottom, right) -> x0, y0, x1, y1 in pixels.

    Args:
        loc: four numbers 0..1023.
        size: width and height of the picture.
        scale: which reference's divisor.
    """
    width, height = size
    top, left, bottom, right = (number / scale.value for number in loc)
    return left * width, top * height, right * width, bottom * height


def to_detections(
    objects: Iterable[ParsedBox | ScoredBox],
    size: tuple[int, int],
    scale: LocScale = LocScale.BIG_VISION,
) -> Detections:
    """Objects -> typed boxes in the pixels of a picture of ``size`` (width, height).

    Boxes whose corners coincide or are swapped are dropped, as big_vision's evaluator counts them
    invalid. Objects without probabilities have score 1.
    """
    boxes: list[Box] = []
    for item in objects:
        parsed, score = (item, 1.0) if isinstance(item, ParsedBox) else (item.parsed, item.score)
        if parsed.proper:
            xyxy = to_pixels(parsed.loc, size, scale)
            boxes.append(Box(label=parsed.label, xyxy=xyxy, score=score))
    return Detections(boxes, size)


def encode_box(xyxy: Sequence[float], size: tuple[int, int]) -> tuple[str, str, str, str]:
    """Pixels x0, y0, x1, y1 -> ``<locTOP>``, ``<locLEFT>``, ``<locBOTTOM>``, ``<locRIGHT>``.

    Each number is round(share * 1023), as the training data was made.

    Raises:
        InputError: not four finite numbers, no area, or outside a picture of ``size``.
    """
    width, height = size
    if len(xyxy) != 4 or not all(math.isfinite(value) for value in xyxy):
        raise InputError(f"a box must be four finite numbers x0, y0, x1, y1, not {list(xyxy)}")
    x0, y0, x1, y1 = xyxy
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise InputError(
            f"a box must satisfy 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height} to lie in "
            f"the picture, not {list(xyxy)}: clip it or leave it out"
        )
    shares = (y0 / height, x0 / width, y1 / height, x1 / width)
    top, left, bottom, right = (f"<loc{round(share * LAST_BIN):04d}>" for share in shares)
    return top, left, bottom, right


def format_object(locations: Sequence[str], label: str = "", codes: Sequence[int] = ()) -> str:
    """Write one object as a model does: four locations, codes if any, a space and the label."""
    marks = "".join(f"<seg{code:03d}>" for code in codes)
    return f"{''.join(locations)}{marks} {label}".rstrip()
