"""How far our logits are from those of transformers, over many shapes of random weights.

    python benchmarks/parity.py

Each case makes a PaliGemma with transformers, large random numbers in every tensor (norm scales and
biases too, so that every branch counts), saves it there, loads it here and compares

- uncached: one pass over image, prompt and suffix, logits of every text position;
- cached: prefill and 32 steps from left-padded prompts, logits of every step;
- the 32 tokens that each side picks greedily on its own.

The error is max |ours - theirs| / max |theirs|. Half-precision weights rest in half precision here
and are multiplied in float32, so the reference for them is transformers in float32 on the same
rounded weights; the last column shows how far transformers' own half-precision run is from that.

Prints a table and one JSON line; exits 1 if an error exceeds 1e-5 or a token differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from heliodor.checkpoints.transformers import load
from heliodor.models.paligemma import PaliGemma

LIMIT = 1e-5
STEPS = 32
VOCAB = 96
IMAGE, PAD, BOS, NEWLINE = 90, 0, 2, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One shape of model and batch.

    Attributes:
        name: what is special about it.
        dtype: in which the weights are stored.
        heads: query heads, key-value heads, width of a head.
        image: side of the picture and of a patch in pixels.
        prompts: tokens of each row's prompt.
        images: pictures of each row.
        depth: layers of either tower.
    """

    name: str
    dtype: str = "float32"
    heads: tuple[int, int, int] = (4, 1, 8)
    image: tuple[int, int] = (16, 4)
    prompts: tuple[int, ...] = (3, 9, 5)
    images: tuple[int, ...] = (1, 1, 1)
    depth: int = 2
    rope_base: float = 10000.0

    @property
    def num_tokens(self) -> int:
        """Image tokens of one picture."""
        return (self.image[0] // self.image[1]) ** 2


CASES = (
    Case(name="one key-value head (MQA)"),
    Case(name="grouped heads (GQA)", heads=(6, 2, 8)),
    Case(name="as many as query heads (MHA)", heads=(4, 4, 8)),
    Case(name="heads wider than the model", heads=(4, 1, 16)),
    Case(name="one row", prompts=(7,), images=(1,)),
    Case(name="equal prompts", prompts=(6, 6, 6)),
    Case(name="very unequal prompts", prompts=(1, 40, 12)),
    Case(name="two images a row", images=(2, 2, 2)),
    Case(name="one to three images a row", images=(1, 3, 2)),
    Case(name="64 image tokens", image=(32, 4)),
    Case(name="image no multiple of patch", image=(30, 7)),
    Case(name="a single image token", image=(14, 14)),
    Case(name="six layers", depth=6),
    Case(name="other wave length", rope_base=500.0),
    Case(name="MQA", dtype="bfloat16"),
    Case(name="GQA, two images a row", dtype="bfloat16", heads=(6, 2, 8), images=(2, 2, 2)),
    Case(name="64 image tokens", dtype="bfloat16", image=(32, 4)),
    Case(name="MQA", dtype="float16"),
    Case(name="MHA, very unequal prompts", dtype="float16", heads=(4, 4, 8), prompts=(1, 40, 12)),
    Case(name="six layers", dtype="float16", depth=6),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What was measured for a case; ``half`` is None for float32."""

    case: Case
    uncached: float
    cached: float
    tokens_equal: bool
    half: float | None

    @property
    def passed(self) -> bool:
        """Within the limits."""
        return self.uncached <= LIMIT and self.cached <= LIMIT and self.tokens_equal


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The same questions as either side wants them.

    Attributes:
        pixels: [images 3 H W], row by row.
        prefixes: ``<bos> prompt newline`` of each row.
        suffixes: tokens behind them, for the uncached pass.
    """

    pixels: Tensor
    prefixes: list[Tensor]
    suffixes: list[Tensor]


def their_config(case: Case) -> transformers.PaliGemmaConfig:
    """The case as transformers describes it."""
    heads, kv_heads, head_dim = case.heads
    return transformers.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": case.depth,
            "num_attention_heads": 3,
            "image_size": case.image[0],
            "patch_size": case.image[1],
            "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": case.depth,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": VOCAB,
            "rope_theta": case.rope_base,
        },
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Numbers large enough that every tensor changes the logits."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            scale, middle = 0.5, float("layer_norm" in name or "post_layernorm.w" in name)
        elif "position" in name:
            scale, middle = 1.0, 0.0
        else:
            scale, middle = parameter[0].numel() ** -0.5, 0.0
        parameter.normal_(middle, scale)


def make_batch(case: Case) -> Batch:
    """Random pictures and tokens."""

    def words(count: int) -> Tensor:
        return torch.randint(5, IMAGE, (count,))

    ends = torch.tensor([BOS]), torch.tensor([NEWLINE])
    return Batch(
        pixels=torch.rand(sum(case.images), 3, case.image[0], case.image[0]) * 2 - 1,
        prefixes=[torch.cat((ends[0], words(count), ends[1])) for count in case.prompts],
        suffixes=[words(2 + row) for row in range(len(case.prompts))],
    )


def pad(rows: Sequence[Tensor], value: int, *, left: bool) -> Tensor:
    """Rows of unequal length -> [B T], filled on one side."""
    length = max(len(row) for row in rows)
    filled = torch.full((len(rows), length), value, dtype=rows[0].dtype)
    for index, row in enumerate(rows):
        place = slice(length - len(row), None) if left else slice(len(row))
        filled[index, place] = row
    return filled


def their_rows(case: Case, texts: Sequence[Tensor]) -> list[Tensor]:
    """Placeholders of the images before each text."""
    return [
        torch.cat((torch.full((count * case.num_tokens,), IMAGE), text))
        for count, text in zip(case.images, texts, strict=True)
    ]


@torch.no_grad()
def their_uncached(model: Any, case: Case, batch: Batch) -> list[Tensor]:
    """Logits of each row's text positions from one pass over right-padded rows."""
    texts = [torch.cat(pair) for pair in zip(batch.prefixes, batch.suffixes, strict=True)]
    rows = their_rows(case, texts)
    kinds = [
        torch.cat((torch.zeros(len(row) - len(suffix)), torch.ones(len(suffix)))).long()
        for row, suffix in zip(rows, batch.suffixes, strict=True)
    ]
    out = model(
        input_ids=pad(rows, PAD, left=False),
        attention_mask=pad([torch.ones_like(row) for row in rows], 0, left=False),
        token_type_ids=pad(kinds, 1, left=False),
        pixel_values=batch.pixels.to(model.dtype),
    ).logits.float()
    return [
        out[index, len(row) - len(text) : len(row)]
        for index, (row, text) in enumerate(zip(rows, texts, strict=True))
    ]


@torch.no_grad()
def their_cached(model: Any, case: Case, batch: Batch) -> tuple[Tensor, Tensor]:
    """Greedy generation from left-padded prompts -> tokens [B S], logits [B S V]."""
    rows = their_rows(case, batch.prefixes)
    ids = pad(rows, PAD, left=True)
    out = model.generate(
        input_ids=ids,
        attention_mask=pad([torch.ones_like(row) for row in rows], 0, left=True),
        token_type_ids=torch.zeros_like(ids),
        pixel_values=batch.pixels.to(model.dtype),
        max_new_tokens=STEPS,
        do_sample=False,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.sequences[:, ids.shape[1] :], torch.stack(out.logits, dim=1).float()


def our_features(model: PaliGemma, case: Case, batch: Batch) -> tuple[Tensor, Tensor]:
    """Image tokens of each row side by side -> [B M W], bool [B M]."""
    features = model.encode_images(batch.pixels).split(case.images)
    most = max(case.images) * case.num_tokens
    joined = torch.zeros(len(case.images), most, features[0].shape[-1])
    valid = torch.zeros(len(case.images), most, dtype=torch.bool)
    for index, row in enumerate(features):
        joined[index, : row.shape[0] * row.shape[1]] = row.flatten(0, 1)
        valid[index, : row.shape[0] * row.shape[1]] = True
    return joined, valid


@torch.no_grad()
def our_uncached(model: PaliGemma, case: Case, batch: Batch) -> list[Tensor]:
    """Logits of each row's text positions; rows of equal image count in one padded pass."""
    features, valid = our_features(model, case, batch)
    texts = [torch.cat(pair) for pair in zip(batch.prefixes, batch.suffixes, strict=True)]
    found: dict[int, Tensor] = {}
    for count in sorted(set(case.images)):
        rows = [row for row, images in enumerate(case.images) if images == count]
        kept = features[rows][:, valid[rows[0]]]
        prefix = torch.tensor([len(batch.prefixes[row]) for row in rows])
        out = model(pad([texts[row] for row in rows], PAD, left=False), kept, prefix)
        found |= {row: out[index, : len(texts[row])] for index, row in enumerate(rows)}
    return [found[row] for row in range(len(texts))]


@torch.no_grad()
def our_cached(model: PaliGemma, case: Case, batch: Batch) -> tuple[Tensor, Tensor]:
    """Greedy generation from left-padded prompts -> tokens [B S], logits [B S V]."""
    features, feature_valid = our_features(model, case, batch)
    tokens = pad(batch.prefixes, PAD, left=True)
    valid = pad([torch.ones_like(row) for row in batch.prefixes], 0, left=True).bool()
    logits, cache = model.prefill(tokens, features, valid, feature_valid)
    steps = [logits]
    for _ in range(STEPS - 1):
        steps.append(model.step(steps[-1].argmax(-1), cache))
    stacked = torch.stack(steps, dim=1)
    return stacked.argmax(-1), stacked


def distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Largest difference over all pairs, relative to the largest magnitude of theirs."""
    largest = max(float(tensor.abs().max()) for tensor in theirs)
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) / largest


def run(case: Case, seed: int = 0) -> Result:
    """Make, save, load and compare."""
    torch.manual_seed(seed)
    their = transformers.PaliGemmaForConditionalGeneration
    made = their(their_config(case)).eval()
    randomise(made)
    batch = make_batch(case)
    half = None
    with tempfile.TemporaryDirectory() as folder:
        made.to(getattr(torch, case.dtype)).save_pretrained(folder)
        ours = load(folder)
        assert ours.projector.weight.dtype == getattr(torch, case.dtype)
        reference = their.from_pretrained(folder, dtype="float32").eval()
        expected = their_uncached(reference, case, batch)
        if case.dtype != "float32":
            own = their.from_pretrained(folder, dtype=case.dtype).eval()
            half = distance(their_uncached(own, case, batch), expected)
    tokens, logits = their_cached(reference, case, batch)
    our_tokens, our_logits = our_cached(ours, case, batch)
    return Result(
        case=case,
        uncached=distance(our_uncached(ours, case, batch), expected),
        cached=distance([our_logits], [logits]),
        tokens_equal=torch.equal(our_tokens, tokens),
        half=half,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all cases, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(f"| {'dtype':8} | {'case':28} | uncached | cached   | {STEPS} tokens | their half run |")
    print(f"|{'-' * 10}|{'-' * 30}|----------|----------|-----------|----------------|")
    results: list[Result] = []
    for case in CASES:
        result = run(case, options.seed)
        results.append(result)
        same = "the same" if result.tokens_equal else "DIFFER"
        half = "" if result.half is None else f"{result.half:.1e}"
        print(
            f"| {case.dtype:8} | {case.name:28} | {result.uncached:.1e}  | {result.cached:.1e}  "
            f"| {same:9} | {half:14} |",
            flush=True,
        )
    worst = max(max(result.uncached, result.cached) for result in results)
    summary = {
        "cases": len(results),
        "passed": sum(result.passed for result in results),
        "worst": worst,
        "limit": LIMIT,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(summary))
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
