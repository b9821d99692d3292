"""What a checkpoint is: family, size, resolution, precision, whether it is whole, what is odd.

Only configurations and the heads of files are read, no weight, and importing this module loads no
torch: the answer comes at once for files of any size. A checkpoint that cannot be loaded is
described all the same, and its faults are listed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.heads import Head, Heads, file_heads, folder_heads, npz_heads
from heliodor.checkpoints.keymap import HUB, PALIGEMMA, PALIGEMMA2, KeyMap
from heliodor.checkpoints.recognise import ADAPTER_CONFIG, CONFIG, Found, Kind, recognise
from heliodor.errors import CheckpointError, FileFormatError

Facts = dict[str, Any]
"""In JSON's own types."""

_PALIGEMMAS = {(2048, 18): "3B", (2304, 26): "3B", (3584, 42): "10B", (4608, 46): "28B"}
_GEMMAS = {
    (2048, 18): "2B",
    (3072, 28): "7B",
    (2304, 26): "2B",
    (3584, 42): "9B",
    (4608, 46): "27B",
}
"""Published sizes by width and depth of the decoder."""
_TOWERS = {(768, 12): "base", (1024, 24): "large", (1152, 27): "so400m"}
_VISION = {
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", None),
    "width": ("hidden_size", None),
    "depth": ("num_hidden_layers", None),
    "num_heads": ("num_attention_heads", None),
    "mlp_width": ("intermediate_size", None),
}
_LANGUAGE = {
    "vocab_size": ("vocab_size", None),
    "width": ("hidden_size", None),
    "depth": ("num_hidden_layers", None),
    "num_heads": ("num_attention_heads", 8),
    "num_kv_heads": ("num_key_value_heads", None),
    "head_dim": ("head_dim", 256),
    "mlp_width": ("intermediate_size", None),
}
"""Our fields -> theirs and, where published files leave one out, its value."""
_LAYERS = ("vision.blocks.#", "language.layers.#")
_NPZ = "params/"


def survey(path: Path) -> Facts:
    """Describe what lies at a path.

    Returns:
        ``path``, ``format``, ``family``, ``size``, ``tower``, ``resolution``, ``image_tokens``,
        ``precision``, ``parameters``, ``bytes``, ``tensors``, ``dtypes`` with their numbers of
        tensors, ``files``, ``tokens`` of the tokenizer, ``complete``, ``missing``, ``broken``,
        ``odd``, and the shapes ``vision`` and ``language``. What does not apply is None. For an
        adapter ``rank``, ``alpha``, ``targets`` and ``base`` instead of the shapes.

    Raises:
        ConfigError: it is nothing that is read.
        FileFormatError: a broken configuration.
    """
    found = recognise(path)
    describe = {
        Kind.TRANSFORMERS: _folder,
        Kind.BIG_VISION: _npz,
        Kind.NATIVE: _native,
        Kind.ADAPTER: _adapter,
    }[found.kind]
    return {"path": str(found.path), "format": found.kind.value, **describe(found)}


def _folder(found: Found) -> Facts:
    config = read_json(found.path / CONFIG)
    heads = folder_heads(found.path)
    text = _section(config, "text_config", config if found.family == "gemma" else {})
    vision = _taken(_section(config, "vision_config", {}), _VISION)
    language = _taken(text, _LANGUAGE) if found.family != "siglip" else {}
    second = "gemma2" in (text.get("model_type"), config.get("model_type"))
    odd = [
        *_odd_config(config, text, found.family),
        *_odd_types(heads.tensors.values(), config.get("torch_dtype") or config.get("dtype")),
    ]
    missing = list(heads.missing)
    if found.family == "paligemma":
        keys = PALIGEMMA2 if second else PALIGEMMA
        missing += _missing(keys, vision, language, heads)
        odd += _odd_names(keys, heads.tensors)
    odd += _odd_beside(found.path, vision if found.family != "gemma" else {})
    return {
        **_identity(found.family, vision, language, second=second),
        **_counts(heads, missing),
        "tokens": _tokens(found.path / "tokenizer.json"),
        "odd": odd,
        "vision": vision or None,
        "language": language or None,
    }


def _native(found: Found) -> Facts:
    heads = file_heads([found.path])
    strings = heads.metadata
    config = _json(strings.get("heliodor.config"))
    vision = _numbers(_section(config, "vision", {}))
    language = _numbers(_section(config, "language", {}))
    second = language.get("sandwich") is True
    network = {n: head for n, head in heads.tensors.items() if not n.startswith("mask_codec.")}
    wanted = _ours(PALIGEMMA2 if second else PALIGEMMA, vision, language)
    files = _json(strings.get("heliodor.tokenizer"))
    vocabulary: Any = files.get("tokenizer.json")
    odd = _odd_types(network.values(), None)
    if "heliodor.mask_codec" in strings:
        odd.append("carries its mask codec")
    version, scheme = strings.get("heliodor.format"), strings.get("heliodor.scheme")
    return {
        **_identity(found.family, vision, language, second=second),
        "version": version,
        "scheme": scheme,
        **_counts(
            replace(heads, tensors=network), [name for name in wanted if name not in network]
        ),
        "tokens": _count_tokens(_json(vocabulary)) if isinstance(vocabulary, str) else None,
        "odd": odd,
        "vision": vision,
        "language": language,
    }


