"""Grammar-bound decoding: which tokens may come next, decided token by token.

A ``Constraint`` is a frozen description that any number of rows may share; ``start()`` gives a
``Walk``, the state of one row. The decoder asks ``walk.allowed()`` before each token, tells the
walk what was chosen with ``walk.push(token)``, and ends the row when ``walk.done`` is true.

``allowed()`` returns ids as an index tensor, not as a mask over the vocabulary, so that an engine
may multiply only those rows of the output matrix.

The grammars are about ids alone. What the ids of " ; " or of a label are is the caller's business,
since a tokenizer may split the same words differently in another context.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from heliodor.errors import InputError
from heliodor.generation.tree import Node, child, freeze, grow

__all__ = ["ChoiceGrammar", "Constraint", "DetectGrammar", "RepeatStop", "Walk"]

NUM_LOC = 1024
NUM_SEG = 128
LOCS_PER_BOX = 4
SEGS_PER_MASK = 16


class Walk(Protocol):
    """The state of one row under a constraint."""

    @property
    def done(self) -> bool:
        """True once no more tokens are wanted."""
        ...

    @property
    def surplus(self) -> int:
        """How many of the last tokens to drop: a duplicate box, a repeated phrase; else 0."""
        ...

    def allowed(self) -> Tensor | None:
        """Ids that may come next, int64 [N] on the CPU with N >= 1, or None for every token."""
        ...

    def rival(self) -> int | None:
        """The allowed token that stands against all other allowed ones together, or None.

        Greedy decoding takes it only if it is likelier than their sum: "nothing here" is one token,
        "something here" is a thousand, one for each place, and none of them has to be likely.
        """
        ...

    def push(self, token: int) -> None:
        """Take note of the token that was chosen.

        Raises:
            InputError: The token was not allowed.
        """
        ...


class Constraint(Protocol):
    """A reusable rule; each row gets a walk of its own."""

    def start(self) -> Walk:
        """The state before the first token."""
        ...


# ---------------------------------------------------------------------------- fixed sequences


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceGrammar:
    """Exactly one of the given answers, then eos.

    Args:
        choices: Token ids of each answer, as they come after the prompt, without eos. One may
            begin with another ("no", "no idea"): the model decides whether to go on.
        eos: The token that ends the answer.

    Raises:
        InputError: No choices, an empty choice, or one that contains eos.
    """

    choices: tuple[tuple[int, ...], ...]
    eos: int
    _root: Node = field(init=False, repr=False, compare=False, default_factory=Node)

    def __post_init__(self) -> None:
        if not self.choices or not all(self.choices):
            raise InputError(
                f"got choices {self.choices}; ChoiceGrammar needs at least one, none of them empty"
            )
        for number, choice in enumerate(self.choices):
            if self.eos in choice:
                raise InputError(f"choice {number} contains the eos token {self.eos}; leave it out")
            grow(self._root, (*choice, self.eos), (number, True))
        freeze(self._root)

    def start(self) -> Walk:
        """The state before the first token."""
        return _ChoiceWalk(self._root)


class _ChoiceWalk:
    def __init__(self, root: Node) -> None:
        self._node = root
        self.surplus = 0

    @property
    def done(self) -> bool:
        return self._node.leaf is not None

    def rival(self) -> int | None:
        return None

    def allowed(self) -> Tensor | None:
        return self._node.allowed

    def push(self, token: int) -> None:
        self._node = child(self._node, token)


# ------------------------------------------------------------------------------------- repeats


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatStop:
    """End free text that goes round in circles ("of the shore of the shore of the shore ...").

    The row ends when its last tokens are one n-gram, ``times`` times in a row. The surplus is all
    copies but the first.

    Args:
        times: How many copies end the text, at least 2.
        longest: The longest n-gram to look for, in tokens, at least 1.
        shortest: The shortest. Above 1, runs of one token ("10000000") are left alone, up to the
            point where they make ``times`` equal n-grams.

    Raises:
        InputError: A bound is out of range.
    """

    times: int = 4
    longest: int = 16
    shortest: int = 1

    def __post_init__(self) -> None:
        if self.times < 2 or not 1 <= self.shortest <= self.longest:
            raise InputError(
                f"got times={self.times}, shortest={self.shortest}, longest={self.longest}; "
                "RepeatStop needs times >= 2 and 1 <= shortest <= longest"
            )

    def start(self) -> Walk:
        """The state before the first token."""
        return _RepeatWalk(self)


class _RepeatWalk:
    def __init__(self, rule: RepeatStop) -> None:
        self._rule = rule
        self._runs = [0] * (rule.longest + 1)  # [n]: how many last tokens equal the one n before
        self._tokens: list[int] = []
        self.done = False
        self.surplus = 0

    def rival(self) -> int | None:
        return None

    def allowed(self) -> Tensor | None:
        return None

    def push(self, token: int) -> None:
        self._tokens.append(token)
        rule, tokens = self._rule, self._tokens
        for n in range(rule.shortest, min(rule.longest, len(tokens) - 1) + 1):
            self._runs[n] = self._runs[n] + 1 if tokens[-1 - n] == token else 0
            if self._runs[n] >= n * (rule.times - 1):
                self.done, self.surplus = True, n * (rule.times - 1)
                return


# ----------------------------------------------------------------------------------- detection


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectGrammar:
    """Detection and segmentation text: 4 loc, 16 seg when asked for, a label, separator or eos.

    Args:
        loc_start: Id of <loc0000>; 1024 follow in order.
        labels: Token ids of the asked labels as they come after a box, leading space included.
            An empty sequence stands for a box without a label (refcoco checkpoints).
        separator: Token ids between two objects (" ; " in the tokenizer at hand), at least one.
        eos: The token that ends the answer.
        seg_start: Id of <seg000> for segmentation, 128 follow; None for detection.
        allow_empty: Whether eos may come first: nothing was found.
        max_objects: After this many objects only eos may follow, at least 1.
        ordered: Whether ymax >= ymin and xmax >= xmin is enforced.
        duplicate_iou: A box that overlaps an earlier one of the same label this much (intersection
            over union, above 0, at most 1) ends the row, and its tokens and the separator before
            it are the surplus. None lets duplicates pass.

    Raises:
        InputError: A value out of range, labels that contain loc, seg or eos tokens, or labels that
            contain the separator.
    """

    loc_start: int
    labels: tuple[tuple[int, ...], ...]
    separator: tuple[int, ...]
    eos: int
    seg_start: int | None = None
    allow_empty: bool = True
    max_objects: int = 100
    ordered: bool = True
    duplicate_iou: float | None = 0.9
    _more: Node = field(init=False, repr=False, compare=False, default_factory=Node)
    _last: Node = field(init=False, repr=False, compare=False, default_factory=Node)

    def __post_init__(self) -> None:
        self._check()
        for number, label in enumerate(dict.fromkeys(self.labels)):
            grow(self._more, (*label, *self.separator), (number, False))
            grow(self._more, (*label, self.eos), (number, True))
            grow(self._last, (*label, self.eos), (number, True))
        freeze(self._more)
        freeze(self._last)

    def _check(self) -> None:
        if not self.labels or not self.separator:
            raise InputError(
                f"got {len(self.labels)} labels and a separator of {len(self.separator)} tokens; "
                "DetectGrammar needs at least one of each"
            )
        if self.max_objects < 1:
            raise InputError(f"got max_objects={self.max_objects}; it must be at least 1")
        if self.duplicate_iou is not None and not 0.0 < self.duplicate_iou <= 1.0:
            raise InputError(
                f"got duplicate_iou={self.duplicate_iou}; it must be above 0 and at most 1, or None"
            )
        for number, label in enumerate((*self.labels, self.separator)):
            if any(self._is_control(token) for token in label):
                name = "the separator" if number == len(self.labels) else f"label {number}"
                raise InputError(
                    f"{name} is {label}, which contains a <loc>, <seg> or eos token; "
                    "pass the tokens of plain words"
                )

    def _is_control(self, token: int) -> bool:
        is_seg = self.seg_start is not None and 0 <= token - self.seg_start < NUM_SEG
        return token == self.eos or 0 <= token - self.loc_start < NUM_LOC or is_seg

    def start(self) -> Walk:
        """The state before the first token."""
        return _DetectWalk(self, more=self._more, last=self._last)


class _DetectWalk:
    def __init__(self, grammar: DetectGrammar, *, more: Node, last: Node) -> None:
        self._grammar, self._more, self._last = grammar, more, last
        self._num_labels = len(set(grammar.labels))
        self._loc = torch.arange(grammar.loc_start, grammar.loc_start + NUM_LOC)
        self._first = torch.cat([torch.tensor([grammar.eos]), self._loc])
        self._seg: Tensor | None = None
        if grammar.seg_start is not None:
            self._seg = torch.arange(grammar.seg_start, grammar.seg_start + NUM_SEG)
        self._found: list[tuple[int, tuple[int, ...]]] = []  # (label number, box)
        self._length = 0  # tokens of the object so far, the separator after it included
        self._box: list[int] = []
        self._segs_left = 0
        self._node = more
        self.done = False
        self.surplus = 0

    def rival(self) -> int | None:
        return self._grammar.eos if self._may_be_empty() else None

    def allowed(self) -> Tensor | None:
        if len(self._box) < LOCS_PER_BOX:
            if self._may_be_empty():
                return self._first
            return self._loc[self._lowest() :]
        if self._segs_left and self._seg is not None:
            return self._seg
        return self._node.allowed

    def push(self, token: int) -> None:
        self._length += 1
        if len(self._box) < LOCS_PER_BOX:
            self._push_loc(token)
        elif self._segs_left and self._seg is not None:
            _check_range(token, self._seg)
            self._segs_left -= 1
        else:
            self._node = child(self._node, token)
            if self._node.leaf is not None:
                self._finish(*self._node.leaf)

    def _may_be_empty(self) -> bool:
        return self._grammar.allow_empty and not self._box and not self._found

    def _lowest(self) -> int:
        """The smallest loc value that may come next: ymin before ymax, xmin before xmax."""
        return self._box[-2] if self._grammar.ordered and len(self._box) >= 2 else 0

    def _push_loc(self, token: int) -> None:
        if token == self._grammar.eos and self._may_be_empty():
            self.done = True
            return
        _check_range(token, self._loc[self._lowest() :])
        self._box.append(token - self._grammar.loc_start)
        if len(self._box) < LOCS_PER_BOX:
            return
        self._segs_left = SEGS_PER_MASK if self._seg is not None else 0
        self._node = self._more if len(self._found) + 1 < self._grammar.max_objects else self._last
        if all(self._is_duplicate(label) for label in range(self._num_labels)):
            self._drop_object()  # whatever label follows: do not spend tokens on it

    def _finish(self, label: int, ended: bool) -> None:  # noqa: FBT001
        """The object is complete, with the separator or eos after it."""
        if self._is_duplicate(label):
            self._drop_object()
            return
        self._found.append((label, tuple(self._box)))
        self._box, self._length, self.done = [], 0, ended

    def _is_duplicate(self, label: int) -> bool:
        limit = self._grammar.duplicate_iou
        return limit is not None and any(
            label == other and _iou(self._box, box) >= limit for other, box in self._found
        )

    def _drop_object(self) -> None:
        self.done, self.surplus = True, self._length + len(self._grammar.separator)


def _check_range(token: int, ids: Tensor) -> None:
    low, high = int(ids[0]), int(ids[-1])
    if not low <= token <= high:
        raise InputError(f"token {token} is not allowed here; expected one of {low}..{high}")


def _iou(one: Iterable[int], other: Iterable[int]) -> float:
    """Intersection over union of two boxes (ymin, xmin, ymax, xmax); equal boxes give 1."""
    a, b = tuple(one), tuple(other)
    if a == b:
        return 1.0
    inner = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = _area(a) + _area(b) - inner
    return inner / union if union else 0.0


def _area(box: tuple[int, ...]) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])
