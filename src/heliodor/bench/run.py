"""A run: its parts in an order that lets networks go as soon as no later part needs them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from heliodor.bench import machine
from heliodor.bench.beside_llama import measure_llama
from heliodor.bench.blocks import measure_nextdit
from heliodor.bench.decoding import measure_batch, measure_head
from heliodor.bench.engines import MissingEngineError, reason
from heliodor.bench.files import measure_files
from heliodor.bench.networks import Bench, Settings, prepare
from heliodor.bench.passes import measure_bfloat16, measure_ceilings, measure_first
from heliodor.bench.record import FORMAT
from heliodor.bench.weights import random_model
from heliodor.models.paligemma import PaliGemma

__all__ = ["PARTS", "run", "start"]

PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "prepare": prepare,
    "ceilings": measure_ceilings,
    "first": measure_first,
    "head": measure_head,
    "batch": measure_batch,
    "llama": measure_llama,
    "files": measure_files,
    "bfloat16": measure_bfloat16,
    "nextdit": measure_nextdit,
}
_NEEDS_FLOAT = ("prepare", "first")


def start(settings: Settings, weights: str) -> dict[str, Any]:
    """A record without parts.

    Args:
        settings: of the run.
        weights: "random", or what was loaded.
    """
    return {
        "format": FORMAT,
        "size": settings.size.name,
        "weights": weights,
        "prefix": settings.size.prefix,
        "repetitions": settings.repetitions,
        "steps": settings.steps,
        "seed": settings.seed,
        "kernels": kernels(),
        "machine": machine.describe(settings.threads),
        "parts": {},
    }


def kernels() -> str:
    """Which way quantised layers are computed here."""
    try:
        from heliodor.quant.kernels import available  # noqa: PLC0415 - opens the library
    except ImportError:
        return "no quantised layers in this release"
    return f"kernels: {available() or 'torch (no native library)'}"


def run(
    settings: Settings,
    parts: Sequence[str],
    *,
    say: Callable[[str], None],
    keep: Callable[[str, dict[str, Any]], None],
    source: Callable[[torch.dtype], PaliGemma] | None = None,
) -> None:
    """Measure parts, each handed on when it is done.

    Args:
        settings: of the run.
        parts: names of ``PARTS``, run in its order.
        say: talk to the person.
        keep: gets each part's name and record.
        source: a network in a floating type, the same weights each time; random ones by default.
    """
    torch.set_num_threads(settings.threads)
    config, seed = settings.size.config, settings.seed

    def random(dtype: torch.dtype) -> PaliGemma:
        return random_model(config, seed=seed, dtype=dtype)

    make = random if source is None else source
    settings.scratch.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="heliodor-bench-", dir=settings.scratch))
    try:
        bench = Bench(settings=replace(settings, scratch=scratch), make=make, say=say)
        chosen = [name for name in PARTS if name in parts]
        for place, name in enumerate(chosen):
            keep(name, _part(bench, name))
            if not any(later in _NEEDS_FLOAT for later in chosen[place + 1 :]):
                bench.keep_only(*(s for s in settings.schemes if s != "float32"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _part(bench: Bench, name: str) -> dict[str, Any]:
    """One part and its date, seconds and bystanders; "absent" or "failed" say why not."""
    bench.say(f"part {name}")
    before = machine.Bystanders.now()
    try:
        found = PARTS[name](bench)
    except MissingEngineError as error:
        found = {"absent": str(error)}
        bench.say(f"part {name} was not run: {error}")
    except Exception as error:  # noqa: BLE001 - a part that breaks down ends itself, not the run
        found = {"failed": reason(error)}
        bench.say(f"part {name} failed: {found['failed']}")
    after = machine.Bystanders.now()
    bench.say(f"part {name} took {after.wall - before.wall:.0f} s")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": after.wall - before.wall,
        "bystanders": before.until(after),
        "repetitions": bench.settings.repetitions,
        **found,
    }
