"""``heliodor bench`` from the command line, on the size that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heliodor.bench.run import PARTS
from heliodor.bench.sizes import SIZES
from heliodor.cli import bench
from heliodor.cli.main import main

QUICK = ["bench", "--size", "tiny", "--repetitions", "1", "--steps", "2", "--threads", "1"]
PROGRAM = """#!/bin/sh
echo '[{"n_prompt": 16, "avg_ns": 5e8, "build_commit": "abc", "build_number": 7},
 {"n_prompt": 0, "avg_ns": 4e8, "build_commit": "abc", "build_number": 7}]'
"""
PEER = """
import json, subprocess

class Bench:
    def __init__(self, program, config, kind, folder):
        self.name, self.version, self._program = f"llama.cpp {kind}", "made up", program
        (folder / f"{kind}.gguf").write_text(str(config.width))

    def measure(self, prompt, steps, threads):
        rows = json.loads(subprocess.run([self._program], capture_output=True, check=True).stdout)
        return rows[0]["avg_ns"] / 1e9, rows[1]["avg_ns"] / 1e9 / steps
"""


@pytest.fixture
def quick(tmp_path):
    peers = Path(__file__).parents[2] / "benchmarks" / "peers"
    return [*QUICK, "--scratch", str(tmp_path / "scratch"), "--peers", str(peers)]


def rows_of(record, part):
    return {row["row"]: row for row in record["rows"] if row["part"] == part}


def test_the_command_knows_the_parts_and_sizes_that_there_are():
    assert tuple(PARTS) == bench.PARTS
    assert tuple(SIZES) == bench._SIZES


@pytest.mark.slow
def test_parts_are_measured_and_added_to_one_file(quick, tmp_path, capsys):
    path = tmp_path / "bench.json"
    assert main([*quick, "--json", str(path), "--parts", "decode,head,batch"]) == 0
    record = json.loads(path.read_text())
    assert set(record["parts"]) == {"first", "head", "batch"}
    first = record["parts"]["first"]
    assert set(first["samples"]) == {"float32", "int8", "int4", "transformers"}
    for sample in first["samples"].values():
        assert len(sample["first"]) == 1
        assert [len(steps) for steps in sample["step"]] == [2]
        assert min(sample["first"]) > 0
    assert first["accuracy"]["transformers"]["relative"] < 1e-5
    assert first["accuracy"]["transformers"]["top1"] == 1.0
    assert 1e-3 < first["accuracy"]["int8"]["relative"] < 0.1
    assert first["accuracy"]["int8"]["kl"] < first["accuracy"]["int4"]["kl"]
    assert first["costs"]["step_bytes"]["int8"] < first["costs"]["step_bytes"]["float32"] / 3
    for row in rows_of(record, "first").values():
        assert row["value"] > 0
        assert row["verdict"] in {"aim", "pass", "FAIL"}
    table = capsys.readouterr().out
    assert "| decoding: int4 over transformers float32 |" in table
    assert "not measured: the part 'files' was not run" in table
    assert "its ratios say nothing" in table

    assert main([*quick, "--json", str(path), "--parts", "nextdit,ceilings"]) == 0
    again = json.loads(path.read_text())
    assert set(again["parts"]) == {"first", "head", "batch", "nextdit", "ceilings"}
    assert again["parts"]["first"] == first
    assert again["parts"]["nextdit"]["accuracy"]["int8"]["relative"] < 0.1
    (row,) = rows_of(again, "nextdit").values()
    assert row["value"] > 0


@pytest.mark.slow
def test_a_file_is_loaded_in_a_process_of_its_own(quick, tmp_path):
    path = tmp_path / "bench.json"
    code = main([*quick, "--json", str(path), "--parts", "memory", "--quantize", "int8"])
    assert code == 0
    record = json.loads(path.read_text())
    sample = record["parts"]["files"]["samples"]["int8"]
    assert sample["peak_bytes"][0] > sample["imported_bytes"][0] > 2**25
    assert sample["first_s"][0] > sample["load_s"][0] > 0
    rows = rows_of(record, "files")
    assert rows["peak memory, loading included: int4"]["why"] == "int4 took no part"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
def test_llama_bench_takes_part_through_its_peer(quick, tmp_path):
    program = tmp_path / "llama-bench"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    peers = tmp_path / "peers"
    peers.mkdir()
    (peers / "llama_cpp_peer.py").write_text(PEER)
    path = tmp_path / "bench.json"
    words = ["--llama-bench", str(program), "--peers", str(peers), "--json", str(path)]
    assert main([*quick, *words, "--parts", "llama"]) == 0
    record = json.loads(path.read_text())
    samples = record["parts"]["llama"]["samples"]
    assert samples["llama.cpp Q8_0"] == {"prefill": [0.5], "step": [0.2]}
    row = rows_of(record, "llama")["decoding: int4 over llama.cpp Q4_0"]
    assert row["value"] == pytest.approx(0.2 / samples["int4"]["step"][0])
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
def test_quantised_networks_are_kept_and_used_again(quick, tmp_path, capsys):
    words = ["--quantize", "int8", "--json", "--keep", str(tmp_path / "kept")]
    assert main([*quick, *words, "--parts", "prepare"]) == 0
    (file,) = (tmp_path / "kept").iterdir()
    written = file.stat()
    capsys.readouterr()
    assert main([*quick, *words, "--parts", "batch,files"]) == 0
    out, err = capsys.readouterr()
    assert "making the float32 network" not in err
    parts = json.loads(out)["parts"]
    assert parts["batch"]["samples"]["int8"]["1"][0] > 0
    assert parts["files"]["samples"]["int8"]["file_bytes"] == [written.st_size]
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (written.st_mtime_ns, written.st_ino)


def test_nothing_can_be_prepared_without_a_place(quick, capsys):
    assert main([*quick, "--parts", "prepare", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert "--keep FOLDER" in record["parts"]["prepare"]["absent"]


def test_peers_that_are_missing_explain_themselves(quick, tmp_path, capsys):
    words = ["--parts", "llama", "--json", "--quantize", "none", "--peers", str(tmp_path)]
    assert main([*quick, *words]) == 0
    record = json.loads(capsys.readouterr().out)
    assert "--llama-bench PROGRAM" in record["parts"]["llama"]["absent"]
    assert all("--llama-bench" in row["why"] for row in rows_of(record, "llama").values())


@pytest.mark.slow
def test_without_peers_ours_is_measured_alone(quick, tmp_path, capsys):
    words = ["--parts", "first", "--json", "--quantize", "none", "--peers", str(tmp_path)]
    assert main([*quick, *words]) == 0
    first = json.loads(capsys.readouterr().out)["parts"]["first"]
    assert set(first["samples"]) == {"float32"}
    assert "there is no transformers_peer.py" in first["skipped"]["transformers"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "first,speed"], "--parts speed: there are prepare, ceilings"),
        (["--llama-bench", "nowhere/llama-bench"], "there is no such program"),
    ],
)
def test_words_that_make_no_sense_are_usage_errors(quick, words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*quick, *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_recipe_is_said_and_the_rest_measured(quick, capsys):
    assert main([*quick, "--parts", "batch", "--quantize", "int3", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert "int3" in record["parts"]["batch"]["failed"]
