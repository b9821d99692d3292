"""What a checkpoint is: family, size, resolution, precision, whether it is whole, what is odd.

Only configurations and the heads of files are read, no weight, and importing this module loads no
torch: the answer comes at once for files of any size. A checkpoint that cannot be loaded is
described all the same, and its faults are listed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from heliodor.checkpoints.codes import scheme_groups, stored_shapes, wrong_types
from heliodor.checkpoints.expected import Shape, network_shapes, unusable
from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.heads import (
    Head,
    Heads,
    compared,
    counts,
    file_heads,
    folder_heads,
    npz_heads,
)
from heliodor.checkpoints.keymap import (
    GEMMA,
    GEMMA2,
    HUB,
    PALIGEMMA,
    PALIGEMMA2,
    SIGLIP,
    KeyMap,
)
from heliodor.checkpoints.npz_sizes import npz_sizes
from heliodor.checkpoints.oddities import (
    Facts,
    count_tokens,
    odd_beside,
    odd_config,
    odd_names,
    odd_types,
    tokens_in,
)
from heliodor.checkpoints.recognise import (
    ADAPTER_CONFIG,
    CONFIG,
    Found,
    Kind,
    holds_painter,
    recognise,
)
from heliodor.checkpoints.survey_painter import survey_painter
from heliodor.errors import ConfigError, FileFormatError
from heliodor.quant.scheme import Recipe

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
_PAIR = {
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 16),
    "width": ("hidden_size", 768),
    "depth": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "mlp_width": ("intermediate_size", 3072),
}
_PAIR_TEXT = {
    "vocab_size": ("vocab_size", 32000),
    "length": ("max_position_embeddings", 64),
    **{name: _PAIR[name] for name in ("width", "depth", "num_heads", "mlp_width")},
    "out_width": ("projection_size", None),
}
_FIELDS: dict[str, dict[str, Mapping[str, tuple[str, int | None]]]] = {
    "paligemma": {"vision": _VISION, "language": _LANGUAGE},
    "siglip": {"vision": _PAIR, "text": _PAIR_TEXT},
    "gemma": {"language": _LANGUAGE},
}
_KEYS = {
    ("paligemma", False): PALIGEMMA,
    ("paligemma", True): PALIGEMMA2,
    ("gemma", False): GEMMA,
    ("gemma", True): GEMMA2,
    ("siglip", False): SIGLIP,
}
_ROOTS = ("params/", "opt/target/", "")
_FLOATS = ("float", "bfloat")
_THIRD = re.compile(r"\[[012]\]$")


def survey(path: Path) -> Facts:
    """Describe what lies at a path.

    Returns:
        ``path``, ``format``, ``family``, ``size``, ``tower``, ``resolution``, ``image_tokens``,
        ``precision``, ``parameters``, ``bytes``, ``tensors``, ``dtypes`` with their numbers of
        tensors, ``files``, ``tokens`` of the tokenizer, ``complete``, ``missing``, ``broken``,
        ``odd``, of a quantised file ``schemes``, and the shapes ``vision``, ``language`` and
        ``text``. What does not apply is None.
        For a painter ``transformer``, and of a pipeline ``text_encoder``, ``vae`` and ``shift``.
        For an adapter ``rank``, ``alpha``, ``targets`` and ``base`` instead of the shapes.

    Raises:
        ConfigError: it is nothing that is read.
        FileFormatError: a broken configuration.
    """
    if holds_painter(path):
        return survey_painter(path, survey)
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
    sections = {"vision": _section(config, "vision_config", {}), "language": text, "text": text}
    parts = {part: _taken(sections[part], fields) for part, fields in _FIELDS[found.family].items()}
    second = "gemma2" in (text.get("model_type"), config.get("model_type"))
    keys = _KEYS[found.family, second and found.family != "siglip"]
    tensors = _with_thirds(heads.tensors) if found.family == "siglip" else heads.tensors
    missing, wrong = _compared_with_folder(found, keys, parts, tensors, second=second)
    odd = [
        *odd_config(config, text, found.family),
        *odd_types(heads.tensors.values(), config.get("torch_dtype") or config.get("dtype")),
        *odd_names(keys, tensors, found.family),
        *odd_beside(found.path, parts.get("vision", {})),
    ]
    return {
        **_identity(found.family, parts, second=second),
        **counts(heads, [*heads.missing, *missing], wrong),
        "tokens": tokens_in(found.path / "tokenizer.json"),
        "odd": odd,
        **_shown(parts),
    }


def _native(found: Found) -> Facts:
    heads = file_heads([found.path])
    strings = heads.metadata
    config = _json(strings.get("heliodor.config"))
    sections: Facts = {"language": config} if found.family == "gemma" else config
    parts = {part: _numbers(_section(sections, part, {})) for part in _FIELDS.get(found.family, {})}
    second = parts.get("language", {}).get("sandwich") is True
    network = {n: head for n, head in heads.tensors.items() if not n.startswith("mask_codec.")}
    plain = network_shapes(found.family, parts, sandwich=second)
    recipe, faults = _recipe(strings, found.path)
    wanted = stored_shapes(plain, recipe)
    missing, wrong = compared(wanted, network, lambda name: name)
    wrong += faults + wrong_types(plain, recipe, network)
    wrong += _untold(found.family, parts, "heliodor.config")
    files = _json(strings.get("heliodor.tokenizer"))
    vocabulary: Any = files.get("tokenizer.json")
    odd = [] if recipe else odd_types(network.values(), None)
    unknown = [name for name in network if wanted and name not in wanted]
    if unknown:
        odd.append(f"{len(unknown)} tensors that the model has not: {', '.join(unknown[:4])}")
    if "heliodor.mask_codec" in strings:
        odd.append("carries its mask codec")
    if not files:
        odd.append("no tokenizer: give one when loading")
    version, scheme = strings.get("heliodor.format"), strings.get("heliodor.scheme")
    return {
        **_identity(found.family, parts, second=second),
        "version": version,
        "scheme": scheme,
        "schemes": scheme_groups(plain, recipe),
        **counts(replace(heads, tensors=network), missing, wrong),
        **({"parameters": sum(map(math.prod, plain.values()))} if recipe else {}),
        "tokens": count_tokens(_json(vocabulary)) if isinstance(vocabulary, str) else None,
        "odd": odd,
        **_shown(parts),
    }


def _recipe(strings: Mapping[str, str], path: Path) -> tuple[Recipe | None, list[str]]:
    """How a native file is quantised, and what is wrong with what it says of that."""
    if strings.get("heliodor.scheme") in (None, "none"):
        return None, []
    try:
        return Recipe.from_dict(_json(strings.get("heliodor.recipe")), path.name), []
    except ConfigError as error:
        return None, [str(error)]


def _npz(found: Found) -> Facts:
    heads = npz_heads(found.path)
    root = next(r for r in _ROOTS if not r or any(name.startswith(r) for name in heads.tensors))
    model = {
        name.removeprefix(root): head
        for name, head in heads.tensors.items()
        if name.startswith(root)
    }
    sizes = npz_sizes({name: head.shape for name, head in model.items()}, found.family)
    second = any("post_attention_norm" in name for name in model)
    missing, wrong = compared(sizes.arrays, model, lambda name: root + name)
    if model:
        missing += [root + name for name in sizes.missing]
        wrong += [root + said for said in sizes.broken]
    odd = odd_types([head for head in model.values() if head.dtype.startswith(_FLOATS)], None)
    odd += ["names without params/, as the fine-tuning notebook writes"] if not root else []
    unknown = [name for name in model if sizes.arrays and _is_unknown(name, sizes.arrays)]
    if unknown:
        odd.append(f"{len(unknown)} arrays that the model has not: {', '.join(unknown[:4])}")
    beside = any(
        (found.path.parent / name).is_file() for name in ("tokenizer.json", "spiece.model")
    )
    odd += [] if beside else ["no tokenizer, as in every npz: give one when loading"]
    return {
        **_identity(found.family, sizes.parts, second=second),
        **counts(heads, missing, wrong),
        "tokens": None,
        "odd": odd,
        **_shown(sizes.parts),
    }


def _is_unknown(name: str, known: Mapping[str, Shape]) -> bool:
    """Whether an array is the model's by its name, and none that the model has."""
    return (
        name.startswith(("img/", "llm/", "txt/"))
        and name not in known
        and name != "txt/Encoder_0/pos_embedding"  # the second part of positions, in old files
    )


