"""One PaliGemma 3B in five layouts on disk, each loaded in a process of its own: time and memory.

    python benchmarks/layouts.py SCRATCH_FOLDER --result benchmarks/results/layouts_MACHINE_DATE.md
    python benchmarks/layouts.py SCRATCH_FOLDER --preset small     # seconds, for a try

The layouts are written one after the other, a tensor at a time, from one block of noise, and each
is removed before the next is written, so that the disk holds 12 GB at most (--keep leaves them):

    transformers, float32, shards of 5 GB     big_vision npz, float32     native, bfloat16
    transformers, bfloat16, one file          big_vision npz, bfloat16

Each is loaded as it is, the first as bfloat16 too, by this library and by transformers where it
can; the first, the second and the bfloat16 npz also in 8 bits, the second in 4, by this library.
The files are read once before, so that the page cache holds them as far as memory allows. A load is
over when the model is there; weights that are mapped have not been read then, so every page is
touched afterwards, and the peak of resident memory (VmHWM, mapped pages among it) is taken after
both. Kept are the bytes of its parameters and buffers.

At 3B two things must hold: the peak is at most 1.15 times what is kept, and the float32 folder
loads as bfloat16 below 8 GiB. Prints a table and one JSON line; exits 1 if they do not.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from layouts_written import LAYOUTS, PRESETS, Layout

MOST_RATIO = 1.15
MOST_AS_BFLOAT16 = 8 * 2**30
LARGE = 2**30  # bytes kept from which on the limits hold: below, the libraries outweigh a model
SIDES = ("heliodor", "transformers")
FEW_BITS = ("int8", "int4")
FEWER = {0: FEW_BITS[:1], 1: FEW_BITS, 3: FEW_BITS[:1]}  # by number of the layout
_PAGE = 4096
_COLUMNS = ("layout", "as", "side", "load s", "touch s", "peak loaded", "peak end", "kept", "ratio")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One load: seconds, and bytes of resident memory; all zero where it failed."""

    layout: str
    dtype: str
    side: str
    load_s: float = 0.0
    touch_s: float = 0.0
    peak_imported: int = 0
    peak_loaded: int = 0
    peak_end: int = 0
    kept: int = 0
    failed: str = ""

    @property
    def ratio(self) -> float:
        """Peak over what is kept."""
        return self.peak_end / self.kept if self.kept else 0.0


