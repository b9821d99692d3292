"""How far our painting transformer is from diffusers', over many shapes of random weights.

    python benchmarks/parity_paint.py

Each case makes a ``LuminaNextDiT2DModel`` with diffusers, large random numbers in every tensor
(gates, norms and biases too, so that every branch counts), saves it, loads the folder here, and
compares

- the velocity of one batch, with captions of different lengths behind padding;
- the pictures of a mixed batch, which diffusers has not, each with diffusers' picture alone;
- the velocity after a way through the official layout: written, and read again.

The cases vary heads, groups, sizes and their ratio, masks, times, extrapolation on both sides of
the watershed, proportional attention, channels and patches. diffusers is given the factors that
its pipeline would compute for our rule of positions.

The error is max |ours - theirs| / max |theirs|, in float32. The official code's own values are held
by ``tests/unit/models/test_nextdit_recorded.py``.

Prints a table and one JSON line; exits 1 if an error exceeds 1e-5.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina
from diffusers.models.transformers.lumina_nextdit2d import LuminaNextDiT2DModel
from torch import Tensor

from heliodor.checkpoints.diffusers_transformer import DiffusersTransformer
from heliodor.checkpoints.lumina import LAST, LuminaCheckpoint, save_lumina
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_rope import DIFFUSERS, RELEASED, Scaling, Unscaled

LIMIT = 1e-5
SHAPE: dict[str, Any] = {
    "sample_size": 32,
    "patch_size": 2,
    "in_channels": 4,
    "hidden_size": 96,
    "num_layers": 3,
    "num_attention_heads": 8,
    "num_kv_heads": 2,
    "multiple_of": 32,
    "norm_eps": 1e-5,
    "learn_sigma": True,
    "qk_norm": True,
    "cross_attention_dim": 40,
}
"""Eight heads of twelve channels, four to a key-value head; trained on 16 x 16 patches."""
AS_TRAINED = Unscaled()


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A network and what it is asked.

    Attributes:
        name: in the table.
        changes: to ``SHAPE``.
        size: height and width of the latents.
        captions: their lengths; one picture each.
        times: one for each picture.
        scaling: our rule of positions.
        linear: diffusers' factor on positions.
        ntk: diffusers' factor on the base.
        proportional: whether attention is scaled by the number of patches.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (32, 32)
    captions: tuple[int, ...] = (9, 9)
    times: tuple[float, ...] = (0.25, 0.25)
    scaling: Scaling = AS_TRAINED
    linear: float = 1.0
    ntk: float = 1.0
    proportional: bool = False


CASES = (
    Case(name="as trained"),
    Case(name="wide", size=(16, 48)),
    Case(name="tall, one picture", size=(60, 4), captions=(12,), times=(0.7,)),
    Case(name="captions of 14, 1, 5 tokens", captions=(14, 1, 5), times=(0.0, 1.0, 0.5)),
    Case(name="as many key-value heads", changes={"num_kv_heads": 8}),
    Case(name="one key-value head", changes={"num_kv_heads": 1}),
    Case(
        name="seven heads",
        changes={"hidden_size": 84, "num_attention_heads": 7, "num_kv_heads": 7},
    ),
    Case(
        name="heads of 72, as released",
        changes={"hidden_size": 288, "num_attention_heads": 4, "num_kv_heads": 1},
    ),
    Case(name="16 channels, velocity alone", changes={"in_channels": 16, "learn_sigma": False}),
    Case(name="patch of 1, no query norm", changes={"patch_size": 1, "qk_norm": False}),
    Case(
        name="twice the side, early",
        size=(64, 64),
        captions=(9, 2),
        scaling=RELEASED,
        linear=2.0,
        proportional=True,
    ),
    Case(
        name="twice the side, late",
        size=(64, 64),
        captions=(9, 2),
        times=(0.31, 0.31),
        scaling=RELEASED,
        ntk=2.0,
        proportional=True,
    ),
    Case(
        name="smaller, stretched as in diffusers",
        size=(24, 16),
        scaling=DIFFUSERS,
        linear=math.sqrt(24 * 16) / 32,
        proportional=True,
    ),
    Case(name="smaller, as released", size=(24, 16), scaling=RELEASED, proportional=True),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Errors of a case."""

    batch: float
    mixed: float
    official: float

    @property
    def worst(self) -> float:
        """The largest of them."""
        return max(self.batch, self.mixed, self.official)