def _adapter(found: Found) -> Facts:
    config = read_json(found.path / ADAPTER_CONFIG)
    weights = found.path / "adapter_model.safetensors"
    heads = file_heads([weights]) if weights.is_file() else Heads(tensors={}, files=[])
    missing = [] if weights.is_file() else [weights.name]
    odd = odd_types(heads.tensors.values(), None)
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
        **counts(heads, missing, []),
        "odd": odd,
    }


def _identity(family: str, parts: Mapping[str, Facts], *, second: bool) -> Facts:
    """Name, size and resolution."""
    vision, language = parts.get("vision", {}), parts.get("language", {})
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


def _shown(parts: Mapping[str, Facts]) -> Facts:
    """The shapes, None for a part that the model has not."""
    return {part: parts.get(part) or None for part in ("vision", "language", "text")}


def _compared_with_folder(
    found: Found,
    keys: KeyMap,
    parts: Mapping[str, Facts],
    tensors: Mapping[str, Head],
    *,
    second: bool,
) -> tuple[list[str], list[str]]:
    """What is missing of, and wrong with, the tensors of a folder, by their names on the hub."""
    if not tensors:
        return [], []
    ours = {keys.to_ours(name) or name: head for name, head in tensors.items()}
    prefix = "model." if found.family == "gemma" else ""
    wanted = network_shapes(found.family, parts, sandwich=second)
    missing, wrong = compared(wanted, ours, lambda name: prefix + keys.to_theirs(name, HUB))
    return [_THIRD.sub("", name) for name in missing], wrong + _untold(found.family, parts, CONFIG)


