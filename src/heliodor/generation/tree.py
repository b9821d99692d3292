"""A prefix tree over token sequences: what may follow what has been written so far."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from heliodor.errors import InputError

__all__ = ["Node", "child", "freeze", "grow"]


@dataclass(slots=True, eq=False)
class Node:
    """One state of a prefix tree. ``leaf`` is (sequence number, is the last token eos)."""

    children: dict[int, Node] = field(default_factory=dict[int, "Node"])
    leaf: tuple[int, bool] | None = None
    allowed: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


def grow(root: Node, tokens: Iterable[int], leaf: tuple[int, bool]) -> None:
    """Add a sequence; to add one again changes nothing but its number."""
    node = root
    for token in tokens:
        if node.leaf is not None:
            raise InputError(_ambiguous(leaf[0], node.leaf[0]))
        node = node.children.setdefault(token, Node())
    if node.children:
        raise InputError(_ambiguous(leaf[0], next(leaves(node))[0]))
    node.leaf = leaf


def nodes(root: Node) -> Iterator[Node]:
    """The root and all below it; a long label makes a tree too deep to walk by recursion."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children.values()


def leaves(root: Node) -> Iterator[tuple[int, bool]]:
    return (node.leaf for node in nodes(root) if node.leaf is not None)


def _ambiguous(one: int, other: int) -> str:
    return (
        f"sequences {other} and {one} cannot be told apart: one of them holds the separator after "
        "the other; pass labels that do not contain the separator"
    )


def freeze(root: Node) -> None:
    """Write the index tensors once the tree is complete."""
    for node in nodes(root):
        node.allowed = torch.tensor(sorted(node.children), dtype=torch.int64)


def child(node: Node, token: int) -> Node:
    """The state after one more token.

    Raises:
        InputError: no sequence goes on with it.
    """
    if token not in node.children:
        raise InputError(f"token {token} is not allowed here; expected one of {[*node.children]}")
    return node.children[token]
