"""``heliodor quantize``: from the command line to a file that other commands take."""

from __future__ import annotations

import json

import pytest
from tests import tiny

from heliodor.cli.main import main
from heliodor.cli.quantize import METHODS, SCHEMES, size
from heliodor.see.calibration import METHODS as KNOWN_METHODS
from heliodor.see.calibration import SCHEMES as KNOWN_SCHEMES


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model") / "small"
    tiny.vlm().save(folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path) -> str:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        tiny.picture(index).save(folder / f"{index}.png")
    return str(folder)


class TestQuantize:
    def test_the_file_answers_and_the_report_says_what_it_cost(
        self, source, photos, tmp_path, capsys
    ):
        target, picture = str(tmp_path / "q.safetensors"), f"{photos}/0.png"
        words = ["quantize", source, "-o", target, "--calibrate", photos, "--samples", "3"]
        assert main([*words, "--scheme", "int4", "--json"]) == 0
        said = capsys.readouterr()
        facts = json.loads(said.out)
        assert (facts["path"], facts["scheme"], facts["pairs"]) == (target, "int4", 3)
        assert facts["layers"]["language.layers.0.mlp.down"]["scheme"] == "int4"
        assert said.err.splitlines()[-1] == f"wrote {target}"
        assert "block 6 of 6: language.layers.2" in said.err
        assert main(["caption", picture, "--model", target, "--json"]) == 0
        assert "text" in json.loads(capsys.readouterr().out)

    def test_prompts_come_from_a_file_and_the_table_goes_to_stdout(
        self, source, photos, tmp_path, capsys
    ):
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("caption en\nocr\n")
        target = str(tmp_path / "q.safetensors")
        words = ["quantize", source, "-o", target, "--calibrate", photos, "--scheme", "mixed"]
        assert main([*words, "--prompts", str(prompts), "--budget", "1MB"]) == 0
        said = capsys.readouterr()
        assert said.out.startswith("layers ")
        assert "on 4 pairs of 2 pictures and prompts" in said.out
        assert "language.layers.*.mlp.up int8" in said.out

    @pytest.mark.parametrize(
        ("change", "code", "message"),
        [
            ({"--calibrate": "nowhere"}, 1, "nowhere does not exist"),
            ({"-o": "nowhere/q.safetensors"}, 1, "there is no folder nowhere"),
            ({"-o": "q.npz"}, 1, "does not end in .safetensors"),
            ({"--prompts": "nowhere.txt"}, 1, "nowhere.txt cannot be read"),
            ({"--scheme": "int2"}, 2, "invalid choice: 'int2'"),
            ({"--budget": "1MB"}, 2, "--budget chooses layers for --scheme mixed, not for int4"),
            ({"--budget": "much"}, 2, "much is no size"),
            ({"--samples": "0"}, 2, "0 is not above zero"),
        ],
    )
    def test_what_cannot_be_is_said_before_a_model_is_loaded(
        self, change, code, message, photos, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        options = {"-o": "q.safetensors", "--calibrate": photos} | change
        words = ["quantize", "a/model/that/is/not/there"]
        words += [part for pair in options.items() for part in pair]
        try:
            found = main(words)
        except SystemExit as leaving:
            found = leaving.code
        assert (found, message in capsys.readouterr().err) == (code, True)
        assert [p.name for p in tmp_path.iterdir()] == ["photos"]

    def test_choices_are_those_of_the_library(self):
        assert SCHEMES == KNOWN_SCHEMES
        assert tuple(KNOWN_METHODS) == METHODS

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("1200", 1200), ("1.5MB", 1_500_000), ("2 GiB", 2**31), ("3kib", 3072)],
    )
    def test_sizes(self, text, expected):
        assert size(text) == expected
