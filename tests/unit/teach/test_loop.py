"""The loop: its log, its samples, its states, its signals, its errors."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.unit.teach import small
from torch import Tensor, nn

from heliodor.errors import TrainingError
from heliodor.teach.data.collate import Batch
from heliodor.teach.log import Mean
from heliodor.teach.loop import Run, train
from heliodor.teach.optim import AdamConfig
from heliodor.teach.state import Resumed


class Scripted:
    """A weight, a batch that is its step's number, a loss that is said beforehand."""

    def __init__(self, losses: Mapping[int, float] | None = None) -> None:
        self.model = nn.Linear(1, 1)
        self.losses = losses or {}
        self.drawn: list[int] = []
        self.training: list[bool] = []
        self.signals: dict[int, int] = {}

    def batch(self, step: int) -> Tensor:
        return torch.tensor(step)

    def loss(self, batch: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        step = int(batch)
        self.drawn.append(step)
        self.training.append(self.model.training)
        if step in self.signals:
            signal.raise_signal(self.signals[step])
        value = self.losses.get(step, float(step))
        return self.model.weight.sum() * 0 + value, {"half": value / 2}

    def divide(self, batch: Tensor, parts: int) -> list[tuple[float, Tensor]]:
        return [(1 / parts, batch)] * parts

    def samples(self) -> list[str]:
        self.training.append(self.model.training)
        return [f"after {len(self.drawn)} steps", "ça va"]


def lines(workdir: Path) -> list[dict[str, object]]:
    text = (workdir / "log.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_log_line_holds_the_means_since_the_line_before(tmp_path: Path) -> None:
    run = small.run(steps=5, log_every=2)
    assert train(run, Scripted(), tmp_path, quiet=True).step == 5
    found = lines(tmp_path)
    assert [line.pop("seconds") for line in found] == [0, 0, 0]
    assert found == [
        {"step": 2, "of": 5, "loss": 0.5, "half": 0.25, "norm": 0.0},
        {"step": 4, "of": 5, "loss": 2.5, "half": 1.25, "norm": 0.0},
        {"step": 5, "of": 5, "loss": 4.0, "half": 2.0, "norm": 0.0},
    ]


def test_lines_on_screen_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(small.run(steps=4, log_every=2), Scripted(), tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        "small 2/4 loss 0.5 norm 0 half 0.25 (0 min left)",
        "small 4/4 loss 2.5 norm 0 half 1.25 (0 min left)",
    ]


def test_quiet_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(small.run(steps=2, sample_every=1), Scripted(), tmp_path, quiet=True)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_samples_appear_in_the_log_and_on_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objective = Scripted()
    train(small.run(steps=5, log_every=100, sample_every=2), objective, tmp_path)
    shown = [line for line in lines(tmp_path) if "samples" in line]
    assert shown == [
        {"step": 2, "samples": ["after 2 steps", "ça va"]},
        {"step": 4, "samples": ["after 4 steps", "ça va"]},
    ]
    assert "    after 4 steps\n    ça va\n" in capsys.readouterr().err
    # Losses are taken in training mode, samples are not, and the model is handed back at rest.
    assert objective.training == [True, True, False, True, True, False, True]
    assert objective.model.training is False


def test_a_real_model_shows_its_answers_beside_the_truth(tmp_path: Path) -> None:
    objective = small.objective(shown=2)
    train(small.run(steps=2, sample_every=2), objective, tmp_path, quiet=True)
    (shown,) = [line["samples"] for line in lines(tmp_path) if "samples" in line]
    turns = [turn for example in objective.shown for turn in example.turns]
    assert isinstance(shown, list)
    assert len(shown) == len(turns) >= 2
    for line, turn in zip(shown, turns, strict=True):
        assert line.startswith(f"{turn.prompt} -> ")
        assert line.endswith(f" | {turn.suffix}")


def tokens(batch: Batch) -> list[object]:
    rows = [[g.tokens.tolist(), g.prefix.tolist(), g.image.tolist()] for g in batch.groups]
    return [batch.pixels.tolist(), rows]


class Watched:
    """An objective whose batches are noted where the loss is taken."""

    def __init__(self) -> None:
        self.inner = small.objective()
        self.model = self.inner.model
        self.seen: list[object] = []

    def batch(self, step: int) -> Batch:
        return self.inner.batch(step)

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float]]:
        self.seen.append(tokens(batch))
        return self.inner.loss(batch)

    def divide(self, batch: Batch, parts: int) -> list[tuple[float, Batch]]:
        return self.inner.divide(batch, parts)

    def samples(self) -> list[str]:
        return []


