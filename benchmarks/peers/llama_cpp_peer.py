"""llama.cpp's llama-bench as an opponent in ``heliodor bench``, on files with our decoder's shapes.

Loaded by path; see ``heliodor.bench.beside_llama``. Needs the package ``gguf`` to write the files.
Their weights are noise, quantised once and repeated: no time depends on them. All matrices are of
one type, the table among them, which is the least that llama.cpp can have to read. llama-bench
decodes from an empty cache, ours from behind the prompt: that favours llama.cpp by a little.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

_TYPES = {"Q8_0": gguf.GGMLQuantizationType.Q8_0, "Q4_0": gguf.GGMLQuantizationType.Q4_0}
_FILE_TYPES = {"Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0}
_NOISE = 2**22


class Bench:
    """llama-bench on one file.

    Attributes:
        name: "llama.cpp Q8_0".
        version: what llama-bench calls itself, known after the first measurement.
    """

    def __init__(self, program: Path, config: Any, kind: str, folder: Path) -> None:
        self.name = f"llama.cpp {kind}"
        self.version = ""
        self._program = program
        self._path = folder / f"gemma-{config.width}x{config.depth}-{kind}.gguf"
        if not self._path.is_file():
            write_model(self._path, config, kind)

    def measure(self, prompt: int, steps: int, threads: int) -> tuple[float, float]:
        """Run the program once -> seconds of the prefill, and seconds a token afterwards."""
        command = [str(self._program), "-m", str(self._path), "-p", str(prompt), "-n", str(steps)]
        command += ["-r", "1", "-t", str(threads), "-o", "json", "-ngl", "0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise OSError(f"llama-bench ended with {done.returncode}: {said[-1] if said else ''}")
        rows = json.loads(done.stdout)
        self.version = f"{rows[0].get('build_commit')} {rows[0].get('build_number')}"
        spans = {bool(row["n_prompt"]): row["avg_ns"] / 1e9 for row in rows}
        return spans[True], spans[False] / steps


def write_model(path: Path, config: Any, kind: str) -> None:
    """A Gemma 1 decoder in GGUF, without a tokenizer.

    Args:
        path: of the file; it gets its name when it is whole.
        config: our GemmaConfig.
        kind: of every matrix, "Q8_0" or "Q4_0".
    """
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(str(partial), "gemma")
    writer.add_name("noise")
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.depth)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    blocks = gguf.quantize(_noise(), _TYPES[kind]).reshape(-1)
    tensors = [(name, *_made(shape, kind, blocks)) for name, shape in _shapes(config)]
    for name, make, raw in tensors:
        data = make()
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, make, _ in tensors:
        writer.write_tensor_data(make())
    writer.close()
    partial.replace(path)


def _noise() -> NDArray[np.float32]:
    source = np.random.default_rng(0)
    return (source.standard_normal((_NOISE // 64, 64)) * 0.02).astype(np.float32)


def _made(
    shape: tuple[int, ...], kind: str, blocks: NDArray[np.uint8]
) -> tuple[Callable[[], NDArray[Any]], Any]:
    """How a tensor comes into being when it is written, and its type; norms stay float32."""
    if len(shape) == 1:
        return lambda: np.ones(shape, dtype=np.float32), None
    stored = gguf.quant_shape_to_byte_shape(shape, _TYPES[kind])
    return lambda: np.resize(blocks, stored), _TYPES[kind]


def _shapes(config: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes (rows first) of a Gemma 1 in llama.cpp; its head is the table."""
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    found: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (config.vocab_size, config.width)),
        ("output_norm.weight", (config.width,)),
    ]
    for layer in range(config.depth):
        found += [
            (f"blk.{layer}.attn_norm.weight", (config.width,)),
            (f"blk.{layer}.attn_q.weight", (queries, config.width)),
            (f"blk.{layer}.attn_k.weight", (keys, config.width)),
            (f"blk.{layer}.attn_v.weight", (keys, config.width)),
            (f"blk.{layer}.attn_output.weight", (config.width, queries)),
            (f"blk.{layer}.ffn_norm.weight", (config.width,)),
            (f"blk.{layer}.ffn_gate.weight", (config.mlp_width, config.width)),
            (f"blk.{layer}.ffn_up.weight", (config.mlp_width, config.width)),
            (f"blk.{layer}.ffn_down.weight", (config.width, config.mlp_width)),
        ]
    return found
