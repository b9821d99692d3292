"""What is odd about a checkpoint, though it may load: said by ``heliodor inspect``.

Importing this module loads no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.heads import Head
from heliodor.checkpoints.keymap import KeyMap
from heliodor.checkpoints.recognise import CONFIG
from heliodor.errors import CheckpointError

Facts = dict[str, Any]
"""In JSON's own types."""

_BUFFER = ".embeddings.position_ids"  # 0, 1, 2, ...: some files hold it, no release reads it


def odd_names(keys: KeyMap, names: Iterable[str], family: str) -> list[str]:
    """Names that no model has, or that several releases had."""
    names = list(names)
    odd: list[str] = []
    tied = [name for name in names if keys.to_tied(name) is not None]
    if tied:
        odd.append(f"{tied[0]} repeats the embedding table, to which it is tied")
    unknown = [
        name
        for name in names
        if keys.to_ours(name) is None and keys.to_tied(name) is None and not name.endswith(_BUFFER)
    ]
    if unknown:
        odd.append(f"{len(unknown)} tensors that the model has not: {', '.join(unknown[:4])}")
    if family != "paligemma":
        return odd
    old = sum(name.startswith(("language_model.model.", "vision_tower.")) for name in names)
    new = sum(name.startswith("model.") for name in names)
    if new:
        mixed = "names of two releases mixed" if old else "names of transformers since 4.52"
        odd.append(f"{mixed}: {new} of {len(names)} begin with model.")
    return odd


def odd_config(config: Facts, text: Facts, family: str) -> list[str]:
    """Fields of ``config.json`` that say something strange."""
    odd: list[str] = []
    top, width = config.get("hidden_size"), text.get("hidden_size")
    if family == "paligemma" and top is not None and top != width:
        odd.append(
            f"hidden_size says {top}, the decoder is {width} wide (harmless: it is not read)"
        )
    image, rows = (
        config.get("image_token_index", config.get("image_token_id")),
        text.get("vocab_size"),
    )
    if family == "paligemma" and isinstance(image, int) and isinstance(rows, int) and rows > image:
        odd.append(f"the embedding table is padded: rows {image} to {rows - 1} are no tokens")
    if config.get("quantization_config") is not None:
        odd.append("quantised by another library: not read")
    return odd


def odd_types(heads: Iterable[Head], said: object) -> list[str]:
    """Types that are mixed, or other than the configuration says."""
    dtypes = Counter(head.dtype for head in heads)
    if len(dtypes) > 1:
        return ["types mixed: " + ", ".join(f"{n} of {d}" for d, n in dtypes.most_common())]
    stored = next(iter(dtypes), None)
    if isinstance(said, str) and stored is not None and said != stored:
        return [f"{CONFIG} says {said}, the tensors are {stored}"]
    return []


def odd_beside(folder: Path, vision: Mapping[str, Any]) -> list[str]:
    """Tokenizer and processor that are not in the folder, or do not fit."""
    odd: list[str] = []
    if not any(
        (folder / n).is_file() for n in ("tokenizer.json", "tokenizer.model", "spiece.model")
    ):
        odd.append("no tokenizer: give one when loading")
    if not vision:
        return odd
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        nested = (folder / "processor_config.json").is_file()
        return odd if nested else [*odd, "no preprocessor_config.json: it cannot be loaded"]
    size: Any = read_json(path).get("size")
    side: Any = cast("Facts", size).get("height") if isinstance(size, dict) else size
    if side != vision.get("image_size"):
        odd.append(f"pictures are made {side} pixels wide, the tower takes {vision['image_size']}")
    return odd


def tokens_in(path: Path) -> int | None:
    """Tokens in a tokenizer.json; None where there is none that can be read."""
    try:
        return count_tokens(read_json(path)) if path.is_file() else None
    except CheckpointError:
        return None


def count_tokens(document: Facts) -> int | None:
    """Tokens in the content of a tokenizer.json; None where it has none."""
    model: Any = document.get("model")
    vocabulary: Any = cast("Facts", model).get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict):
        return None
    names: set[Any] = set(cast("Facts", vocabulary))
    added: Any = document.get("added_tokens") or []
    tokens = cast("list[Any]", added) if isinstance(added, list) else []
    dicts = [cast("Facts", token) for token in tokens if isinstance(token, dict)]
    names |= {str(token.get("content")) for token in dicts}
    return len(names)
