"""PaliGemma in PyTorch: caption, ask, read, detect and segment.

    model = heliodor.load("tiny")
    model.caption("photo.png").text

Importing this package imports nothing heavy: each public name is fetched from its module when it
is first used (PEP 562), so ``import heliodor`` and ``heliodor --help`` load no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliodor import errors
    from heliodor.errors import HeliodorError
    from heliodor.generation import Beam, Greedy, Temperature, TopK, TopP
    from heliodor.see.answers import Answer, Box, Detections, Segment, Segments
    from heliodor.see.labels import Classification, LabelScore
    from heliodor.see.lm import LanguageModel, load_gemma
    from heliodor.see.pair import ImageTextModel, load_siglip
    from heliodor.see.vlm import Generation, VisionLanguageModel, load

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Beam",
    "Box",
    "Classification",
    "Detections",
    "Generation",
    "Greedy",
    "HeliodorError",
    "ImageTextModel",
    "LabelScore",
    "LanguageModel",
    "Segment",
    "Segments",
    "Temperature",
    "TopK",
    "TopP",
    "VisionLanguageModel",
    "__version__",
    "errors",
    "load",
    "load_gemma",
    "load_siglip",
]

_HOME = {
    "Answer": "heliodor.see.answers",
    "Beam": "heliodor.generation",
    "Box": "heliodor.see.answers",
    "Classification": "heliodor.see.labels",
    "Detections": "heliodor.see.answers",
    "Generation": "heliodor.see.vlm",
    "Greedy": "heliodor.generation",
    "HeliodorError": "heliodor.errors",
    "ImageTextModel": "heliodor.see.pair",
    "LabelScore": "heliodor.see.labels",
    "LanguageModel": "heliodor.see.lm",
    "Segment": "heliodor.see.answers",
    "Segments": "heliodor.see.answers",
    "Temperature": "heliodor.generation",
    "TopK": "heliodor.generation",
    "TopP": "heliodor.generation",
    "VisionLanguageModel": "heliodor.see.vlm",
    "load": "heliodor.see.vlm",
    "load_gemma": "heliodor.see.lm",
    "load_siglip": "heliodor.see.pair",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("heliodor.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'heliodor' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
