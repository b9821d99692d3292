"""The commands that do more than show a model a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import heliodor
from heliodor.cli.main import main
from heliodor.errors import CheckpointError


class TestConvert:
    def test_the_target_is_written_whole(self, model, tmp_path):
        target = tmp_path / "out"
        words = [
            "convert",
            "tiny",
            str(target),
            "--format",
            "transformers",
            "--save-dtype",
            "bfloat16",
        ]
        assert main(words) == 0
        assert (target / "config.json").read_text() == "transformers bfloat16"
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_failed_save_leaves_nothing(self, model, tmp_path, monkeypatch):
        def save(path: Path, **_: Any) -> None:
            path.mkdir()
            (path / "half").write_text("half")
            raise CheckpointError("disk full")

        monkeypatch.setattr(model, "save", save)
        assert main(["convert", "tiny", str(tmp_path / "out")]) == 1
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_target_is_left_alone(self, model, tmp_path, capsys):
        (tmp_path / "out").write_text("mine")
        with pytest.raises(SystemExit) as leaving:
            main(["convert", "tiny", str(tmp_path / "out")])
        assert leaving.value.code == 2
        assert "exists" in capsys.readouterr().err
        assert (tmp_path / "out").read_text() == "mine"
        assert model.loaded == []


class TestGenerate:
    def test_the_likeliest_token_is_the_default(self, model, picture, capsys):
        assert main(["generate", picture(), "caption en"]) == 0
        assert capsys.readouterr().out == "caption en\n"
        assert model.calls == [(64, heliodor.Greedy())]

    @pytest.mark.parametrize(
        ("words", "sampler"),
        [
            (["--temperature", "0.5"], heliodor.Temperature(0.5)),
            (["--top-k", "5"], heliodor.TopK(5, 1.0)),
            (["--top-k", "5", "--temperature", "2"], heliodor.TopK(5, 2.0)),
            (["--top-p", "0.9"], heliodor.TopP(0.9, 1.0)),
            (["--beam", "3"], heliodor.Beam(3)),
        ],
    )
    def test_options_choose_the_sampler(self, words, sampler, model, picture):
        assert main(["generate", picture(), "ocr", "--max-new-tokens", "7", *words]) == 0
        assert model.calls == [(7, sampler)]

    def test_each_picture_is_sampled_from_the_same_seed(self, model, picture):
        pictures = [picture(name="a.png"), picture(name="b.png")]
        assert main(["generate", *pictures, "ocr", "--top-p", "0.9", "--seed", "3"]) == 0
        assert model.seeds == [3, 3]

    def test_stream_prints_the_pieces_as_one_text(self, model, picture, capsys):
        assert main(["generate", picture(), "ocr", "--stream"]) == 0
        assert capsys.readouterr().out == "ocr in pieces\n"


class TestDemo:
    @pytest.fixture(autouse=True)
    def bundled(self, tmp_path, monkeypatch):
        """Two pictures and their steps in place of the shipped ones."""
        room = tmp_path / "room"
        room.mkdir()
        Image.new("RGB", (12, 8), (0, 0, 255)).save(room / "garden.png")
        Image.new("RGB", (20, 10)).save(room / "sign.jpg")
        steps = [
            {"task": "caption"},
            {"task": "ask", "question": "how many?"},
            {"task": "detect", "labels": "bee ; flower"},
            {"task": "segment", "labels": "bee"},
        ]
        pages = [
            {"picture": "garden.png", "steps": steps},
            {"picture": "sign.jpg", "steps": [{"task": "read"}]},
        ]
        (room / "demo.json").write_text(json.dumps(pages))
        monkeypatch.setattr("heliodor.cli.demo._room", lambda: room)
        return room

    def test_it_writes_a_picture_each_and_names_it(self, model, tmp_path, capsys):
        assert main(["demo", "--out", str(tmp_path / "new" / "out")]) == 0
        said = capsys.readouterr().out
        for name in ("garden.png", "sign.png"):
            path = tmp_path / "new" / "out" / name
            assert str(path) in said
            with Image.open(path) as page:
                assert page.width >= 448
        assert "12x8 en" in said
        assert "bee 0.25" in said

    def test_json_holds_what_was_asked_and_said(self, model, tmp_path, capsys):
        assert main(["demo", "--json", "--out", str(tmp_path / "out")]) == 0
        pages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert pages[0]["answers"][1] == {"asked": "how many?", "said": "how many? en"}
        assert pages[1]["answers"] == [{"asked": "read", "said": "OPEN\nDAILY"}]

    def test_an_incomplete_installation_says_so(self, bundled, model, capsys):
        (bundled / "demo.json").unlink()
        assert main(["demo"]) == 1
        assert "install" in capsys.readouterr().err


class TestInspect:
    def test_a_folder_is_described_without_loading_it(self, tmp_path, capsys, monkeypatch):
        import torch
        from safetensors.torch import save_file

        from heliodor.checkpoints import TransformersCheckpoint
        from heliodor.models.presets import tiny

        monkeypatch.setattr(TransformersCheckpoint, "config", lambda self: tiny(300, 299, 64))
        (tmp_path / "config.json").write_text("{}")
        weights = {"a": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.bfloat16)}
        save_file(weights, tmp_path / "model.safetensors")
        assert main(["inspect", str(tmp_path), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["parameters"] == 17
        assert facts["bytes"] == 12 * 4 + 5 * 2
        assert facts["dtypes"] == {"float32": 1, "bfloat16": 1}
        assert facts["tokens"] is None
        assert facts["vision"]["image_size"] == 64
        assert facts["language"]["vocab_size"] == 300

    def test_an_unknown_name_is_an_error(self, capsys):
        assert main(["inspect", "no-such-folder"]) == 1
        assert "no-such-folder" in capsys.readouterr().err


class TestTrain:
    def test_a_recipe_gets_folder_settings_and_resume(self, recipes, tmp_path):
        words = ["train", "first", "steps=3", "--workdir", str(tmp_path), "--resume", "rate=1e-3"]
        assert main(words) == 0
        assert recipes == [(tmp_path, {"steps": "3", "rate": "1e-3"}, True)]

    def test_the_folder_is_named_after_the_recipe(self, recipes):
        assert main(["train", "first"]) == 0
        assert recipes == [(Path("runs/first"), {}, False)]

    def test_list_names_recipes_and_what_they_do(self, recipes, capsys):
        assert main(["train", "--list"]) == 0
        assert capsys.readouterr().out.split() == ["first", "The", "first", "stage."]
        assert recipes == []

    def test_an_unknown_recipe_is_2(self, recipes, capsys):
        with pytest.raises(SystemExit) as leaving:
            main(["train", "second"])
        assert leaving.value.code == 2
        assert "there are first" in capsys.readouterr().err

    @pytest.fixture
    def recipes(self, monkeypatch):
        runs: list[tuple[Path, dict[str, str], bool]] = []

        class First:
            summary = "The first stage."

            def run(self, workdir: Path, overrides: dict[str, str], *, resume: bool) -> None:
                runs.append((workdir, overrides, resume))

        from heliodor.teach import recipes

        monkeypatch.setitem(vars(recipes), "RECIPES", {"first": First()})
        return runs


def test_version_names_what_heliodor_runs_on(capsys):
    assert main(["version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions["heliodor"] == heliodor.__version__
    assert versions["torch"].startswith("2.")
