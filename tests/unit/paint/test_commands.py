"""`heliodor paint` and `heliodor vae` on small networks."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.paint.small import autoencoder, painter

import heliodor
from heliodor.cli import paint as commands
from heliodor.cli.main import main
from heliodor.paint import read_record
from heliodor.paint.vae import Autoencoder, psnr

FAST = ["--steps", "3", "--solver", "euler", "--size", "48x32"]


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """A small painter under any name; what was asked for is returned."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def load(source: str, **options: Any) -> Any:
        asked.append((source, options))
        return painter()

    def load_vae(source: str, **options: Any) -> Autoencoder:
        asked.append((source, options))
        return autoencoder()

    monkeypatch.setattr(heliodor, "load_painter", load, raising=False)
    monkeypatch.setattr("heliodor.paint.painter.load_vae", load_vae)
    monkeypatch.chdir(tmp_path)
    return asked


def test_a_picture_is_painted_with_its_record(capsys, shipped):
    assert main(["paint", "a dog", "--seed", "3", "--out", "dog.png", *FAST]) == 0
    wanted = painter().paint("a dog", seed=3, steps=3, solver="euler", size=(48, 32))
    with Image.open("dog.png") as found:
        assert found.tobytes() == wanted.image.tobytes()
    assert read_record("dog.png") == wanted.record
    out, talk = capsys.readouterr()
    assert out.startswith("dog.png  seed 3  ")
    assert "painting takes about" in talk
    assert talk.index("painting takes") < talk.index("picture 1: step 2 of 2")
    assert shipped == [("tiny", {})]


def test_options_reach_the_painter(shipped):
    words = ["--guidance", "2", "--guide-all", "--guidance-interval", "0.1", "0.9"]
    more = ["--scaling", "off", "--no-proportional", "--skipping", "0.2", "--negative", "cat"]
    model = ["--model", "there", "--vae", "here", "--dtype", "bfloat16", "--memory", "staged"]
    last = ["--steps", "4", "--grid", "diffusers", "--shift", "2", "--size", "32"]
    assert main(["paint", "a dog", *words, *more, *model, *last]) == 0
    record = read_record("painting.png")
    assert record.negative == "cat"
    assert record.size == (32, 32)
    assert record.settings.to_dict() == {
        "steps": 4,
        "solver": "midpoint",
        "grid": "diffusers",
        "shift": 2.0,
        "guidance": 2.0,
        "guided_channels": None,
        "guidance_interval": [0.1, 0.9],
        "scaling": "off",
        "proportional": False,
        "skipping": 0.2,
        "strength": None,
    }
    assert shipped == [("there", {"vae": "here", "dtype": "bfloat16", "memory": "staged"})]


