"""An evaluation end to end, on models whose scores are known: one that knows, one that guesses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from heliodor.errors import InputError
from heliodor.teach import evals
from heliodor.teach.data.concepts import concept_named
from heliodor.teach.data.language import LANGUAGES
from heliodor.teach.evals import usual
from heliodor.teach.evals.answers import Said
from heliodor.teach.evals.boxes import Marked
from heliodor.teach.evals.exam import COLUMNS, TASKS, Item, build_exam
from heliodor.teach.evals.marking import FLOORS, Floor, mark
from heliodor.teach.evals.report import Figure, Report, Timing, describe_machine
from heliodor.teach.evals.text import character_error_rate

EXAMPLES = 5
Key = tuple[bytes, str]


def knows(item: Item) -> Said:
    if item.task == "detect":
        boxes = [Marked(label=t.concept.name, xyxy=t.box, score=0.5) for t in item.things]
        return Said(boxes=tuple(boxes))
    if item.task == "segment":
        return Said(mask=item.things[0].mask)
    return Said(text=item.truth)


class Scripted:
    """Answers by picture and prompt; nothing to what it does not know."""

    def __init__(self, script: dict[Key, Said]) -> None:
        self.script = script
        self.sizes: list[int] = []
        self.prompts: set[Key] = set()

    def _say(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Said]:
        keys = [(image.tobytes(), text) for image, text in zip(images, prompts, strict=True)]
        self.sizes.append(len(keys))
        self.prompts |= set(keys)
        return [self.script.get(key, Said()) for key in keys]

    def encode_images(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(images)

    def generate(self, images: Any, prompts: Any, **_: Any) -> list[Said]:
        return self._say(images, prompts)

    def detect_batch(self, images: Any, labels: Any, **_: Any) -> list[tuple[Marked, ...]]:
        return [s.boxes for s in self._say(images, [f"detect {' ; '.join(x)}" for x in labels])]

    def segment_batch(self, images: Any, labels: Any, **_: Any) -> list[list[SimpleNamespace]]:
        said = self._say(images, [f"segment {' ; '.join(x)}" for x in labels])
        return [[] if s.mask is None else [SimpleNamespace(inside=s.mask)] for s in said]


@pytest.fixture(scope="module", autouse=True)
def few_training_examples() -> Iterator[None]:
    """Count the most frequent answers on fewer examples than the real thing does."""
    caches = (usual._scenes, usual._items, usual._counts, usual._usual_box)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usual, "_COUNTED", 60)
        for cached in caches:
            cached.cache_clear()
        yield
    for cached in caches:
        cached.cache_clear()


@pytest.fixture(scope="module")
def questions() -> list[tuple[Key, Item]]:
    exams = [build_exam(column, TASKS, EXAMPLES, 0) for column in COLUMNS]
    return [((e.pictures[i.picture].tobytes(), i.prompt), i) for e in exams for i in e.items]


@pytest.fixture(scope="module")
def oracle(questions: list[tuple[Key, Item]]) -> Scripted:
    return Scripted({key: knows(item) for key, item in questions})


@pytest.fixture(scope="module")
def perfect(oracle: Scripted) -> Report:
    return evals.run(oracle, examples=EXAMPLES)


def test_a_model_that_knows_everything_scores_everything(perfect):
    for figure in perfect.figures:
        wanted = 0.0 if figure.task == "read" else 1.0
        assert (figure.value, figure.low, figure.high) == pytest.approx((wanted,) * 3), figure


def test_every_task_is_measured_on_its_pictures(perfect):
    scenes = {"new layouts", "held-out pairs", "held-out artwork"}
    for task in TASKS:
        columns = {figure.pictures for figure in perfect.figures if figure.task == task}
        assert columns == ({"held-out fonts"} if task in ("read", "document") else scenes)
    captions = [f.name for f in perfect.figures if f.pictures == "new layouts"][:6]
    assert captions == ["object names F1"] + [f"object names F1, {c}" for c in LANGUAGES[1:]]


def test_every_floor_is_on_the_table_and_met(perfect):
    asked = {(f.task, f.name, f.pictures): f.floor for f in perfect.figures if f.floor is not None}
    assert asked == FLOORS
    assert perfect.met


def test_a_blank_picture_tells_the_oracle_nothing(perfect, oracle):
    for figure in perfect.figures:
        assert figure.blank == (1.0 if figure.task == "read" else 0.0), figure
    grey = np.full((224, 224, 3), 128, dtype=np.uint8).tobytes()
    on_grey = {prompt for picture, prompt in oracle.prompts if picture == grey}
    assert on_grey == {prompt for _, prompt in oracle.prompts}


def test_questions_are_put_in_batches(oracle, perfect):
    assert max(oracle.sizes) > 1
    assert max(oracle.sizes) <= 32


def test_a_model_that_gives_the_most_frequent_answer_scores_as_the_column_says(questions):
    guesser = Scripted({key: usual.usual_answer(item) for key, item in questions})
    report = evals.run(guesser, examples=EXAMPLES)
    for figure in report.figures:
        assert figure.value == pytest.approx(figure.usual), figure
    assert any(figure.usual > 0 for figure in report.figures if figure.task == "ask")
    assert not report.met


def test_only_the_tasks_asked_for_are_measured(oracle):
    lines: list[str] = []
    report = evals.run(oracle, tasks=["read"], examples=3, progress=lines.append)
    assert {figure.task for figure in report.figures} == {"read"}
    assert report.figures[0].count == 3
    assert list(report.timing) == ["read"]
    assert any("read" in line for line in lines)


def test_the_table_fits_and_marks_the_floors(perfect):
    lines = perfect.table().splitlines()
    assert max(map(len, lines)) <= 120
    row = next(line for line in lines if "AP50 " in line and "new layouts" in line)
    assert row.split()[:2] == ["detect", "AP50"]
    assert ">= 0.60" in row
    assert "met" in row
    assert f"{len(FLOORS)} of {len(FLOORS)} floors met" in perfect.table()


def figure(value: float, floor: Floor | None) -> Figure:
    return Figure(
        task="read",
        name="rate",
        pictures="fonts",
        count=9,
        value=value,
        low=0.1,
        high=0.3,
        usual=1.0,
        blank=1.0,
        floor=floor,
    )


def report(*figures: Figure) -> Report:
    timing = {"read": Timing(answers=9, seconds=0.1, alone=0.2)}
    machine = describe_machine()
    return Report(figures=figures, seed=0, examples=9, timing=timing, elapsed=1.0, machine=machine)


def test_a_missed_floor_says_so():
    most = Floor(value=0.08, less_is_better=True)
    found = report(figure(0.2, most), figure(0.05, most), figure(0.5, None))
    rows = found.table().splitlines()[2:5]
    assert ["MISSED" in row for row in rows] == [True, False, False]
    assert ["<= 0.08" in row for row in rows] == [True, True, False]
    assert not found.met
    assert "1 of 2 floors met" in found.table()


def test_the_record_is_plain_json_with_all_that_is_needed_to_repeat_it(perfect):
    record = perfect.to_dict()
    assert json.loads(json.dumps(record)) == record
    assert (record["seed"], record["examples"], record["met"]) == (0, EXAMPLES, True)
    assert {"heliodor", "torch", "processor", "threads"} <= set(record["machine"])
    first = record["figures"][0]
    assert first["floor"] == {"value": 0.9, "less_is_better": False}
    assert record["timing"]["caption"]["answers"] == sum(
        figure.count for figure in perfect.figures if figure.task == "caption"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ["sing"]}, "tasks must be a list of some of caption"),
        ({"tasks": []}, "tasks must be"),
        ({"tasks": "read"}, "tasks must be"),
        ({"examples": 0}, "examples must be at least 1"),
        ({"seed": -1}, "seed at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        evals.run(Scripted({}), **arguments)


def asked(kind: str, truth: str, said: str) -> float:
    item = Item(task="ask", kind=kind, prompt="", truth=truth, picture=0)
    return mark("ask", [item], [Said(text=said)])[0].statistic.value


@pytest.mark.parametrize(
    ("kind", "truth", "said", "right"),
    [
        ("what", "bee, sun", "sun, bee", 1),
        ("what", "bee, sun", "A sun,  the bee.", 1),
        ("what", "bee, sun", "bee", 0),
        ("what", "bee", "bee, sun", 0),
        ("how_many", "3", "three", 1),
        ("how_many", "3", "4", 0),
        ("where", "top left", "Top left.", 1),
        ("where", "top left", "top", 0),
        ("colour", "red", "", 0),
    ],
)
def test_an_answer_is_right_after_normalisation(kind, truth, said, right):
    assert asked(kind, truth, said) == right


def test_caption_names_are_counted_over_all_pictures():
    bee, sun, bread = (concept_named(name) for name in ("bee", "sun", "bread"))
    items = [
        Item(task="caption", kind="caption_en", prompt="", truth="", picture=0, concepts=c)
        for c in (frozenset({bee, sun}), frozenset({bread}))
    ]
    said = [Said(text="a bee and two cats"), Said(text="nothing")]
    # one name in common; two are named and three are there
    assert mark("caption", items, said)[0].statistic.value == pytest.approx(2 * 1 / (2 + 3))


def test_the_rate_of_reading_errors_is_that_of_the_corpus():
    wanted, given = ["open daily", "7pm", "Zoo"], ["open  dally", "", "zoos"]
    items = [Item(task="read", kind="x", prompt="", truth=t, picture=0) for t in wanted]
    value = mark("read", items, [Said(text=t) for t in given])[0].statistic.value
    assert value == pytest.approx(character_error_rate(given, wanted))


def test_masks_are_compared_pixel_by_pixel_and_a_missing_one_is_zero(questions):
    (item, *_) = [i for _, i in questions if i.task == "segment"]
    thing = item.things[0]
    half = thing.mask.copy()
    half[:, : round(sum(thing.box[::2]) / 2)] = False
    wanted = np.count_nonzero(half) / np.count_nonzero(thing.mask)
    said = [Said(mask=half), Said()]
    assert mark("segment", [item, item], said)[0].statistic.value == pytest.approx(wanted / 2)


def test_wording_leaves_out_names_and_keeps_the_rest():
    item = Item(task="ask", kind="how_many", prompt="answer en How many cats?", truth="", picture=0)
    assert usual.wording(item) == "answer en How many …?"
