"""Write the vocabulary of the shipped models: ``python scripts/build_tokenizer.py``.

It is frozen: the shipped weights hold one row a piece. Run this only together with a full
retraining.
"""

from __future__ import annotations

import sys
from pathlib import Path

from heliodor.teach.data.vocabulary import build_tokenizer, default_corpus

TARGET = Path(__file__).parents[1] / "src/heliodor/zoo/tiny/tokenizer.json"


def main() -> int:
    """Train on the default corpus and write the file; the same sources give the same bytes."""
    tokenizer = build_tokenizer(default_corpus())
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    print(f"{TARGET.name}: {tokenizer.get_vocab_size()} pieces")
    return 0


if __name__ == "__main__":
    sys.exit(main())
