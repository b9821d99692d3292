"""PaliGemma's objective against plain loops over the whole network's logits."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.reference import training as slow
from tests.unit.teach import small

from heliodor.teach.data.collate import Batch, collate
from heliodor.teach.data.example import Example, Turn
from heliodor.teach.losses import Nearness

ROOT = Path(__file__).parents[3]


def rows_one_by_one(batch: Batch, model: torch.nn.Module) -> list[tuple[str, float, int]]:
    """Task, loss and number of answer tokens of every row, each computed alone, unpadded."""
    found = []
    for rows in batch.groups:
        for index, (task,) in enumerate(rows.tasks):
            ids = rows.tokens[index, : int(rows.length[index])]
            image = batch.pixels[int(rows.image[index])].permute(2, 0, 1).float()
            pixels = (image / 127.5 - 1)[None]
            with torch.no_grad():
                features = model.encode_images(pixels)  # pyright: ignore[reportCallIssue]
                logits = model(ids[None], features, rows.prefix[index : index + 1])[0]
            prefix = int(rows.prefix[index])
            loss = slow.answer_loss(logits.double().numpy(), ids.tolist(), prefix)
            found.append((task, loss, len(ids) - prefix))
    return found


def test_the_loss_is_the_mean_of_the_rows_means() -> None:
    objective = small.objective(images=5)
    batch = objective.batch(0)
    loss, figures = objective.loss(batch)
    alone = rows_one_by_one(batch, objective.model)
    assert len(alone) > 5
    assert loss.item() == pytest.approx(np.mean([row for _, row, _ in alone]), rel=1e-5)
    for task in ("caption", "ask"):
        of_task = [row for name, row, _ in alone if name == task]
        assert figures[task] == pytest.approx(np.mean(of_task), rel=1e-5)
    assert set(figures) == {"ask", "caption"}


def test_near_places_are_nearly_right_and_words_are_not() -> None:
    """Four places and a word: the network's own logits through a plain loop."""
    objective = small.objective()
    words = objective.tokenizer
    near = Nearness(first=words.loc_start, count=1024, spread=6.0)
    places = "<loc0000><loc0400><loc1020><loc1023>"
    turn = Turn(task="detect", prompt="detect cat", suffix=f"{places} cat")
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    batch = collate([Example(image=image, turns=(turn,))], words)
    (rows,) = batch.groups
    with torch.no_grad():
        pixels = (batch.pixels.permute(0, 3, 1, 2).float() / 127.5) - 1
        features = objective.model.encode_images(pixels)
        logits = objective.model(rows.tokens, features, rows.prefix)[0].double().numpy()
    ids, prefix = rows.tokens[0].tolist(), int(rows.prefix)
    bell = {"first": words.loc_start, "count": 1024, "spread": 6.0}
    each = [
        slow.near_loss(logits[place - 1].tolist(), ids[place], **bell)
        if words.loc_start <= ids[place] < words.loc_start + 1024
        else slow.cross_entropy(logits[place - 1].tolist(), ids[place])
        for place in range(prefix, len(ids))
    ]
    found = replace(objective, near=near).loss(batch)[0].item()
    assert found == pytest.approx(np.mean(each), rel=1e-5)
    assert found != pytest.approx(objective.loss(batch)[0].item(), rel=1e-3)


def test_the_loss_is_not_transformers_mean_over_tokens() -> None:
    objective = small.objective(images=5)
    batch = objective.batch(0)
    alone = rows_one_by_one(batch, objective.model)
    by_token = sum(row * count for _, row, count in alone) / sum(count for *_, count in alone)
    loss, _ = objective.loss(batch)
    assert loss.item() != pytest.approx(by_token, rel=1e-3)


