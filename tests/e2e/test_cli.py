"""The command line, over a model that answers from a script: what is printed, written, returned."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import heliodor
from heliodor.cli.main import COMMANDS, main
from heliodor.errors import CheckpointError, KeyMismatchError, PromptError


@dataclass(frozen=True)
class Said:
    text: str
    score: float = 0.5

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text, "score": self.score}


class Found(list[SimpleNamespace]):
    def to_dict(self) -> dict[str, Any]:
        return {"boxes": [{"label": box.label, "xyxy": list(box.xyxy)} for box in self]}

    def draw(self, picture: Image.Image) -> Image.Image:
        drawn = picture.copy()
        for box in self:
            x0, y0, x1, y1 = (int(edge) for edge in box.xyxy)
            drawn.paste((255, 0, 0), (x0, y0, x1, y1))
        return drawn


class FakeModel:
    """Answers with the size of what it was shown, so that a test sees which picture arrived."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def encode_image(self, image: Image.Image) -> Image.Image:
        return image

    def caption(self, image: Image.Image, lang: str = "en") -> Said:
        if lang == "xx":
            raise PromptError("no language 'xx'")
        return Said(f"{image.width}x{image.height} {lang}")

    def ask(self, image: Image.Image, question: str, lang: str = "en") -> Said:
        return Said(f"{question} {lang}")

    def read(self, image: Image.Image) -> Said:
        return Said("OPEN\nDAILY")

    def detect(self, image: Image.Image, labels: str) -> Found:
        first = labels.partition(" ; ")[0]
        return Found([SimpleNamespace(label=first, score=0.25, xyxy=(1.0, 2.0, 5.0, 6.0))])

    def segment(self, image: Image.Image, labels: str) -> Found:
        return self.detect(image, labels)

    def save(self, path: Path, format: str, dtype: str | None) -> None:
        path.mkdir()
        (path / "config.json").write_text(f"{format} {dtype}")
        self.calls.append((format, dtype))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    fake = FakeModel()
    fake.loaded = []  # pyright: ignore[reportAttributeAccessIssue]

    def load(source: str, **options: str) -> FakeModel:
        fake.loaded.append((source, options))  # pyright: ignore[reportAttributeAccessIssue]
        return fake

    monkeypatch.setitem(vars(heliodor), "load", load)
    return fake


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., str]:
    def make(width: int = 12, height: int = 8, name: str = "picture.png") -> str:
        Image.new("RGB", (width, height), (0, 0, 255)).save(tmp_path / name)
        return str(tmp_path / name)

    return make


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
        assert main(["read", picture(), *words, "--revision", "abc"]) == 0
        expected = {"dtype": "float32", "device": "cpu", "revision": "abc"}
        assert model.loaded == [("google/x", expected)]

    def test_one_load_serves_all_pictures(self, model, picture):
        assert main(["read", picture(name="a.png"), picture(name="b.png")]) == 0
        assert len(model.loaded) == 1


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


def test_version_names_what_heliodor_runs_on(capsys):
    assert main(["version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions["heliodor"] == heliodor.__version__
    assert versions["torch"].startswith("2.")


def test_a_reader_that_leaves_early_is_no_traceback(model, picture, monkeypatch):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert main(["caption", picture()]) == 1
