"""The command line over a model that answers from a script: what is printed and returned."""

from __future__ import annotations

import inspect
import io
import json
import os

import pytest
from PIL import Image

import heliodor
from heliodor.cli.main import COMMANDS, main
from heliodor.errors import CheckpointError, KeyMismatchError


def lines(text: str) -> list[str]:
    return text.splitlines()


class TestPictures:
    def test_one_picture_prints_the_answer_alone(self, model, picture, capsys):
        assert main(["caption", picture(12, 8)]) == 0
        assert capsys.readouterr().out == "12x8 en\n"

    def test_several_pictures_open_each_line_with_their_name(self, model, picture, capsys):
        first, second = picture(12, 8, "a.png"), picture(3, 4, "b.png")
        assert main(["caption", first, second, "--lang", "fr"]) == 0
        assert capsys.readouterr().out == f"{first}\t12x8 fr\n{second}\t3x4 fr\n"

    def test_json_is_one_object_a_line(self, model, picture, capsys):
        first, second = picture(12, 8, "a.png"), picture(3, 4, "b.png")
        assert main(["ask", "--json", first, second, "Où est-ce ?"]) == 0
        out = lines(capsys.readouterr().out)
        assert [json.loads(line) for line in out] == [
            {"image": first, "text": "Où est-ce ? en", "score": 0.5},
            {"image": second, "text": "Où est-ce ? en", "score": 0.5},
        ]
        assert "Où" in out[0]

    def test_options_may_stand_between_pictures_and_words(self, model, picture, capsys):
        first, second = picture(12, 8, "a.png"), picture(3, 4, "b.png")
        assert main(["ask", first, second, "--lang", "de", "Was?"]) == 0
        assert capsys.readouterr().out == f"{first}\tWas? de\n{second}\tWas? de\n"

    def test_a_dash_reads_the_picture_from_stdin(self, model, capsys, monkeypatch):
        stream = io.BytesIO()
        Image.new("RGB", (7, 5)).save(stream, "PNG")
        stdin = io.TextIOWrapper(io.BytesIO(stream.getvalue()))
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["caption", "-"]) == 0
        assert capsys.readouterr().out == "7x5 en\n"

    def test_read_prints_each_line_of_the_text(self, model, picture, capsys):
        assert main(["read", picture()]) == 0
        assert capsys.readouterr().out == "OPEN\nDAILY\n"

    def test_a_bad_picture_is_reported_and_the_rest_go_on(self, model, picture, tmp_path, capsys):
        bad = tmp_path / "bad.png"
        bad.write_bytes(b"not a picture")
        good = picture(12, 8)
        assert main(["caption", str(bad), good]) == 1
        said = capsys.readouterr()
        assert said.out == f"{good}\t12x8 en\n"
        assert len(lines(said.err)) == 1
        assert said.err.startswith(f"heliodor: {bad}: ")

    def test_a_missing_picture_costs_no_load(self, model, capsys):
        assert main(["caption", "nowhere.png"]) == 1
        assert model.loaded == []
        assert "nowhere.png" in capsys.readouterr().err

    def test_detect_prints_label_score_and_pixels(self, model, picture, capsys):
        assert main(["detect", picture(), "bee ; flower"]) == 0
        assert capsys.readouterr().out == "bee\t0.25\t1 2 5 6\n"

    @pytest.mark.parametrize("command", ["detect", "segment"])
    def test_draw_writes_the_annotated_picture(self, command, model, picture, tmp_path):
        target = tmp_path / "out.png"
        assert main([command, picture(12, 8), "bee", "--draw", str(target)]) == 0
        with Image.open(target) as drawn:
            assert drawn.size == (12, 8)
            assert drawn.getpixel((2, 3)) == (255, 0, 0)
            assert drawn.getpixel((8, 7)) == (0, 0, 255)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "picture.png"]


class TestModelOptions:
    def test_the_default_is_tiny_with_no_options(self, model, picture):
        assert main(["caption", picture()]) == 0
        assert model.loaded == [("tiny", {})]

    def test_options_reach_load(self, model, picture):
        words = ["--model", "google/x", "--dtype", "float32", "--device", "cpu"]
        words += ["--revision", "abc", "--adapter", "lora"]
        assert main(["read", picture(), *words]) == 0
        expected = {"dtype": "float32", "device": "cpu", "revision": "abc", "adapter": "lora"}
        assert model.loaded == [("google/x", expected)]

    def test_one_load_serves_all_pictures(self, model, picture):
        assert main(["read", picture(name="a.png"), picture(name="b.png")]) == 0
        assert len(model.loaded) == 1


