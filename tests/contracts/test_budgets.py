"""Files of at most 400 lines, functions of at most 60, none called utils."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "heliodor"
FILES = sorted(SRC.rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 400, 60
NO_SUBJECT = {"utils", "util", "helpers", "common", "misc", "core"}


def functions_over(source: str, limit: int) -> list[str]:
    """Name and length of the functions longer than `limit` lines, decorators not counted."""
    return [
        f"{node.name}: {node.end_lineno - node.lineno + 1}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > limit
    ]


def test_the_package_is_found():
    assert SRC / "errors.py" in FILES


def test_a_long_function_is_noticed():
    source = "def f():\n" + "    x = 1\n" * 3
    assert functions_over(source, 3) == ["f: 4"]
    assert functions_over(source, 4) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_a_file_keeps_its_budget(path):
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= MAX_FILE
    assert functions_over(source, MAX_FUNCTION) == []


def test_every_file_has_a_subject():
    assert [
        path for path in FILES if path.stem in NO_SUBJECT or path.parent.name in NO_SUBJECT
    ] == []


def test_every_module_says_what_it_is():
    assert [
        path for path in FILES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ] == []
