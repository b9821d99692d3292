"""The record of a run: JSON that parts are added to, and the table that people read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from heliodor.bench import machine
from heliodor.bench.rows import Measured, judge
from heliodor.bench.timing import median
from heliodor.errors import InputError

__all__ = ["FORMAT", "finished", "merged", "read", "table", "write"]

FORMAT = 1
_SMALL = "this size tries the command out: its ratios say nothing about a model of use"
_SAME = ("size", "weights", "seed")


def merged(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The parts of an earlier record and of this run in one; this run's count where both have one.

    Raises:
        InputError: the earlier record is of another size, other weights or another processor.
    """
    if old is None:
        return new
    for name in _SAME:
        if old.get(name) != new[name]:
            raise InputError(
                f"the record there has {name} {old.get(name)!r}, this run {new[name]!r}: name "
                "another file"
            )
    before = old.get("machine", {}).get("processor")
    if before != new["machine"]["processor"]:
        raise InputError(f"the record there is of {before}, another processor: name another file")
    return {**new, "parts": {**old.get("parts", {}), **new["parts"]}}


def finished(record: dict[str, Any]) -> dict[str, Any]:
    """The record with every row's verdict."""
    return {**record, "rows": [found.record() for found in judge(record["parts"])]}


def read(path: Path) -> dict[str, Any] | None:
    """An earlier record, None where there is no file.

    Raises:
        InputError: the file is no record of this format.
    """
    if not path.is_file():
        return None
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}): name another file") from error
    if not isinstance(found, dict) or cast("dict[str, Any]", found).get("format") != FORMAT:
        raise InputError(f"{path} is no record of a benchmark of format {FORMAT}: name another")
    return cast("dict[str, Any]", found)


