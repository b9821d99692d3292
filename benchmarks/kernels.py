"""How close the native kernels come to this machine's limits, both measured in one run.

    python benchmarks/kernels.py --threads 2 --rounds 12 --output kernels.json

Every round measures the ceilings (dot products and multiply-adds from registers, reading
memory; see heliodor.bench.ceilings) and every kernel once, so that what else the machine does falls
on all of them alike. The median over the rounds is printed, and its share of the median ceiling.
Weights are random bytes, in more memory than the caches hold.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from heliodor.bench.ceilings import Limits, open_ceilings
from heliodor.quant import kernels

UNITS = {"peak dot": "GOPS", "peak fma": "GFLOPS", "read": "GB/s"}
CACHE = 160 * 2**20  # bytes of weights that a measurement walks through


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        name: What the table calls it.
        unit: "GOPS", "GB/s" or "GFLOPS": what ``amount`` is counted in, and which ceiling holds.
        amount: Units done by one call, in billions.
        call: Does it.
    """

    name: str
    unit: str
    amount: float
    call: Callable[[], object]


def ceilings(limits: Limits) -> dict[str, float]:
    """The machine's limits by the names of the table, in billions a second."""
    return {
        "peak dot": limits.int8 / 1e9,
        "peak fma": limits.float32 / 1e9,
        "read": limits.read / 1e9,
    }


def turns(make: Callable[[], Callable[[], object]], bytes_each: int) -> Callable[[], object]:
    """Call several copies after one another, so that no cache holds the next one's weights."""
    calls = [make() for _ in range(max(1, -(-CACHE // bytes_each)))]
    return lambda: [call() for call in calls]


def int8(n: int, k: int, m: int) -> Callable[[], object]:
    """int8 weights, rows quantised beforehand."""
    packed, scale = torch.randint(0, 256, (n, k), dtype=torch.uint8), torch.rand(n)
    rows = kernels.quantise_rows(torch.randn(m, k))
    return lambda: kernels.product8(*rows, packed, scale)


def int4(n: int, k: int, m: int) -> Callable[[], object]:
    """int4 weights, rows quantised beforehand."""
    packed = torch.randint(0, 256, (n // 16, k * 8), dtype=torch.uint8)
    scales = torch.rand(n // 16, k // 4).bfloat16()
    rows = kernels.quantise_rows(torch.randn(m, k))
    return lambda: kernels.product4(*rows, packed, scales)


def bf16(n: int, k: int, m: int) -> Callable[[], object]:
    """Weights that stay in bfloat16."""
    weight, x = torch.randn(n, k).bfloat16(), torch.randn(m, k)
    return lambda: kernels.linear_bf16(x, weight)


def widened(n: int, k: int, m: int) -> Callable[[], object]:
    """What torch has to do for bfloat16 weights: a float32 copy, then its product."""
    weight, x = torch.randn(n, k).bfloat16(), torch.randn(m, k)
    return lambda: F.linear(x, weight.float())


def cases() -> list[Case]:
    """PaliGemma's products: Gemma's MLP and attention, the image tower's, the head's in a piece."""
    found: list[Case] = []
    for n, k, m in ((16384, 2048, 268), (2048, 16384, 268), (2048, 2048, 268), (4304, 1152, 256)):
        found.append(Case(f"int8 {n}x{k} rows {m}", "GOPS", 2 * n * k * m / 1e9, int8(n, k, m)))
    n, k, m = 16384, 2048, 268
    found.append(Case(f"int4 {n}x{k} rows {m}", "GOPS", 2 * n * k * m / 1e9, int4(n, k, m)))
    for name, make, width in (("int8", int8, 1.0), ("int4", int4, 0.53125), ("bf16", bf16, 2.0)):
        for n, k, m in ((16384, 2048, 1), (2048, 16384, 1), (2048, 2048, 1), (16384, 2048, 8)):
            size = int(n * k * width)
            call = turns(lambda make=make, n=n, k=k, m=m: make(n, k, m), size)
            count = max(1, -(-CACHE // size))
            found.append(Case(f"{name} {n}x{k} rows {m}", "GB/s", count * size / 1e9, call))
    n, k, m = 8192, 2048, 268
    amount = 2 * n * k * m / 1e9
    found.append(Case(f"bf16 {n}x{k} rows {m}", "GFLOPS", amount, bf16(n, k, m)))
    found.append(Case("the same, torch widens all of it", "GFLOPS", amount, widened(n, k, m)))
    return found


def rows() -> list[Case]:
    """Quantising, in values a second: no ceiling is given for it."""
    gate, up = torch.randn(268, 16384), torch.randn(268, 16384)
    x, weight = torch.randn(268, 2048), torch.ones(2048)

    def torch_gate() -> Tensor:
        return F.gelu(gate, approximate="tanh") * up

    return [
        Case("gelu(gate) * up to int8", "G/s", gate.numel() / 1e9,
             lambda: kernels.geglu_quantise(gate, up)),
        Case("torch: gelu(gate) * up alone", "G/s", gate.numel() / 1e9, torch_gate),
        Case("norm to int8", "G/s", x.numel() / 1e9,
             lambda: kernels.norm_quantise(x, weight, 1e-6)),
    ]  # fmt: skip


def rate(case: Case) -> float:
    """Units a second, in billions, over calls that last 40 ms together; the first is not counted.

    It brings back the threads and the memory of the result, which a model in use has at hand.
    """
    case.call()
    start, calls, taken = time.perf_counter(), 0, 0.0
    while taken < 0.04:
        case.call()
        calls, taken = calls + 1, time.perf_counter() - start
    return case.amount * calls / taken


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--output", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine = open_ceilings(arguments.threads, torch.ones(2**30 + 4096, dtype=torch.uint8))
    every = [*cases(), *rows()]
    rates: dict[str, list[float]] = {name: [] for name in (*UNITS, *(case.name for case in every))}
    for _ in range(arguments.rounds):
        for name, value in ceilings(machine.measure()).items():
            rates[name].append(value)
        for case in every:
            rates[case.name].append(rate(case))
    ceiling = {unit: statistics.median(rates[name]) for name, unit in UNITS.items()}
    results: list[dict[str, object]] = []
    print(f"{kernels.available()}, {arguments.threads} threads, {arguments.rounds} rounds, {cpu()}")
    for name, unit in (*UNITS.items(), *((case.name, case.unit) for case in every)):
        median, best = statistics.median(rates[name]), max(rates[name])
        share = median / ceiling[unit] if unit in ceiling else None
        said = "" if share is None else f"{share:6.1%}"
        print(f"{name:36s} {median:8.1f} {unit:7s} best {best:8.1f}  {said}")
        results.append({"name": name, "unit": unit, "median": median, "best": best,
                        "share": share})  # fmt: skip
    if arguments.output:
        facts = {"cpu": cpu(), "path": kernels.available(), "threads": arguments.threads,
                 "rounds": arguments.rounds, "torch": torch.__version__}  # fmt: skip
        arguments.output.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
    return 0


def cpu() -> str:
    """The processor's name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = {
        line.split(":")[0].strip(): line.split(":")[-1].strip() for line in lines if ":" in line
    }
    return f"{named.get('model name')} family {named.get('cpu family')} model {named.get('model')}"


if __name__ == "__main__":
    sys.exit(main())