def peak_memory() -> int:
    """Highest resident memory of this process so far, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def loader(side: str, path: Path, dtype: str) -> Callable[[], Any]:
    """Import a side -> how it loads."""
    if side == SIDES[0]:
        import heliodor.see.vlm  # noqa: F401, PLC0415 - all that any format needs
        from heliodor.checkpoints import bigvision, open_paligemma  # noqa: F401, PLC0415

        if dtype in FEW_BITS:
            from heliodor.checkpoints.quantised import load_quantised  # noqa: PLC0415
            from heliodor.quant.scheme import recipe  # noqa: PLC0415

            return lambda: load_quantised(open_paligemma(path), recipe(dtype))
        return lambda: open_paligemma(path).load(dtype=dtype)
    import transformers as theirs  # noqa: PLC0415

    theirs.utils.logging.disable_progress_bar()
    kind = theirs.PaliGemmaForConditionalGeneration
    return lambda: kind.from_pretrained(path, dtype=dtype).eval()


@torch.no_grad()
def measure(side: str, layout: Layout, path: Path, dtype: str) -> None:
    """In a process of its own: load, touch every page, print the figures."""
    load = loader(side, path, dtype)
    imported, start = peak_memory(), time.perf_counter()
    model = load()
    loaded, peak_loaded = time.perf_counter(), peak_memory()
    touched = 0
    state = [*model.parameters(), *model.buffers()]
    for parameter in state:
        touched += int(parameter.reshape(-1).view(torch.uint8)[::_PAGE].sum())
    measured = Measured(
        layout=layout.name,
        dtype=dtype,
        side=side,
        load_s=loaded - start,
        touch_s=time.perf_counter() - loaded,
        peak_imported=imported,
        peak_loaded=peak_loaded,
        peak_end=peak_memory(),
        kept=sum(p.numel() * p.element_size() for p in state),
    )
    assert touched
    print(json.dumps(asdict(measured)))


def warm(place: Path) -> int:
    """Read all files once -> their bytes."""
    total = 0
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        with path.open("rb") as file:
            while piece := file.read(2**24):
                total += len(piece)
    return total


def child(options: argparse.Namespace, *words: str) -> subprocess.CompletedProcess[str]:
    """This script in a process of its own."""
    command = [sys.executable, __file__, str(options.folder), "--preset", options.preset]
    command += ["--threads", str(options.threads), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def load_apart(options: argparse.Namespace, number: int, side: str, dtype: str) -> Measured:
    """One load, its failure told in the row."""
    layout = LAYOUTS[number]
    warm(options.folder / layout.path)
    done = child(options, "--step", side, "--layout", str(number), "--dtype", dtype)
    if done.returncode == 0:
        return Measured(**json.loads(done.stdout.splitlines()[-1]))
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Measured(layout=layout.name, dtype=dtype, side=side, failed=last[:200])


def measure_all(options: argparse.Namespace) -> list[Measured]:
    """Lay each layout down, load it in all ways, remove it."""
    rows: list[Measured] = []
    for number, layout in enumerate(LAYOUTS):
        place: Path = options.folder / layout.path
        if not place.exists():
            done = child(options, "--step", "write", "--layout", str(number))
            if done.returncode:
                raise SystemExit(f"writing {place} failed:\n{done.stderr}")
        sides = SIDES if place.is_dir() else SIDES[:1]
        wanted = (layout.dtype, "bfloat16") if number == 0 else (layout.dtype,)
        for dtype in (*wanted, *FEWER.get(number, ())):
            for side in sides[:1] if dtype in FEW_BITS else sides:
                rows.append(load_apart(options, number, side, dtype))
                print(line(rows[-1]), flush=True)
        if options.keep:
            continue
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
    return rows


def line(row: Measured) -> str:
    """One line of the table."""
    stored = f"{row.layout:22} | {row.dtype:8} | {row.side:12}"
    if row.failed:
        return f"| {stored} | failed: {row.failed}"
    peaks = f"{row.peak_loaded / 1e9:11.2f} | {row.peak_end / 1e9:8.2f} | {row.kept / 1e9:5.2f}"
    return f"| {stored} | {row.load_s:6.2f} | {row.touch_s:7.2f} | {peaks} | {row.ratio:5.2f} |"


def head() -> list[str]:
    """The head of the table."""
    widths = (22, 8, 12, 6, 7, 11, 8, 5, 5)
    names = " | ".join(f"{n:{w}}" for n, w in zip(_COLUMNS, widths, strict=True))
    return [f"| {names} |", "|" + "|".join("-" * (width + 2) for width in widths) + "|"]


def faults(rows: Sequence[Measured]) -> list[str]:
    """What does not hold of our own loads."""
    found: list[str] = []
    for row in rows:
        if row.side != SIDES[0]:
            continue
        if row.failed:
            found.append(f"{row.layout} as {row.dtype} failed: {row.failed}")
        elif row.kept > LARGE and row.ratio > MOST_RATIO:
            found.append(f"{row.layout} as {row.dtype} peaks at {row.ratio:.2f} times what is kept")
    narrowed = rows[len(SIDES)]  # behind both sides' loads of the first layout as it is
    assert (narrowed.side, narrowed.dtype) == (SIDES[0], "bfloat16")
    if narrowed.peak_end > MOST_AS_BFLOAT16:
        found.append(f"float32 as bfloat16 peaks at {narrowed.peak_end / 2**30:.2f} GiB")
    return found


def report(options: argparse.Namespace, rows: Sequence[Measured]) -> str:
    """The result as a page."""
    versions = f"torch {torch.__version__}"
    if any(row.side == SIDES[1] and not row.failed for row in rows):
        from importlib.metadata import version  # noqa: PLC0415

        versions += f", transformers {version('transformers')}"
    said = faults(rows) or ["Nothing exceeds its limit"]
    lines = [
        f"# PaliGemma {options.preset} in five layouts",
        "",
        f"- Command: `python benchmarks/layouts.py SCRATCH --preset {options.preset}`",
        f"- Machine: {platform.processor() or platform.machine()}, {options.threads} threads",
        f"- Date and versions: {date.today().isoformat()}, {versions}",
        "- Seconds to load, and to touch every page; GB of resident memory at most after each,",
        "  mapped files included; GB of parameters kept; the peak over them. Imports alone take",
        f"  {min(row.peak_imported for row in rows if not row.failed) / 1e9:.2f} GB and more.",
        f"- {'; '.join(said)}.",
        "",
        *head(),
        *map(line, rows),
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, then measure everything or run one step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the layouts are written")
    parser.add_argument("--preset", choices=PRESETS, default="3b")
    parser.add_argument("--keep", action="store_true", help="leave the layouts where they are")
    parser.add_argument("--result", type=Path, help="a Markdown file to write the table to")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--step", choices=("write", *SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--layout", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    layout = LAYOUTS[options.layout]
    path = options.folder / layout.path
    if options.step == "write":
        layout.write(path, options.preset, layout.dtype)
        return 0
    if options.step is not None:
        measure(options.step, layout, path, options.dtype)
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    print("\n".join(head()))
    rows = measure_all(options)
    if options.result is not None:
        options.result.write_text(report(options, rows), encoding="utf-8")
    wrong = faults(rows)
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    print(json.dumps({"preset": options.preset, "rows": [asdict(row) for row in rows]}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