def test_worker_processes_hand_over_the_same_batches_in_order(tmp_path: Path) -> None:
    """No, one and two workers: the same batches, hence the same weights."""
    found = {}
    for workers in (0, 1, 2):
        watched = Watched()
        train(small.run(steps=6, workers=workers), watched, tmp_path / str(workers), quiet=True)
        found[workers] = watched
    wanted = [tokens(found[0].batch(step)) for step in range(6)]
    assert found[0].seen == found[1].seen == found[2].seen == wanted
    assert wanted[0] != wanted[1]
    states = [small.state_files(tmp_path / str(workers)) for workers in (0, 1, 2)]
    assert states[0] == states[1] == states[2]
    assert list(states[0]) == ["state-00000006"]


def test_parts_side_by_side_take_the_same_steps_but_for_rounding(tmp_path: Path) -> None:
    """Whole, halves and thirds of the batches; halves again give the same bits.

    A large epsilon, lest Adam divides rounding by rounding where a gradient is zero in truth.
    """
    start = small.paligemma().state_dict()
    found: dict[str, tuple[list[object], dict[str, Tensor]]] = {}
    for name, parts in (("whole", 1), ("halves", 2), ("thirds", 3), ("again", 2)):
        objective = small.objective(images=5)
        slow = AdamConfig(rate=0.5, eps=1.0)
        run = small.run(steps=4, parts=parts, bfloat16=False, adam=slow)
        train(run, objective, tmp_path / name, quiet=True)
        losses = [line["loss"] for line in lines(tmp_path / name)]
        found[name] = (losses, objective.model.state_dict())
    for key, whole in found["whole"][1].items():
        moved = float((whole - start[key]).abs().max())
        for name in ("halves", "thirds"):
            assert float((found[name][1][key] - whole).abs().max()) < 1e-3 * moved + 1e-7, key
    assert float((found["whole"][1]["projector.weight"] - start["projector.weight"]).norm()) > 0.01
    assert found["halves"][0] == pytest.approx(found["whole"][0], abs=2e-4)
    assert small.state_files(tmp_path / "halves") == small.state_files(tmp_path / "again")


def test_a_part_counts_by_its_share(tmp_path: Path) -> None:
    """Two halves of a loss of 3 are a loss of 3, and their figures are means."""
    train(small.run(steps=1, parts=2), Scripted({0: 3.0}), tmp_path, quiet=True)
    (line,) = lines(tmp_path)
    assert (line["loss"], line["half"]) == (3.0, 1.5)


