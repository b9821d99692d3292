"""The tree that `heliodor.errors` draws is the tree its classes make."""

from __future__ import annotations

import re

import pytest

from heliodor import errors


def drawn() -> dict[str, tuple[str, ...]]:
    """Class name -> names of its bases, as drawn in the module's docstring."""
    tree: dict[str, tuple[str, ...]] = {}
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        root = re.match(r"^    (\w+)$", line)
        branch = re.match(r"^    ((?:\|  )*)\|- (\w+)(?: \((\w+)\))?", line)
        if root:
            tree[root[1]] = ("Exception",)
            parents = [root[1]]
        elif branch:
            depth = len(branch[1]) // 3 + 1
            bases = (parents[depth - 1], branch[3]) if branch[3] else (parents[depth - 1],)
            tree[branch[2]] = bases
            parents = [*parents[:depth], branch[2]]
    return tree


def test_the_drawing_equals_the_classes():
    classes = {
        name: tuple(base.__name__ for base in getattr(errors, name).__bases__)
        for name in errors.__all__
    }
    assert drawn() == classes


def test_every_class_of_the_module_is_public():
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined == set(errors.__all__)


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "HeliodorError"])
def test_the_root_catches_every_error(name):
    assert issubclass(getattr(errors, name), errors.HeliodorError)


def test_a_missing_extra_says_what_to_install():
    error = errors.MissingExtraError("supervision", "supervision", "to_supervision()")
    assert "pip install 'heliodor[supervision]'" in str(error)
    assert isinstance(error, ImportError)
