"""Every recipe, shrunk, through the command: what is built, trained, carried over, refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny as tiny_models
from tests.unit.teach import small

import heliodor
from heliodor.checkpoints.positions import resize_positions
from heliodor.cli.main import main
from heliodor.teach.data.coverage import KINDS
from heliodor.teach.data.example import Example
from heliodor.teach.data.sources import DocumentSource, LettersSource, ReadingSource, SceneSource
from heliodor.teach.naming import Words
from heliodor.teach.recipes import RECIPES, siglip, starting, tiny
from heliodor.teach.recipes.siglip import SiglipSettings, TinySiglip
from heliodor.teach.recipes.tiny import HIGH, LOW, MID, MIX, mixture
from heliodor.teach.state import Resumed, newest_model


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The recipes with networks of 16 channels, run without a worker; a folder to run in."""

    def without_worker(run: Any, *rest: Any) -> Resumed:
        return train(replace(run, workers=0), *rest, quiet=True)

    train = siglip.train
    for module in (siglip, tiny):
        monkeypatch.setattr(module, "train", without_worker)
    small.shrink(monkeypatch)
    monkeypatch.setattr(starting, "FITTED", 6)
    return tmp_path


PAIR = ["steps=2", "scene_steps=2", "images=3", "scene_images=3", "size=48", "scene_size=64"]
STILL = ["rate=0", "muon=0"]
STAGE = ["steps=2", "images=2", "sample_every=2"]


def last_step(workdir: Path) -> int:
    marks = sorted(workdir.glob("state-*/run.json"))
    return json.loads(marks[-1].read_text())["step"]


def trained(name: str, workdir: Path, *words: str) -> dict[str, torch.Tensor]:
    assert main(["train", name, "--workdir", str(workdir), *words]) == 0
    return newest_model(workdir)


