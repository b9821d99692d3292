"""What the model found, as values: an answer, boxes, segments; each leads out to other formats.

All are immutable. Pixels are those of the picture given, x to the right, y down, a box being
(x0, y0, x1, y1) with its far edges just outside. Importing this module loads no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heliodor.errors import InputError, MissingExtraError
from heliodor.image import ImageSource, open_image
from heliodor.see.overlay import Mark, draw_marks, write_below

__all__ = ["Answer", "Box", "Detections", "Segment", "Segments", "encode_rle"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Words about a picture.

    Attributes:
        text: the answer.
        score: the model's confidence in it, 0..1.
        tokens: the token ids that spell it.
    """

    text: str
    score: float = 1.0
    tokens: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """``{"text": str, "score": float}``, in JSON's own types."""
        return {"text": self.text, "score": self.score}

    def draw(self, image: ImageSource) -> Image.Image:
        """The picture with the answer written under it; the picture given is not changed."""
        return write_below(open_image(image), [self.text])


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A thing and where it is.

    Attributes:
        label: what it is; empty if the model did not say.
        xyxy: x0, y0, x1, y1 in pixels.
        score: confidence 0..1; 1 where the text came without probabilities.
    """

    label: str
    xyxy: tuple[float, float, float, float]
    score: float = 1.0

    @property
    def area(self) -> float:
        """Square pixels: of the box, or of what a mask covers."""
        x0, y0, x1, y1 = self.xyxy
        return max(0.0, x1 - x0) * max(0.0, y1 - y0)

    def to_dict(self) -> dict[str, Any]:
        """``{"label", "score", "box": [x0, y0, x1, y1]}``; a segment adds its mask as COCO RLE."""
        return {"label": self.label, "score": self.score, "box": list(self.xyxy)}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segment(Box):
    """A box and the part of it that the thing covers.

    Attributes:
        mask: float32 [H W] in 0..1 over the whole picture; at least 0.5 means inside.
    """

    mask: NDArray[np.float32] = field(repr=False)

    @property
    def inside(self) -> NDArray[np.bool_]:
        """The mask as bool [H W]."""
        return self.mask >= 0.5

    @property
    def area(self) -> float:
        """Pixels inside the mask."""
        return float(np.count_nonzero(self.inside))

    def to_dict(self) -> dict[str, Any]:
        """The box's values, and ``"mask"``: COCO's compressed run lengths of what is inside."""
        return {**Box.to_dict(self), "mask": encode_rle(self.inside)}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Segment):
            return NotImplemented
        mine, theirs = (self.label, self.xyxy, self.score), (other.label, other.xyxy, other.score)
        return mine == theirs and np.array_equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash((self.label, self.xyxy, self.score))


Item = TypeVar("Item", bound=Box)


class Found(Sequence[Item], Generic[Item]):
    """An immutable sequence of boxes with the size (width, height) of their picture."""

    __slots__ = ("_items", "_size")

    def __init__(self, items: Iterable[Item], size: tuple[int, int]) -> None:
        self._items = tuple(items)
        self._size = size

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels."""
        return self._size

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Item | Self:
        if isinstance(index, slice):
            return type(self)(self._items[index], self._size)
        return self._items[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self._items == other._items and self._size == other._size

    def __hash__(self) -> int:
        return hash((self._items, self._size))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._items)}, size={self._size})"

    def to_dict(self) -> dict[str, Any]:
        """``{"width", "height", "objects": [...]}`` in JSON's own types, one entry a box."""
        width, height = self._size
        objects = [item.to_dict() for item in self._items]
        return {"width": width, "height": height, "objects": objects}

    def to_coco(
        self, *, image_id: int = 0, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO's results format: one dictionary a box, ready for ``COCO.loadRes``.

        Args:
            image_id: the picture's id in the data set.
            category_ids: label -> id. Without it the labels of this picture count from 1 in
                alphabetical order: fine for one picture, meaningless across several.

        Returns:
            ``image_id, category_id, bbox`` (x, y, width, height), ``area, score, iscrowd``, and
            for segments ``segmentation`` (compressed run lengths).

        Raises:
            InputError: a label that ``category_ids`` does not list.
        """
        ids = self._ids(1) if category_ids is None else category_ids
        return [_coco(item, image_id, _category(item.label, ids)) for item in self._items]

    def to_supervision(self, *, class_ids: Mapping[str, int] | None = None) -> Any:
        """``supervision.Detections``: xyxy, confidence, class_id, class names, and masks if any.

        Args:
            class_ids: label -> id. Without it the labels of this picture count from 0 in
                alphabetical order.

        Raises:
            MissingExtraError: the package supervision is not installed.
            InputError: a label that ``class_ids`` does not list.
        """
        try:
            supervision = importlib.import_module("supervision")
        except ImportError as error:
            raise MissingExtraError("supervision", "supervision", "to_supervision()") from error
        ids = self._ids(0) if class_ids is None else class_ids
        names = np.array([item.label for item in self._items], dtype=np.str_)
        return supervision.Detections(
            xyxy=np.array([item.xyxy for item in self._items], dtype=np.float32).reshape(-1, 4),
            mask=self._masks(),
            confidence=np.array([item.score for item in self._items], dtype=np.float32),
            class_id=np.array([_category(name, ids) for name in names.tolist()], dtype=np.int64),
            data={"class_name": names},
        )

    def draw(self, image: ImageSource) -> Image.Image:
        """The picture with everything drawn on it; the picture given is not changed.

        Raises:
            InputError: the picture has another size than the one these boxes were found in.
        """
        picture = open_image(image)
        if picture.size != self._size:
            raise InputError(
                f"these boxes are in pixels of a picture of {self._size[0]}x{self._size[1]} and "
                f"this one has {picture.width}x{picture.height}: draw on the one they came from"
            )
        return draw_marks(picture, [self._mark(item) for item in self._items])

    def _mark(self, item: Item) -> Mark:
        return Mark(label=item.label, xyxy=item.xyxy, score=item.score)

    def _masks(self) -> NDArray[np.bool_] | None:
        return None

    def _ids(self, first: int) -> dict[str, int]:
        labels = sorted({item.label for item in self._items})
        return {label: number for number, label in enumerate(labels, start=first)}


class Detections(Found[Box]):
    """Boxes found in a picture, in the order the model wrote them."""

    __slots__ = ()


class Segments(Found[Segment]):
    """Segments found in a picture, in the order the model wrote them."""

    __slots__ = ()

    def _mark(self, item: Segment) -> Mark:
        return Mark(label=item.label, xyxy=item.xyxy, score=item.score, mask=item.mask)

    def _masks(self) -> NDArray[np.bool_] | None:
        width, height = self.size
        masks = np.zeros((len(self), height, width), dtype=np.bool_)
        for row, item in enumerate(self):
            masks[row] = item.inside
        return masks


def _category(label: str, ids: Mapping[str, int]) -> int:
    if label not in ids:
        raise InputError(f"no id is given for the label {label!r}: the ids are {dict(ids)}")
    return ids[label]


def _coco(item: Box, image_id: int, category_id: int) -> dict[str, Any]:
    x0, y0, x1, y1 = item.xyxy
    entry: dict[str, Any] = {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": item.area,
        "score": item.score,
        "iscrowd": 0,
    }
    if isinstance(item, Segment):
        entry["segmentation"] = encode_rle(item.inside)
    return entry


def encode_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Mask bool [H W] -> COCO's ``{"size": [H, W], "counts": str}``.

    Pixels run down the columns. Counts are the lengths of alternating runs, outside first; from
    the fourth on each is written as its difference to the one two before, in groups of five bits,
    least first, each group a character from "0" up with 32 added while more follow.

    Raises:
        InputError: not two-dimensional.
    """
    if mask.ndim != 2:
        raise InputError(f"a mask must be [H W], not {list(mask.shape)}")
    flat = mask.astype(np.bool_).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], [0] if flat.size and flat[0] else [], edges, [flat.size]])
    counts = np.diff(starts).astype(np.int64)
    counts[3:] -= counts[1:-2].copy()
    text = "".join(_groups(int(count)) for count in counts)
    return {"size": [int(side) for side in mask.shape], "counts": text}


def _groups(value: int) -> str:
    characters: list[str] = []
    more = True
    while more:
        group = value & 31
        value >>= 5
        more = value != (-1 if group & 16 else 0)
        characters.append(chr(48 + group + 32 * more))
    return "".join(characters)
