"""A model that answers from a script, for tests of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import heliodor
from heliodor.errors import PromptError


@dataclass(frozen=True)
class Said:
    text: str
    score: float = 0.5

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text, "score": self.score}


class Found(list[SimpleNamespace]):
    def to_dict(self) -> dict[str, Any]:
        return {"boxes": [{"label": box.label, "xyxy": list(box.xyxy)} for box in self]}

    def draw(self, picture: Image.Image) -> Image.Image:
        drawn = picture.copy()
        for box in self:
            x0, y0, x1, y1 = (int(edge) for edge in box.xyxy)
            drawn.paste((255, 0, 0), (x0, y0, x1, y1))
        return drawn


class FakeModel:
    """Answers with the size of what it was shown, so that a test sees which picture arrived."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.seeds: list[int] = []
        self.loaded: list[tuple[str, dict[str, str]]] = []

    def encode_image(self, image: Image.Image) -> Image.Image:
        return image

    def caption(self, image: Image.Image, lang: str = "en") -> Said:
        if lang == "xx":
            raise PromptError("no language 'xx'")
        return Said(f"{image.width}x{image.height} {lang}")

    def ask(self, image: Image.Image, question: str, lang: str = "en") -> Said:
        return Said(f"{question} {lang}")

    def read(self, image: Image.Image) -> Said:
        return Said("OPEN\nDAILY")

    def detect(self, image: Image.Image, labels: str) -> Found:
        first = labels.partition(" ; ")[0]
        return Found([SimpleNamespace(label=first, score=0.25, xyxy=(1.0, 2.0, 5.0, 6.0))])

    def segment(self, image: Image.Image, labels: str) -> Found:
        return self.detect(image, labels)

    def generate(
        self,
        images: list[Any],
        prompts: list[str],
        *,
        max_new_tokens: int,
        sampler: object,
        seed: int,
    ) -> list[Said]:
        self.calls.append((max_new_tokens, sampler))
        self.seeds.append(seed)
        return [Said(prompt) for prompt in prompts]

    def stream(self, image: Image.Image, prompt: str, **_: Any) -> Iterator[str]:
        yield from (prompt, " in", " pieces")

    def save(self, path: Path, format: str, dtype: str | None) -> None:
        path.mkdir()
        (path / "config.json").write_text(f"{format} {dtype}")
        self.calls.append((format, dtype))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    fake = FakeModel()

    def load(source: str, **options: str) -> FakeModel:
        fake.loaded.append((source, options))
        return fake

    monkeypatch.setitem(vars(heliodor), "load", load)
    return fake


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., str]:
    def make(width: int = 12, height: int = 8, name: str = "picture.png") -> str:
        Image.new("RGB", (width, height), (0, 0, 255)).save(tmp_path / name)
        return str(tmp_path / name)

    return make
