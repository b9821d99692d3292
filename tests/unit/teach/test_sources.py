"""Examples against the scenes they were drawn from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny

from heliodor.checkpoints.maskcodec import write_mask_codec
from heliodor.errors import DataError
from heliodor.models.maskcodec import MaskCodec
from heliodor.teach.data import sources
from heliodor.teach.data.concepts import held_out_pair
from heliodor.teach.data.questions import Question, TaskMix
from heliodor.teach.data.scenes import Scene, Thing
from heliodor.teach.data.sources import DocumentSource, ReadingSource, SceneSource, coded

SIZE = 64
OBJECT = re.compile(r"((?:<loc\d{4}>){4})((?:<seg\d{3}>)*) ([^;<]+?)(?: ; |$)")
SEGMENT = TaskMix(tasks={"segment": 1.0})


@pytest.fixture(scope="module")
def codec() -> MaskCodec:
    return tiny.mask_codec()


@pytest.fixture(scope="module")
def codec_file(codec: MaskCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "maskcodec.npz"
    write_mask_codec(codec, path)
    return path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Scene]:
    scenes: list[Scene] = []

    def noting(render: Callable[..., Scene]) -> Callable[..., Scene]:
        def draw(*args: Any, **settings: Any) -> Scene:
            scenes.append(render(*args, **settings))
            return scenes[-1]

        return draw

    for name in ("render_single", "render_scene"):
        monkeypatch.setattr(sources, name, noting(getattr(sources, name)))
    return scenes


def locations(thing: Thing) -> str:
    """Top, left, bottom, right as shares of the picture in 1,023 steps."""
    x0, y0, x1, y1 = thing.box
    return "".join(f"<loc{round(v / SIZE * 1023):04d}>" for v in (y0, x0, y1, x1))


def codes_of(thing: Thing, codec: MaskCodec) -> str:
    """The mask cut to its box, 64 by 64, through the codec alone."""
    x0, y0, x1, y1 = (int(v) for v in thing.box)
    crop = Image.fromarray(thing.mask[y0:y1, x0:x1].astype(np.float32))
    small = np.asarray(crop.resize((64, 64), Image.Resampling.BILINEAR))
    (codes,) = codec.encode(torch.tensor(small)[None, None]).tolist()
    return "".join(f"<seg{code:03d}>" for code in codes)


def test_a_segment_answer_carries_the_place_and_sixteen_codes_of_every_thing(
    codec: MaskCodec, codec_file: Path, drawn: list[Scene]
) -> None:
    source = SceneSource(size=SIZE, turns=3, codec=codec_file, mix=SEGMENT)
    told = 0
    for seed in range(12):
        example = source(np.random.default_rng(seed))
        scene = drawn[-1]
        np.testing.assert_array_equal(example.image, scene.image)
        known = {locations(thing): codes_of(thing, codec) for thing in scene.things}
        for turn in example.turns:
            assert turn.task == "segment"
            assert turn.prompt.startswith("segment ")
            objects = OBJECT.findall(turn.suffix)
            assert "".join(map("".join, objects)).count("<") == turn.suffix.count("<")
            for where, codes, label in objects:
                assert codes == known[where]
                assert codes.count("<seg") == 16
                assert label in turn.prompt
                told += 1
    assert told > 30


def test_no_segmentation_is_written_without_a_codec() -> None:
    with pytest.raises(DataError, match='"segment" is drawn and no mask codec is given'):
        SceneSource(size=SIZE, turns=2)
    assert SceneSource(size=SIZE, turns=2, mix=TaskMix(tasks={"segment": 0.0, "ask": 1.0}))


def test_segmenting_what_is_absent_is_answered_by_nothing(codec: MaskCodec) -> None:
    question = Question(task="segment", prompt="segment cat", suffix="", kind="segment")
    scene = Scene(image=np.zeros((4, 4, 3), np.uint8), things=(), background_colour=None, size=4)
    assert coded(scene, question, codec) == question


def test_detections_name_boxes_of_their_scene(drawn: list[Scene]) -> None:
    source = SceneSource(size=SIZE, turns=3, mix=TaskMix(tasks={"detect": 1.0}))
    told = 0
    for seed in range(12):
        example = source(np.random.default_rng(seed))
        known = {locations(thing) for thing in drawn[-1].things}
        for turn in example.turns:
            objects = OBJECT.findall(turn.suffix)
            assert {where for where, *_ in objects} <= known
            assert all(codes == "" for _, codes, _ in objects)
            told += len(objects)
    assert told > 30


def test_held_out_pairs_are_never_drawn(drawn: list[Scene]) -> None:
    asks = TaskMix(tasks={"caption": 1.0})
    source = SceneSource(size=32, turns=1, mix=asks, close=0.2)
    rng = np.random.default_rng(0)
    for _ in range(300):
        source(rng)
    meetings = [(a, b) for s in drawn for a in s.things for b in s.things if a is not b]
    assert len(meetings) > 500
    assert not any(held_out_pair(a.concept, b.concept) for a, b in meetings)


def test_close_is_the_share_of_pictures_of_one_thing(drawn: list[Scene]) -> None:
    asks = TaskMix(tasks={"caption": 1.0})
    rng = np.random.default_rng(0)
    for _ in range(20):
        SceneSource(size=32, turns=1, mix=asks, close=1.0)(rng)
    assert {len(scene.things) for scene in drawn} == {1}


@pytest.mark.parametrize("turns", [1, 4])
def test_a_scene_gets_as_many_turns_as_asked_for(turns: int) -> None:
    asks = TaskMix(tasks={"caption": 0.3, "ask": 0.4, "detect": 0.3})
    source = SceneSource(size=SIZE, turns=turns, mix=asks)
    found = [source(np.random.default_rng(seed)) for seed in range(20)]
    assert {len(example.turns) for example in found} == {turns}
    tasks = {turn.task for example in found for turn in example.turns}
    assert tasks == {"caption", "ask", "detect"}


def test_a_line_is_read_back_word_for_word() -> None:
    source = ReadingSource(size=112, max_words=3, max_characters=20)
    for seed in range(20):
        example = source(np.random.default_rng(seed))
        (turn,) = example.turns
        assert (turn.task, turn.prompt) == ("read", "ocr")
        assert 1 <= len(turn.suffix.split()) <= 3
        assert len(turn.suffix) <= 20
        assert example.image.shape == (112, 112, 3)
        assert example.image.std() > 1  # something is written there


def test_documents_are_asked_distinct_questions_up_to_the_limit() -> None:
    source = DocumentSource(size=112, turns=2)
    numbers = set()
    for seed in range(30):
        example = source(np.random.default_rng(seed))
        assert example.image.shape == (112, 112, 3)
        prompts = [turn.prompt for turn in example.turns]
        assert len(set(prompts)) == len(prompts)
        assert all(turn.task == "document" and turn.suffix for turn in example.turns)
        numbers.add(len(prompts))
    assert max(numbers) == 2


def test_a_document_answers_the_questions_it_was_drawn_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Any] = []
    draw = sources.document_example

    def noting(*args: Any, **settings: Any) -> Any:
        drawn.append(draw(*args, **settings))
        return drawn[-1]

    monkeypatch.setattr(sources, "document_example", noting)
    example = DocumentSource(size=112, turns=3)(np.random.default_rng(4))
    np.testing.assert_array_equal(example.image, drawn[0].image)
    pairs = {(turn.prompt, turn.suffix) for turn in example.turns}
    assert pairs <= set(drawn[0].questions)
    assert pairs


@pytest.mark.parametrize(
    "source",
    [
        SceneSource(size=48, turns=3, mix=TaskMix(tasks={"caption": 1.0, "ask": 1.0})),
        ReadingSource(size=112),
        DocumentSource(size=112, turns=3),
    ],
    ids=["scene", "reading", "document"],
)
def test_an_example_is_a_function_of_its_generator(source: Callable[..., Any]) -> None:
    first, same, other = (source(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, same.image)
    assert first.turns == same.turns
    assert (first.image.tolist(), first.turns) != (other.image.tolist(), other.turns)
