"""Questions: every answer recomputed from the scene by other means than those that made it."""

import re
from collections import Counter

import numpy as np
import pytest

from heliodor.errors import DataError
from heliodor.teach.data.asking import absent
from heliodor.teach.data.concepts import Concept, concept_named, held_out_pair, load_concepts
from heliodor.teach.data.questions import (
    Question,
    TaskMix,
    all_questions,
    complete_segment,
    detect_question,
    sample_questions,
    segment_question,
)
from heliodor.teach.data.scenes import Scene, Thing, render_scene
from heliodor.teach.data.splits import Split, scene_rng
from heliodor.teach.data.templates import TEMPLATES, WORDS

SCENES = [
    render_scene(scene_rng(split, index), size=112, split=split)
    for split in (Split.LAYOUTS, Split.PAIRS)
    for index in range(60)
]
PLURALS = {c.plural: c for c in load_concepts()}


def ask(scene: Scene, index: int, language: str = "en") -> list[Question]:
    rng = np.random.default_rng(index)
    return [q for q in all_questions(rng, scene, language) if q.task == "ask"]


def only(scene: Scene, name: str, language: str = "en") -> Thing:
    (thing,) = [t for t in scene.things if t.concept.in_language(language) == name]
    return thing


def middle(thing: Thing) -> tuple[float, float]:
    """The middle of a thing's extent, 0..1, from its mask alone."""
    ys, xs = np.nonzero(thing.mask)
    height, width = thing.mask.shape
    return (xs.min() + xs.max() + 1) / 2 / width, (ys.min() + ys.max() + 1) / 2 / height


def cell(thing: Thing) -> str:
    x, y = middle(thing)
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    return f"{row} {column}".strip() or "centre"


def solve(scene: Scene, question: str) -> str:
    """Answer an English question from masks and labels, by its wording alone."""
    kinds = Counter(thing.concept.name for thing in scene.things)
    if match := re.search(r"left or (?:to the )?right of the (.+)\?", question):
        first = re.search(r"(?:Is|Are) the (.+?) (?:to the )?left or", question)
        assert first is not None
        gap = middle(only(scene, first[1]))[0] - middle(only(scene, match[1]))[0]
        return "left" if gap < 0 else "right"
    if match := re.fullmatch(r"(?:Is|Are) the (.+) above or below the (.+)\?", question):
        gap = middle(only(scene, match[1]))[1] - middle(only(scene, match[2]))[1]
        return "above" if gap < 0 else "below"
    if question.startswith("How many"):
        if re.search(r"How many (things|objects) ", question):
            return str(len(scene.things))
        match = re.fullmatch(r"How many (.+) (?:are|do|can) .*\?", question)
        assert match is not None
        return str(kinds[PLURALS[re.sub(r" (are|do|can)$", "", match[1])].name])
    return solve_colour_and_place(scene, question, kinds)


def solve_colour_and_place(scene: Scene, question: str, kinds: Counter[str]) -> str:
    if "colo" in question and "background" in question:
        return str(scene.background_colour)
    if match := re.fullmatch(
        r"(?:What|Which) (?:colou?r (?:is|are)|is the colour of) the (.+)\?", question
    ):
        return str(only(scene, match[1]).colour)
    if match := re.fullmatch(r"(?:Where|In which).*? (?:is|are) the (.+)\?", question):
        return cell(only(scene, match[1]))
    return solve_rest(scene, question, kinds)


def solve_rest(scene: Scene, question: str, kinds: Counter[str]) -> str:
    if match := re.fullmatch(
        r"(?:Is there|Are there|Do you see) (?:an?|some) (.+?)(?: in the picture)?\?", question
    ):
        return "yes" if kinds[match[1]] else "no"
    beside = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1)}
    beside |= {"below": (1, 1), "under": (1, 1)}
    if match := re.fullmatch(
        r"What is (?:to the )?(left of|right of|above|below|under) the (.+)\?", question
    ):
        axis, sign = beside[match[1]]
        anchor = only(scene, match[2])
        beyond = [t for t in scene.things if sign * (middle(t)[axis] - middle(anchor)[axis]) > 0]
        (thing,) = beyond
        return thing.concept.name
    sides = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
    if match := re.search(r"What is (?:on|at) (?:the )?(left|right|top|bottom)", question):
        axis, sign = sides[match[1]]
        (thing,) = [t for t in scene.things if sign * (middle(t)[axis] - 0.5) > 0]
        return thing.concept.name
    return ", ".join(kinds)


@pytest.mark.parametrize("index", range(len(SCENES)))
def test_english_answers_follow_from_the_picture(index: int) -> None:
    scene = SCENES[index]
    for question in ask(scene, index):
        text = question.prompt.removeprefix("answer en ")
        assert question.prompt.startswith("answer en ")
        # "What is on the left of the picture?" speaks of a side, not of a thing.
        text = text.replace(" of the picture?", "?") if "What is" in text else text
        assert question.suffix == solve(scene, text), question.prompt


def test_every_kind_is_asked_and_every_english_form_is_used() -> None:
    seen = Counter(q.kind for i, scene in enumerate(SCENES) for q in ask(scene, i))
    assert set(seen) == {"what", "how_many", "colour", "where", "exists"}
    assert min(seen.values()) > 60
    prompts = {q.prompt for i, scene in enumerate(SCENES) for q in ask(scene, i)}
    for ways in TEMPLATES["en"].values():
        for way in ways:
            pattern = re.escape(way)
            for slot in (r"\{a\}", r"\{b\}", r"\{is\}", r"\{Is\}"):
                pattern = pattern.replace(slot, ".+")
            assert any(re.fullmatch(f"answer en {pattern}", prompt) for prompt in prompts), way


