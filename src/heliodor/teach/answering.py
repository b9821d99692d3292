"""PaliGemma training: pictures, prompts and the answers to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from heliodor.errors import DataError
from heliodor.generation import Greedy, Plan, generate
from heliodor.models.paligemma import PaliGemma
from heliodor.teach.data.collate import Batch, Rows, collate, divide
from heliodor.teach.data.example import Example
from heliodor.teach.grounding import GroundedPaliGemma, owned, patch_loss
from heliodor.teach.log import Mean
from heliodor.teach.losses import Nearness, predicts_answer, turn_losses
from heliodor.teach.naming import Words, naming_loss, words_for
from heliodor.teach.pairing import pixels_in
from heliodor.teach.pointing import Pointed, Pointing
from heliodor.teach.together import hidden_together
from heliodor.text import Tokenizer

Source = Callable[[np.random.Generator], Example]
"""Draws one example."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerObjective:
    """Cross entropy of the answers: mean over rows, over a row's turns, over a turn's tokens.

    A row is one turn, as in big_vision, or all turns about a picture.

    Attributes:
        model: the network that learns; one with a layer for what lies in the patches
            (:mod:`~heliodor.teach.grounding`) learns that too, where the examples tell it.
        tokenizer: ids of words.
        sources: where examples come from, with the share of pictures each gives.
        images: pictures of a batch.
        seed: of the whole run.
        shown: examples whose answers are shown while the run lasts.
        grounding: weight of what lies in the patches beside the answers.
        apart: whether the answers leave the image tower alone, which then learns from what lies in
            the patches only: a decoder that knows nothing yet would teach it to forget.
        near: ids whose neighbours share the target, see :func:`~heliodor.teach.losses.turn_losses`.
        together: whether the turns about a picture share one row, see
            :mod:`~heliodor.teach.together`.
        pointing: weight of where the decoder looks while it answers, where the examples tell it,
            see :mod:`~heliodor.teach.pointing`.
        naming: weight of how the image tokens name what lies in the patches, where the examples
            tell it, see :mod:`~heliodor.teach.naming`; beside ``grounding``, not in its place.
        words: those that ``naming`` tells; None where it is 0.
    """

    model: PaliGemma
    tokenizer: Tokenizer
    sources: Sequence[tuple[float, Source]]
    images: int
    seed: int
    shown: Sequence[Example] = ()
    grounding: float = 0.0
    apart: bool = False
    near: Nearness | None = None
    together: bool = False
    pointing: float = 0.0
    naming: float = 0.0
    _pointing: Pointing | None = field(init=False, default=None, repr=False)
    words: Words | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        """Watch the decoder if it is told where to look, and list the words if these are told."""
        if self.pointing > 0:
            object.__setattr__(self, "_pointing", Pointing(self.model))
        if self.naming > 0:
            object.__setattr__(self, "words", words_for(self.tokenizer))

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, step])
        shares = np.array([share for share, _ in self.sources])
        picked = rng.choice(len(shares), size=self.images, p=shares / shares.sum())
        examples = [self.sources[int(index)][1](rng) for index in picked]
        return collate(examples, self.tokenizer, together=self.together)

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float]]:
        """Loss, and the mean loss of each task's turns.

        Of a part it is what the part adds to the loss of the whole batch.

        Raises:
            DataError: no picture is asked about, nor tells what lies in its patches.
        """
        features, beside, figures = self._look(batch)
        parts: list[Tensor] = []
        pointed: list[Pointed] = []
        by_task: dict[str, list[float]] = defaultdict(list)
        for rows in batch.groups:
            losses, looked = self._turn_losses(features, rows, batch.spots)
            pointed += [looked] if looked is not None else []
            start = 0
            for row in rows.tasks:
                parts.append(losses[start : start + len(row)].mean())
                start += len(row)
            tasks = (task for tasks in rows.tasks for task in tasks)
            for task, value in zip(tasks, losses.detach(), strict=True):
                by_task[task].append(float(value))
        figures |= {task: Mean(sum(v) / len(v), over=len(v)) for task, v in sorted(by_task.items())}
        if parts:
            answers = batch.row_share * torch.stack(parts).mean()
            count = sum(each.count for each in pointed)
            if count:
                where = torch.stack([each.loss for each in pointed]).sum() / count
                answers = answers + self.pointing * batch.spot_share * where
                figures["pointed"] = Mean(sum(each.share for each in pointed) / count, over=count)
            return answers if beside is None else answers + beside, figures
        if beside is None:
            raise _nothing_to_learn(batch)
        return beside, figures

    def _look(self, batch: Batch) -> tuple[Tensor, Tensor | None, dict[str, float]]:
        """Image tokens [B N W], the loss of what lies in the patches if told, figures of it."""
        pixels = pixels_in(batch.pixels)
        if not isinstance(self.model, GroundedPaliGemma):
            return self.model.encode_images(pixels), None, {}
        features, patches = self.model.look(pixels, apart=self.apart)
        if not len(batch.covered):
            return features, None, {}
        loss, figures = patch_loss(
            patches[batch.covered],
            batch.cover,
            kinds_share=batch.cover_share,
            edges_share=batch.edge_share,
        )
        beside = self.grounding * loss
        if self.words is not None:
            seen = features[batch.covered]
            said, told = naming_loss(self.model.language, seen, batch.cover, self.words)
            beside = beside + self.naming * batch.cover_share * said
            figures |= told
        return features, beside, figures

    def divide(self, batch: Batch, parts: int) -> list[tuple[float, Batch]]:
        """Cut a batch between pictures.

        A part knows which share it holds of the rows, of the covered pictures and of the patches
        that things own, and its loss counts the answers, the kinds and the edges by these: the
        losses of all parts simply add up.

        Raises:
            DataError: no picture is asked about, nor tells what lies in its patches.
        """
        if not isinstance(self.model, GroundedPaliGemma):
            batch = replace(batch, cover=batch.cover[:0], covered=batch.covered[:0])
        found = divide(batch, parts)
        if not found:
            raise _nothing_to_learn(batch)
        each = [int(owned(part.cover).sum()) if len(part.covered) else 0 for part in found]
        shares = [batch.edge_share * count / max(1, sum(each)) for count in each]
        return [
            (1.0, replace(part, edge_share=share))
            for part, share in zip(found, shares, strict=True)
        ]

    def _turn_losses(
        self, features: Tensor, rows: Rows, spots: Tensor
    ) -> tuple[Tensor, Pointed | None]:
        """The loss of every turn, row after row, and where the decoder looked."""
        if self._pointing is None or not bool((rows.spot >= 0).any()):
            hidden, looked = self._hidden(features, rows), None
        else:
            with self._pointing.watch():
                hidden = self._hidden(features, rows)
                looked = self._pointing.pointed(rows.spot, spots)
        chosen = predicts_answer(rows.turn, rows.asked)
        logits = self.model.language.logits(hidden[chosen])
        counts = torch.tensor([len(tasks) for tasks in rows.tasks], device=rows.turn.device)
        turn = (rows.turn + (counts.cumsum(0) - counts)[:, None])[chosen]
        targets = rows.tokens.roll(-1, dims=1)[chosen]
        return turn_losses(logits, targets, turn, int(counts.sum()), self.near), looked

    def _hidden(self, features: Tensor, rows: Rows) -> Tensor:
        read = features[rows.image]
        if self.together:
            return hidden_together(self.model, rows.tokens, read, rows.turn, rows.asked)
        return self.model.hidden(rows.tokens, read, rows.prefix)

    @torch.no_grad()
    def samples(self) -> list[str]:
        """What the model now answers to ``shown``, beside the truth."""
        lines: list[str] = []
        device = self.model.projector.weight.device
        for example in self.shown:
            pixels = pixels_in(torch.as_tensor(example.image.copy())[None].to(device))
            features = self.model.encode_images(pixels)
            for turn in example.turns:
                tokens = torch.tensor([self.tokenizer.encode_prefix(turn.prompt)], device=device)
                valid = torch.ones_like(tokens, dtype=torch.bool)
                logits, cache = self.model.prefill(tokens, features, valid)
                plan = Plan(
                    sampler=Greedy(), max_new_tokens=64, stop=frozenset({self.tokenizer.eos})
                )
                (answer,) = generate(self.model, logits, cache, plan)
                said = self.tokenizer.decode(answer.tokens)
                lines.append(f"{turn.prompt} -> {said} | {turn.suffix}")
        return lines


def _nothing_to_learn(batch: Batch) -> DataError:
    return DataError(
        f"none of the {len(batch.pixels)} pictures of a batch is asked about, and what lies in "
        "their patches is not told, or the model has no layer for it: let more sources ask"
    )
