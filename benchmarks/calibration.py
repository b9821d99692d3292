"""What calibration is worth on tiny: next tokens of each method against the float model's.

    python benchmarks/calibration.py --json calibration.json

Draws scenes, lines of text and documents, and asks of them what training asks. Scenes come from
training's stream; texts are set in the held-out fonts, which are the ones that are shipped, from a
stream that no evaluation draws. A quarter of the pictures is held out; all methods are measured on
the same ones. Every row is one whole run: ``seconds`` holds the float model's answers too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

import heliodor
from heliodor.see.calibration import Settings, calibrate
from heliodor.see.calibration.judge import judge
from heliodor.see.calibration.samples import find_pictures, gather, read_prompts
from heliodor.teach.data.documents import document_example
from heliodor.teach.data.fonts import TextSplit
from heliodor.teach.data.questions import TaskMix, sample_questions
from heliodor.teach.data.reading import PROMPT, read_example
from heliodor.teach.data.scenes import render_scene
from heliodor.teach.data.splits import Split, scene_rng
from heliodor.teach.evals.report import describe_machine

SIZE = 224
FIRST = 70_000_000  # no run of training or evaluation gets so far
HELD_OUT = 128  # pairs with the held-out pictures
RUNS = (
    ("int8", None),
    ("int8", "both"),
    ("int4", None),
    ("int4", "nearest"),
    ("int4", "scaling"),
    ("int4", "rounding"),
    ("int4", "both"),
    ("mixed", "both"),
)


def draw(folder: Path, count: int) -> list[str]:
    """Pictures into a folder, half of them scenes; the prompts that belong to them."""
    prompts: dict[str, None] = {}
    for number in range(count):
        image, asked = _picture(number)
        Image.fromarray(image).save(folder / f"{number:03d}.png")
        prompts |= dict.fromkeys(asked)
    return list(prompts)


def _picture(number: int) -> tuple[Any, list[str]]:
    index = FIRST + number
    if number % 2 == 0:
        scene = render_scene(scene_rng(Split.TRAIN, index), size=SIZE)
        found = sample_questions(scene_rng(Split.TRAIN, index, 1), scene, 2, TaskMix())
        return scene.image, [question.prompt for question in found]
    rng = TextSplit.TEST.rng(index, 90)
    if number % 4 == 1:
        return read_example(rng, size=SIZE, split=TextSplit.TEST)[0], [PROMPT]
    page = document_example(rng, size=SIZE, split=TextSplit.TEST)
    return page.image, [page.questions[0][0]]


def measure(
    folder: Path, prompts: Path, samples: int, runs: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """A row for every run, by its number in ``RUNS``."""
    model = heliodor.load("tiny")
    settings = Settings(samples=samples, held_out=HELD_OUT)
    pictures = find_pictures(folder, settings.held_out, samples)
    data = gather(model, pictures, read_prompts(prompts), settings, lambda _: None)
    for scheme, method in (RUNS[run] for run in runs):
        began = time.perf_counter()
        if method is None:
            after = heliodor.load("tiny", quantize=scheme).model
            found, size = judge(model.model, after, data.held_pixels, data.held), None
        else:
            with tempfile.TemporaryDirectory() as place:
                wanted = replace(settings, scheme=scheme, method=method)
                report = calibrate(
                    model, Path(place) / "q.safetensors", folder, settings=wanted, prompts=prompts
                )
            found, size = report.judgement, report.size
        yield {
            "scheme": scheme,
            "method": method or "without data",
            "bytes": size,
            "run_seconds": round(time.perf_counter() - began, 1),
            **found.to_dict(),
        }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--json", type=Path)
    everything = range(len(RUNS))
    parser.add_argument("--runs", type=int, nargs="*", choices=everything, default=everything)
    parser.add_argument("--draw", type=Path, help="only draw the pictures and prompts.txt there")
    args = parser.parse_args()
    if args.draw is not None:
        (args.draw / "pictures").mkdir(parents=True)
        asked = draw(args.draw / "pictures", args.pictures)
        (args.draw / "prompts.txt").write_text("\n".join(asked) + "\n")
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder, prompts = Path(place) / "pictures", Path(place) / "prompts.txt"
        folder.mkdir()
        prompts.write_text("\n".join(draw(folder, args.pictures)) + "\n")
        print(f"{'scheme':8}{'method':14}{'KL':>9}{'worst':>8}{'top-1':>8}{'MB':>8}{'s':>8}")
        for row in measure(folder, prompts, args.samples, tuple(args.runs)):
            rows.append(row)
            size = f"{row['bytes'] / 1e6:8.2f}" if row["bytes"] else f"{'':8}"
            print(
                f"{row['scheme']:8}{row['method']:14}{row['divergence']:9.5f}{row['worst']:8.3f}"
                f"{row['agreement']:8.1%}{size}{row['run_seconds']:8.1f}",
                flush=True,
            )
    if args.json is not None:
        record = {"machine": describe_machine(), "pictures": args.pictures, "rows": rows}
        args.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