def test_the_stages_of_tiny_follow_each_other(shrunk: Path) -> None:
    """siglip, low, mid, letters, high, mix: two steps each, grids of 4, 4, 7, 8, 8, 8."""
    assert main(["train", "tiny-siglip", "--workdir", str(shrunk / "siglip"), *PAIR]) == 0
    assert last_step(shrunk / "siglip" / "singles") == 2
    assert last_step(shrunk / "siglip" / "scenes") == 2

    sizes = {
        "low": ("siglip/scenes", 64),
        "mid": ("low", 112),
        "letters": ("mid", 128),
        "high": ("letters", 128),
        "mix": ("high", 128),
    }
    for name, (before, size) in sizes.items():
        words = [*STAGE, f"size={size}", f"start={shrunk / before}"]
        words += [] if name == "letters" else ["turns=2"]
        model = trained(f"tiny-{name}", shrunk / name, *words)
        assert last_step(shrunk / name) == 2
        assert model["vision.position"].shape == ((size // 16) ** 2, 16)
        lines = [json.loads(x) for x in (shrunk / name / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [2, 2]
        assert all(" -> " in sample for line in lines for sample in line.get("samples", ()))


def test_what_a_stage_learnt_is_where_the_next_one_starts(shrunk: Path) -> None:
    """At learning rates of zero nothing moves: the last state is what was taken over, what the
    image tower knows of its patches included."""
    assert main(["train", "tiny-siglip", "--workdir", str(shrunk / "siglip"), *PAIR]) == 0
    pair = newest_model(shrunk / "siglip" / "scenes")
    words = [
        *STAGE,
        "size=112",
        "letters=0",
        "naming=0",
        *STILL,
        f"start={shrunk / 'siglip' / 'scenes'}",
    ]
    low = trained("tiny-low", shrunk / "low", *words)
    for name, value in low.items():
        if name == "vision.position":
            assert torch.equal(value, resize_positions(pair[name], 49))
            assert value.shape != pair[name].shape
        elif name.startswith(("vision.", "covers.")):
            assert torch.equal(value, pair[name]), name
    assert low["covers.weight"].abs().max() > 0
    fresh = trained("tiny-low", shrunk / "fresh", *STAGE, "size=112", *STILL)
    assert not torch.equal(fresh["vision.patch.weight"], low["vision.patch.weight"])
    assert torch.equal(fresh["language.embedding.weight"], low["language.embedding.weight"])

    words = [*STAGE, "size=112", "letters=0", "naming=0", *STILL, f"start={shrunk / 'low'}"]
    high = trained("tiny-high", shrunk / "high", *words)
    assert set(high) == set(low)
    assert all(torch.equal(value, low[name]) for name, value in high.items())


def test_from_a_stages_folder_all_but_the_layer_for_patches_is_taken_over(shrunk: Path) -> None:
    low = trained("tiny-low", shrunk / "low", *STAGE, "size=32")
    words = [
        *STAGE,
        *STILL,
        "naming=0",
        "size=112",
        "letters=0",
        f"start={shrunk / 'low' / 'model'}",
    ]
    high = trained("tiny-high", shrunk / "high", *words)
    for name, value in high.items():
        before = low[name].half().float()
        if name == "vision.position":
            before = resize_positions(before, 49)
        if name.startswith("covers."):
            assert not torch.equal(value, before)
        else:
            assert torch.equal(value, before), name


def test_letters_move_the_image_tower_alone(shrunk: Path) -> None:
    low = trained("tiny-low", shrunk / "low", *STAGE, "size=64")
    words = [*STAGE, "size=64", "pages=0", f"start={shrunk / 'low'}"]
    letters = trained("tiny-letters", shrunk / "letters", *words)
    moved = {name for name, value in letters.items() if not torch.equal(value, low[name])}
    assert all(name.startswith(("vision.", "covers.")) for name in moved)
    assert {"vision.patch.weight", "covers.weight"} <= moved


def test_at_rate_0_the_image_tower_alone_stays_as_it_is(shrunk: Path) -> None:
    low = trained("tiny-low", shrunk / "low", *STAGE, "size=64")
    words = [*STAGE, "size=64", "pages=0", "letters=0", "tower=0", f"start={shrunk / 'low'}"]
    high = trained("tiny-high", shrunk / "high", *words)
    kept = {name for name, value in high.items() if torch.equal(value, low[name])}
    assert kept == {name for name in low if name.startswith("vision.")}


def test_a_tower_without_its_layer_gets_one_fitted_before_it_moves(
    shrunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder the layer is fitted; from a run's state it is there, and to a run that is
    resumed it comes back."""
    fitted: list[int] = []

    def fit(_: object, examples: Iterator[Example]) -> None:
        fitted.append(len(list(examples)))

    monkeypatch.setattr(starting, "fit_covers", fit)
    trained("tiny-low", shrunk / "low", *STAGE, "size=64")
    words = [*STAGE, "size=64", "pages=0", f"start={shrunk / 'low' / 'model'}"]
    trained("tiny-letters", shrunk / "letters", *words)
    assert fitted == [6]
    trained("tiny-letters", shrunk / "letters", *words, "--resume")
    words[-1] = f"start={shrunk / 'letters'}"
    trained("tiny-letters", shrunk / "more", *words)
    assert fitted == [6]


def test_words_are_fitted_before_a_stage_only_where_they_do_not_lie_near(
    shrunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are fitted once: a run that starts from the result finds them where they should be."""
    fitted: list[float] = []
    far = [9.0, 1.0, 9.0]

    def fit(_: object, examples: Iterator[Example], words: Words) -> None:
        assert len(list(examples)) == 6
        fitted.append(float(words.share.sum()))

    monkeypatch.setattr(starting, "fit_names", fit)
    monkeypatch.setattr(starting, "naming_loss", lambda *_: (None, {"named": far.pop(0)}))
    trained("tiny-low", shrunk / "low", *STAGE, "size=64")
    words = [*STAGE, "size=64", "pages=0", "letters=0", f"start={shrunk / 'low'}"]
    trained("tiny-high", shrunk / "first", *words)
    assert fitted == [pytest.approx(KINDS)]
    trained("tiny-high", shrunk / "second", *words)
    trained("tiny-high", shrunk / "third", *words, "naming=0")
    assert len(fitted) == 1
    assert far == [9.0]


def test_a_stage_ends_with_a_folder_that_loads(shrunk: Path) -> None:
    """The folder holds the last state's weights in float16 but for the layer that says what lies
    in patches, and a model one can ask."""
    words = [*STAGE, "size=32"]
    state = trained("tiny-low", shrunk / "low", *words)
    vlm = heliodor.load(shrunk / "low" / "model", dtype="float32")
    loaded = vlm.model.state_dict()
    assert set(state) - set(loaded) == {"covers.weight", "covers.bias"}
    assert set(loaded) <= set(state)
    for name, value in loaded.items():
        assert torch.equal(value, state[name].half().float()), name
    assert isinstance(vlm.ask(tiny_models.picture(), "what is this?").text, str)


def test_a_stopped_stage_ends_without_one(monkeypatch: pytest.MonkeyPatch, shrunk: Path) -> None:
    monkeypatch.setattr(tiny, "train", lambda *_: Resumed(step=1, seconds=0.0))
    overrides = dict(word.split("=") for word in [*STAGE, "size=32"])
    RECIPES["tiny-low"].run(shrunk / "low", overrides, resume=False)
    assert not (shrunk / "low" / "model").exists()


def test_a_folder_in_use_is_refused_without_resume(
    shrunk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "tiny-low", "--workdir", str(shrunk / "low"), *STAGE, "size=32"]
    assert main(words) == 0
    assert main(words) == 1
    assert "holds an earlier run: pass --resume, or another --workdir" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0


@pytest.mark.parametrize(
    "change", ["images=3", "turns=1", "seed=5", "rate=1e-5", "muon=0.1", "steps=3"]
)
def test_a_run_resumes_only_with_the_settings_it_began_with(
    shrunk: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "tiny-low", "--workdir", str(shrunk / "low"), *STAGE, "size=32"]
    assert main(words) == 0
    assert main([*(w for w in words if w.split("=")[0] not in change), change, "--resume"]) == 1
    assert "was written by a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images=0"], "images=0: at least 1 is wanted"),
        (["batch=8"], "no setting 'batch'"),
        (["scenes=0", "lines=0"], "scenes, lines and pages are all 0"),
        (["lines=-1"], "lines=-1: a finite number of 0 or more is wanted"),
        (["size=8"], "image_size 8 is smaller than patch_size 16"),
        (["start=nowhere"], "nowhere holds no training state to start from"),
    ],
)
def test_settings_that_cannot_be_are_one_line_and_code_1(
    shrunk: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {word.split("=")[0] for word in words}
    kept = [word for word in STAGE if word.split("=")[0] not in changed]
    assert main(["train", "tiny-low", "--workdir", str(shrunk / "low"), *kept, *words]) == 1
    assert message in capsys.readouterr().err
    assert not list(shrunk.rglob("state-*"))


def test_a_stop_in_the_first_siglip_stage_does_not_start_the_second(
    monkeypatch: pytest.MonkeyPatch, shrunk: Path
) -> None:
    folders: list[str] = []

    def stopped(_: object, __: object, workdir: Path) -> Resumed:
        folders.append(workdir.name)
        return Resumed(step=1, seconds=0.0)

    monkeypatch.setattr(siglip, "train", stopped)
    overrides = dict(word.split("=") for word in PAIR)
    TinySiglip().run(shrunk, overrides, resume=False)
    assert folders == ["singles"]


def test_the_second_siglip_stage_starts_where_the_first_ended(shrunk: Path) -> None:
    words = [*PAIR, "scene_rate=0", "scene_muon=0"]
    assert main(["train", "tiny-siglip", "--workdir", str(shrunk), *words]) == 0
    first, second = newest_model(shrunk / "singles"), newest_model(shrunk / "scenes")
    assert first["vision.position"].shape == (9, 16)
    for name, value in second.items():
        before = first[name]
        if name == "vision.position":
            before = resize_positions(before, 16)
        assert torch.equal(value, before), name


def test_low_reads_no_documents_and_draws_as_it_is_told() -> None:
    settings = replace(LOW, close=0.35, strength=0.6, most=3)
    kinds = [type(source) for _, source in mixture(settings)]
    assert kinds == [SceneSource, ReadingSource]
    (_, scenes), *_ = mixture(settings)
    assert isinstance(scenes, SceneSource)
    assert (scenes.close, scenes.strength, scenes.most) == (0.35, 0.6, 3)
    assert set(scenes.mix.tasks) == {"caption", "ask", "detect", "segment"}


@pytest.mark.parametrize("settings", [MID, HIGH, MIX])
def test_later_stages_learn_all_six_tasks(settings: tiny.TinySettings) -> None:
    kinds = [type(source) for _, source in mixture(settings)]
    assert kinds[:3] == [SceneSource, ReadingSource, DocumentSource]
    (_, scenes), *_ = mixture(settings)
    assert isinstance(scenes, SceneSource)
    assert set(scenes.mix.tasks) == {"caption", "ask", "detect", "segment"}


def test_shares_reach_the_sources_and_the_last_stage_asks_one_at_a_time() -> None:
    shares = [share for share, _ in mixture(replace(MID, scenes=2.0, lines=0.5, pages=0.3))]
    assert shares == [2.0, 0.5, 0.3]
    assert (HIGH.together, MIX.together) == (True, False)
    *_, (share, source) = mixture(replace(HIGH, letters=0.2))
    assert (share, type(source)) == (0.2, LettersSource)


@pytest.mark.parametrize("settings", [LOW, MID, HIGH, MIX])
def test_every_stage_tells_what_lies_in_patches_of_the_towers_size(
    settings: tiny.TinySettings,
) -> None:
    found = {
        source.patch
        for _, source in mixture(settings)
        if isinstance(source, SceneSource | ReadingSource)
    }
    assert found == {16}


def test_stages_share_no_batches() -> None:
    """A stage's batches are functions of its seed: no two stages have the same."""
    seeds = [SiglipSettings().seed, SiglipSettings().seed + 1]
    seeds += [settings.seed for settings in (LOW, MID, HIGH, MIX)]
    assert len(set(seeds)) == len(seeds)


def test_every_recipe_has_a_summary_line() -> None:
    assert {"tiny-codec", "tiny-siglip", "tiny-low", "tiny-high", "tiny-mix"} <= set(RECIPES)
    summaries = [recipe.summary for recipe in RECIPES.values()]
    assert len(set(summaries)) == len(summaries)
    assert all(20 < len(summary) < 100 for summary in summaries)
