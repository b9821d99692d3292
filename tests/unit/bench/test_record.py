from __future__ import annotations

import json

import pytest

from heliodor.bench import record
from heliodor.errors import InputError


def made(**changes):
    values = {
        "format": 1,
        "size": "tiny",
        "weights": "random",
        "prefix": 16,
        "repetitions": 2,
        "steps": 4,
        "seed": 0,
        "kernels": "kernels: plain",
        "machine": {
            "processor": "a processor",
            "instructions": ["avx2"],
            "cores": 2,
            "threads": 2,
            "memory_bytes": 24 * 2**30,
            "versions": {"torch": "2.13.0"},
        },
        "parts": {},
    }
    return values | changes


def part(**changes):
    return {"date": "2026-01-01", "seconds": 2.0, "bystanders": 0.25, "skipped": {}} | changes


HEAD = part(samples={"int8": {"free": [0.1], "detect": [0.08]}})


def test_parts_of_two_runs_are_one_record_and_the_later_one_counts():
    old = made(parts={"head": HEAD, "batch": part(failed="once")})
    new = made(parts={"batch": part(failed="again")}, steps=8)
    found = record.merged(old, new)
    assert found["parts"] == {"head": HEAD, "batch": part(failed="again")}
    assert found["steps"] == 8


@pytest.mark.parametrize("field", ["size", "weights", "seed"])
def test_runs_of_different_things_are_not_mixed(field):
    with pytest.raises(InputError, match=f"has {field} .*name another file"):
        record.merged(made(**{field: "other"}), made())


def test_runs_on_different_processors_are_not_mixed():
    other = made()
    other["machine"] = {**other["machine"], "processor": "another"}
    with pytest.raises(InputError, match="another processor"):
        record.merged(other, made())


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "bench.json"
    assert record.read(path) is None
    whole = record.finished(made(parts={"head": HEAD}))
    record.write(whole, path)
    assert record.read(path) == whole
    assert [p.name for p in tmp_path.iterdir()] == ["bench.json"]


def test_each_row_of_the_record_has_its_verdict():
    rows = record.finished(made(parts={"head": HEAD}))["rows"]
    (row,) = [row for row in rows if row["part"] == "head"]
    assert row == {
        "row": "time a token of 'detect dog' over free text, int8",
        "part": "head",
        "value": pytest.approx(0.8),
        "low": pytest.approx(0.8),
        "high": pytest.approx(0.8),
        "unit": "x",
        "floor": 0.85,
        "aim": 0.75,
        "verdict": "pass",
        "why": "",
    }
    assert {row["verdict"] for row in rows if row["part"] != "head"} == {"not measured"}


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', '{"rows": []}'])
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(InputError, match="name another"):
        record.read(path)


def test_nothing_that_is_no_number_gets_into_the_file(tmp_path):
    path = tmp_path / "bench.json"
    record.write(made(), path)
    with pytest.raises(ValueError, match="Out of range"):
        record.write(made(steps=float("nan")), path)
    assert json.loads(path.read_text())["steps"] == 4
    assert len(list(tmp_path.iterdir())) == 1


def test_the_table_shows_what_failed_and_what_took_no_part():
    first = part(
        samples={"transformers": {"first": [2.0, 2.0], "step": [[0.5, 0.5], [0.5, 0.5]]}},
        limits={"float32": [2e11], "int8": [1e12], "read": [20e9]},
        source="our own code",
        gemm={},
        costs={
            "vision_operations": 10**11,
            "decoder_operations": 10**12,
            "step_bytes": {},
            "resting_bytes": {},
        },
        accuracy={"transformers": {"kl": 1e-9, "top1": 1.0, "relative": 2e-6}},
        skipped={"int8": "no such recipe"},
    )
    parts = {"first": first, "llama": part(absent="not given"), "files": part(failed="disk full")}
    text = record.table(made(parts=parts))
    assert "a processor, 2 cores, 2 threads; avx2; 24 GiB; torch 2.13.0" in text
    assert "| 4x | 4.6x | not measured: int8: no such recipe |" in text
    assert "not measured: not given" in text
    assert "FAILED: disk full" in text
    assert "float32 200 GFLOPS, int8 1000 GOPS, reading 20.0 GB/s (our own code)" in text
    assert "| transformers (first) | 2.000 | 550 | 2.00 |" in text
    assert "| transformers (first) | 1.00e-09 | 100% | 2.00e-06 |" in text
    assert "others kept 0.25 cores busy" in text
