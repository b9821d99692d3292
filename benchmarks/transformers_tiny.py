"""Whether a model that we save answers the same in transformers, picture by picture.

    python benchmarks/transformers_tiny.py
    python benchmarks/transformers_tiny.py --model path/to/folder --pictures 10

Saves the model in transformers layout, loads the folder with PaliGemmaForConditionalGeneration and
AutoProcessor, and lets both continue the same prompts freely and greedily about held-out pictures:
captions in six languages, questions, detection, segmentation, reading and documents in turn.

Prints every pair that differs and the number of equal texts; exits 1 if any differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration

import heliodor
from heliodor.see.vlm import VisionLanguageModel
from heliodor.teach.evals.exam import COLUMNS, Exam, Item, build_exam

TASKS = ("caption", "ask", "detect", "segment", "read", "document")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """A picture, uint8 [H W 3], and a prompt."""

    picture: NDArray[np.uint8]
    prompt: str


def draw_cases(count: int) -> list[Case]:
    """Held-out pictures of every column and task in turn, each picture once."""
    turns = [iter(queue) for exam in _exams(count) for queue in _queues(exam)]
    used: set[int] = set()
    found: list[Case] = []
    for turn in islice(cycle(turns), count * len(turns)):
        case = next((case for case in turn if id(case.picture) not in used), None)
        if case is not None and len(found) < count:
            used.add(id(case.picture))
            found.append(case)
    return found


def _exams(count: int) -> list[Exam]:
    return [build_exam(column, TASKS, max(5, count), seed=0) for column in COLUMNS]


def _queues(exam: Exam) -> list[list[Case]]:
    """The exam's questions of each task and language."""
    queues: dict[str, list[Case]] = {}
    for item in exam.items:
        case = Case(picture=exam.pictures[item.picture], prompt=item.prompt)
        queues.setdefault(_queue(item), []).append(case)
    return list(queues.values())


def _queue(item: Item) -> str:
    return item.kind if item.task == "caption" else item.task


class Reference:
    """The same folder in transformers."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        loader: Any = PaliGemmaForConditionalGeneration
        self._model = loader.from_pretrained(folder, dtype=dtype).eval()
        self._processor: Any = AutoProcessor.from_pretrained(folder)

    @torch.inference_mode()
    def answer(self, case: Case, new: int) -> str:
        """Greedy text, location and mask tokens included."""
        inputs = self._processor(
            images=Image.fromarray(case.picture), text=f"<image>{case.prompt}", return_tensors="pt"
        )
        ids = self._model.generate(**inputs, max_new_tokens=new, do_sample=False)
        return self._processor.decode(
            ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )


def answer(model: VisionLanguageModel, case: Case, new: int) -> str:
    """Greedy text of ours."""
    (row,) = model.generate([case.picture], [case.prompt], max_new_tokens=new)
    return row.text


def compare(model: VisionLanguageModel, pictures: int, new: int) -> int:
    """Print the differences; the number of equal texts."""
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        model.save(path)
        reference = Reference(path, model.model.language.embedding.weight.dtype)
    same = 0
    for case in draw_cases(pictures):
        ours, theirs = answer(model, case, new), reference.answer(case, new)
        same += ours == theirs
        if ours != theirs:
            print(f"{case.prompt}\n  heliodor     {ours!r}\n  transformers {theirs!r}")
    return same


def main() -> int:
    """Parse arguments, compare, print the count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="tiny", help="the shipped 'tiny', a folder, a hub id")
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    args = parser.parse_args()
    same = compare(heliodor.load(args.model), args.pictures, args.max_new_tokens)
    version = transformers.__version__
    print(f"the same text on {same} of {args.pictures} pictures; transformers {version}")
    return 0 if same == args.pictures else 1


if __name__ == "__main__":
    sys.exit(main())
