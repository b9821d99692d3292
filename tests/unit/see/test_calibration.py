"""From a model and a folder of pictures to a file: whole runs on networks of a few channels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny

import heliodor
from heliodor.errors import ConfigError, ImageError, InputError
from heliodor.quant.apply import recipe_of
from heliodor.quant.scheme import INT4, INT8
from heliodor.see.calibration import Settings, calibrate
from heliodor.see.calibration.samples import PROMPTS, find_pictures, pair_prompts, read_prompts
from heliodor.see.calibration.settings import METHODS, described
from heliodor.see.calibration.store import Store

FEW: dict[str, Any] = {"samples": 4, "answer_tokens": 4, "held_out": 2}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for index in range(5):
        where = folder if index < 3 else folder / "more"
        tiny.picture(index).save(where / f"{index}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def model() -> heliodor.VisionLanguageModel:
    return tiny.vlm()


class Killed(Exception):  # noqa: N818 - it is no error
    """Stands for a kill."""


def stop_at(words: str):
    def tell(said: str) -> None:
        if words in said:
            raise Killed(said)

    return tell


class TestRun:
    @pytest.mark.parametrize("scheme", ["int8", "int4"])
    def test_the_file_is_a_model_near_the_float_one(self, scheme, model, photos, tmp_path):
        target, said = tmp_path / "q.safetensors", []
        settings = Settings(scheme=scheme, **FEW)
        report = calibrate(model, target, photos, settings=settings, progress=said.append)
        made = heliodor.load(target)
        picture = tiny.picture(77)
        right = model.logits([picture], ["caption en"])[0, -1]
        found = made.logits([picture], ["caption en"])[0, -1]
        assert tiny.relative_error(found, right) < (0.1 if scheme == "int8" else 0.5)
        recipe = recipe_of(made.model)
        assert recipe is not None
        body = INT8 if scheme == "int8" else INT4
        assert recipe.scheme_for("language.layers.2.mlp.down") == body
        for name in ("language.embedding", "vision.blocks.0.mlp.up", "projector"):
            assert recipe.scheme_for(name) == INT8
        assert report.size == target.stat().st_size
        assert report.pictures == (4, 1)
        assert report.apart
        assert len(report.layers) == 2 * 6 + 1 + 3 * 7
        assert all(layer.error <= layer.plain_error for layer in report.layers.values())
        assert report.judgement.agreement > 0.5
        assert said[-2:] == ["block 6 of 6: language.layers.2", f"writing {target}"]
        assert [p.name for p in tmp_path.iterdir() if "q.safe" in p.name] == ["q.safetensors"]

    def test_the_report_is_json_and_a_table(self, model, photos, tmp_path):
        target = tmp_path / "q.safetensors"
        report = calibrate(model, target, photos, settings=Settings(**FEW))
        facts = json.loads(json.dumps(report.to_dict()))
        assert (facts["scheme"], facts["pictures"], facts["held_out_pictures"]) == ("int4", 4, 1)
        assert facts["layers"]["projector"]["scheme"] == "int8"
        assert 0 <= facts["next_tokens"]["agreement"] <= 1
        table = report.table()
        assert "language.layers.*.mlp.down int4" in table
        assert "of 1 held-out pictures" in table

    def test_mixed_gives_eight_bits_within_the_budget(self, model, photos, tmp_path):
        chosen = {}
        for budget in (None, 10**9):
            target = tmp_path / f"{budget}.safetensors"
            settings = Settings(scheme="mixed", budget=budget, **FEW)
            calibrate(model, target, photos, settings=settings)
            recipe = recipe_of(heliodor.load(target).model)
            assert recipe is not None
            layers = [f"language.layers.{i}.mlp.{n}" for i in range(3) for n in ("gate", "down")]
            chosen[budget] = [recipe.scheme_for(layer) for layer in layers]
        assert INT4 in chosen[None]
        assert set(chosen[10**9]) == {INT8}

    def test_the_model_given_stays_as_it_is(self, model, photos, tmp_path):
        before = {name: value.clone() for name, value in model.model.state_dict().items()}
        calibrate(model, tmp_path / "q.safetensors", photos, settings=Settings(**FEW))
        after = model.model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())

    def test_one_picture_serves_as_both_and_the_report_says_so(self, model, tmp_path):
        folder = tmp_path / "one"
        folder.mkdir()
        tiny.picture().save(folder / "a.jpg")
        report = calibrate(model, tmp_path / "q.safetensors", folder, settings=Settings(**FEW))
        assert not report.apart
        assert "the only picture" in report.table()
        assert report.to_dict()["held_out_pictures"] == 0


class TestResume:
    @pytest.mark.parametrize("at", ["block 1 of", "block 3 of", "block 5 of", "writing"])
    def test_a_killed_run_goes_on_to_the_same_file(self, at, model, photos, tmp_path):
        settings = Settings(**FEW)
        whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
        calibrate(model, whole, photos, settings=settings)
        with pytest.raises(Killed):
            calibrate(model, killed, photos, settings=settings, progress=stop_at(at))
        assert not killed.exists()
        said: list[str] = []
        calibrate(model, killed, photos, settings=settings, resume=True, progress=said.append)
        assert killed.read_bytes() == whole.read_bytes()
        done = {"block 1 of": 0, "block 3 of": 2, "block 5 of": 4, "writing": 6}[at]
        assert sum("block " in line for line in said) == 6 - done

    def test_killed_when_the_file_stood_already_it_is_written_again(
        self, model, photos, tmp_path, monkeypatch
    ):
        settings, target = Settings(**FEW), tmp_path / "q.safetensors"
        with monkeypatch.context() as patched:
            patched.setattr("heliodor.see.calibration.run.judge", lambda *_: stop_at("")("now"))
            with pytest.raises(Killed):
                calibrate(model, target, photos, settings=settings)
        first = target.read_bytes()
        with pytest.raises(InputError, match="exists: give another name"):
            calibrate(model, target, photos, settings=settings)
        calibrate(model, target, photos, settings=settings, resume=True)
        assert target.read_bytes() == first
        assert not Store(target).folder.exists()

    def test_the_search_for_sensitive_layers_is_kept(self, model, photos, tmp_path):
        settings, target = Settings(scheme="mixed", **FEW), tmp_path / "q.safetensors"
        with pytest.raises(Killed):
            calibrate(model, target, photos, settings=settings, progress=stop_at("block 1 of"))
        said: list[str] = []
        calibrate(model, target, photos, settings=settings, resume=True, progress=said.append)
        assert not [line for line in said if "how sensitive" in line]

    def test_another_run_does_not_go_on(self, model, photos, tmp_path):
        target = tmp_path / "q.safetensors"
        with pytest.raises(Killed):
            calibrate(
                model, target, photos, settings=Settings(**FEW), progress=stop_at("block 2 of")
            )
        other = Settings(scheme="int8", **FEW)
        with pytest.raises(InputError, match=r"had another settings: .* leave out --resume"):
            calibrate(model, target, photos, settings=other, resume=True)
        (photos / "3.png").unlink(missing_ok=True)
        tiny.picture(50).save(photos / "new.png")
        with pytest.raises(InputError, match="had another pictures"):
            calibrate(model, target, photos, settings=Settings(**FEW), resume=True)
        with pytest.raises(InputError, match="had another model"):
            calibrate(tiny.vlm(seed=3), target, photos, settings=Settings(**FEW), resume=True)

    def test_without_resume_it_begins_anew(self, model, photos, tmp_path):
        target = tmp_path / "q.safetensors"
        stopping = stop_at("block 3 of")
        for settings in (Settings(**FEW), Settings(scheme="int8", **FEW)):
            with pytest.raises(Killed):
                calibrate(model, target, photos, settings=settings, progress=stopping)
        kept = sorted(p.name for p in (tmp_path / "q.safetensors.work").iterdir())
        assert kept == ["000.safetensors", "001.safetensors", "run.json"]

    def test_a_folder_that_is_no_work_folder_is_left_alone(self, model, photos, tmp_path):
        work = Store(tmp_path / "q.safetensors").folder
        work.mkdir()
        (work / "mine").write_text("mine")
        with pytest.raises(InputError, match="in the way and is not from a calibration"):
            calibrate(model, tmp_path / "q.safetensors", photos, settings=Settings(**FEW))
        assert (work / "mine").read_text() == "mine"


class TestRefusals:
    def run(self, model, photos, target, **settings):
        calibrate(model, target, photos, settings=Settings(**FEW, **settings))

    def test_a_folder_without_pictures(self, model, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="holds no pictures"):
            self.run(model, tmp_path / "empty", tmp_path / "q.safetensors")

    def test_a_folder_that_is_not_there_or_is_a_file(self, model, tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            self.run(model, tmp_path / "none", tmp_path / "q.safetensors")
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="is no folder"):
            self.run(model, tmp_path / "file", tmp_path / "q.safetensors")

    def test_a_picture_that_is_none(self, model, photos, tmp_path):
        (photos / "broken.png").write_bytes(b"not a picture")
        with pytest.raises(ImageError, match=r"broken\.png: "):
            self.run(model, photos, tmp_path / "q.safetensors")

    def test_a_scheme_or_method_that_is_unknown(self):
        with pytest.raises(ConfigError, match="scheme is 'int3'; expected one of int8, int4"):
            Settings(scheme="int3")
        with pytest.raises(ConfigError, match="method is 'magic'"):
            Settings(method="magic")

    def test_numbers_that_ask_for_nothing_and_a_budget_without_use(self):
        with pytest.raises(InputError, match="samples is 0"):
            Settings(samples=0)
        with pytest.raises(InputError, match="a budget chooses layers for 'mixed'"):
            Settings(budget=1000)

    def test_outputs_that_cannot_be_written(self, model, photos, tmp_path):
        with pytest.raises(InputError, match="there is no folder"):
            self.run(model, photos, tmp_path / "none" / "q.safetensors")
        with pytest.raises(ConfigError, match=r"does not end in \.safetensors"):
            self.run(model, photos, tmp_path / "q.npz")
        (tmp_path / "q.safetensors").write_text("mine")
        with pytest.raises(InputError, match="exists: give another name, or --force"):
            self.run(model, photos, tmp_path / "q.safetensors")
        assert (tmp_path / "q.safetensors").read_text() == "mine"

    def test_a_model_that_is_quantised_already(self, model, photos, tmp_path):
        self.run(model, photos, tmp_path / "q.safetensors")
        again = heliodor.load(tmp_path / "q.safetensors")
        with pytest.raises(InputError, match="quantised already"):
            self.run(again, photos, tmp_path / "again.safetensors")
        assert not (tmp_path / "again.safetensors").exists()

    def test_a_budget_that_four_bits_exceed(self, model, photos, tmp_path):
        with pytest.raises(InputError, match="a budget of 100 bytes"):
            self.run(model, photos, tmp_path / "q.safetensors", scheme="mixed", budget=100)


class TestSamples:
    def test_pictures_of_all_folders_are_divided(self, photos):
        found = find_pictures(photos, 16, 64)
        names = [p.name for p in (*found.calibrating, *found.held_out)]
        assert sorted(names) == [f"{i}.png" for i in range(5)]
        assert len(found.held_out) == 1
        assert find_pictures(photos, 16, 64) == found
        assert len(find_pictures(photos, 16, 2).calibrating) == 2

    def test_all_pictures_come_before_one_comes_again(self):
        assert pair_prompts(3, 2, 99) == [(0, 0), (1, 1), (2, 0), (0, 1), (1, 0), (2, 1)]
        assert pair_prompts(3, 2, 4) == [(0, 0), (1, 1), (2, 0), (0, 1)]

    def test_prompts_are_the_lines_of_a_file(self, tmp_path):
        path = tmp_path / "prompts.txt"
        path.write_text("﻿caption en\n\n  answer en What is it?  \n", "utf-8")
        assert read_prompts(path) == ("caption en", "answer en What is it?")
        assert read_prompts(None) == PROMPTS
        assert {p.split()[0] for p in PROMPTS} == {"caption", "answer", "ocr", "detect", "segment"}

    def test_prompts_that_cannot_be_used_are_refused(self, tmp_path):
        path = tmp_path / "prompts.txt"
        path.write_text(" \n")
        with pytest.raises(InputError, match="holds 0 prompts"):
            read_prompts(path)
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InputError, match="not UTF-8"):
            read_prompts(path)
        with pytest.raises(InputError, match="cannot be read"):
            read_prompts(tmp_path / "none")

    def test_methods_are_told_apart(self):
        told = {json.dumps(described(Settings(method=method).how())) for method in METHODS}
        assert len(told) == len(METHODS) == 4
