"""The networks of a run: made when first asked for, let go when no later part needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heliodor.bench.ceilings import Ceilings, Limits, open_ceilings
from heliodor.bench.engines import Inputs, MissingEngineError, Ours, quantised
from heliodor.bench.kept import kept_path, read_file, write_file
from heliodor.bench.sizes import Size
from heliodor.bench.timing import timed
from heliodor.models.paligemma import PaliGemma

__all__ = ["FLOATS", "Bench", "Settings", "prepare"]

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_MEMORY = 2**30  # bytes to read from where no weight is large enough


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is measured, and how often.

    Attributes:
        size: shapes and prompt.
        schemes: of our engines: "float32", "int8", "int4".
        repetitions: turns of each engine.
        steps: tokens after the first, each turn.
        threads: for all engines.
        seed: of weights, picture and prompt.
        peers: where the peers' files lie; None where there are none.
        llama_bench: the program of that name; None where there is none.
        keep: a folder for quantised networks that later runs use again; None to keep none.
        scratch: a folder for files of several gigabytes, removed afterwards.
    """

    size: Size
    schemes: tuple[str, ...]
    repetitions: int
    steps: int
    threads: int
    seed: int
    peers: Path | None
    llama_bench: Path | None
    scratch: Path
    keep: Path | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Bench:
    """The state of a run.

    Attributes:
        settings: of the run.
        make: a network in a floating type, the same weights each time.
        say: talk to the person.
        reference: float32 [N V], what our float32 network said in this run, once it has.
    """

    settings: Settings
    make: Callable[[torch.dtype], PaliGemma]
    say: Callable[[str], None]
    reference: Tensor | None = None
    _held: dict[str, Ours] = field(default_factory=dict[str, Ours])
    _ceilings: Ceilings | None = None

    def ours(self, scheme: str) -> Ours:
        """Our engine of a scheme, kept until :meth:`keep_only` lets it go.

        Raises:
            MissingEngineError: no such scheme.
        """
        if scheme not in self._held:
            self.say(f"making the {scheme} network")
            span, model = timed(lambda: self._made(scheme))
            self._held[scheme] = Ours(scheme, model)
            self.say(f"made the {scheme} network in {span:.1f} s")
        return self._held[scheme]

    def kept(self, scheme: str) -> Path | None:
        """Where a quantised network is kept between runs; None where none is."""
        settings = self.settings
        if settings.keep is None:
            return None
        return kept_path(settings.keep, settings.size.name, settings.seed, scheme)

    def _made(self, scheme: str) -> PaliGemma:
        if scheme in FLOATS:
            from heliodor.quant.stored import accelerate  # noqa: PLC0415 - the kernels load with it

            accelerate()
            return self.make(FLOATS[scheme])
        path = self.kept(scheme)
        if path is not None and path.is_file():
            return read_file(path)
        model = quantised(self.ours("float32").model, scheme)
        if path is not None:
            write_file(model, path)
        return model

    def keep_only(self, *schemes: str) -> None:
        """Let the other networks go, and their memory."""
        for name in set(self._held) - set(schemes):
            del self._held[name]

    def inputs(self) -> Inputs:
        """The picture, the prompt and the tokens that follow."""
        return Inputs.draw(self.settings.size, self.settings.steps, self.settings.seed)

    @property
    def ceilings(self) -> Ceilings:
        """What measures the machine's limits, opened once."""
        if self._ceilings is None:
            count = _MEMORY if self.settings.size.full else 2**22
            self._ceilings = open_ceilings(self.settings.threads, torch.ones(count // 4))
        return self._ceilings

    def limits(self) -> Limits:
        """The machine's limits in this moment."""
        return self.ceilings.measure()


def prepare(bench: Bench) -> dict[str, Any]:
    """Make the quantised networks and keep their files, so that a run need not wait for them.

    Raises:
        MissingEngineError: there is nowhere to keep them.
    """
    if bench.settings.keep is None:
        raise MissingEngineError("nothing is kept between runs: give --keep FOLDER")
    schemes = [scheme for scheme in bench.settings.schemes if scheme not in FLOATS]
    return {"made": {s: timed(lambda s=s: bench.ours(s))[0] for s in schemes}, "skipped": {}}
