"""Load and run PaliGemma-3B shapes, here and in transformers, on random weights of its making.

    python benchmarks/full_size.py SCRATCH_FOLDER             # 12 GB on disk, 13 GB of memory
    python benchmarks/full_size.py SCRATCH_FOLDER --preset small    # seconds, for a try

transformers writes the weights once, in shards; a folder that holds them already is used again.
Each side then loads and runs them in a process of its own, one after the other, with the files in
the page cache as far as memory allows. Shown are the time to load, the time of one pass over an
image and a prompt, and the peak of resident memory: after importing, after loading, in the end.
File pages that a process maps count as resident too.

The logits of the text positions must agree: max |ours - theirs| / max |theirs| <= 1e-4 in float32.

Prints a table and one JSON line; exits 1 if they do not agree.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

LIMIT = 1e-4
SIDES = ("heliodor", "transformers")
BOS, NEWLINE, FIRST_WORD = 2, 108, 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Shapes in transformers' words, shard size, and the length of the prompt."""

    vision: dict[str, int]
    text: dict[str, int]
    image_token: int
    shard_size: str
    prompt: int


PRESETS = {
    "3b": Preset(
        vision={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
        },
        text={
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "num_hidden_layers": 18,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "vocab_size": 257216,
        },
        image_token=257152,
        shard_size="5GB",
        prompt=14,
    ),
    "small": Preset(
        vision={
            "hidden_size": 96,
            "intermediate_size": 160,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
        },
        text={
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "vocab_size": 6000,
        },
        image_token=5990,
        shard_size="1MB",
        prompt=14,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One side's figures: seconds, and bytes of resident memory."""

    side: str
    load_s: float
    forward_s: float
    peak_imported: int
    peak_loaded: int
    peak_end: int


def write_weights(preset: Preset, folder: Path, seed: int) -> None:
    """Random weights, norms and biases included, saved by transformers."""
    import transformers  # noqa: PLC0415 - the other side's process must not load it

    config = transformers.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
            **preset.vision,
        },
        text_config={"model_type": "gemma", **preset.text},
        image_token_index=preset.image_token,
        projection_dim=preset.text["hidden_size"],
        hidden_size=preset.text["hidden_size"],
        vocab_size=preset.text["vocab_size"],
    )
    with torch.device("meta"):
        model: Any = transformers.PaliGemmaForConditionalGeneration(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(float("layer_norm" in name or "layernorm.w" in name), 0.1)
            else:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
    model.save_pretrained(folder, max_shard_size=preset.shard_size)


def inputs(preset: Preset, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [1 3 H W] in -1..1 and a prompt int64 [1 T], the same in every process."""
    random = np.random.default_rng(seed)
    size = preset.vision["image_size"]
    pixels = random.uniform(-1, 1, (1, 3, size, size)).astype(np.float32)
    words = random.integers(FIRST_WORD, preset.image_token, preset.prompt)
    return torch.from_numpy(pixels), torch.tensor([[BOS, *words.tolist(), NEWLINE]])


def start_ours(folder: Path) -> tuple[Callable[[], Any], Callable[..., torch.Tensor]]:
    """Import our side -> how it loads, and how it computes logits [T V]."""
    from heliodor.checkpoints.transformers import load  # noqa: PLC0415 - see write_weights

    def logits(model: Any, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        prefix = torch.tensor([tokens.shape[1]])
        return model(tokens, model.encode_images(pixels), prefix)[0]

    return lambda: load(folder, dtype="float32"), logits


def start_theirs(folder: Path) -> tuple[Callable[[], Any], Callable[..., torch.Tensor]]:
    """Import their side -> how it loads, and how it computes logits [T V]."""
    import transformers  # noqa: PLC0415 - see write_weights

    transformers.utils.logging.disable_progress_bar()
    kind = transformers.PaliGemmaForConditionalGeneration

    def logits(model: Any, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        vision = model.config.vision_config
        count = (vision.image_size // vision.patch_size) ** 2
        images = torch.full((1, count), model.config.image_token_index)
        ids = torch.cat((images, tokens), dim=1)
        out = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            token_type_ids=torch.zeros_like(ids),
            pixel_values=pixels,
            logits_to_keep=tokens.shape[1],
        )
        return out.logits[0]

    return lambda: kind.from_pretrained(folder, dtype="float32").eval(), logits


def peak_memory() -> int:
    """Highest resident memory of this process so far, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@torch.no_grad()
def measure(side: str, preset: Preset, folder: Path, seed: int) -> None:
    """In a process of its own: load, run, leave logits and figures in the folder."""
    load, logits = (start_ours if side == SIDES[0] else start_theirs)(folder)
    pixels, tokens = inputs(preset, seed)
    imported = peak_memory()
    start = time.perf_counter()
    model = load()
    loaded, peak_loaded = time.perf_counter(), peak_memory()
    out = logits(model, pixels, tokens)
    measured = Measured(
        side=side,
        load_s=loaded - start,
        forward_s=time.perf_counter() - loaded,
        peak_imported=imported,
        peak_loaded=peak_loaded,
        peak_end=peak_memory(),
    )
    np.save(folder / f"{side}.npy", out.numpy())
    (folder / f"{side}.json").write_text(json.dumps(asdict(measured)), encoding="utf-8")


def warm(folder: Path) -> int:
    """Read all shards once, so that either side finds them in the page cache -> their bytes."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while piece := file.read(2**24):
                total += len(piece)
    return total


def child(step: str, options: argparse.Namespace) -> None:
    """Run one step of this script in a process of its own."""
    command = [sys.executable, __file__, str(options.folder), "--step", step]
    command += ["--preset", options.preset, "--seed", str(options.seed)]
    command += ["--threads", str(options.threads)]
    subprocess.run(command, check=True)


def compare(options: argparse.Namespace) -> int:
    """Write, measure both sides, print, return the exit code."""
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
        child("write", options)
    rows: list[Measured] = []
    size = 0
    for side in SIDES:
        size = warm(folder)
        child(side, options)
        text = (folder / f"{side}.json").read_text(encoding="utf-8")
        rows.append(Measured(**json.loads(text)))
    ours, theirs = (np.load(folder / f"{side}.npy") for side in SIDES)
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    print(f"PaliGemma {options.preset}, float32, {size / 1e9:.2f} GB of weights, ", end="")
    print(f"{options.threads} threads")
    print("| side         | load s | forward s | peak GB imported | loaded | end   | end/weights |")
    print("|--------------|--------|-----------|------------------|--------|-------|-------------|")
    for row in rows:
        print(
            f"| {row.side:12} | {row.load_s:6.2f} | {row.forward_s:9.2f} "
            f"| {row.peak_imported / 1e9:16.2f} | {row.peak_loaded / 1e9:6.2f} "
            f"| {row.peak_end / 1e9:5.2f} | {row.peak_end / size:11.2f} |"
        )
    print(f"logits: max |ours - theirs| / max |theirs| = {error:.1e} (limit {LIMIT:.0e})")
    summary = {
        "preset": options.preset,
        "weights_bytes": size,
        "error": error,
        "sides": [asdict(row) for row in rows],
        "threads": options.threads,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "date": date.today().isoformat(),
    }
    print(json.dumps(summary))
    return 0 if error <= LIMIT else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, then compare or run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where the weights are written and kept")
    parser.add_argument("--preset", choices=PRESETS, default="3b")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", choices=("write", *SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    preset = PRESETS[options.preset]
    if options.step == "write":
        write_weights(preset, options.folder, options.seed)
    elif options.step is not None:
        measure(options.step, preset, options.folder, options.seed)
    else:
        return compare(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
