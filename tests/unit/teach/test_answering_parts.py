"""A batch cut into parts teaches what the whole batch does: answers, and what lies in patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import tiny
from tests.reference import training as slow
from tests.unit.teach import small
from torch import Tensor

from heliodor.errors import DataError
from heliodor.models.paligemma import PaliGemmaConfig
from heliodor.teach.answering import AnswerObjective
from heliodor.teach.data.collate import collate
from heliodor.teach.data.coverage import EDGES, KINDS, THINGS
from heliodor.teach.data.example import Example, Spot
from heliodor.teach.data.palette import COLOURS
from heliodor.teach.grounding import GroundedPaliGemma
from heliodor.teach.log import joined
from heliodor.teach.loop import train
from heliodor.teach.optim import AdamConfig

LETTERS = THINGS + len(COLOURS)
PLACES = 4  # patches of a picture of 16 pixels


def grounded() -> GroundedPaliGemma:
    config = PaliGemmaConfig(vision=small.vision(), language=small.language(), image_token=3712)
    return tiny.filled(GroundedPaliGemma(config))


PARAMETERS = {name for name, _ in grounded().named_parameters()}


def lesson(*, apart: bool = False, together: bool = False) -> AnswerObjective:
    return replace(
        small.objective(),
        model=grounded(),
        grounding=0.3,
        apart=apart,
        together=together,
        pointing=0.4,
        naming=0.2,
    )


def letters(seed: int) -> np.ndarray:
    """A cover of letters, as a page has."""
    rng = np.random.default_rng(seed)
    found = np.zeros((PLACES, KINDS + EDGES), np.uint8)
    shape = (PLACES, KINDS - LETTERS)
    found[:, LETTERS:KINDS] = rng.integers(1, 256, shape) * (rng.random(shape) < 0.2)
    return found


def things(seed: int) -> np.ndarray:
    """A cover of letters and two things, each of which owns a patch."""
    rng = np.random.default_rng(seed)
    found = letters(seed)
    found[rng.permutation(PLACES)[:2], rng.integers(THINGS, size=2)] = 200
    found[:, KINDS:] = rng.integers(0, 256, (PLACES, EDGES))
    return found


def asked(seed: int, cover: np.ndarray | None = None) -> Example:
    """Noise with a question or two."""
    example = small.noise(np.random.default_rng(seed))
    turns = [
        replace(turn, spots=(Spot(start=0, stop=len(turn.suffix), patches=(seed % PLACES,)),))
        for turn in example.turns
    ]
    return replace(example, turns=tuple(turns), cover=cover)


def told(seed: int, cover: np.ndarray) -> Example:
    """Noise about which nothing is asked."""
    return replace(asked(seed, cover), turns=())


BATCHES = {
    "letters that nobody asks about, in the middle and behind": [
        asked(0, letters(0)),
        asked(1),
        told(2, letters(2)),
        told(3, letters(3)),
        asked(4, letters(4)),
        told(5, letters(5)),
    ],
    "a page of letters, pictures that tell nothing, letters": [
        asked(0, letters(0)),
        asked(1),
        asked(2),
        told(3, letters(3)),
    ],
    "things, asked about and not": [
        told(0, things(0)),
        asked(1, things(1)),
        asked(2, things(2)),
        told(3, things(3)),
        told(4, things(4)),
    ],
    "things beside letters": [
        asked(0, things(0)),
        told(1, letters(1)),
        told(2, things(2)),
        told(3, letters(3)),
    ],
    "letters alone": [told(seed, letters(seed)) for seed in range(3)],
}


def learnt(objective: AnswerObjective, examples: list[Example], parts: int) -> dict[str, Tensor]:
    """The gradients that the parts of a batch leave in all parameters, the "loss", the figures."""
    batch = collate(examples, objective.tokenizer, together=objective.together)
    cut = [(1.0, batch)] if parts == 1 else objective.divide(batch, parts)
    assert (len(cut) > 1) == (parts > 1)
    objective.model.zero_grad()
    total = torch.zeros(())
    told: list[tuple[float, Mapping[str, float]]] = []
    for share, part in cut:
        loss, figures = objective.loss(part)
        (loss * share).backward()
        total += loss.detach() * share
        told.append((share, figures))
    found = {n: p.grad for n, p in objective.model.named_parameters() if p.grad is not None}
    logged = {f"figure {name}": torch.tensor(value) for name, value in joined(told).items()}
    grads = {name: grad.clone() for name, grad in found.items() if grad.any()}
    return {"loss": total} | logged | grads


@pytest.mark.parametrize("together", [False, True], ids=["apart", "together"])
@pytest.mark.parametrize("apart", [False, True], ids=["tower", "tower alone"])
@pytest.mark.parametrize("name", BATCHES)
def test_parts_add_up_in_loss_in_figures_and_in_every_gradient(
    name: str, *, apart: bool, together: bool
) -> None:
    """The letters' parts hold no row; their share of what lies in the patches was lost once.

    A bias of the keys moves no softmax, so its gradient is rounding of its neighbours': differences
    are measured by the largest gradient too.
    """
    objective = lesson(apart=apart, together=together)
    whole = learnt(objective, BATCHES[name], 1)
    largest = max(float(v.abs().max()) for key, v in whole.items() if key in PARAMETERS)
    assert {"figure patch", "loss"} < whole.keys()
    for parts in (2, 3, 9):
        found = learnt(objective, BATCHES[name], parts)
        assert found.keys() == whole.keys()
        for key, value in whole.items():
            slack = 1e-6 * (largest if key in PARAMETERS else 1.0)
            assert torch.allclose(found[key], value, rtol=1e-5, atol=slack), key


def test_letters_alone_teach_what_lies_in_their_patches_and_no_words() -> None:
    """A batch of which nothing is asked was an error of torch.stack."""
    objective = replace(lesson(), naming=0.0)
    examples = BATCHES["letters alone"]
    batch = collate(examples, objective.tokenizer)
    loss, figures = objective.loss(batch)
    model = objective.model
    assert isinstance(model, GroundedPaliGemma)
    with torch.no_grad():
        logits = model.look(batch.pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)[1]
    wanted = slow.share_loss(
        logits[..., :KINDS].double().numpy().reshape(-1, KINDS),
        np.stack([letters(seed) for seed in range(3)])[..., :KINDS].reshape(-1, KINDS) / 255,
    )
    assert loss.item() == pytest.approx(0.3 * wanted, rel=1e-5)
    assert figures["patch"] == pytest.approx(wanted, rel=1e-5)
    taught = learnt(objective, examples, 1).keys() & PARAMETERS
    assert {"vision.patch.weight", "covers.weight"} < taught
    assert all(name.startswith(("vision.", "covers.")) for name in taught)


def test_pictures_that_tell_nothing_leave_the_tower_alone_too() -> None:
    """Where answers are to leave it alone: a part without covers once let them through."""
    taught = learnt(lesson(apart=True), [asked(0), asked(1)], 1)
    assert "projector.weight" in taught
    assert not [name for name in taught if name.startswith("vision.")]


def test_a_model_without_the_layer_learns_from_rows_alone() -> None:
    """Parts that only tell what lies in their patches teach it nothing and are left out."""
    examples = BATCHES["letters that nobody asks about, in the middle and behind"]
    objective = small.objective()
    batch = collate(examples, objective.tokenizer)
    cut = objective.divide(batch, 9)
    assert [len(part.groups) > 0 for _, part in cut] == [True] * 3
    total = sum(share * objective.loss(part)[0].item() for share, part in cut)
    assert total == pytest.approx(objective.loss(batch)[0].item(), rel=1e-6)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_batch_that_teaches_nothing_is_an_error(parts: int) -> None:
    """No layer for the patches that are told, or nothing told; and nothing asked in either case."""
    silent = replace(asked(0), turns=())
    for objective, picture in ((small.objective(), told(0, letters(0))), (lesson(), silent)):
        batch = collate([picture] * 2, objective.tokenizer)
        with pytest.raises(DataError, match=r"none of the 2 pictures of a batch is asked about"):
            objective.loss(batch) if parts == 1 else objective.divide(batch, parts)


def test_a_run_in_parts_learns_what_a_run_of_whole_batches_learns(tmp_path: Path) -> None:
    """Four steps on letters, half of them asked about, some batches without a row.

    A large epsilon, lest Adam divides rounding by rounding where a gradient is zero in truth.
    """

    def source(rng: np.random.Generator) -> Example:
        seed = int(rng.integers(1000))
        return asked(seed, letters(seed)) if seed % 4 == 0 else told(seed, letters(seed))

    start = grounded().state_dict()
    found: list[dict[str, Tensor]] = []
    for parts in (1, 2):
        objective = replace(lesson(), sources=((1.0, source),), images=3)
        rows = [len(objective.batch(step).groups) for step in range(4)]
        assert 0 in rows
        assert any(rows)
        slowly = AdamConfig(rate=0.5, eps=1.0)
        run = small.run(steps=4, parts=parts, bfloat16=False, adam=slowly)
        train(run, objective, tmp_path / str(parts), quiet=True)
        found.append(objective.model.state_dict())
    for key, whole in found[0].items():
        moved = float((whole - start[key]).abs().max())
        assert float((found[1][key] - whole).abs().max()) < 1e-3 * moved + 1e-7, key
    assert float((found[0]["covers.weight"] - start["covers.weight"]).norm()) > 0.01
