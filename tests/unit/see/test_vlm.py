"""The verbs on random weights, and on a network that says what a test tells it to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests import tiny
from tests.unit.see.small import PICTURE, script

from heliodor.errors import PromptError
from heliodor.generation import Greedy
from heliodor.image import ImageProcessor
from heliodor.see.vlm import NO_LOOP, VisionLanguageModel


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny.vlm(seed=22)  # one that detects and segments something


def prompts_of(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that reach the engine from here on."""
    seen: list[str] = []
    generate = model.generate

    def spy(images: Any, prompts: list[str], **options: Any) -> Any:
        seen.extend(prompts)
        return generate(images, prompts, **options)

    monkeypatch.setattr(model, "generate", spy)
    return seen


def test_verbs_write_the_prompts_that_the_model_was_trained_on(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = prompts_of(model, monkeypatch)
    model.caption(PICTURE, max_new_tokens=1)
    model.caption(PICTURE, "de", max_new_tokens=1)
    model.ask(PICTURE, " how many? ", max_new_tokens=1)
    model.ask(PICTURE, "combien ?", "fr", max_new_tokens=1)
    model.read(PICTURE, max_new_tokens=1)
    model.detect(PICTURE, "bee; red flower", max_objects=1)
    model.segment(PICTURE, ["bee"], max_objects=1)
    assert seen == [
        "caption en",
        "caption de",
        "answer en how many?",
        "answer fr combien ?",
        "ocr",
        "detect bee ; red flower",
        "segment bee",
    ]


def test_an_answer_is_what_generation_says(model: VisionLanguageModel) -> None:
    answer = model.caption(PICTURE, max_new_tokens=7)
    (found,) = model.generate([PICTURE], ["caption en"], max_new_tokens=7, sampler=Greedy())
    assert answer.text == found.text.strip()
    assert answer.tokens == found.tokens
    assert answer.score == pytest.approx(found.score, rel=1e-5)  # it guesses: other passes
    assert found.score == pytest.approx(math.exp(np.mean(found.logprobs)))
    assert 0.0 < answer.score < 1.0


def test_an_answer_is_trimmed_and_scored(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(model, monkeypatch, " two bees ", chance=0.8)
    answer = model.ask(PICTURE, "how many?")
    assert answer.text == "two bees"
    assert answer.score == pytest.approx(0.8, abs=1e-5)
    assert answer.to_dict() == {"text": "two bees", "score": answer.score}


@pytest.mark.parametrize(
    "said", ["100000", "TOTAL 1000000 EUR", "0 0 0 0 0", "wow, wow, wow, wow!"]
)
def test_repeated_digits_and_words_are_read_in_full(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Four equal tokens in a row once ended an answer: "100000" was read as "10"."""
    script(model, monkeypatch, said)
    assert model.read(PICTURE).text == said
    assert model.ask(PICTURE, "what is written?").text == said


def test_an_answer_that_goes_round_in_circles_is_ended(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(model, monkeypatch, "a boat" + " of the shore" * 60)
    answer = model.caption(PICTURE)
    assert answer.text.startswith("a boat of the shore")
    assert answer.text.count("of the shore") <= 2
    (found,) = model.generate([PICTURE], ["x"], constraint=NO_LOOP, max_new_tokens=96)
    assert found.finish == "constraint"


@pytest.mark.parametrize(
    ("question", "message"), [("", "question is empty"), ("  ", "empty"), ("a\nb", "line break")]
)
def test_questions_have_to_ask_something_on_one_line(
    model: VisionLanguageModel, question: str, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        model.ask(PICTURE, question)


def test_unknown_languages_are_refused(model: VisionLanguageModel) -> None:
    with pytest.raises(PromptError, match="the language 'english' is unknown: did you mean 'en'"):
        model.caption(PICTURE, "english")


def test_a_question_too_long_for_the_model_is_refused(model: VisionLanguageModel) -> None:
    with pytest.raises(PromptError, match=r"exceed the model's context of 512: shorten the prompt"):
        model.ask(PICTURE, "why " * 600)
    with pytest.raises(PromptError, match=r"exceed the model's context of 512"):
        model.detect(PICTURE, ["bee " * 600])


def test_the_processor_of_a_model_is_its_own(model: VisionLanguageModel) -> None:
    assert model.processor == ImageProcessor(size=32)
