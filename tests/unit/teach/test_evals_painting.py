"""The painter's evaluation with a painter that paints the scenes, and a judge that knows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from heliodor.errors import InputError
from heliodor.teach.data.concepts import concept_named, held_out_pair
from heliodor.teach.data.painting import Description, Group
from heliodor.teach.evals.painting import (
    LANGUAGES,
    MEASURES,
    Asked,
    Seen,
    build_prompts,
    evaluate_painter,
    score,
)
from heliodor.teach.evals.painting_report import Gap
from heliodor.teach.evals.statistics import Ratio

COUNT = 12
ASKED = build_prompts(COUNT, 0)
APPLE, CAR = concept_named("apple"), concept_named("car")


def said(relation: str | None, *colours: str | None) -> Description:
    groups = zip((APPLE, CAR), colours, strict=True)
    return Description(
        groups=tuple(Group(concept=c, colour=colour) for c, colour in groups), relation=relation
    )


class TestPrompts:
    def test_every_prompt_names_a_pair_that_training_never_shows(self) -> None:
        for each in ASKED:
            first, second = (group.concept for group in each.description.groups)
            assert held_out_pair(first, second)
            assert set(each.prompts) == set(LANGUAGES)
            assert first.name in each.prompts["en"]
            assert first.in_language("zh") in each.prompts["zh"]
            assert each.real.shape == (128, 128, 3)

    def test_seeds_differ_and_both_kinds_of_relation_are_asked(self) -> None:
        other = build_prompts(2, 1)
        assert other[0].prompts != ASKED[0].prompts
        assert build_prompts(2, 0)[1].prompts == ASKED[1].prompts
        relations = {each.description.relation for each in ASKED}
        assert relations & {"left", "right"}
        assert relations & {"above", "below"}


class TestScore:
    def test_by_hand(self) -> None:
        asked = [said("left", "red", "blue"), said("above", None, "red"), said("right", None, None)]
        seen = [
            Seen(found=((10.0, 50.0), (40.0, 20.0)), colours=(True, False)),
            Seen(found=((10.0, 50.0), (40.0, 20.0)), colours=(None, True)),
            Seen(found=((90.0, 50.0), None), colours=(None, None)),
        ]
        assert score(asked, seen) == {
            "objects": [(2.0, 2.0), (2.0, 2.0), (1.0, 2.0)],
            "colours": [(1.0, 2.0), (1.0, 1.0), (0.0, 0.0)],
            "left/right": [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0)],
            "above/below": [(0.0, 0.0), (0.0, 1.0), (0.0, 0.0)],
        }

    @pytest.mark.parametrize(
        ("relation", "right"), [("left", 1), ("right", 0), ("above", 0), ("below", 1)]
    )
    def test_above_is_a_smaller_row(self, relation: str, right: int) -> None:
        seen = Seen(found=((10.0, 50.0), (40.0, 20.0)), colours=(None, None))
        marks = score([said(relation, None, None)], [seen])
        assert sum(top for pairs in marks.values() for top, _ in pairs) == 2 + right


class TestGap:
    def test_it_is_a_difference_over_the_same_pictures(self) -> None:
        """Where one is always the other less 0.25, no resample says anything else."""
        upper = Ratio.mean([1.0, 0.5, 0.75, 1.0])
        lower = Ratio.mean([0.75, 0.25, 0.5, 0.75])
        gap = Gap(upper=upper, lower=lower)
        assert gap.value == pytest.approx(0.25)
        assert np.allclose(gap.draws(np.random.default_rng(0), 50), 0.25)


@dataclass
class Knowing:
    """Knows every scene by its pixels, and says what is there; on others it sees nothing."""

    asked: Sequence[Asked]

    def which(self, picture: Any) -> Asked | None:
        found = [each for each in self.asked if np.array_equal(each.real, picture)]
        return found[0] if found else None

    def encode_images(self, images: Sequence[Any]) -> Sequence[Any]:
        return list(images)

    def detect_batch(
        self, images: Sequence[Any], labels: Sequence[Sequence[str]], *, max_objects: int
    ) -> list[list[Any]]:
        return [self._boxes(self.which(i), own) for i, own in zip(images, labels, strict=True)]

    @staticmethod
    def _boxes(each: Asked | None, labels: Sequence[str]) -> list[Any]:
        if each is None:
            return []
        names = [group.concept.name for group in each.description.groups]
        axis = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1), None: (0, 0)}
        x, y = axis[each.description.relation]
        places = ((60 + 30 * x, 60 + 30 * y), (60, 60))
        return [
            SimpleNamespace(label=name, xyxy=(u - 5, v - 5, u + 5, v + 5), score=0.5)
            for name, (u, v) in zip(names, places, strict=True)
            if name in labels
        ]

    def segment_batch(self, images: Any, labels: Any, *, max_objects: int) -> list[Any]:
        raise AssertionError("nothing about a painting asks for masks")

    def generate(
        self, images: Sequence[Any], prompts: Sequence[str], **_: Any
    ) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(text=self._colour(self.which(i), p))
            for i, p in zip(images, prompts, strict=True)
        ]

    @staticmethod
    def _colour(each: Asked | None, prompt: str) -> str:
        assert prompt.startswith("answer en What colour ")
        for group in () if each is None else each.description.groups:
            if prompt.endswith(f" the {group.concept.name}?"):
                return group.colour or "none"
        return "nothing"


class Copying:
    """Paints the scene that a prompt was taken from; from French, nothing."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def paint(self, prompt: list[str], **options: Any) -> list[Any]:
        self.calls.append(options)
        scenes = {text: each.real for each in ASKED for text in each.prompts.values()}
        french = {each.prompts["fr"] for each in ASKED}
        blank = np.zeros((128, 128, 3), np.uint8)
        chosen = [blank if text in french else scenes[text] for text in prompt]
        return [SimpleNamespace(image=Image.fromarray(each)) for each in chosen]


