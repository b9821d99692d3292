"""``heliodor chat`` over a Gemma of random weights, held to what the model itself says."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from tests import talking

import heliodor
from heliodor.cli.main import main
from heliodor.see.lm import LanguageModel, load_gemma


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    talking.lm().save(place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return load_gemma(folder)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch):
    def put(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    return put


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_a_prompt_gets_one_answer(folder, model, capsys):
    assert main(["chat", "--model", str(folder), "--prompt", "a bee", "--max-new-tokens", "7"]) == 0
    expected = model.chat([user("a bee")], max_new_tokens=7).text
    assert capsys.readouterr().out == f"{expected}\n"


def test_json_says_what_was_asked_and_how_sure_the_answer_is(folder, model, say, capsys):
    say("a bee")
    words = ["--prompt", "-", "--json", "--max-new-tokens", "7", "--top-k", "5", "--seed", "3"]
    assert main(["chat", "--model", str(folder), *words]) == 0
    sampler = heliodor.TopK(5, 1.0)
    expected = model.chat([user("a bee")], max_new_tokens=7, sampler=sampler, seed=3)
    greedy = model.chat([user("a bee")], max_new_tokens=7)
    assert expected.text != greedy.text
    assert json.loads(capsys.readouterr().out) == {"prompt": "a bee", **expected.to_dict()}


@pytest.mark.parametrize("as_json", ["text", "json"])
def test_raw_continues_the_prompt_up_to_a_stop(folder, model, capsys, as_json):
    (whole,) = model.generate(["a bee"], max_new_tokens=9)
    stop = whole.text[4:6]
    words = ["--raw", "--prompt", "a bee", "--stop", stop, "--max-new-tokens", "9"]
    assert main(["chat", "--model", str(folder), *words, *["--json"][: as_json == "json"]]) == 0
    out = capsys.readouterr().out
    found = json.loads(out)["text"] if as_json == "json" else out[:-1]
    assert found == whole.text[: whole.text.find(stop)]


def test_lines_are_one_talk_until_it_is_started_afresh(folder, model, say, capsys):
    say("a bee\n\n two dogs \n/new\ntwo dogs\n")
    assert main(["chat", "--model", str(folder), "--json", "--max-new-tokens", "5"]) == 0
    first = model.chat([user("a bee")], max_new_tokens=5)
    talk = [user("a bee"), {"role": "assistant", "content": first.text}, user("two dogs")]
    expected = [
        ("a bee", first.text),
        ("two dogs", model.chat(talk, max_new_tokens=5).text),
        ("two dogs", model.chat([user("two dogs")], max_new_tokens=5).text),
    ]
    out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["prompt"], each["text"]) for each in out] == expected
    assert expected[1] != expected[2]


def test_a_line_that_cannot_be_answered_is_said_and_forgotten(folder, model, say, capsys):
    say("bee " * 600 + "\na bee\n")
    assert main(["chat", "--model", str(folder), "--max-new-tokens", "5"]) == 1
    printed = capsys.readouterr()
    assert printed.out == model.chat([user("a bee")], max_new_tokens=5).text + "\n"
    assert "context of 512" in printed.err


def test_options_reach_the_model(folder, tmp_path, capsys, monkeypatch):
    given: dict[str, str] = {}

    def load(source: str, **options: str) -> LanguageModel:
        given.update(options, source=source)
        return load_gemma(folder)

    monkeypatch.setitem(vars(heliodor), "load_gemma", load)
    words = ["--dtype", "bfloat16", "--device", "cpu", "--revision", "r", "--tokenizer", "t"]
    assert (
        main(["chat", "--model", "google/x", *words, "--prompt", "a", "--max-new-tokens", "1"]) == 0
    )
    assert given == {
        "source": "google/x",
        "dtype": "bfloat16",
        "device": "cpu",
        "revision": "r",
        "tokenizer": "t",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--model"),
        (["--model", "x", "--raw"], "--prompt"),
        (["--model", "x", "--top-k", "3", "--top-p", "0.5"], "give one"),
        (["--model", "x", "--temperature", "-1"], "above 0"),
        (["--model", "x", "--beam", "2"], "--beam"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_2(words, said, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["chat", *words])
    assert leaving.value.code == 2
    assert said in capsys.readouterr().err


def test_a_vocabulary_without_turns_is_an_error_that_helps(capsys):
    assert main(["chat", "--model", "tiny", "--prompt", "a"]) == 1
    assert "instruction-tuned" in capsys.readouterr().err


def test_a_stop_that_is_empty_is_an_error(folder, capsys):
    assert main(["chat", "--model", str(folder), "--prompt", "a", "--stop", ""]) == 1
    assert "stop" in capsys.readouterr().err
