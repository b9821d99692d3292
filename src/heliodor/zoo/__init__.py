"""The small models that ship with the package, and where their files are."""

from __future__ import annotations

from pathlib import Path

TINY = Path(__file__).parent / "tiny"
TOKENIZER = TINY / "tokenizer.json"
MASK_CODEC = TINY / "maskcodec.npz"
