"""The shipped model through the doors that a newcomer uses: the demo, the examples, the command."""

from __future__ import annotations

import ast
import json
import runpy
import shutil
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from PIL import Image
from tests.sentences import pair_folder

from heliodor.cli.main import main

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def garden(tmp_path_factory):
    """A copy of the first bundled picture on which things are to be found, and their label."""
    target = tmp_path_factory.mktemp("garden") / "garden.png"
    with as_file(files("heliodor") / "zoo" / "demo") as room:
        for page in json.loads((room / "demo.json").read_text("utf-8")):
            for step in page["steps"]:
                if step["task"] == "segment":
                    shutil.copy(room / page["picture"], target)
                    return target, step["labels"].split(" ; ")[0]
    raise AssertionError("no bundled picture has a segment step")


@pytest.mark.slow
def test_the_demo_does_all_five_tasks_and_names_its_pictures(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "out"), "--json"]) == 0
    pages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    asked = [answer["asked"] for page in pages for answer in page["answers"]]
    for task in ("caption", "read", "detect", "segment"):
        assert any(words.split()[0] == task for words in asked), task
    assert any(words.endswith("?") for words in asked)
    for page in pages:
        assert all(answer["said"] for answer in page["answers"]), page
        with Image.open(page["image"]) as picture:
            assert picture.format == "PNG"


@pytest.mark.slow
def test_the_installed_command_finds_a_thing_and_draws_it(garden, tmp_path):
    picture, label = garden
    words = ["segment", str(picture), label, "--draw", str(tmp_path / "out.png"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "heliodor", *words], capture_output=True, text=True, check=True
    )
    record = json.loads(done.stdout)
    assert record["objects"][0]["label"] == label
    assert 0 < record["objects"][0]["score"] <= 1
    with Image.open(picture) as before, Image.open(tmp_path / "out.png") as after:
        assert after.size == before.size
        assert after.convert("RGB").tobytes() != before.convert("RGB").tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_runs(path, garden, tmp_path, monkeypatch, capsys):
    picture, label = str(garden[0]), garden[1]
    arguments = {
        "caption": [picture],
        "convert": [str(tmp_path / "folder")],
        "gemma": ["a bee on a tulip"],
        "questions": [picture, "how many things are there?"],
        "search": [str(tmp_path / "pair"), str(garden[0].parent), "a red tulip", "two dogs"],
        "segment": [picture, label, str(tmp_path / "out.png")],
    }
    if path.stem == "search":  # no SigLIP pair ships
        pair_folder(tmp_path / "pair")
    monkeypatch.setattr("sys.argv", [str(path), *arguments[path.stem]])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()
    if path.stem == "convert":
        assert (tmp_path / "folder" / "config.json").is_file()
    if path.stem == "segment":
        assert (tmp_path / "out.png").is_file()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_explains_itself(path):
    source = path.read_text("utf-8")
    assert len(source.splitlines()) < 60
    assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(source)) or "")
