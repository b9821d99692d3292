"""The commands that do more than show a model a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

import heliodor
from heliodor import zoo
from heliodor.cli.main import main


class TestConvert:
    def test_the_target_is_written_and_named(self, tmp_path, capsys):
        target = tmp_path / "tiny.safetensors"
        assert main(["convert", "tiny", str(target), "--dtype", "bfloat16", "--json"]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out) == {
            "path": str(target),
            "format": "native",
            "tensors": 182,
            "dropped": [],
        }
        shipped = load_file(zoo.TINY / "model.safetensors")
        values = f"{sum(tensor.numel() for tensor in shipped.values()):,} values"
        assert said.err.splitlines() == [
            f"writing {values}",
            f"verifying {values}",
            f"wrote {target} (native, 182 tensors, each read back)",
        ]
        assert main(["inspect", str(target), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["format"], facts["precision"]) == ("native", "bfloat16")

    def test_what_would_be_lost_is_1_and_nothing_is_written(self, tmp_path, capsys):
        assert main(["convert", "tiny", str(tmp_path / "tiny.npz")]) == 1
        assert "--drop tokenizer,codec,processor,padding,context" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_target_is_left_alone(self, tmp_path, capsys):
        (tmp_path / "out").write_text("mine")
        with pytest.raises(SystemExit) as leaving:
            main(["convert", "tiny", str(tmp_path / "out")])
        assert leaving.value.code == 2
        assert "exists" in capsys.readouterr().err
        assert (tmp_path / "out").read_text() == "mine"


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
    def test_the_shipped_model_is_described(self, capsys):
        assert main(["inspect", "tiny", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["family"], facts["format"]) == ("PaliGemma", "transformers")
        assert (facts["complete"], facts["missing"], facts["broken"]) == (True, [], [])
        assert facts["files"] == ["model.safetensors"]
        assert main(["inspect"]) == 0
        said = capsys.readouterr().out
        assert f"parameters         {facts['parameters']:,}\n" in said
        assert "complete           yes\n" in said

    def test_what_is_not_whole_is_1_and_listed(self, tmp_path, capsys):
        import torch
        from safetensors.torch import save_file

        (tmp_path / "config.json").write_text('{"model_type": "gemma"}')
        save_file({"a": torch.zeros(3, 4)}, tmp_path / "model-00001-of-00002.safetensors")
        shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": shards}))
        assert main(["inspect", str(tmp_path)]) == 1
        said = capsys.readouterr().out
        assert "missing            model-00002-of-00002.safetensors (a shard)\n" in said
        assert "missing            b\n" in said
        assert "complete           no\n" in said

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
