"""How far our logits are from those of transformers, over many shapes of random weights.

    python benchmarks/parity.py

Each case makes a PaliGemma 1 or 2, or a Gemma 1 or 2 alone, with transformers, large random numbers
in every tensor (norm scales and biases too, so that every branch counts), gives its weights to our
model (PaliGemma through files) and compares

- uncached: one pass over image, prompt and suffix, logits of every text position;
- cached: prefill and 32 steps from left-padded prompts, logits of every step;
- the 32 tokens that each side picks greedily on its own.

In the cases of the second generation the caps are as low as the scores are high, so that both
saturate, and windows are shorter than the prompts, so that both prompt and answer cross them.

SigLIP pairs are compared by their embeddings and logits, through files too.

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
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from parity_cases import CASES, IMAGE, Case, their_config, their_decoder
from parity_pairs import PAIRS, pair_error
from torch import Tensor

from heliodor.checkpoints.config import Section, read_language
from heliodor.checkpoints.keymap import HUB, KeyMap, decoder_rows
from heliodor.checkpoints.transformers import load
from heliodor.models.gemma import Gemma
from heliodor.models.paligemma import PaliGemma
from heliodor.nn.cache import KVCache
from heliodor.nn.mask import prefix_lm

LIMIT = 1e-5
STEPS = 32
PAD, BOS, NEWLINE = 0, 2, 4


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


def pictures(model: Any, case: Case, batch: Batch, kinds: Tensor) -> dict[str, Tensor]:
    """What transformers wants besides ids; nothing where there are no images."""
    if not any(case.images):
        return {}
    return {"token_type_ids": kinds, "pixel_values": batch.pixels.to(model.dtype)}


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
        **pictures(model, case, batch, pad(kinds, 1, left=False)),
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
        **pictures(model, case, batch, torch.zeros_like(ids)),
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
def our_uncached(model: PaliGemma | Gemma, case: Case, batch: Batch) -> list[Tensor]:
    """Logits of each row's text positions; rows of equal image count in one padded pass."""
    if isinstance(model, Gemma):
        rows = [torch.cat(pair) for pair in zip(batch.prefixes, batch.suffixes, strict=True)]
        tokens = pad(rows, PAD, left=False)
        count, length = tokens.shape
        causal = prefix_lm(torch.zeros(count, dtype=torch.long), length)
        positions = torch.arange(length).expand(count, length)
        out = model.logits(model(model.embed(tokens), positions, causal))
        return [out[index, : len(row)] for index, row in enumerate(rows)]
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
def our_cached(model: PaliGemma | Gemma, case: Case, batch: Batch) -> tuple[Tensor, Tensor]:
    """Greedy generation from left-padded prompts -> tokens [B S], logits [B S V]."""
    tokens = pad(batch.prefixes, PAD, left=True)
    valid = pad([torch.ones_like(row) for row in batch.prefixes], 0, left=True).bool()
    if isinstance(model, Gemma):
        logits, cache = gemma_prefill(model, tokens, valid)
    else:
        features, feature_valid = our_features(model, case, batch)
        logits, cache = model.prefill(tokens, features, valid, feature_valid)
    step = gemma_step if isinstance(model, Gemma) else PaliGemma.step
    steps = [logits]
    for _ in range(STEPS - 1):
        steps.append(step(model, steps[-1].argmax(-1), cache))
    stacked = torch.stack(steps, dim=1)
    return stacked.argmax(-1), stacked


def gemma_prefill(model: Gemma, tokens: Tensor, valid: Tensor) -> tuple[Tensor, KVCache]:
    """Read left-padded text from left to right -> logits of the next token, the cache."""
    count, length = tokens.shape
    mask = prefix_lm(torch.zeros(count, dtype=torch.long), length) & valid[:, None, None, :]
    mask = mask | torch.eye(length, dtype=torch.bool)  # padding must look somewhere
    positions = (valid.cumsum(-1) - 1).clamp_min(0)
    cache = KVCache(valid)
    hidden = model(model.embed(tokens), positions, mask, cache, keep=1)
    return model.logits(hidden[:, 0]), cache


