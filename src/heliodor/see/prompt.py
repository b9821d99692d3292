"""What to write before the line break: the prompts of the tasks and of fine-tuned checkpoints.

PaliGemma learnt a small language of tasks, and wordings outside it work badly:

    cap en                     a short, alt-text-like caption (pt checkpoints)
    caption en                 one sentence, as in COCO
    describe en                a longer description
    ocr                        all text in the picture, line by line
    answer en {question}       an answer
    question en {answer}       a question with that answer
    detect {a} ; {b}           boxes
    segment {a} ; {b}          boxes and masks
    caption <loc> * 4          a caption of one region

The line break that ends a prompt is added by the tokenizer, not here. A checkpoint fine-tuned on
one task has its own wording: see ``FINETUNED``. Importing this module loads no torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from heliodor.errors import PromptError
from heliodor.see.boxes import encode_box

__all__ = [
    "FINETUNED",
    "LANGUAGES",
    "FinetunedTask",
    "ask",
    "caption",
    "caption_region",
    "check_language",
    "describe",
    "detect",
    "finetuned",
    "question",
    "read",
    "segment",
    "short_caption",
    "split_labels",
    "task_of",
]

LANGUAGES: Mapping[str, str] = MappingProxyType(
    {
        "ar": "arabic",
        "bn": "bengali",
        "cs": "czech",
        "da": "danish",
        "de": "german",
        "el": "greek",
        "en": "english",
        "es": "spanish",
        "fa": "persian",
        "fi": "finnish",
        "fil": "filipino",
        "fr": "french",
        "he": "hebrew",
        "hi": "hindi",
        "hr": "croatian",
        "hu": "hungarian",
        "id": "indonesian",
        "it": "italian",
        "ja": "japanese",
        "ko": "korean",
        "mi": "maori",
        "nl": "dutch",
        "no": "norwegian",
        "pl": "polish",
        "pt": "portuguese",
        "ro": "romanian",
        "ru": "russian",
        "sv": "swedish",
        "sw": "swahili",
        "te": "telugu",
        "th": "thai",
        "tr": "turkish",
        "uk": "ukrainian",
        "vi": "vietnamese",
        "zh": "chinese",
    }
)
"""The 35 language codes of the captioning data (big_vision ``coco35l.py``), with English names."""

_MISTAKEN = {  # codes of countries, and old ones, that are taken for codes of languages
    "cn": "zh", "cz": "cs", "dk": "da", "gb": "en", "gr": "el", "iw": "he",
    "jp": "ja", "kr": "ko", "se": "sv", "ua": "uk", "us": "en", "vn": "vi",
}  # fmt: skip


def caption(lang: str = "en") -> str:
    """A caption of one sentence: ``caption en``.

    Raises:
        PromptError: an unknown language.
    """
    return f"caption {check_language(lang)}"


def short_caption(lang: str = "en") -> str:
    """A short caption like a web page's alternative text: ``cap en``; for pt checkpoints.

    Raises:
        PromptError: an unknown language.
    """
    return f"cap {check_language(lang)}"


def describe(lang: str = "en") -> str:
    """A description of several sentences: ``describe en``.

    Raises:
        PromptError: an unknown language.
    """
    return f"describe {check_language(lang)}"


def read() -> str:
    """All text in the picture, from top to bottom: ``ocr``."""
    return "ocr"


def ask(question: str, lang: str = "en") -> str:
    """A question: ``answer en {question}``. The language is that of the answer.

    Raises:
        PromptError: an empty question, one with a line break, or an unknown language.
    """
    return f"answer {check_language(lang)} {_line(question, 'question')}"


def question(answer: str, lang: str = "en") -> str:
    """A question that has this (English) answer: ``question en {answer}``.

    Raises:
        PromptError: an empty answer, one with a line break, or an unknown language.
    """
    return f"question {check_language(lang)} {_line(answer, 'answer')}"


def detect(labels: str | Iterable[str]) -> str:
    """Boxes of things: ``detect {a} ; {b}``.

    Args:
        labels: a sequence of names, or one text with the names parted by ``;``.

    Raises:
        PromptError: no label, an empty one, or one with a line break or (in a sequence) a ``;``.
    """
    return "detect " + " ; ".join(split_labels(labels))


def segment(labels: str | Iterable[str]) -> str:
    """Boxes and masks of things: ``segment {a} ; {b}``; labels as in ``detect``.

    Raises:
        PromptError: as in ``detect``.
    """
    return "segment " + " ; ".join(split_labels(labels))


def caption_region(box: tuple[float, float, float, float]) -> str:
    """A caption of one part of the picture: ``caption <loc0123><loc0000><loc0511><loc1023>``.

    Args:
        box: x0, y0, x1, y1 as fractions 0..1 of the picture's width and height.

    Raises:
        PromptError: a box without area, or outside 0..1.
    """
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise PromptError(
            f"the region {box} is no part of the picture: 0 <= x0 < x1 <= 1 and the same for y are "
            "expected (divide pixels by the width and height)"
        )
    return "caption " + "".join(encode_box(box, (1, 1)))


def split_labels(labels: str | Iterable[str]) -> tuple[str, ...]:
    """The names that ``detect`` and ``segment`` ask for, trimmed, in order.

    Raises:
        PromptError: as in ``detect``.
    """
    listed = labels.split(";") if isinstance(labels, str) else list(labels)
    if not listed:
        raise PromptError("no label was given: name at least one thing to look for")
    return tuple(_label(label, whole=labels) for label in listed)


def check_language(lang: str) -> str:
    """A language code, if the model knows it.

    Raises:
        PromptError: any other text, with the nearest code.
    """
    if lang in LANGUAGES:
        return lang
    guess = _nearest_language(lang)
    hint = f"did you mean {guess!r} ({LANGUAGES[guess]})? " if guess else ""
    raise PromptError(
        f"the language {lang!r} is unknown: {hint}Codes are " + " ".join(sorted(LANGUAGES))
    )


def _nearest_language(lang: str) -> str | None:
    wanted = str(lang).strip().lower()
    stem = re.split("[-_]", wanted)[0]
    for code in (wanted, stem):
        if code in LANGUAGES:
            return code
        if code in _MISTAKEN:
            return _MISTAKEN[code]
    names = {name: code for code, name in LANGUAGES.items()}
    found = difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)
    if found:
        return names[found[0]]
    codes = difflib.get_close_matches(wanted, LANGUAGES, n=1, cutoff=0.5)
    return codes[0] if codes else None


def _label(label: str, whole: object) -> str:
    if ";" in label:
        raise PromptError(
            f"the label {label!r} contains ';', which parts labels in a prompt: the model would "
            "read two things. Pass them as two labels"
        )
    if not label.strip():
        raise PromptError(f"there is an empty label in {whole!r}: name a thing to look for")
    return _line(label, "label")


def _line(text: str, what: str) -> str:
    """A text without the blanks around it, which the model never saw at the end of a prompt."""
    stripped = text.strip()
    if not stripped:
        raise PromptError(f"the {what} is empty: write what you want to know")
    if "\n" in stripped or "\r" in stripped:
        raise PromptError(
            f"the {what} {stripped[:60]!r} has a line break inside, which ends a prompt: put it on "
            "one line"
        )
    return stripped


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetunedTask:
    """The wording of the checkpoints fine-tuned on one data set.

    Attributes:
        name: the data set, as in big_vision's ``configs/proj/paligemma/transfers``.
        build: makes the prompt; its parameters are the fields of an example.
        fields: their names, in order.
        antialias: evaluated on pictures resized with antialiasing (else without).
        images: pictures of one example.
    """

    name: str
    build: Callable[..., str]
    fields: tuple[str, ...] = ()
    antialias: bool = False
    images: int = 1


def finetuned(task: str, **fields: Any) -> str:
    r"""The prompt of a fine-tuned checkpoint.

        finetuned("docvqa", question="What is the date?")
        finetuned("aokvqa_mc", question="What is it?", options=["a cat", "a dog"])

    Args:
        task: a key of ``FINETUNED``; dashes may stand for underscores.
        fields: the example's fields, as ``FINETUNED[task].fields`` names them.

    Raises:
        PromptError: an unknown task, a field missing or too many, or a text that the wording
            cannot carry (empty, a line break, a tab in an option).
    """
    key = task.replace("-", "_")
    known = FINETUNED.get(key)
    if known is None:
        near = difflib.get_close_matches(key, FINETUNED, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise PromptError(f"no fine-tuned task {task!r}: {hint}Tasks are " + " ".join(FINETUNED))
    if set(fields) != set(known.fields):
        wanted = ", ".join(known.fields) or "no fields"
        given = ", ".join(sorted(fields)) or "none"
        raise PromptError(f"{key} takes {wanted}, but {given} came")
    return known.build(**fields)


def task_of(checkpoint: str) -> FinetunedTask | None:
    """The task that a checkpoint's name tells, as in ``google/paligemma-3b-ft-docvqa-448``."""
    match = re.search(r"(?:^|[-_/])ft[-_]([a-z0-9_-]+?)[-_](?:224|448|896)\b", checkpoint.lower())
    return FINETUNED.get(match[1].replace("-", "_")) if match else None


