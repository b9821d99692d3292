"""The bar on a terminal, the lines elsewhere, the file in both cases."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from heliodor.teach.log import Log
from heliodor.teach.state import Resumed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(written: str) -> list[str]:
    """What stands on a terminal after carriage returns and clearings, line by line."""
    rows = []
    for line in written.split("\n"):
        row = ""
        for part in re.split(r"(\r|\x1b\[K)", line):
            row = row if part == "\r" else "" if part == "\x1b[K" else row + part
        rows.append(row)
    return rows


def open_terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 100) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    return stream


def log(folder: Path, *, start: int = 0, quiet: bool = False) -> Log:
    at = Resumed(step=start, seconds=0.0)
    return Log(folder / "log.jsonl", "small", steps=8, every=2, start=at, quiet=quiet)


def test_the_bar_stays_in_sight_and_moves_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = open_terminal(monkeypatch)
    kept = log(tmp_path)
    with kept:
        kept.write(0, {"loss": 4.0})
        assert screen(terminal.getvalue()) == ["small [###.....................] 1/8  (0 min left)"]
        kept.write(1, {"loss": 2.0})
        assert screen(terminal.getvalue()) == [
            "small [######..................] 2/8 loss 3 (0 min left)"
        ]
        kept.write(2, {"loss": 1.0})
        assert screen(terminal.getvalue()) == [
            "small [#########...............] 3/8 loss 3 (0 min left)"
        ]
    assert terminal.getvalue().endswith("left)\n")


def test_samples_push_the_bar_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    kept = log(tmp_path)
    with kept:
        kept.write(6, {"loss": 4.0})
        kept.samples(6, ["caption en -> cat | dog"])
        kept.write(7, {"loss": 2.0})
    assert screen(terminal.getvalue()) == [
        "    caption en -> cat | dog",
        "small [########################] 8/8 loss 3 (0 min left)",
        "",
    ]


def test_a_narrow_terminal_never_wraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch, columns=40)
    kept = log(tmp_path)
    with kept:
        kept.write(1, {f"figure{index}": 1.0 for index in range(9)})
    assert screen(terminal.getvalue()) == ["small [######..................] 2/8 fi", ""]


def test_quiet_leaves_a_terminal_alone_and_writes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = open_terminal(monkeypatch)
    kept = log(tmp_path, quiet=True)
    with kept:
        kept.write(0, {"loss": 1.0})
        kept.write(1, {"loss": 0.00004})
        kept.samples(1, ["größer"])
    assert terminal.getvalue() == ""
    text = (tmp_path / "log.jsonl").read_text("utf-8")
    assert [json.loads(line) for line in text.splitlines()] == [
        {"step": 2, "of": 8, "seconds": 0, "loss": 0.5},
        {"step": 2, "samples": ["größer"]},
    ]
    assert "größer" in text


def test_a_later_sitting_adds_to_the_file(tmp_path: Path) -> None:
    for start in (0, 2):
        kept = log(tmp_path, start=start, quiet=True)
        with kept:
            kept.write(start, {})
            kept.write(start + 1, {})
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [2, 4]