class Uneven(Scripted):
    """A quarter and three quarters, of which the first alone tells of tails."""

    def loss(self, batch: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        part = int(batch)
        figures: dict[str, float] = {"place": float(part), "ears": Mean(part, over=6 - 5 * part)}
        figures |= {"wings": Mean(0.0, over=0)} | ({} if part else {"tails": 7.0})
        return self.model.weight.sum() * 0 + 1.0, figures

    def divide(self, batch: Tensor, parts: int) -> list[tuple[float, Tensor]]:
        assert parts == 2
        return [(0.25, torch.tensor(0)), (0.75, torch.tensor(1))]


def test_figures_of_parts_count_by_share_or_by_what_they_are_over(tmp_path: Path) -> None:
    """A plain mean over the parts was logged once."""
    train(small.run(steps=1, parts=2), Uneven(), tmp_path, quiet=True)
    (line,) = lines(tmp_path)
    assert (line["place"], line["tails"]) == (0.75, 7.0)
    assert line["ears"] == round(1 / 7, 4)
    assert "wings" not in line


def test_training_lowers_the_loss_of_what_can_be_learnt(tmp_path: Path) -> None:
    train(small.run(steps=40, log_every=5), small.objective(), tmp_path, quiet=True)
    first, *_, last = [line["loss"] for line in lines(tmp_path)]
    assert isinstance(first, float)
    assert isinstance(last, float)
    assert last < first - 1.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_before_the_step(tmp_path: Path, bad: float) -> None:
    objective = Scripted({3: bad})
    run = small.run(steps=8, save_seconds=0.0)
    with pytest.raises(TrainingError, match=f"the loss at step 3 is {bad}.*last saved state"):
        train(run, objective, tmp_path, quiet=True)
    assert list(small.state_files(tmp_path)) == ["state-00000002", "state-00000003"]
    objective.losses = {}
    assert train(run, objective, tmp_path, quiet=True).step == 8
    assert objective.drawn == [0, 1, 2, 3, 3, 4, 5, 6, 7]


class Handled:
    """A handler of the caller's own that only counts."""

    def __init__(self, number: int) -> None:
        self.number, self.count = number, 0

    def __enter__(self) -> Handled:
        self.before = signal.signal(self.number, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(self.number, self.before)

    def _count(self, *_: object) -> None:
        self.count += 1


def test_sigterm_saves_ends_early_and_then_reaches_the_callers_handler(tmp_path: Path) -> None:
    objective = Scripted()
    objective.signals = {3: signal.SIGTERM}
    with Handled(signal.SIGTERM) as handled:
        stood = train(small.run(steps=8), objective, tmp_path, quiet=True)
        assert handled.count == 1
        assert signal.getsignal(signal.SIGTERM) == handled._count
    assert stood.step == 4
    assert list(small.state_files(tmp_path)) == ["state-00000004"]
    objective.signals = {}
    assert train(small.run(steps=8), objective, tmp_path, quiet=True).step == 8
    assert objective.drawn == list(range(8))


def test_ctrl_c_saves_before_it_interrupts(tmp_path: Path) -> None:
    objective = Scripted()
    objective.signals = {1: signal.SIGINT}
    with pytest.raises(KeyboardInterrupt):
        train(small.run(steps=8), objective, tmp_path, quiet=True)
    assert list(small.state_files(tmp_path)) == ["state-00000002"]


def test_a_run_outside_the_main_thread_trains_too(tmp_path: Path) -> None:
    stood: list[Resumed] = []
    run = small.run(steps=3)
    thread = threading.Thread(
        target=lambda: stood.append(train(run, Scripted(), tmp_path, quiet=True))
    )
    thread.start()
    thread.join()
    assert [resumed.step for resumed in stood] == [3]


def test_a_finished_run_draws_and_writes_nothing_more(tmp_path: Path) -> None:
    run = small.run(steps=3)
    first = train(run, Scripted(), tmp_path, quiet=True)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    objective = Scripted()
    assert train(run, objective, tmp_path, quiet=True) == first
    assert objective.drawn == []
    assert objective.model.training is False
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_seconds_add_up_over_sittings(tmp_path: Path) -> None:
    objective = Scripted()
    objective.signals = {1: signal.SIGTERM}
    run = small.run(steps=4)
    with Handled(signal.SIGTERM):
        train(run, objective, tmp_path, quiet=True)
    (mark,) = tmp_path.glob("*/run.json")
    about = json.loads(mark.read_text())
    assert 0 < about["seconds"] < 60
    mark.write_text(json.dumps(about | {"seconds": 3600.0}))
    objective.signals = {}
    assert train(run, objective, tmp_path, quiet=True).seconds > 3600
    assert [line["seconds"] for line in lines(tmp_path)] == [0, 0, 3600, 3600]


@pytest.mark.parametrize(
    "other",
    [
        small.run(steps=9),
        small.run(adam=AdamConfig(rate=2e-2, decay=1e-3)),
        small.run(data="seed 8"),
        small.run(name="large"),
    ],
)
def test_a_run_with_other_settings_does_not_continue(tmp_path: Path, other: Run) -> None:
    train(small.run(), Scripted(), tmp_path, quiet=True)
    with pytest.raises(TrainingError, match="written by a run with other settings"):
        train(other, Scripted(), tmp_path, quiet=True)


def test_what_does_not_move_the_weights_may_change(tmp_path: Path) -> None:
    run = small.run()
    train(run, Scripted(), tmp_path, quiet=True)
    other = replace(run, log_every=3, sample_every=1, save_seconds=1.0, workers=1)
    assert train(other, Scripted(), tmp_path, quiet=True).step == 8
