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
    from heliodor.paint.guidance import Guidance
    from heliodor.paint.painter import Painter, load_painter
    from heliodor.paint.result import Painting
    from heliodor.paint.solver import RK4, Euler, Heun, Midpoint
    from heliodor.see.answers import Answer, Box, Detections, Segment, Segments
    from heliodor.see.labels import Classification, LabelScore
    from heliodor.see.lm import LanguageModel, load_gemma
    from heliodor.see.pair import ImageTextModel, load_siglip
    from heliodor.see.vlm import Generation, VisionLanguageModel, load

__version__ = "0.1.0"

__all__ = [
    "RK4",
    "Answer",
    "Beam",
    "Box",
    "Classification",
    "Detections",
    "Euler",
    "Generation",
    "Greedy",
    "Guidance",
    "HeliodorError",
    "Heun",
    "ImageTextModel",
    "LabelScore",
    "LanguageModel",
    "Midpoint",
    "Painter",
    "Painting",
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
    "load_painter",
    "load_siglip",
]

_HOME = {
    "RK4": "heliodor.paint.solver",
    "Answer": "heliodor.see.answers",
    "Beam": "heliodor.generation",
    "Box": "heliodor.see.answers",
    "Classification": "heliodor.see.labels",
    "Detections": "heliodor.see.answers",
    "Euler": "heliodor.paint.solver",
    "Generation": "heliodor.see.vlm",
    "Greedy": "heliodor.generation",
    "Guidance": "heliodor.paint.guidance",
    "HeliodorError": "heliodor.errors",
    "Heun": "heliodor.paint.solver",
    "ImageTextModel": "heliodor.see.pair",
    "LabelScore": "heliodor.see.labels",
    "LanguageModel": "heliodor.see.lm",
    "Midpoint": "heliodor.paint.solver",
    "Painter": "heliodor.paint.painter",
    "Painting": "heliodor.paint.result",
    "Segment": "heliodor.see.answers",
    "Segments": "heliodor.see.answers",
    "Temperature": "heliodor.generation",
    "TopK": "heliodor.generation",
    "TopP": "heliodor.generation",
    "VisionLanguageModel": "heliodor.see.vlm",
    "load": "heliodor.see.vlm",
    "load_gemma": "heliodor.see.lm",
    "load_painter": "heliodor.paint.painter",
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