def test_padding_and_grouping_do_not_move_the_loss() -> None:
    """The same turns in groups of 32 and of one."""
    objective = small.objective()
    examples = [small.noise(np.random.default_rng(i)) for i in range(4)]
    together = collate(examples, objective.tokenizer)
    apart = collate(examples, objective.tokenizer, group=1)
    assert len(apart.groups) > len(together.groups) == 1
    losses = [objective.loss(batch)[0].item() for batch in (together, apart)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_the_losses_of_parts_add_up_to_the_loss_of_the_whole(parts: int) -> None:
    objective = small.objective(images=6)
    batch = objective.batch(0)
    cut = objective.divide(batch, parts)
    assert 1 < len(cut) <= parts
    assert sum(len(part.pixels) for _, part in cut) == 6
    total = sum(share * objective.loss(part)[0].item() for share, part in cut)
    assert total == pytest.approx(objective.loss(batch)[0].item(), rel=1e-6)


def test_prompts_are_read_and_not_learnt() -> None:
    """The gradient of the loss by the logits of the prompt is zero: another prompt token that is
    embedded alike leaves the loss alone, another answer token does not."""
    objective = small.objective()
    turn = Turn(task="ask", prompt="answer en what?", suffix="dog")
    image = np.zeros((16, 16, 3), np.uint8)
    batch = collate([Example(image=image, turns=(turn,))], objective.tokenizer)
    (rows,) = batch.groups
    place = int(rows.prefix) - 2
    with torch.no_grad():
        table = objective.model.language.embedding.weight
        table[3000] = table[int(rows.tokens[0, place])]

    def with_token(where: int, token: int) -> float:
        tokens = rows.tokens.clone()
        tokens[0, where] = token
        changed = replace(batch, groups=(replace(rows, tokens=tokens),))
        return objective.loss(changed)[0].item()

    loss = objective.loss(batch)[0].item()
    assert with_token(place, 3000) == pytest.approx(loss, rel=1e-6)
    assert with_token(int(rows.prefix), 3000) != pytest.approx(loss, rel=1e-3)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    def content(seed: int, step: int) -> list[object]:
        batch = small.objective(seed=seed).batch(step)
        return [batch.pixels.tolist(), [rows.tokens.tolist() for rows in batch.groups]]

    assert content(7, 3) == content(7, 3)
    assert content(7, 3) != content(7, 4)
    assert content(7, 3) != content(8, 3)


def test_shares_say_how_often_a_source_is_drawn() -> None:
    def source(shade: int):
        turn = Turn(task="ask", prompt="a", suffix="b")
        image = np.full((16, 16, 3), shade, np.uint8)
        return lambda _: Example(image=image, turns=(turn,))

    sources = ((6.0, source(0)), (2.0, source(1)), (0.0, source(2)))
    objective = replace(small.objective(images=400), sources=sources)
    shades = objective.batch(0).pixels[:, 0, 0, 0]
    counts = [int((shades == shade).sum()) for shade in range(3)]
    assert counts[2] == 0
    assert counts[0] == pytest.approx(300, abs=45)  # five standard deviations


def test_samples_are_the_models_greedy_answers_beside_the_truth() -> None:
    objective = small.objective(shown=2)
    words, model = objective.tokenizer, objective.model.eval()
    expected = []
    for example in objective.shown:
        pixels = torch.tensor(example.image).permute(2, 0, 1)[None].float() / 127.5 - 1
        features = model.encode_images(pixels)
        for turn in example.turns:
            ids = words.encode_prefix(turn.prompt)
            prefix, said = torch.tensor([len(ids)]), []
            while len(said) < 64 and words.eos not in said:
                logits = model(torch.tensor([ids + said]), features, prefix)[0, -1]
                said.append(int(logits[: words.vocab_size - 1].argmax()))
            expected.append(f"{turn.prompt} -> {words.decode(said)} | {turn.suffix}")
    assert objective.samples() == expected


SHOW = """
import hashlib, sys
import numpy as np
from heliodor.teach.data.collate import collate
from heliodor.teach.data.questions import TaskMix
from heliodor.teach.data.sources import DocumentSource, ReadingSource, SceneSource
from heliodor.teach.pairing import PairObjective
from heliodor.text import Tokenizer
from heliodor.zoo import TOKENIZER
from tests import tiny

words = Tokenizer.from_file(TOKENIZER)
asks = TaskMix(tasks={"caption": 1.0, "ask": 1.0, "detect": 1.0})
sources = [SceneSource(size=64, turns=5, mix=asks), ReadingSource(size=112),
           DocumentSource(size=112, turns=3)]
digest = hashlib.sha256()
for step in range(3):
    rng = np.random.default_rng([5, step])
    batch = collate([source(rng) for source in sources[:1]], words)
    other = collate([source(rng) for source in sources[1:]], words)
    for part in (batch, other):
        digest.update(part.pixels.numpy().tobytes())
        for rows in part.groups:
            digest.update(rows.tokens.numpy().tobytes())
pairs = PairObjective(model=tiny.pair(), tokenizer=words, size=48, images=4, singles=0.5, seed=3)
for step in range(3):
    batch = pairs.batch(step)
    for tensor in (batch.pixels, batch.tokens, batch.same):
        digest.update(tensor.numpy().tobytes())
print(digest.hexdigest())
"""


def test_batches_do_not_depend_on_the_process() -> None:
    """Python hashes strings anew in every process; no set's order may reach a batch."""
    found = set()
    for seed in ("1", "2"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        }
        done = subprocess.run(
            [sys.executable, "-c", SHOW],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
    assert len(found.pop()) == 65