class TestErrors:
    def test_a_long_message_becomes_one_line(self, picture, capsys, monkeypatch):
        def load(source: str) -> None:
            raise KeyMismatchError("missing:\n  a.weight\nunknown:\n  b.weight")

        monkeypatch.setitem(vars(heliodor), "load", load)
        assert main(["caption", picture()]) == 1
        assert capsys.readouterr().err == "heliodor: missing: a.weight unknown: b.weight\n"

    def test_a_bad_prompt_is_an_error_without_traceback(self, model, picture, capsys):
        assert main(["caption", picture(), "--lang", "xx"]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.endswith("no language 'xx'\n")

    def test_debug_lets_the_traceback_through(self, picture, monkeypatch):
        def load(source: str) -> None:
            raise CheckpointError("broken")

        monkeypatch.setitem(vars(heliodor), "load", load)
        monkeypatch.setenv("HELIODOR_DEBUG", "1")
        with pytest.raises(CheckpointError, match="broken"):
            main(["caption", picture()])

    def test_ctrl_c_is_130(self, picture, capsys, monkeypatch):
        def load(source: str) -> None:
            raise KeyboardInterrupt

        monkeypatch.setitem(vars(heliodor), "load", load)
        assert main(["caption", picture()]) == 130
        assert capsys.readouterr().err == "heliodor: stopped\n"

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["caption"], "IMAGE"),
            (["detect", "a.png"], "labels"),
            (["detect", "a.png", "b.png", "bee", "--draw", "o.png"], "2 pictures"),
            (["detect", "a.png", "bee", "--draw", "o.txt"], ".png"),
            (["detect", "a.png", "bee", "--draw", "no/such/o.png"], "no folder"),
            (["generate", "a.png", "x", "--top-k", "0"], "not above zero"),
            (["generate", "a.png", "x", "--temperature", "0"], "above 0"),
            (["generate", "a.png", "x", "--top-k", "5", "--top-p", "0.5"], "give one"),
            (["train"], "--list"),
            (["train", "tiny", "steps"], "name=value"),
            (["train", "tiny", "steps=1", "steps=2"], "twice"),
            (["evaluate", "--tasks", "dance"], "dance"),
        ],
    )
    def test_a_command_line_that_makes_no_sense_is_2(self, words, said, model, capsys):
        with pytest.raises(SystemExit) as leaving:
            main(words)
        assert leaving.value.code == 2
        assert said in capsys.readouterr().err

    def test_no_command_prints_the_overview_and_is_2(self, capsys):
        assert main([]) == 2
        said = capsys.readouterr().err
        assert [name for name in COMMANDS if f"  {name} " not in said] == []

    def test_a_mistyped_command_gets_a_suggestion(self, capsys):
        assert main(["captoin"]) == 2
        assert "did you mean 'caption'?" in capsys.readouterr().err

    def test_a_file_that_cannot_be_written_is_an_error(self, model, picture, tmp_path, capsys):
        target = tmp_path / "out.png"
        target.mkdir()
        assert main(["detect", picture(), "bee", "--draw", str(target)]) == 1
        assert len(lines(capsys.readouterr().err)) == 1
        assert list(target.iterdir()) == []
        assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_reader_that_leaves_early_is_no_traceback(model, picture, monkeypatch):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert main(["caption", picture()]) == 1


def test_the_scripted_model_takes_what_the_real_one_takes(model):
    """Otherwise the tests of this folder would hold the command line to the wrong calls."""
    methods = [name for name in vars(type(model)) if not name.startswith("_")]
    assert "caption" in methods
    for name in methods:
        real = inspect.signature(getattr(heliodor.VisionLanguageModel, name)).parameters
        fake = inspect.signature(getattr(model, name)).parameters.values()
        named = [each.name for each in fake if each.kind is not each.VAR_KEYWORD]
        assert [each for each in named if each not in real] == [], name
