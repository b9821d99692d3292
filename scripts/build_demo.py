"""Draw the pictures of `heliodor demo` and list what is asked about each.

    python scripts/build_demo.py

Scenes are held-out layouts, text and documents are set in held-out fonts: nothing here was trained
on. The pictures and demo.json go to src/heliodor/zoo/demo.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from heliodor.teach.data.documents import DocumentKind, document_example
from heliodor.teach.data.fonts import TextSplit
from heliodor.teach.data.reading import read_example
from heliodor.teach.data.scenes import render_scene
from heliodor.teach.data.splits import Split, scene_rng

ROOM = Path(__file__).parent.parent / "src" / "heliodor" / "zoo" / "demo"
SCENES = (1_000_115, 1_000_016, 1_000_004, 1_000_058)
SEED = 0xDE30


def main() -> None:
    """Draw everything."""
    ROOM.mkdir(parents=True, exist_ok=True)
    pages = [scene(index, number) for number, index in enumerate(SCENES, 1)]
    pages += [
        line(),
        document("receipt", DocumentKind.RECEIPT),
        document("chart", DocumentKind.BAR_CHART),
    ]
    (ROOM / "demo.json").write_text(json.dumps(pages, indent=1, ensure_ascii=False) + "\n", "utf-8")


def scene(index: int, number: int) -> dict[str, object]:
    """A scene, its caption in some language, questions, boxes and masks."""
    drawn = render_scene(scene_rng(Split.LAYOUTS, index), size=448, split=Split.LAYOUTS)
    save(drawn.image, f"scene-{number}.png")
    counts = Counter(thing.concept for thing in drawn.things)
    many = max(counts, key=lambda concept: counts[concept])
    single = min(counts, key=lambda concept: counts[concept])
    names = [concept.name for concept in counts]
    steps: list[dict[str, str]] = [
        {"task": "caption", "lang": "en"},
        {"task": "caption", "lang": ("zh", "fr", "de", "es")[number - 1]},
        {"task": "ask", "question": "What is in the picture?"},
        {"task": "ask", "question": f"How many {many.plural} are there?"},
        {"task": "ask", "question": f"Where is the {single.name}?"},
        {"task": "detect", "labels": " ; ".join(names)},
        {"task": "segment", "labels": single.name},
    ]
    return {"picture": f"scene-{number}.png", "steps": steps}


def line() -> dict[str, object]:
    """A line to read."""
    image, _ = read_example(
        np.random.default_rng([SEED, 1]), size=448, split=TextSplit.TEST, max_characters=30
    )
    save(image, "line.png")
    return {"picture": "line.png", "steps": [{"task": "read"}]}


def document(name: str, kind: DocumentKind) -> dict[str, object]:
    """A document and two questions about it."""
    rng = np.random.default_rng([SEED, 2 + len(name)])
    drawn = document_example(rng, size=224, split=TextSplit.TEST, kind=kind)
    save(drawn.image, f"{name}.png")
    asked = [prompt.removeprefix("answer en ") for prompt, _ in drawn.questions[:3]]
    return {
        "picture": f"{name}.png",
        "steps": [{"task": "ask", "question": question} for question in asked],
    }


def save(image: np.ndarray, name: str) -> None:
    """Write a picture."""
    Image.fromarray(image).save(ROOM / name, optimize=True)


if __name__ == "__main__":
    main()