@pytest.mark.parametrize("language", ["zh", "fr", "de", "es", "ja"])
def test_other_languages_answer_as_english_does(language: str) -> None:
    for index, scene in enumerate(SCENES[:40]):
        for question in ask(scene, index, language):
            assert question.prompt.startswith(f"answer {language} ")
            if question.kind == "what":
                names = question.suffix.split(WORDS[language]["separator"])
                shown = {thing.concept for thing in scene.things}
                assert {concept_named(name, language) for name in names} <= shown
            if question.kind == "how_many":
                assert question.suffix in set("012345")
            if question.kind == "exists":
                assert question.suffix in {WORDS[language]["yes"], WORDS[language]["no"]}


def test_answers_in_another_language_translate_the_english_ones() -> None:
    scene = next(s for s in SCENES if len({t.concept for t in s.things}) == 2)
    (english,) = [q for q in ask(scene, 0) if q.suffix.count(", ") == 1 and q.kind == "what"]
    (german,) = [q for q in ask(scene, 0, "de") if q.suffix.count(", ") == 1 and q.kind == "what"]
    names = [concept_named(name).in_language("de") for name in english.suffix.split(", ")]
    assert german.suffix == ", ".join(names)


def locations(thing: Thing) -> str:
    """The four tokens from the mask: top, left, bottom, right."""
    ys, xs = np.nonzero(thing.mask)
    size = thing.mask.shape[0]
    numbers = (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1)
    return "".join(f"<loc{min(1023, max(0, round(n / size * 1023))):04d}>" for n in numbers)


@pytest.mark.parametrize("index", range(0, len(SCENES), 5))
def test_detections_list_every_thing_asked_for_from_left_to_right(index: int) -> None:
    scene = SCENES[index]
    concepts = list({thing.concept: None for thing in scene.things})[::-1]
    question = detect_question(scene, concepts)
    assert question.prompt == "detect " + " ; ".join(c.name for c in concepts)
    expected = [f"{locations(t)} {t.concept.name}" for t in scene.things]
    assert question.suffix == " ; ".join(expected)
    assert question.things == tuple(range(len(scene.things)))


def test_detecting_what_is_absent_gives_nothing_and_names_follow_the_language() -> None:
    scene = SCENES[0]
    other = absent(np.random.default_rng(0), scene)
    assert detect_question(scene, [other]).suffix == ""
    shown = scene.things[0].concept
    question = detect_question(scene, [shown], "zh")
    assert question.prompt == f"detect {shown.in_language('zh')}"
    assert question.suffix.endswith(" " + shown.in_language("zh"))


def test_segment_codes_go_to_their_things_in_order() -> None:
    scene = next(s for s in SCENES if len({t.concept for t in s.things}) < len(s.things))
    counts = Counter(thing.concept for thing in scene.things)
    concept = counts.most_common(1)[0][0]
    question = segment_question(scene, [concept])
    things = [scene.things[i] for i in question.things]
    assert [thing.concept for thing in things] == [concept] * counts[concept]
    codes = [[(7 * row + column) % 128 for column in range(16)] for row in range(len(things))]
    done = complete_segment(question, codes)
    parts = [
        locations(thing) + "".join(f"<seg{c:03d}>" for c in row) + f" {concept.name}"
        for thing, row in zip(things, codes, strict=True)
    ]
    assert done.suffix == " ; ".join(parts)
    with pytest.raises(DataError, match="give 16 for each"):
        complete_segment(question, codes[:-1])
    with pytest.raises(DataError, match=re.escape("must be 0..127")):
        complete_segment(question, [[128] * 16] * len(things))


def test_absent_things_are_absent_and_never_a_held_out_partner() -> None:
    rng = np.random.default_rng(1)
    for scene in SCENES:
        shown: set[Concept] = {thing.concept for thing in scene.things}
        for _ in range(5):
            other = absent(rng, scene)
            assert other not in shown
            assert not any(held_out_pair(other, concept) for concept in shown)


def test_sampling_is_deterministic_distinct_and_follows_the_mix() -> None:
    def draw(mix: TaskMix | None = None) -> list[Question]:
        rng = np.random.default_rng(5)
        return [q for scene in SCENES for q in sample_questions(rng, scene, 4, mix)]

    questions = draw()
    assert questions == draw()
    assert len(questions) == 4 * len(SCENES)
    for start in range(0, len(questions), 4):
        assert len(set(questions[start : start + 4])) == 4
    tasks = Counter(q.task for q in questions)
    assert set(tasks) == {"caption", "ask", "detect", "segment"}
    assert tasks["ask"] > tasks["segment"]
    colours = draw(TaskMix(tasks={"ask": 1.0}, kinds={"colour": 1.0}, languages={"en": 1.0}))
    assert {q.kind for q in colours} == {"colour", "how_many"}  # the latter where none has one
    assert all(q.prompt.startswith("answer en ") for q in colours)


def test_yes_and_no_are_as_frequent_as_each_other() -> None:
    answers = Counter(
        q.suffix for i, s in enumerate(SCENES) for q in ask(s, i) if q.kind == "exists"
    )
    assert answers["yes"] == answers["no"] == len(SCENES)