def _answer_en(question: str) -> str:
    return ask(question)


def _judge(sentence: str) -> str:
    return f"answer en {_line(sentence, 'sentence')}"


def _bare(question: str) -> str:
    return _line(question, "question")


def _phrase(phrase: str) -> str:
    return _line(phrase, "phrase")


def _choose(question: str, options: Iterable[str]) -> str:
    """Two blanks after "en" and blank, tab, blank between options: so the models were trained."""
    listed = [_line(option, "option") for option in options]
    if not listed or any("\t" in option for option in listed):
        raise PromptError("options must be one or more texts without a tab, which parts them")
    return f"answer en  {_line(question, 'question')} choose from: " + " \t ".join(listed)


def _science(question: str, context: str, options: Iterable[str]) -> str:
    """Several lines; the context may be empty. Options are lettered (A), (B), ..."""
    listed = [_line(option, "option") for option in options]
    if not 1 <= len(listed) <= 26:
        raise PromptError(f"science_qa letters its options A to Z: 1 to 26, not {len(listed)}")
    lettered = ", ".join(f"({chr(65 + i)}) {option}" for i, option in enumerate(listed))
    return (
        f"Question: {_line(question, 'question')}\nContext: {context}\nOptions: {lettered}\nAnswer:"
    )


_CAPTION_EN = (
    "cococap", "nocaps", "textcaps", "scicap", "screen2words", "activitynet_cap", "msrvtt_cap",
    "vatex_cap", "docci",
)  # fmt: skip
_ANSWER_EN = (
    "gqa", "xgqa", "vizwizvqa", "rsvqa_lr", "rsvqa_hr", "pope", "activitynet_qa", "msrvtt_qa",
    "msvd_qa",
)  # fmt: skip
_ANSWER_EN_ANTIALIASED = (
    "vqav2", "okvqa", "aokvqa_da", "tallyqa", "countbenchqa", "ocrvqa", "textvqa", "infovqa",
    "stvqa",
)  # fmt: skip


