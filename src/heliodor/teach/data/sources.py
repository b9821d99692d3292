"""Where training examples come from: one source a kind of picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from heliodor.checkpoints.maskcodec import read_mask_codec
from heliodor.errors import DataError
from heliodor.models.maskcodec import MaskCodec
from heliodor.see.masks import encode_masks
from heliodor.teach.data.artwork import TRAIN_STYLES
from heliodor.teach.data.casting import MOST
from heliodor.teach.data.coverage import cover_codes, cover_letters, cover_things
from heliodor.teach.data.documents import document_example
from heliodor.teach.data.example import Example, Turn
from heliodor.teach.data.questions import Question, TaskMix, complete_segment, sample_questions
from heliodor.teach.data.reading import PROMPT, draw_reading
from heliodor.teach.data.scenes import Scene, render_scene, render_single
from heliodor.teach.data.sheets import draw_sheet
from heliodor.teach.data.spots import answer_spots, letter_spots, thing_spots


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneSource:
    """Things on a ground, with questions about them.

    Attributes:
        size: side of the picture in pixels.
        turns: questions about each picture.
        codec: file of the mask codec; needed if ``mix`` draws "segment", as it does by default.
        mix: how often each task, kind and language is asked.
        styles: artwork to draw from.
        close: share of pictures that show one thing close up.
        strength: how much the looks of things vary: near 0 as drawn, 1 as evaluations draw them.
        patch: side in pixels of the patches whose cover is told; 0 for none.
        most: things in a scene at most.
    """

    size: int
    turns: int
    codec: Path | None = None
    mix: TaskMix = field(default_factory=TaskMix)
    styles: tuple[str, ...] = TRAIN_STYLES
    close: float = 0.0
    strength: float = 1.0
    patch: int = 0
    most: int = MOST

    def __post_init__(self) -> None:
        """Refuse to draw masks that nothing can write."""
        if self.codec is None and self.mix.tasks.get("segment", 0.0) > 0:
            raise DataError('"segment" is drawn and no mask codec is given: name its file')

    def __call__(self, rng: np.random.Generator) -> Example:
        """Draw one picture and its questions."""
        if rng.random() < self.close:
            scene = render_single(rng, size=self.size, styles=self.styles, strength=self.strength)
        else:
            scene = render_scene(
                rng, size=self.size, styles=self.styles, strength=self.strength, most=self.most
            )
        asked = sample_questions(rng, scene, self.turns, self.mix)
        return Example(
            image=scene.image,
            turns=tuple(self._turn(scene, q) for q in asked),
            cover=cover_things(scene, self.patch) if self.patch else None,
        )

    def _turn(self, scene: Scene, question: Question) -> Turn:
        if question.task == "segment" and self.codec is not None:
            question = coded(scene, question, _codec(self.codec))
        return Turn(
            task=question.task,
            prompt=question.prompt,
            suffix=question.suffix,
            spots=thing_spots(scene, question, self.patch) if self.patch else (),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingSource:
    """Lines of text to read.

    Attributes:
        size: side of the picture in pixels.
        max_words: most words of a line.
        max_characters: most characters of a line; None for what the size allows.
        patch: side in pixels of the patches whose cover is told; 0 for none.
    """

    size: int
    max_words: int = 5
    max_characters: int | None = None
    patch: int = 0

    def __call__(self, rng: np.random.Generator) -> Example:
        """Draw one line."""
        reading = draw_reading(
            rng, size=self.size, max_words=self.max_words, max_characters=self.max_characters
        )
        spots = letter_spots(reading, self.patch) if self.patch else ()
        turn = Turn(task="read", prompt=PROMPT, suffix=reading.text, spelled=True, spots=spots)
        return Example(
            image=reading.image,
            turns=(turn,),
            cover=cover_letters(reading, self.patch) if self.patch else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LettersSource:
    """Sheets full of type, of which nothing is asked: hundreds of letters a picture.

    What lies in the patches is the whole lesson, so a picture costs no pass of the decoder.

    Attributes:
        size: side of the picture in pixels.
        patch: side in pixels of the patches whose cover is told.
    """

    size: int
    patch: int

    def __call__(self, rng: np.random.Generator) -> Example:
        """Draw one sheet."""
        sheet = draw_sheet(rng, size=self.size)
        return Example(image=sheet.image, turns=(), cover=cover_codes(sheet, self.patch))


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentSource:
    """Receipts, signs, tables, charts and cards, with questions about them.

    Attributes:
        size: side of the picture in pixels.
        turns: most questions about each picture.
        patch: side in pixels of the patches whose cover is told; 0 for none.
    """

    size: int
    turns: int
    patch: int = 0

    def __call__(self, rng: np.random.Generator) -> Example:
        """Draw one document and its questions."""
        document = document_example(rng, size=self.size)
        order = rng.permutation(len(document.questions))[: self.turns]
        asked = [document.questions[int(index)] for index in order]
        turns = tuple(
            Turn(
                task="document",
                prompt=prompt,
                suffix=answer,
                spelled=True,
                spots=answer_spots(document, answer, self.patch) if self.patch else (),
            )
            for prompt, answer in asked
        )
        cover = cover_codes(document, self.patch) if self.patch else None
        return Example(image=document.image, turns=turns, cover=cover)


def coded(scene: Scene, question: Question, codec: MaskCodec) -> Question:
    """A segment question with the codes of its masks filled in."""
    things = [scene.things[index] for index in question.things]
    if not things:
        return complete_segment(question, [])
    codes = encode_masks(codec, [t.mask for t in things], [t.box for t in things])
    return complete_segment(question, codes.tolist())


@cache
def _codec(path: Path) -> MaskCodec:
    return read_mask_codec(path)