def _npz(found: Found) -> Facts:
    heads = npz_heads(found.path)
    shapes = {
        name.removeprefix("opt/target/").removeprefix(_NPZ): head.shape
        for name, head in heads.tensors.items()
    }
    vision, language = _npz_tower(shapes), _npz_decoder(shapes)
    second = any("post_attention_norm" in name for name in shapes)
    odd = _odd_types(heads.tensors.values(), None)
    bare = not any(name.startswith((_NPZ, "opt/")) for name in heads.tensors)
    odd += ["names without params/, as the fine-tuning notebook writes"] if bare else []
    beside = any(
        (found.path.parent / name).is_file() for name in ("tokenizer.json", "spiece.model")
    )
    odd += [] if beside else ["no tokenizer, as in every npz: give one when loading"]
    return {
        **_identity(found.family, vision, language, second=second),
        **_counts(heads, []),
        "tokens": None,
        "odd": odd,
        "vision": vision or None,
        "language": language or None,
    }


def _adapter(found: Found) -> Facts:
    config = read_json(found.path / ADAPTER_CONFIG)
    weights = found.path / "adapter_model.safetensors"
    heads = file_heads([weights]) if weights.is_file() else Heads(tensors={}, files=[])
    missing = [] if weights.is_file() else [weights.name]
    odd = _odd_types(heads.tensors.values(), None)
    odd += [
        f"{name} is set" for name in ("use_dora", "lora_bias", "use_rslora") if config.get(name)
    ]
    targets: Any = config.get("target_modules")
    return {
        "family": "adapter",
        "method": config.get("peft_type"),
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "targets": sorted(map(str, cast("list[object]", targets)))
        if isinstance(targets, list)
        else targets,
        "base": config.get("base_model_name_or_path"),
        **_counts(heads, missing),
        "odd": odd,
    }


def _identity(
    family: str, vision: Mapping[str, Any], language: Mapping[str, Any], *, second: bool
) -> Facts:
    """Name, size and resolution."""
    generation = " 2" if second else ""
    names = {
        "paligemma": f"PaliGemma{generation}",
        "siglip": "SigLIP",
        "gemma": f"Gemma{generation}",
    }
    sizes = _GEMMAS if family == "gemma" else _PALIGEMMAS
    side, patch = vision.get("image_size"), vision.get("patch_size")
    tower = _TOWERS.get((vision.get("width", 0), vision.get("depth", 0)), "custom")
    grid = side // patch if isinstance(side, int) and isinstance(patch, int) and patch else None
    return {
        "family": names.get(family, family),
        "size": sizes.get((language.get("width", 0), language.get("depth", 0)), "custom")
        if language
        else None,
        "tower": f"{tower}/{patch}" if vision else None,
        "resolution": side,
        "image_tokens": None if grid is None else grid * grid,
    }


def _counts(heads: Heads, missing: Sequence[str]) -> Facts:
    dtypes = Counter(head.dtype for head in heads.tensors.values())
    lost = list(dict.fromkeys(missing))
    return {
        "precision": next(iter(dtypes), None) if len(dtypes) < 2 else "mixed",
        "parameters": sum(head.count for head in heads.tensors.values()),
        "bytes": sum(head.size for head in heads.tensors.values()),
        "tensors": len(heads.tensors),
        "dtypes": dict(dtypes),
        "files": heads.files,
        "complete": not lost and not heads.broken and bool(heads.tensors),
        "missing": lost,
        "broken": heads.broken,
    }


def _ours(keys: KeyMap, vision: Mapping[str, Any], language: Mapping[str, Any]) -> list[str]:
    """Our names of all tensors of a model so deep."""
    depths: dict[str, Any] = {
        _LAYERS[0]: vision.get("depth"),
        _LAYERS[1]: language.get("depth"),
    }
    names: list[str] = []
    for row in keys.rows:
        kinds = ("weight", "bias") if "*" in row.ours else ("",)
        stem = next((layers for layers in _LAYERS if row.ours.startswith(layers)), None)
        depth = depths.get(stem, 0) if stem else 1
        numbers = range(depth if isinstance(depth, int) and 0 <= depth <= 1024 else 0)
        names += [
            row.ours.replace("#", str(i)).replace("*", kind) for i in numbers for kind in kinds
        ]
    return names


