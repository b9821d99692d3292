"""What loading a model costs: the peak of memory, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys, torch
from pathlib import Path
from heliodor.checkpoints.{module} import {load} as load
def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
torch.ones(4, 4).to(getattr(torch, sys.argv[2])).float() @ torch.ones(4, 4)  # torch's own first use
before = peak()
model = {call}
print(peak() - before, sum(p.numel() * p.element_size() for p in model.parameters()))
"""


def loading(path: Path, dtype: str, *, module: str, load: str, call: str) -> tuple[int, int]:
    """Bytes by which the peak grows, and bytes of the weights.

    Args:
        path: of the file; ``sys.argv[1]`` in ``call``.
        dtype: ``sys.argv[2]`` in ``call``.
        module: of heliodor.checkpoints.
        load: a name in it, called ``load`` in ``call``.
        call: an expression that gives the model.
    """
    script = SCRIPT.format(module=module, load=load, call=call)
    # glibc keeps freed blocks below a threshold that it moves by itself, up to 32 MB: more than any
    # tensor of a small model. With a fixed one, what is measured is what is held. And each thread
    # would bring memory of its own, more on a machine of more cores.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(path), dtype]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    grown, weights = map(int, out.stdout.split())
    return grown, weights
