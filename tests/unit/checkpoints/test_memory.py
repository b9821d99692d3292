"""Loading costs the memory of the weights and little more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import heliodor
from heliodor.checkpoints.transformers import save
from heliodor.image import ImageProcessor
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.models.siglip import SiglipVisionConfig
from heliodor.text import Tokenizer

TOKENIZER = Path(heliodor.__file__).parent / "zoo" / "tiny" / "tokenizer.json"
SCRIPT = """
import sys, torch
from pathlib import Path
from heliodor.checkpoints.transformers import load
def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
torch.ones(4, 4).to(getattr(torch, sys.argv[2])).float() @ torch.ones(4, 4)  # torch's own first use
before = peak()
model = load(sys.argv[1], dtype=sys.argv[2])
weights = sum(p.numel() * p.element_size() for p in model.parameters())
print(before, peak(), weights)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 MB of float32 weights in four shards."""
    tokenizer = Tokenizer.from_file(TOKENIZER)
    config = PaliGemmaConfig(
        vision=SiglipVisionConfig(
            image_size=32, patch_size=8, width=64, depth=1, num_heads=2, mlp_width=64
        ),
        language=GemmaConfig(
            vocab_size=tokenizer.vocab_size,
            width=1024,
            depth=2,
            num_heads=4,
            num_kv_heads=1,
            head_dim=256,
            mlp_width=3000,
        ),
        image_token=tokenizer.image_token,
    )
    path = tmp_path_factory.mktemp("heavy")
    torch.manual_seed(0)
    model = PaliGemma(config)
    save(model, tokenizer, ImageProcessor(size=32), path, max_shard_size=30 * 10**6)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_peak_is_the_weights_and_a_few_megabytes(folder: Path, dtype: str) -> None:
    command = [sys.executable, "-c", SCRIPT, str(folder), dtype]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # each thread brings memory of its own
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    before, after, weights = map(int, out.stdout.split())
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert weights == pytest.approx(size if dtype == "float32" else size / 2, rel=1e-3)
    # 16 MB are mapped at a time.
    assert after - before < weights + 24 * 2**20
