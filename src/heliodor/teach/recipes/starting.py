"""What a stage of tiny starts from: an earlier run or a checkpoint, and what is fitted to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from heliodor.checkpoints import transformers as transformers_layout
from heliodor.checkpoints.positions import resize_positions
from heliodor.errors import TrainingError
from heliodor.teach.answering import AnswerObjective
from heliodor.teach.data.example import Example
from heliodor.teach.fitting import fit_covers, fit_names
from heliodor.teach.grounding import GroundedPaliGemma
from heliodor.teach.naming import Words, naming_loss
from heliodor.teach.pairing import pixels_in
from heliodor.teach.state import newest_model

__all__ = ["fit_start", "read_start", "take_over"]

_SEEDS = 0xF17  # of pictures to fit to
FITTED = 2400
"""Pictures that the layer for patches and the words are fitted to."""

_LOOKED_AT = 32  # pictures by which it is judged whether the words lie near
_FAR = 1.7  # nats from which on they do not; once fitted they come to about 1.2


def read_start(place: Path) -> Mapping[str, Tensor]:
    """Parameters by name, of a checkpoint or of a run's newest state."""
    if (place / "config.json").is_file():
        return transformers_layout.load(place, dtype="float32").state_dict()
    return newest_model(place)


def take_over(model: GroundedPaliGemma, found: Mapping[str, Tensor]) -> None:
    """Give a fresh model whatever an earlier stage learned.

    A SigLIP pair gives its image tower, a PaliGemma gives everything; positions are resized to
    this model's pictures.

    Raises:
        TrainingError: ``found`` holds no whole image tower, or tensors of another shape.
    """
    wanted = model.state_dict()
    known = {name: value for name, value in found.items() if name in wanted}
    missing = [name for name in wanted if name.startswith("vision.") and name not in known]
    if missing:
        raise TrainingError(
            f"the earlier run's state holds no whole image tower to start from; {missing[0]} is "
            "missing"
        )
    known["vision.position"] = resize_positions(
        known["vision.position"], model.config.vision.num_tokens
    )
    try:
        model.load_state_dict(wanted | known)
    except RuntimeError as error:
        raise TrainingError(f"the earlier run trained another model: {error}") from error


def fit_start(start: str, objective: AnswerObjective) -> None:
    """Fit what reads the image tower, where it came along without it.

    Args:
        start: what was taken over; empty for nothing: there is then nothing to fit to.
        objective: whose model took it over, and whose pictures it is fitted to.
    """
    model = objective.model
    if not (start and isinstance(model, GroundedPaliGemma)):
        return
    if objective.grounding > 0 and "covers.weight" not in read_start(Path(start)):
        fit_covers(model, _drawn(objective))
    if objective.words is not None and _unnamed(objective, objective.words) > _FAR:
        fit_names(model, _drawn(objective), objective.words)


@torch.no_grad()
def _unnamed(objective: AnswerObjective, words: Words) -> float:
    """How far image tokens are from naming what a few pictures show, in nats."""
    model = objective.model
    drawn = list(islice(_drawn(objective), _LOOKED_AT))
    seen = model.encode_images(pixels_in(torch.as_tensor(np.stack([e.image for e in drawn]))))
    covers = [(i, e.cover) for i, e in enumerate(drawn) if e.cover is not None]
    cover = torch.as_tensor(np.stack([cover for _, cover in covers]))
    shown = seen[[i for i, _ in covers]].float()
    return naming_loss(model.language, shown, cover, words)[1]["named"]


def _drawn(objective: AnswerObjective) -> Iterator[Example]:
    """Pictures as the run draws them, from a stream of their own."""
    shares = np.array([share for share, _ in objective.sources])
    for index in range(FITTED):
        rng = np.random.default_rng([_SEEDS, objective.seed, index])
        yield objective.sources[rng.choice(len(shares), p=shares / shares.sum())][1](rng)
