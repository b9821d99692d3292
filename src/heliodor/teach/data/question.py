"""One example of any task: what is asked and what should be answered."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Question"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A prompt and its answer.

    Attributes:
        task: "caption", "ask", "detect", "segment", "read" or "document".
        prompt: What stands before the line break: "answer en What is on the left?".
        suffix: What a model should write after it; may be empty (nothing to detect).
        kind: Finer than the task: "what", "how_many", "colour", "where", "exists", "caption_fr".
        things: Indices into the scene's things: for detect and segment those of the answer, in its
            order; for ask those that one must look at to answer, where it is about some.
    """

    task: str
    prompt: str
    suffix: str
    kind: str
    things: tuple[int, ...] = ()