def _with_thirds(tensors: Mapping[str, Head]) -> dict[str, Head]:
    """The tensors, and for each that holds query, key and value of a pooling head its thirds."""
    found: dict[str, Head] = {}
    for name, head in tensors.items():
        if not name.endswith((".in_proj_weight", ".in_proj_bias")) or not head.shape:
            found[name] = head
            continue
        third = replace(head, shape=(head.shape[0] // 3, *head.shape[1:]))
        found |= {f"{name}[{index}]": third for index in range(3)}
    return found


def _untold(family: str, parts: Mapping[str, Facts], where: str) -> list[str]:
    """Numbers without which the tensors cannot be held against the configuration."""
    names = unusable(family, parts)
    return [f"{where} does not say {', '.join(names)} in whole numbers"] if names else []


def _taken(section: Facts, fields: Mapping[str, tuple[str, int | None]]) -> Facts:
    return _numbers({ours: section.get(theirs, value) for ours, (theirs, value) in fields.items()})


def _section(config: Facts, name: str, default: Facts) -> Facts:
    value: Any = config.get(name)
    return cast("Facts", value) if isinstance(value, dict) else default


def _numbers(section: Facts) -> Facts:
    """Fields that are numbers, true, false or none; of anything else the name alone is kept."""
    plain = (int, float, bool, type(None))
    return {name: v if isinstance(v, plain) else None for name, v in section.items()}


def _json(text: str | None) -> Facts:
    try:
        value: Any = json.loads(text or "{}")
    except ValueError as error:
        raise FileFormatError(f"the file's header holds broken JSON: {error}") from error
    return cast("Facts", value) if isinstance(value, dict) else {}