def write(record: dict[str, Any], path: Path) -> None:
    """Write the record, whole or not at all."""
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
        partial.write_text(f"{text}\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def table(record: Mapping[str, Any]) -> str:
    """Everything for people, in Markdown: ratios first, then what they come from."""
    parts: Mapping[str, Any] = record["parts"]
    lines = [
        f"{record['size']}, {record['weights']} weights, {record['prefix']} positions before the "
        f"first token; {record['kernels']}",
        machine.line(record["machine"]),
        *([_SMALL] if record["size"] == "tiny" else []),
        "",
        *_claims(judge(parts)),
    ]
    for heading, found in (
        ("limits of the machine", _limits(parts)),
        ("engines", _engines(parts)),
        ("accuracy against float32", _accuracy(parts)),
        ("parts", _parts(parts)),
    ):
        if found:
            lines += ["", f"### {heading}", "", *found]
    return "\n".join(lines)


def _claims(found: Sequence[Measured]) -> list[str]:
    lines = ["| what | measured | lowest - highest | floor | aim | |", "|---|---|---|---|---|---|"]
    for one in found:
        row, spread = one.row, one.spread
        unit = "%" if row.unit == "%" else "x" if row.unit == "x" else f" {row.unit}"
        value = "-" if spread is None else f"{spread.middle:.2f}{unit}"
        span = "" if spread is None else f"{spread.low:.2f} - {spread.high:.2f}"
        verdict = one.verdict if spread is not None else f"not measured: {one.why}"
        bounds = f"{row.floor:g}{unit} | {row.aim:g}{unit}"
        lines.append(f"| {row.name} | {value} | {span} | {bounds} | {verdict} |")
    return lines


def _limits(parts: Mapping[str, Any]) -> list[str]:
    """One line for each part that measured them."""
    lines: list[str] = []
    for name, part in parts.items():
        limits = part.get("limits")
        if limits:
            float32, int8, reading = (median(limits[key]) / 1e9 for key in _LIMITS)
            lines.append(
                f"- {name}: float32 {float32:.0f} GFLOPS, int8 {int8:.0f} GOPS, reading "
                f"{reading:.1f} GB/s ({part['source']})"
            )
    return lines


_LIMITS = ("float32", "int8", "read")
_HEAD = "| engine | first token s | decoder GOPS | tokens/s | GB/s | of reading | weights GiB |"


def _engines(parts: Mapping[str, Any]) -> list[str]:
    """Seconds and rates of every engine of the parts that run whole passes."""
    lines: list[str] = []
    for name in ("first", "bfloat16"):
        part = parts.get(name, {})
        for engine, sample in part.get("samples", {}).items():
            lines.append(_engine(f"{engine} ({name})", engine, sample, part))
    llama = parts.get("llama", {}).get("samples", {})
    for engine, sample in llama.items():
        prefill, step = median(sample["prefill"]), median(sample["step"])
        lines.append(f"| {engine} (decoder) | {prefill:.3f} | | {1 / step:.2f} | | | |")
    for name, heads in (("head", ("free", "detect")), ("batch", ("1", "8"))):
        for engine, sample in parts.get(name, {}).get("samples", {}).items():
            lines += [_writing(engine, name, head, sample) for head in heads if head in sample]
    for scheme, sample in parts.get("files", {}).get("samples", {}).items():
        load, first, peak = (median(sample[key]) for key in ("load_s", "first_s", "peak_bytes"))
        lines.append(
            f"| {scheme} (file, loaded in {load:.2f} s) | {first:.3f} | | | | | "
            f"{peak / 2**30:.2f} at the peak |"
        )
    return [_HEAD, "|---|---|---|---|---|---|---|", *lines] if lines else []


def _writing(engine: str, part: str, how: str, sample: Mapping[str, Any]) -> str:
    """Tokens a second of the decode loop, or of a batch of so many rows."""
    rows = int(how) if part == "batch" else 1
    label = f"{rows} rows" if part == "batch" else f"decode loop, {how}"
    return f"| {engine} ({label}) | | | {rows / median(sample[how]):.2f} | | | |"


def _engine(label: str, engine: str, sample: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    first = median(sample["first"])
    step = median([median(turn) for turn in sample["step"]])
    costs = part["costs"]
    work = costs["vision_operations"] + costs["decoder_operations"]
    size = costs["step_bytes"].get(engine)
    rate = "" if size is None else f"{size / step / 1e9:.1f}"
    share = "" if size is None else f"{100 * size / step / median(part['limits']['read']):.0f}%"
    resting = costs["resting_bytes"].get(engine)
    weights = "" if resting is None else f"{resting / 2**30:.2f}"
    return (
        f"| {label} | {first:.3f} | {work / first / 1e9:.0f} | {1 / step:.2f} | {rate} | {share} "
        f"| {weights} |"
    )


def _accuracy(parts: Mapping[str, Any]) -> list[str]:
    found: dict[str, Any] = {}
    for name in ("first", "bfloat16"):
        found |= {f"{e} ({name})": v for e, v in parts.get(name, {}).get("accuracy", {}).items()}
    if not found:
        return []
    lines = ["| engine | KL, nats | top-1 | relative error |", "|---|---|---|---|"]
    for engine, value in found.items():
        lines.append(
            f"| {engine} | {value['kl']:.2e} | {100 * value['top1']:.0f}% "
            f"| {value['relative']:.2e} |"
        )
    return lines


def _parts(parts: Mapping[str, Any]) -> list[str]:
    """When each part ran, how long, and how busy others kept the machine."""
    lines: list[str] = []
    for name, part in parts.items():
        line = f"- {name}: {part['date']}, {part['seconds']:.0f} s"
        line += f", others kept {part['bystanders']:.2f} cores busy"
        line += f"; FAILED: {part['failed']}" if "failed" in part else ""
        lines.append(f"- {name}: not run: {part['absent']}" if "absent" in part else line)
        lines += [f"  - {who} took no part: {why}" for who, why in part.get("skipped", {}).items()]
    return lines