@torch.no_grad()
def randomise(model: Any) -> None:
    """Numbers large enough that every tensor changes the velocity; both queries are one."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.normal_(float("norm" in name and name.endswith("weight")), 0.4)
        else:
            parameter.normal_(0.0, 1.5 * parameter.shape[-1] ** -0.5)
    for layer in model.layers:
        layer.attn2.to_q.load_state_dict(layer.attn1.to_q.state_dict())
        if layer.attn1.norm_q is not None:
            layer.attn2.norm_q.load_state_dict(layer.attn1.norm_q.state_dict())


def distance(found: Tensor, expected: Tensor) -> float:
    """max |found - expected| / max |expected|."""
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def their_velocity(model: Any, case: Case, latents: Tensor, rows: slice, text: Any) -> Tensor:
    """diffusers' velocity of some pictures of the batch."""
    features, mask = text
    options = {}
    if case.proportional:
        options["base_sequence_length"] = (model.sample_size // model.patch_size) ** 2
    out = model(
        hidden_states=latents,
        timestep=torch.tensor(case.times)[rows],
        encoder_hidden_states=features[rows],
        encoder_mask=mask[rows],
        image_rotary_emb=get_2d_rotary_pos_embed_lumina(
            model.head_dim, 64, 64, linear_factor=case.linear, ntk_factor=case.ntk
        ),
        cross_attention_kwargs=options,
    ).sample
    return out[:, : model.in_channels]


@torch.no_grad()
def our_velocity(model: NextDiT, case: Case, latents: Tensor | list[Tensor], text: Any) -> Any:
    """Ours, for one size or a list of several."""
    sizes = [(picture.shape[1], picture.shape[2]) for picture in latents]
    canvas = model.canvas(sizes, scaling=case.scaling, proportional=case.proportional)
    return model(latents, torch.tensor(case.times), model.prepare(*text), canvas)


def run(case: Case) -> Result:
    """Make, save, load and compare."""
    theirs = LuminaNextDiT2DModel(**(SHAPE | case.changes)).eval()
    randomise(theirs)
    count, longest = len(case.captions), max(case.captions)
    latents = torch.randn(count, theirs.in_channels, *case.size)
    mask = torch.arange(longest) < torch.tensor(case.captions)[:, None]
    text = torch.randn(count, longest, SHAPE["cross_attention_dim"]) * 3, mask.long()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        theirs.save_pretrained(folder)
        ours = DiffusersTransformer(folder=folder, source="").load()
        expected = their_velocity(theirs, case, latents, slice(None), text)
        batch = our_velocity(ours, case, latents, text)
        mixed = 0.0
        if isinstance(case.scaling, Unscaled):  # a picture of another size has another ratio
            small = latents[0, :, : case.size[0] // 2, : case.size[1] // 2]
            pictures = [small, *latents[1:]]
            found = our_velocity(ours, case, pictures, text)
            mixed = max(
                distance(
                    mine[None], their_velocity(theirs, case, each[None], slice(i, i + 1), text)
                )
                for i, (mine, each) in enumerate(zip(found, pictures, strict=True))
            )
        save_lumina(ours, folder / "official")
        again = LuminaCheckpoint(path=folder / "official" / LAST, source="").load()
        return Result(
            batch=distance(batch, expected),
            mixed=mixed,
            official=distance(our_velocity(again, case, latents, text), expected),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all cases, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    diffusers.utils.logging.set_verbosity_error()
    print(f"| {'case':35} | batch   | mixed   | official layout |")
    print(f"|{'-' * 37}|---------|---------|-----------------|")
    results: list[Result] = []
    for case in CASES:
        torch.manual_seed(options.seed)
        result = run(case)
        results.append(result)
        mixed = f"{result.mixed:.1e}" if result.mixed else ""
        print(
            f"| {case.name:35} | {result.batch:.1e} | {mixed:7} | {result.official:<15.1e} |",
            flush=True,
        )
    summary = {
        "cases": len(results),
        "passed": sum(result.worst <= LIMIT for result in results),
        "worst": max(result.worst for result in results),
        "limit": LIMIT,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    print(json.dumps(summary))
    return 0 if summary["passed"] == summary["cases"] else 1


if __name__ == "__main__":
    sys.exit(main())