def test_several_pictures_go_to_a_folder_and_on_a_sheet(capsys):
    words = ["paint", "a dog", "a cat", "--count", "2", "--seed", "5", "--out", "all"]
    assert main([*words, "--sheet", "sheet.png", "--json", *FAST]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    places = [f"all/00{number}.png" for number in range(1, 5)]
    assert [record["image"] for record in records] == places
    assert [record["seed"] for record in records] == [5, 6, 7, 8]
    assert [record["prompt"] for record in records] == ["a dog", "a dog", "a cat", "a cat"]
    assert [read_record(place).seed for place in places] == [5, 6, 7, 8]
    with Image.open("sheet.png") as sheet, Image.open(places[3]) as last:
        assert sheet.size == (2 * 56 + 8, 2 * 40 + 8)
        assert sheet.crop((64, 48, 112, 80)).tobytes() == last.tobytes()


def test_like_paints_the_same_again():
    assert main(["paint", "a dog", "--seed", "3", "--grid", "diffusers", *FAST]) == 0
    assert main(["paint", "--like", "painting.png", "--out", "again.png"]) == 0
    assert Path("again.png").read_bytes() == Path("painting.png").read_bytes()


def test_like_gives_way_to_what_is_given():
    assert main(["paint", "a dog", "--seed", "3", "--guidance", "2", *FAST]) == 0
    words = ["paint", "a cat", "--like", "painting.png", "--steps", "4", "--shift", "1"]
    assert main([*words, "--out", "b.png"]) == 0
    record = read_record("b.png")
    assert (record.prompt, record.seed, record.size) == ("a cat", 3, (48, 32))
    found = record.settings.to_dict()
    assert (found["steps"], found["shift"], found["guidance"]) == (4, 1.0, 2.0)


def test_a_picture_is_painted_over():
    Image.effect_noise((50, 40), 60).convert("RGB").save("photo.png")
    words = ["paint", "a dog", "--image", "photo.png", "--strength", "0.5", "--steps", "8"]
    assert main([*words, "--seed", "1", "--solver", "euler"]) == 0
    record = read_record("painting.png")
    assert (record.size, record.settings.strength) == ((48, 32), 0.5)
    assert main(["paint", "--like", "painting.png", "--out", "b.png"]) == 0
    assert read_record("b.png").settings.strength is None


def test_a_preview_is_written_while_painting(capsys):
    words = ["paint", "a dog", "--preview", "now.png", "--every", "2", "--steps", "6"]
    assert main([*words, "--solver", "euler", "--size", "32x32", "--seed", "1"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "step" in line]
    assert [line.split(": ")[2].split(",")[0] for line in told] == [
        "step 2 of 5",
        "step 4 of 5",
        "step 5 of 5",
    ]
    with Image.open("now.png") as now, Image.open("painting.png") as last:
        assert now.tobytes() == last.tobytes()


def test_ctrl_c_writes_what_is_finished(capsys, monkeypatch):
    told: list[int] = []

    class Interrupting(commands._Watch):
        def __call__(self, now: Any) -> None:
            told.append(now.step)
            if len(told) == 3:  # the first step of the second picture
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(commands, "_Watch", Interrupting)
    before = signal.getsignal(signal.SIGINT)
    words = ["paint", "a dog", "--count", "3", "--batch", "1", "--seed", "1", "--out", "dogs"]
    assert main([*words, *FAST]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert [path.name for path in Path("dogs").iterdir()] == ["001.png"]
    assert read_record("dogs/001.png").seed == 1
    assert "1 of 3 pictures were finished" in capsys.readouterr().err
    assert told == [1, 2, 1]


def test_a_second_ctrl_c_stops_at_once(capsys, monkeypatch):
    class Impatient(commands._Watch):
        def __call__(self, now: Any) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(commands, "_Watch", Impatient)
    assert main(["paint", "a dog", "--seed", "1", *FAST]) == 130
    assert not Path("painting.png").exists()
    assert "heliodor: stopped" in capsys.readouterr().err


def test_what_is_cut_of_a_prompt_is_said(capsys):
    words = " ".join(f"word{number}" for number in range(400))
    assert main(["paint", words, "--seed", "1", *FAST]) == 0
    assert "is longer than 256 tokens; left out at its end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "say what to paint, or --like"),
        (["a dog", "--out", "dog.jpg"], 2, "give a .png"),
        (["a dog", "--count", "2", "--out", "dog.png"], 2, "holds one picture, and 2 are painted"),
        (["a dog", "--out", "none/dog.png"], 2, "there is no folder none"),
        (["a dog", "--sheet", "sheet.jpg"], 2, "must end in .png"),
        (["a dog", "--size", "50x32"], 1, "expected multiples of 16"),
        (["a dog", "--size", "wide"], 2, "invalid"),
        (["a dog", "--steps", "0"], 1, "steps is 0"),
        (["a dog", "--solver", "ddim"], 1, "solver is 'ddim'"),
        (["a dog", "--seed", "-1"], 1, "a seed is -1"),
        ([""], 1, "the prompt is empty"),
        (["--like", "none.png"], 1, "none.png"),
    ],
)
def test_bad_input_is_one_line(capsys, words, code, message):
    try:
        found = main(["paint", *words])
    except SystemExit as error:
        found = error.code
    assert found == code
    assert message in capsys.readouterr().err
    assert not Path("painting.png").exists()


def test_a_round_trip_is_shown(capsys, shipped):
    Image.effect_noise((50, 40), 60).convert("RGB").save("a.png")
    assert main(["vae", "a.png", "--draw", "both.png", "--model", "there"]) == 0
    wanted = autoencoder().round_trip("a.png")
    assert capsys.readouterr().out == f"48x40\t6x5x4\t{wanted.psnr:.2f} dB\n"
    assert shipped == [("there", {"dtype": "float32", "device": "cpu"})]
    with Image.open("both.png") as both:
        assert both.size == (2 * 56 + 8, 56)
        assert both.crop((64, 8, 112, 48)).tobytes() == wanted.picture.tobytes()


def test_a_round_trip_is_json_for_several(capsys):
    for name in ("a.png", "b.png"):
        Image.effect_noise((32, 32), 60).convert("RGB").save(name)
    assert main(["vae", "a.png", "none.png", "b.png", "--json"]) == 1
    out, talk = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [each["image"] for each in found] == ["a.png", "b.png"]
    assert found[0]["latent_size"] == [4, 4, 4]
    assert "none.png" in talk


def test_psnr_is_its_formula():
    a = Image.fromarray(np.full((4, 4, 3), 10, np.uint8))
    b = Image.fromarray(np.full((4, 4, 3), 13, np.uint8))
    assert psnr(a, b) == pytest.approx(10 * np.log10(255**2 / 9))
    assert psnr(a, a) == float("inf")
