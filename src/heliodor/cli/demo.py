"""All five tasks on the bundled pictures, with the shipped model: nothing is downloaded.

For example:

  heliodor demo

Writes one annotated PNG a picture and names each on screen.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliodor import zoo
from heliodor.cli.options import add_json, add_model, load_model, read_picture
from heliodor.cli.output import emit, save_picture
from heliodor.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from heliodor.see.vlm import VisionLanguageModel

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        default="heliodor-demo",
        help="where the annotated pictures go (default: heliodor-demo)",
    )
    add_json(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Show the model each bundled picture."""
    from heliodor.see.overlay import write_below

    out = Path(args.out)
    pages = _pages()
    model = load_model(args)
    out.mkdir(parents=True, exist_ok=True)
    for name, steps in pages:
        picture = read_picture(str(_room() / name))
        started = time.perf_counter()
        answers, drawn = show(model, picture, steps)
        seconds = (time.perf_counter() - started) / max(len(steps), 1)
        path = out / Path(name).with_suffix(".png").name
        save_picture(write_below(drawn, [f"{asked} → {said}" for asked, said in answers]), path)
        if args.json:
            emit({"image": str(path), "answers": [{"asked": a, "said": s} for a, s in answers]})
            continue
        print(f"{path}  ({seconds:.2f} s an answer)")
        for asked, said in answers:
            print(f"  {asked:<36} {said}")
    return 0


def show(
    model: VisionLanguageModel, picture: Image, steps: list[dict[str, Any]]
) -> tuple[list[tuple[str, str]], Image]:
    """Do the steps of one picture.

    Args:
        model: the model.
        picture: the picture, RGB.
        steps: each a task with what it asks: ``{"task": "caption"}``, ``{"task": "ask",
            "question": ...}``, ``{"task": "read"}``, ``{"task": "detect", "labels": ...}``,
            ``{"task": "segment", "labels": ...}``.

    Returns:
        What was asked and said, step by step, and the picture with boxes and masks drawn on it.

    Raises:
        DataError: a step of another kind.
    """
    answers: list[tuple[str, str]] = []
    features = model.encode_image(picture)
    drawn = picture
    for step in steps:
        match step["task"]:
            case "caption":
                lang = step.get("lang", "en")
                answers.append((f"caption {lang}", model.caption(features, lang=lang).text))
            case "ask":
                answers.append((step["question"], model.ask(features, step["question"]).text))
            case "read":
                answers.append(("read", model.read(features).text))
            case "detect" | "segment" as task:
                find = model.detect if task == "detect" else model.segment
                found = find(features, step["labels"])
                drawn = found.draw(drawn)
                labels = ", ".join(f"{box.label} {box.score:.2f}" for box in found)
                answers.append((f"{task} {step['labels']}", labels or "nothing"))
            case other:
                raise DataError(f"demo.json asks for the task {other!r}, which the demo has not")
    return answers, drawn


def _room() -> Path:
    return Path(zoo.__file__).parent / "demo"


def _pages() -> list[tuple[str, list[dict[str, Any]]]]:
    """Pictures and their steps, from ``demo.json``: ``[{"picture": name, "steps": [...]}]``."""
    listing = _room() / "demo.json"
    if not listing.is_file():
        raise DataError(f"{listing} is missing: this installation is incomplete, install it anew")
    return [(page["picture"], page["steps"]) for page in json.loads(listing.read_text("utf-8"))]