def _missing(
    keys: KeyMap, vision: Mapping[str, Any], language: Mapping[str, Any], heads: Heads
) -> list[str]:
    """Tensors that the configuration asks for and no file holds, by their names on the hub."""
    if not heads.tensors:
        return []
    found = {keys.to_ours(name) for name in heads.tensors}
    return [
        keys.to_theirs(name, HUB) for name in _ours(keys, vision, language) if name not in found
    ]


def _odd_names(keys: KeyMap, tensors: Mapping[str, Head]) -> list[str]:
    odd: list[str] = []
    tied = [name for name in tensors if keys.to_tied(name) is not None]
    if tied:
        odd.append(f"{tied[0]} repeats the embedding table, to which it is tied")
    unknown = [n for n in tensors if keys.to_ours(n) is None and keys.to_tied(n) is None]
    if unknown:
        odd.append(f"{len(unknown)} tensors that the model has not: {', '.join(unknown[:4])}")
    old = sum(name.startswith(("language_model.model.", "vision_tower.")) for name in tensors)
    new = sum(name.startswith("model.") for name in tensors)
    if new:
        mixed = "names of two releases mixed" if old else "names of transformers since 4.52"
        odd.append(f"{mixed}: {new} of {len(tensors)} begin with model.")
    return odd


def _odd_config(config: Facts, text: Facts, family: str) -> list[str]:
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


def _odd_types(heads: Iterable[Head], said: object) -> list[str]:
    dtypes = Counter(head.dtype for head in heads)
    if len(dtypes) > 1:
        return ["types mixed: " + ", ".join(f"{n} of {d}" for d, n in dtypes.most_common())]
    stored = next(iter(dtypes), None)
    if isinstance(said, str) and stored is not None and said != stored:
        return [f"{CONFIG} says {said}, the tensors are {stored}"]
    return []


def _odd_beside(folder: Path, vision: Mapping[str, Any]) -> list[str]:
    """Tokenizer and processor in the folder."""
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


def _section(config: Facts, name: str, default: Facts) -> Facts:
    value: Any = config.get(name)
    return cast("Facts", value) if isinstance(value, dict) else default


def _taken(section: Facts, fields: Mapping[str, tuple[str, int | None]]) -> Facts:
    if not section:
        return {}
    found = {ours: section.get(theirs, value) for ours, (theirs, value) in fields.items()}
    return _numbers(found)


def _numbers(section: Facts) -> Facts:
    """Fields that are numbers, true, false or none; of anything else the name alone is kept."""
    plain = (int, float, bool, type(None))
    return {name: v if isinstance(v, plain) else None for name, v in section.items()}


def _npz_tower(shapes: Mapping[str, tuple[int, ...]]) -> Facts:
    """An image tower from its arrays' shapes; empty where they are not those of one."""
    patch, position = shapes.get("img/embedding/kernel", ()), shapes.get("img/pos_embedding", ())
    stacked = shapes.get("img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel")
    single = shapes.get("img/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel", ())
    if len(patch) != 4 or len(position) != 3:
        return {}
    blocks = [n for n in shapes if n.startswith("img/Transformer/encoderblock_")]
    depth = stacked[0] if stacked else len({name.split("/")[2] for name in blocks})
    mlp = (stacked or single or (0,))[-1]
    side = round(position[1] ** 0.5) * patch[0]
    sizes = {"image_size": side, "patch_size": patch[0], "width": patch[3]}
    return {**sizes, "depth": depth, "mlp_width": mlp}


def _npz_decoder(shapes: Mapping[str, tuple[int, ...]]) -> Facts:
    """A decoder from its arrays' shapes; empty where they are not those of one."""
    table = shapes.get("llm/embedder/input_embedding", ())
    query = shapes.get("llm/layers/attn/q_einsum/w", ())
    key = shapes.get("llm/layers/attn/kv_einsum/w", ())
    mlp = shapes.get("llm/layers/mlp/linear", ())
    if (len(table), len(query), len(key), len(mlp)) != (2, 4, 5, 3):
        return {"vocab_size": table[0], "width": table[1]} if len(table) == 2 else {}
    return {
        "vocab_size": table[0],
        "width": table[1],
        "depth": query[0],
        "num_heads": query[1],
        "num_kv_heads": key[2],
        "head_dim": query[3],
        "mlp_width": mlp[1],
    }


def _tokens(path: Path) -> int | None:
    """Tokens in a tokenizer.json; None where there is none that can be read."""
    try:
        return _count_tokens(read_json(path)) if path.is_file() else None
    except CheckpointError:
        return None


def _count_tokens(document: Facts) -> int | None:
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


def _json(text: str | None) -> Facts:
    try:
        value: Any = json.loads(text or "{}")
    except ValueError as error:
        raise FileFormatError(f"the file's header holds broken JSON: {error}") from error
    return cast("Facts", value) if isinstance(value, dict) else {}
