"""Labels in sentences, and the scores that pictures give them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from torch import Tensor

from heliodor.errors import PromptError
from heliodor.see.inputs import check_texts

__all__ = [
    "TEMPLATE",
    "Classification",
    "LabelScore",
    "LabelSet",
    "fill_template",
    "split_labels",
    "to_classification",
]

TEMPLATE = "This is a photo of {}."
"""The sentence of the published zero-shot examples; SigLIP saw sentences, not single words."""

_BLANK = "{}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelSet:
    """Labels whose sentences have been embedded: accepted wherever labels are.

    Attributes:
        names: the labels.
        vectors: unit vectors float32 [C D] of their sentences.
    """

    names: tuple[str, ...]
    vectors: Tensor = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScore:
    """One label and how well it fits.

    Attributes:
        label: as it was given.
        score: the sigmoid of the logit, 0..1: how probable it is that picture and text belong
            together, whatever the other labels are. Scores do not sum to 1.
        logit: scaled cosine plus bias.
    """

    label: str
    score: float
    logit: float

    def to_dict(self) -> dict[str, Any]:
        """``{"label", "score", "logit"}``."""
        return {"label": self.label, "score": self.score, "logit": self.logit}


class Classification(Sequence[LabelScore]):
    """The labels of one picture, the best first; equals stay in the order given."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[LabelScore]) -> None:
        self._items = tuple(sorted(items, key=lambda item: -item.logit))

    @property
    def best(self) -> LabelScore:
        """The label that fits best; its score may still be low."""
        return self._items[0]

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> LabelScore: ...
    @overload
    def __getitem__(self, index: slice) -> Classification: ...
    def __getitem__(self, index: int | slice) -> LabelScore | Classification:
        if isinstance(index, slice):
            return Classification(self._items[index])
        return self._items[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Classification):
            return NotImplemented
        return self._items == other._items

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return f"Classification({list(self._items)})"

    def to_dict(self) -> dict[str, Any]:
        """``{"labels": [...]}``, in JSON's own types."""
        return {"labels": [item.to_dict() for item in self._items]}


def fill_template(labels: Sequence[str], template: str | None) -> list[str]:
    """Each label in its sentence.

    Raises:
        PromptError: a template without exactly one ``{}``.
    """
    if template is None:
        return list(labels)
    if not isinstance(template, str) or template.count(_BLANK) != 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PromptError(
            f"the template {template!r} must hold {_BLANK} once, where the label goes; for "
            f"instance {TEMPLATE!r}, or None for labels as they are"
        )
    return [template.replace(_BLANK, label) for label in labels]


def split_labels(labels: str | Sequence[str]) -> tuple[str, ...]:
    """Labels one by one, blanks around them taken off; a string has ";" between them.

    Raises:
        PromptError: none, an empty one, or one that is no string.
    """
    listed = labels.split(";") if isinstance(labels, str) else labels
    check_texts(listed, "label", "labels")
    names = tuple(label.strip() for label in listed)
    if not names or not all(names):
        raise PromptError(f"labels are {labels!r}: at least one is needed, and none may be empty")
    return names


def to_classification(names: Sequence[str], logits: Tensor) -> Classification:
    """Labels with their logits float32 [C]."""
    scores = logits.sigmoid()
    return Classification(
        LabelScore(label=name, score=float(scores[i]), logit=float(logits[i]))
        for i, name in enumerate(names)
    )