def _table() -> dict[str, FinetunedTask]:
    """One row a data set. Source: the prefix lines of big_vision's transfer configurations."""
    asked, chosen = ("question",), ("question", "options")
    rows: list[tuple[Iterable[str], Callable[..., str], tuple[str, ...], bool, int]] = [
        (_CAPTION_EN, caption, (), False, 1),
        (("widgetcap",), caption, (), True, 1),  # with the widget framed: heliodor.image.outline
        (("coco35l", "xm3600"), caption, ("lang",), False, 1),
        (_ANSWER_EN, _answer_en, asked, False, 1),
        (_ANSWER_EN_ANTIALIASED, _answer_en, asked, True, 1),
        (("chartqa", "docvqa"), _bare, asked, True, 1),
        (("nlvr2", "marvl"), _judge, ("sentence",), False, 2),
        (("aokvqa_mc",), _choose, chosen, True, 1),
        (("ai2d",), _choose, chosen, False, 1),  # though trained with antialiasing
        (("science_qa",), _science, ("question", "context", "options"), False, 1),
        (("refcoco_seg",), _phrase, ("phrase",), False, 1),
    ]
    return {
        name: FinetunedTask(
            name=name, build=build, fields=fields, antialias=antialias, images=images
        )
        for names, build, fields, antialias, images in rows
        for name in names
    }


FINETUNED: Mapping[str, FinetunedTask] = MappingProxyType(_table())
"""The wording of every fine-tuned checkpoint, by data set."""