class Echo:
    """An autoencoder that gives back every picture a little darker."""

    def encode(self, pixels: torch.Tensor, *, return_dict: bool) -> tuple[Any]:
        return (SimpleNamespace(mean=pixels),)

    def decode(self, latents: torch.Tensor, *, return_dict: bool) -> tuple[torch.Tensor]:
        return ((latents - 10 / 127.5).clamp_min(-3),)


def test_a_whole_evaluation() -> None:
    """Perfect in English and Chinese, nothing in French, nothing in another prompt's picture."""
    painter = Copying()
    report = evaluate_painter(
        painter, Knowing(ASKED), Echo(), prompts=COUNT, round_trips=3, options={"steps": 7}
    )
    figures = {(figure.name, figure.language): figure for figure in report.figures}
    for name in MEASURES:
        for language, wanted in (("en", 1.0), ("zh", 1.0), ("fr", 0.0)):
            found = figures[name, language]
            assert (found.value, found.real, found.other) == (wanted, 1.0, 0.0)
        assert figures[name, "en"].met is True
        assert figures[name, "zh"].met is None
        assert figures[f"{name}, below English", "zh"].met is True
        below = figures[f"{name}, below English", "fr"]
        assert (below.value, below.low, below.high, below.met) == (1.0, 1.0, 1.0, False)
    trip = figures["round trip, dB", ""]
    assert 28.0 < trip.value < 29.5  # ten grey levels are 28.13 dB; black stays black
    assert trip.met is True
    assert report.met is False
    assert [call["seed"] for call in painter.calls] == [list(range(COUNT))] * 3
    assert all(call["steps"] == 7 for call in painter.calls)
    record = json.loads(json.dumps(report.to_dict()))
    assert record["met"] is False
    assert record["options"] == {"batch_size": 16, "steps": 7}
    table = report.table()
    assert "9 of 13 floors met" in table
    assert table.count("MISSED") == 4


def test_numbers_out_of_range() -> None:
    with pytest.raises(InputError, match="prompts must be at least 2"):
        evaluate_painter(Copying(), Knowing(ASKED), Echo(), prompts=1)