def gemma_step(model: Gemma, tokens: Tensor, cache: KVCache) -> Tensor:
    """One more token of every row -> logits of the next."""
    positions = cache.begin_step()
    return model.logits(model(model.embed(tokens[:, None]), positions, cache.mask, cache)[:, 0])


def distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Largest difference over all pairs, relative to the largest magnitude of theirs."""
    largest = max(float(tensor.abs().max()) for tensor in theirs)
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) / largest


def gemma_of(theirs: Any) -> Gemma:
    """Our decoder with the weights of theirs."""
    config = read_language(Section(theirs.config.to_dict(), "config: "))
    keys = KeyMap(rows=decoder_rows(config), tied=(), prefixes={})
    names, state = replace(HUB, language="model"), theirs.state_dict()
    model = Gemma(config).eval()
    model.load_state_dict(
        {name: state[keys.to_theirs(f"language.{name}", names)] for name in model.state_dict()}
    )
    return model


def both(case: Case, batch: Batch) -> tuple[Any, PaliGemma | Gemma, float | None]:
    """The same random weights there and here; how far half precision takes them there."""
    if not any(case.images):
        config = their_decoder(case)
        made = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**config)
        ).eval()
        randomise(made)
        return made, gemma_of(made), None
    their = transformers.PaliGemmaForConditionalGeneration
    made = their(their_config(case)).eval()
    randomise(made)
    half = None
    with tempfile.TemporaryDirectory() as folder:
        made.to(getattr(torch, case.dtype)).save_pretrained(folder)
        ours = load(folder)
        assert ours.projector.weight.dtype == getattr(torch, case.dtype)
        reference = their.from_pretrained(folder, dtype="float32").eval()
        if case.dtype != "float32":
            own = their.from_pretrained(folder, dtype=case.dtype).eval()
            expected = their_uncached(reference, case, batch)
            half = distance(their_uncached(own, case, batch), expected)
    return reference, ours, half


def run(case: Case, seed: int = 0) -> Result:
    """Make, save, load and compare."""
    torch.manual_seed(seed)
    batch = make_batch(case)
    reference, ours, half = both(case, batch)
    tokens, logits = their_cached(reference, case, batch)
    our_tokens, our_logits = our_cached(ours, case, batch)
    return Result(
        case=case,
        uncached=distance(our_uncached(ours, case, batch), their_uncached(reference, case, batch)),
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
    print(
        f"| {'model':11} | {'dtype':8} | {'case':30} | uncached | cached   "
        f"| {STEPS} tokens | their half run |\n"
        f"|{'-' * 13}|{'-' * 10}|{'-' * 32}|----------|----------|-----------|----------------|"
    )
    results: list[Result] = []
    for case in CASES:
        result = run(case, options.seed)
        results.append(result)
        same = "the same" if result.tokens_equal else "DIFFER"
        half = "" if result.half is None else f"{result.half:.1e}"
        print(
            f"| {case.family:11} | {case.dtype:8} | {case.name:30} "
            f"| {result.uncached:.1e}  | {result.cached:.1e}  "
            f"| {same:9} | {half:14} |",
            flush=True,
        )
    print("\n| SigLIP pair | dtype    | embeddings and logits          | error    |")
    print(f"|{'-' * 13}|{'-' * 10}|{'-' * 32}|----------|")
    errors = [pair_error(case, options.seed, randomise) for case in PAIRS]
    for case, error in zip(PAIRS, errors, strict=True):
        print(f"| {'SigLIP':11} | {case.dtype:8} | {case.name:30} | {error:.1e}  |")
    worst = max(*errors, *(max(result.uncached, result.cached) for result in results))
    within = sum(error <= LIMIT for error in errors)
    summary = {
        "cases": len(results) + len(errors),
        "passed": within + sum(result.passed for result in results),
        "worst": worst,
        "limit": LIMIT,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(summary))
    return 0 if summary["passed"] == summary["cases"] else 1


if __name__ == "__main__":
    sys.exit(main())
