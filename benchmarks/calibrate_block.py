"""One decoder block of PaliGemma 3B in bfloat16: time and peak memory of its calibration.

    python benchmarks/calibrate_block.py --pieces 4

Weights and data are random: what they are does not change the work. ``--pieces`` is how many pairs
of picture and prompt go through the block, of 286 positions each; the time of watching grows with
them, that of calibrating does not.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch import nn

from heliodor.models.gemma import GemmaConfig, GemmaLayer
from heliodor.nn.rope import rotations
from heliodor.quant.calibrate.block import Method, Workbench
from heliodor.quant.scheme import INT4
from heliodor.see.calibration.walk import language_inputs

LENGTH = 286


def peak() -> float:
    """Most memory so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pieces", type=int, default=4)
    args = parser.parse_args()
    config, random = GemmaConfig(), torch.Generator().manual_seed(0)
    print(f"after imports      {peak():5.2f} GiB, {torch.get_num_threads()} threads")
    with torch.device("meta"):
        block = GemmaLayer(config)
    block = block.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in block.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.02)
    print(f"with the block     {peak():5.2f} GiB", flush=True)
    data = [torch.randn(1, LENGTH, config.width, generator=random) for _ in range(args.pieces)]
    turn = rotations(torch.arange(LENGTH)[None], config.head_dim, config.rope_base)

    def run(module: nn.Module) -> None:
        for x in data:
            module(x, turn, None, None, LENGTH)

    began = time.perf_counter()
    bench = Workbench(block, language_inputs(config))
    seen = bench.watch(run, Method(), args.pieces)
    print(f"watched            {peak():5.2f} GiB, {time.perf_counter() - began:.1f} s", flush=True)
    began = time.perf_counter()
    _, reports = bench.calibrate(seen, dict.fromkeys(bench.layers, INT4), Method())
    print(f"calibrated to int4 {peak():5.2f} GiB, {time.perf_counter() - began:.1f} s")
    for name, report in reports.items():
        print(f"{name:16} error {report.error:.2%}, without data {report.plain_error:.2%}")


if __name__ == "__main__":
    main()
