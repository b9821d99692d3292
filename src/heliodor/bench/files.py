"""A quantised file: how soon it speaks, and how much memory that takes, in a process of its own.

The parent writes the file; a child, which has imported the library and nothing else, opens it, says
a first token, says it again, and some more. Its peak of resident memory counts everything, torch
and the file's mapped pages too. The file has just been written, so that its pages are in memory as
far as there is room: a cold disk comes on top.

    python -m heliodor.bench.files FILE '{"words": 12, ...}'
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from heliodor.bench.engines import Inputs, Ours, reason
from heliodor.bench.kept import write_file
from heliodor.bench.machine import peak_memory
from heliodor.bench.networks import Bench
from heliodor.bench.passes import run_pass
from heliodor.bench.sizes import Size
from heliodor.checkpoints import open_paligemma

__all__ = ["measure_files"]


def measure_files(bench: Bench) -> dict[str, Any]:
    """Write each quantised scheme's file, open it in children, and remove it.

    Raises:
        OSError: the scratch folder cannot hold the file.
    """
    schemes = [s for s in bench.settings.schemes if s not in ("float32", "bfloat16")]
    samples: dict[str, dict[str, list[float]]] = {}
    skipped: dict[str, str] = {}
    for scheme in schemes:
        kept = bench.kept(scheme)
        path = kept or bench.settings.scratch / f"{scheme}.heliodor.safetensors"
        if kept is None or not kept.is_file():
            bench.say(f"writing the {scheme} file")
            write_file(bench.ours(scheme).model, path)
        try:
            samples[scheme] = _children(bench, path)
            samples[scheme]["file_bytes"] = [float(path.stat().st_size)]
        except subprocess.CalledProcessError as error:
            said = error.stderr.strip().splitlines()
            ended = f"its process ended with {error.returncode}"
            skipped[scheme] = reason(said[-1]) if said else ended
        finally:
            if kept is None:
                path.unlink(missing_ok=True)
    return {"samples": samples, "skipped": skipped}


def _children(bench: Bench, path: Path) -> dict[str, list[float]]:
    """Every turn's figures, by name."""
    settings = bench.settings
    size = settings.size
    wishes = {
        "words": size.words,
        "first_word": size.first_word,
        "loc_start": size.loc_start,
        "steps": min(8, settings.steps),
        "seed": settings.seed,
        "threads": settings.threads,
    }
    command = [sys.executable, "-m", "heliodor.bench.files", str(path), json.dumps(wishes)]
    found: dict[str, list[float]] = {}
    for turn in range(settings.repetitions):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
        peak = figures["peak_bytes"] / 2**30
        bench.say(f"turn {turn + 1}: {path.name} {figures['first_s']:.2f} s, {peak:.2f} GiB")
    return found


def child(path: Path, wishes: dict[str, int]) -> dict[str, float]:
    """In the child: open the file, speak twice, and report.

    Returns:
        ``load_s``, ``first_s`` (loading and first token), ``warm_s`` (first token again),
        ``imported_bytes`` and ``peak_bytes``.
    """
    torch.set_num_threads(wishes.pop("threads"))
    steps, seed = wishes.pop("steps"), wishes.pop("seed")
    imported = peak_memory()
    start = time.perf_counter()
    model = open_paligemma(path).load()
    loaded = time.perf_counter()
    size = Size(name=path.name, config=model.config, **wishes)
    engine = Ours(path.name, model)
    inputs = Inputs.draw(size, steps, seed)
    first = run_pass(engine, inputs)[0]
    warm = run_pass(engine, inputs)[0]
    return {
        "load_s": loaded - start,
        "first_s": first + loaded - start,
        "warm_s": warm,
        "imported_bytes": float(imported),
        "peak_bytes": float(peak_memory()),
    }


if __name__ == "__main__":
    print(json.dumps(child(Path(sys.argv[1]), json.loads(sys.argv[2]))))  # noqa: T201 - its answer
