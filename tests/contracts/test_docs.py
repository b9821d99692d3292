"""README and docs say only what is so: commands exist, Python compiles, links lead somewhere."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from pathlib import Path

import pytest

import heliodor
from heliodor.cli.main import COMMANDS, build_parser, load_command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code of one language on a page."""
    fences = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    return [fence for fence in fences if fence.strip()]


def commands(page: Path) -> list[list[str]]:
    """Every `heliodor ...` line in a page's shell blocks, as arguments."""
    lines = [
        line
        for block in [*blocks(page, "sh"), *blocks(page, "console")]
        for line in block.splitlines()
    ]
    found = [re.search(r"(?:^|[\s/])heliodor ([^#&|>]+)", line) for line in lines]
    return [shlex.split(match[1]) for match in found if match and not match[1].startswith("@")]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist_and_parse(page):
    for words in commands(page):
        assert words[0] in {*COMMANDS, "--help", "--version", "COMMAND"}, words
        if words[0] in COMMANDS and "--help" not in words:
            parser = build_parser(words[0], load_command(words[0]))
            parser.parse_intermixed_args(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_compiles_and_uses_public_names(page):
    for block in blocks(page, "python"):
        tree = ast.parse(block)
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "heliodor"
        }
        assert used <= {*heliodor.__all__}, used - {*heliodor.__all__}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_readme_is_short_and_shows_a_picture_first():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150
    assert any(line.startswith("![") for line in lines[:8])


def test_the_commands_are_found_in_readme():
    """The finder finds something; otherwise the tests above could not fail."""
    assert {words[0] for words in commands(ROOT / "README.md")} >= {"demo", "caption", "detect"}


def test_the_command_reference_is_what_the_commands_say():
    written = runpy.run_path(str(ROOT / "scripts" / "write_cli_reference.py"))["page"]()
    assert (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8") == written
    for name in COMMANDS:
        assert f"\n## heliodor {name}\n" in written


def test_the_layers_page_names_the_files_there_are():
    """Each row of its table holds the modules of its folder, no more and no fewer."""
    text = (ROOT / "docs" / "design" / "layers.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([a-z/]+)` \| (.+) \|$", text, re.M))
    source = ROOT / "src" / "heliodor"
    folders = {
        str(init.parent.relative_to(source))
        for init in source.rglob("__init__.py")
        if init.parent != source
    }
    assert rows.keys() == folders
    for folder, files in rows.items():
        named = set(re.findall(r"`(\w+)`", files))
        modules = {path.stem for path in (source / folder).glob("*.py")} - {"__init__"}
        inside = {path.name for path in (source / folder).iterdir() if path.is_dir()}
        assert modules <= named <= modules | inside, folder
