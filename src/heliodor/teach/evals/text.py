"""Measures of written answers: character errors, exact match, ANLS and VQA accuracy.

All take one prediction and its references and return a number; `character_error_rate` takes a
corpus, because its errors and lengths are summed before they are divided. Definitions follow the
evaluators of big_vision's PaliGemma (``evaluators/proj/paligemma/transfers``) where it has one.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from heliodor.errors import InputError

__all__ = [
    "anls",
    "character_error_rate",
    "edit_distance",
    "exact_match",
    "normalise",
    "vqa_accuracy",
]

_ARTICLES = frozenset({"a", "an", "the"})
_EDGES = string.punctuation.translate(str.maketrans("", "", "$%+-#@&("))


def normalise(text: str) -> str:
    """Lower case, single spaces, and no article before or sentence mark around an answer.

    Marks inside a word stay ("12.50", "9:30", "o'clock"); so do a sign, a currency and a
    percentage at its edge ("$3.50", "-4", "61%"). An answer that is only an article stays.
    """
    words = [word.strip(_EDGES) or word for word in text.lower().split()]
    if len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    return " ".join(words)


def edit_distance(first: str, second: str) -> int:
    """The Levenshtein distance: fewest insertions, deletions and substitutions of characters."""
    if len(first) < len(second):
        first, second = second, first
    row = list(range(len(second) + 1))
    for i, char in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(second, start=1):
            cost = min(row[j] + 1, row[j - 1] + 1, diagonal + (char != other))
            diagonal, row[j] = row[j], cost
    return row[-1]


def character_error_rate(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Edits needed over all pairs, per character of all references.

    Case counts, and so does every character; runs of white space count as one space and those at
    the ends as none. 0 is perfect; a model that writes too much can exceed 1.

    Raises:
        InputError: the lists differ in length, or the references hold no character.
    """
    if len(predictions) != len(references):
        raise InputError(
            f"{len(predictions)} predictions came for {len(references)} references; "
            "pass one prediction for each reference"
        )
    pairs = [
        (" ".join(prediction.split()), " ".join(reference.split()))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    length = sum(len(reference) for _, reference in pairs)
    if length == 0:
        raise InputError("the references hold no character, so there is no rate; pass some text")
    return sum(edit_distance(prediction, reference) for prediction, reference in pairs) / length


def exact_match(prediction: str, answers: str | Sequence[str]) -> float:
    """1.0 if the normalised prediction equals one of the normalised answers, else 0.0."""
    given = normalise(prediction)
    return float(any(given == normalise(answer) for answer in _listed(answers)))


def anls(prediction: str, answers: str | Sequence[str], *, threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity of one question, 0.0 to 1.0.

    The best of 1 - distance / longer length over the answers, in lower case and without white
    space at the ends; 0 where it is below `threshold`. Source: Biten et al., Scene Text Visual
    Question Answering (arXiv 1905.13648); an answer at exactly the threshold counts, as there.
    """
    given = " ".join(prediction.lower().split())
    best = 0.0
    for answer in _listed(answers):
        wanted = " ".join(answer.lower().split())
        longer = max(len(given), len(wanted))
        best = max(best, 1.0 - edit_distance(given, wanted) / longer if longer else 1.0)
    return best if best >= threshold else 0.0


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Soft accuracy against several annotators: min(1, matches / 3).

    A single answer is compared exactly. This is the rule of big_vision's ``vqa.py``; VQAv2's
    official score also leaves out one annotator at a time, which this does not.
    """
    given = normalise(prediction)
    matches = sum(given == normalise(answer) for answer in _listed(answers))
    if len(answers) == 1:
        return float(matches)
    return min(1.0, matches / 3)


def _listed(answers: str | Sequence[str]) -> Sequence[str]:
    """The answers as a list of at least one."""
    listed = [answers] if isinstance(answers, str) else answers
    if not listed:
        raise InputError("no reference answer was given; pass at least one")
    return listed
