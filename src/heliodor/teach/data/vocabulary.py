r"""A small vocabulary of the Gemma kind, trained on the words the shipped models meet.

Gemma's own vocabulary has 256,000 pieces, which costs 66 million parameters at width 256. This one
keeps its rules and its layout and needs a few thousand:

    id                      piece
    0 1 2 3 4               <pad> <eos> <bos> <unk> <mask>
    5 .. 9                  <unused0> .. <unused4>
    10                      "\n", never merged
    11 .. 266               <0x00> .. <0xFF>, for characters that have no piece (byte fallback)
    267 .. size-1           characters in code point order, then merged pieces in order of learning
    size .. size+1023       <loc0000> .. <loc1023>
    size+1024 .. size+1151  <seg000> .. <seg127>
    size+1152               <image>

Spaces become "▁" and no leading space is invented. Digits and CJK characters (Han, kana, hangul)
are never part of a longer piece, so numbers are read digit by digit and an unseen name costs one
token a character. Merges never cross a word, which is why no pre-tokeniser is needed at run time.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from heliodor.errors import DataError
from heliodor.text.pieces import IMAGE, LOC, SEG, SPACE, added_token, gemma_document

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["BASE_SIZE", "build_tokenizer", "default_corpus"]

BASE_SIZE = 2560
"""Pieces before the loc tokens: the smallest multiple of 256 at which an English concept name takes
under two tokens on average, while every CJK character of the corpus has a piece of its own."""

CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
UNUSED = tuple(f"<unused{i}>" for i in range(5))
BYTES = tuple(f"<0x{i:02X}>" for i in range(256))

_CJK = "\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef"
# A run of letters or one punctuation mark, with the space before it; else one character alone.
_WORD = re.compile(rf"▁?(?:(?![{_CJK}])[^\W\d_])+|▁?(?![{_CJK}])(?:_|[^\w\n▁])|[\s\S]")

_LETTERS = (
    "".join(map(chr, range(0x21, 0x7F)))
    + "".join(map(chr, range(0xC0, 0x100)))
    + "ŒœŠšŽžŸ"
    + "".join(map(chr, range(0x410, 0x450)))
    + "Ёё"
    + "".join(map(chr, range(0x3041, 0x3097)))
    + "".join(map(chr, range(0x30A1, 0x30F7)))
    + "¡¿«»°±²³·§ªº©®€£¥–—‘’“”„…•、。「」『』・ー！？：；，（）％"  # noqa: RUF001
)

_WEIGHTS = {"en": 20, "fr": 3, "de": 3, "es": 3, "it": 2, "pt": 2}

_PROMPTS = {
    "en": (
        "caption en describe en cap en answer en question en detect segment read ocr caption "
        "zh fr de es ja ko pt it ru what is in the image? what is this? what is on the left? "
        "what is on the right? what is above the? what is below the? which object is next to the? "
        "how many are there? how many objects are in the picture? what colour is the? "
        "what colour is the background? is there a in the image? is the left of the? where is the? "
        "is it on the right? yes no none left right above below top bottom middle centre corner "
        "red orange yellow green blue purple pink brown black white grey light dark "
        "zero one two three four five six seven eight nine ten "
        "a photo of a picture of an and with two on a background, and a, an image of "
        "what does the sign say? what does the text say? what word is written? what is the total? "
        "how much is the? how much does the cost? what is the price of the? what is the date? "
        "what is the phone number? what is the name of the shop? what is the address? "
        "what is the value of? which bar is the highest? which bar is the lowest? "
        "what is the title of the chart? which row has the most? which column? how many rows? "
        "what is the sum of? what is the difference between? who is the receipt from? "
        "receipt table chart sign line row column bar total subtotal tax cash change price date "
        "item quantity shop store market open closed sale exit entrance street road school "
        "monday tuesday wednesday thursday friday saturday sunday january february march april "
        "may june july august september october november december "
        "Total Subtotal Tax Cash Change Date Price Item TOTAL SUBTOTAL TAX CASH CHANGE DATE OPEN "
        "CLOSED SALE EXIT STOP The A What How Which Where Is There"
    ),
    "fr": (
        "un une des deux trois quatre cinq six sept huit neuf dix et le la les du de sur sous avec "
        "à gauche droite au-dessus au-dessous en haut en bas dans l'image fond rouge orange jaune "
        "vert verte bleu bleue violet rose marron noir noire blanc blanche gris combien y a-t-il "
        "de quelle couleur est qu'est-ce que c'est où est oui non une image de qu'y a-t-il"
    ),
    "de": (
        "ein eine einen zwei drei vier fünf sechs sieben acht neun zehn und der die das auf unter "
        "mit links rechts über oben unten im Bild Hintergrund rot orange gelb grün blau lila rosa "
        "braun schwarz weiß grau wie viele gibt es welche Farbe hat was ist das wo ist ja nein "
        "ein Bild von links von rechts von"
    ),
    "es": (
        "un una unos dos tres cuatro cinco seis siete ocho nueve diez y el la los las de del en "
        "sobre bajo con a la izquierda derecha encima debajo arriba abajo en la imagen fondo rojo "
        "roja naranja amarillo amarilla verde azul morado rosa marrón negro negra blanco blanca "
        "gris cuántos cuántas hay ¿de qué color es? ¿qué es esto? ¿dónde está? sí no"
    ),
    "it": "un uno una due tre quattro cinque e il la di sinistra destra sopra sotto rosso sì no",
    "pt": "um uma dois duas três quatro cinco e o a de esquerda direita acima abaixo azul sim não",
    "zh": (
        "一二三四五六七八九十零两个只条张把辆朵颗棵杯件本双顶座架艘台块支片和与在有没是的了吗呢这那里上下左右边"
        "中间前后旁面图片像照画背景颜色红橙黄绿蓝紫粉棕黑白灰金银浅深什么多少几哪物体东西写着字总价格日期是否不"
        "大小方圆角顶底第请描述回答检测分割"
    ),
    "ja": (
        "一二三四五六七八九十個匹本枚台羽頭人と画像写真絵の中に左右上下側隣真何色赤橙黄緑青紫桃茶黒白灰背景"
        "いくつありますかはがです何があるどこはいいえ合計値段日付文字書物大小"
    ),
    "ko": (
        "하나둘셋넷다섯여섯일곱여덟아홉열개마리와과그리고이가은는을를에의왼쪽오른쪽위아래사진그림배경색빨간"
        "주황노란초록파란보라분홍갈검은흰회색무엇몇있나요예아니요없음"
    ),
    "ru": (
        "один одна два две три четыре пять и на под над слева справа вверху внизу красный жёлтый "
        "зелёный синий чёрный белый сколько какого цвета что это где да нет"
    ),
}


def build_tokenizer(corpus: Iterable[str], size: int = BASE_SIZE) -> Tokenizer:
    """Train a Gemma-style tokenizer; the same corpus always gives the same vocabulary.

    Args:
        corpus: texts in any order. A text that stands n times weighs n times as much. Every
            character in them becomes a piece.
        size: pieces before the loc tokens (see the layout above); 267 are fixed, the rest are
            characters and merges.

    Returns:
        A ``tokenizers.Tokenizer`` of exactly size + 1153 pieces; where the corpus is too small to
        fill ``size``, further <unusedN> names stand at the end of the merged pieces.

    Raises:
        DataError: the characters of the corpus alone need more than ``size`` pieces.
    """
    from tokenizers import Tokenizer, models, trainers  # noqa: PLC0415  (loads a compiled library)

    words = Counter(word for text in corpus for word in _words(text))
    letters = sorted({letter for word in words for letter in word} | set(_LETTERS) | {SPACE})
    letters = [letter for letter in letters if letter != "\n"]
    fixed = [*CONTROL, *UNUSED, "\n", *BYTES]
    room = size - len(fixed) - len(letters)
    if room < 0:
        raise DataError(
            f"a vocabulary of {size} pieces cannot hold the {len(letters)} characters of the "
            f"corpus beside {len(fixed)} fixed pieces: ask for at least {size - room}"
        )
    trainer = trainers.BpeTrainer(
        vocab_size=len(letters) + room, initial_alphabet=letters, show_progress=False
    )
    learner = Tokenizer(models.BPE())
    learner.train_from_iterator(
        (word for word, count in sorted(words.items()) for _ in range(count) if word != "\n"),
        trainer,
    )
    learnt: dict[str, Any] = json.loads(learner.to_str())["model"]
    merges: list[list[str]] = learnt["merges"]
    pieces = [*fixed, *letters, *dict.fromkeys("".join(pair) for pair in merges)]
    pieces += [f"<unused{len(UNUSED) + i}>" for i in range(size - len(pieces))]
    return Tokenizer.from_str(json.dumps(_document(pieces, merges)))


@cache
def _concept_names() -> tuple[tuple[str, str], ...]:
    """(language, name) of every concept that the artwork packs can draw."""
    text = files("heliodor.teach.data").joinpath("concepts.json").read_text("utf-8")
    concepts: list[dict[str, Any]] = json.loads(text)["concepts"]
    return tuple((lang, name) for c in concepts for lang, name in c["names"].items())


def default_corpus() -> Iterator[str]:
    """Yield what the shipped vocabulary is trained on, weighted by repetition.

    Concept names in ten languages (English 20 times, since it is what most prompts and labels
    use), the words of prompts, questions and answers, the word list of the reading task, and the
    forms of prices, dates and times. Each name comes bare and after a space, as an answer
    and as part of a sentence need it.
    """
    for language, name in _concept_names():
        for form in (name, " " + name, " " + name + " ;"):
            yield from [form] * _WEIGHTS.get(language, 1)
    for language, text in _PROMPTS.items():
        yield from [text, " " + text] * _WEIGHTS.get(language, 1)
    listed = files("heliodor.teach.data").joinpath("words.txt").read_text("utf-8").splitlines()
    for word in listed:
        if word and not word.startswith("#"):
            yield from (word, " " + word)
    for currency in "$€£¥":
        yield from (f"{currency}3.50 {currency}12.00", f" 3,50 {currency} 12,00 {currency}")
    yield "2024-05-17 17/05/2024 17.05.2024 09:30 555-0123 +44 20% #12 (1) A-1 x2 @ & * = / _ \\ |"


def _words(text: str) -> list[str]:
    """Cut a text where no merge may cross: before spaces, around digits, CJK and punctuation."""
    return _WORD.findall(text.replace(" ", SPACE))


def _document(pieces: list[str], merges: list[list[str]]) -> dict[str, Any]:
    """The tokenizer.json of Gemma's form: what its loader in transformers rebuilds, in full."""
    control = [*CONTROL, IMAGE]
    names = [*pieces, *LOC, *SEG, IMAGE]
    added = [*CONTROL, *LOC, *SEG, IMAGE]
    ids = {name: index for index, name in enumerate(names)}
    pre_tokenizer = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    tokens = [added_token(ids[name], name, special=name in control) for name in added]
    return gemma_document(pieces, merges, tokens, pre_tokenizer)
