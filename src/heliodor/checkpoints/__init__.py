"""Checkpoints: weights, configuration and tokenizer, from and to files.

    checkpoint = open_checkpoint("google/paligemma-3b-mix-224", revision="bfloat16")
    model = checkpoint.load(dtype="float32")

``recognise`` says what lies at a path. ``transformers``, ``bigvision``, ``native``, ``siglip`` and
``language`` each know one format; all open to ``weights`` that are read when it is their turn.
``keymap`` pairs tensor names, ``tensors`` and ``npz`` read files, ``shards`` writes them,
``convert`` goes from one format to another, ``adapters`` merges LoRA, ``hub`` downloads.

Importing this package loads no torch.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from heliodor.checkpoints.recognise import READ, Found, Kind, is_npz, recognise
from heliodor.errors import ConfigError, InputError

if TYPE_CHECKING:
    from heliodor.checkpoints.bigvision import BigVisionCheckpoint
    from heliodor.checkpoints.language import LanguageCheckpoint
    from heliodor.checkpoints.native import (
        NativeCheckpoint,
        NativeGemmaCheckpoint,
        NativeSiglipCheckpoint,
    )
    from heliodor.checkpoints.siglip import SiglipCheckpoint
    from heliodor.checkpoints.siglip_npz import SiglipNpzCheckpoint
    from heliodor.checkpoints.transformers import TransformersCheckpoint

    PaliGemmaCheckpoint: TypeAlias = TransformersCheckpoint | BigVisionCheckpoint | NativeCheckpoint
    Checkpoint: TypeAlias = (
        PaliGemmaCheckpoint
        | SiglipCheckpoint
        | SiglipNpzCheckpoint
        | NativeSiglipCheckpoint
        | LanguageCheckpoint
        | NativeGemmaCheckpoint
    )

__all__ = [
    "BigVisionCheckpoint",
    "LanguageCheckpoint",
    "NativeCheckpoint",
    "NativeGemmaCheckpoint",
    "NativeSiglipCheckpoint",
    "SiglipCheckpoint",
    "SiglipNpzCheckpoint",
    "TransformersCheckpoint",
    "hub_id",
    "locate",
    "open_checkpoint",
    "open_found",
    "open_paligemma",
]

_HOME = {
    "BigVisionCheckpoint": "bigvision",
    "LanguageCheckpoint": "language",
    "NativeCheckpoint": "native",
    "NativeGemmaCheckpoint": "native",
    "NativeSiglipCheckpoint": "native",
    "SiglipCheckpoint": "siglip",
    "SiglipNpzCheckpoint": "siglip_npz",
    "TransformersCheckpoint": "transformers",
}
_CLASSES = {
    (Kind.TRANSFORMERS, "paligemma"): "TransformersCheckpoint",
    (Kind.TRANSFORMERS, "siglip"): "SiglipCheckpoint",
    (Kind.TRANSFORMERS, "gemma"): "LanguageCheckpoint",
    (Kind.BIG_VISION, "paligemma"): "BigVisionCheckpoint",
    (Kind.BIG_VISION, "siglip"): "SiglipNpzCheckpoint",
    (Kind.NATIVE, "paligemma"): "NativeCheckpoint",
    (Kind.NATIVE, "siglip"): "NativeSiglipCheckpoint",
    (Kind.NATIVE, "gemma"): "NativeGemmaCheckpoint",
}
_LONGEST = 4096  # letters of a path, on the systems we know
_FILES = (".npz", ".safetensors")
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/([A-Za-z0-9][\w.-]*))?")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'heliodor.checkpoints' has no attribute {name!r}")
    return getattr(importlib.import_module(f"heliodor.checkpoints.{_HOME[name]}"), name)


def open_checkpoint(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint by path or hub id and see what it is; what exists on disk counts first.

    Args:
        source: a folder in transformers layout; a big_vision ``.npz``, its pieces or the folder
            that holds them; a native file; a hub id such as ``google/paligemma-3b-mix-224``, or
            ``owner/name/file.npz`` for one file of several.
        revision: branch, tag or commit, for hub ids alone.

    Raises:
        ConfigError: neither a path nor a hub id, or something that is not read; the message says
            what it is.
        FileFormatError: a broken file.
        HubError: the download failed.
        InputError: a revision of something that is not on the hub.
    """
    return open_found(recognise(locate(source, revision=revision)), str(source))


def open_paligemma(source: str | Path, *, revision: str | None = None) -> PaliGemmaCheckpoint:
    """:func:`open_checkpoint` for what must be a PaliGemma.

    Raises:
        ConfigError: it is a model of another family; the message names the call that loads it.
    """
    found = recognise(locate(source, revision=revision))
    if found.family in ("siglip", "gemma"):
        raise ConfigError(
            f"{source} is a {found.family} model, not a PaliGemma: heliodor."
            f"load_{found.family}() loads it"
        )
    return cast("PaliGemmaCheckpoint", open_found(found, str(source)))


def open_found(found: Found, source: str) -> Checkpoint:
    """The checkpoint of what was found; ``source`` is what the user asked for.

    Raises:
        ConfigError: it is an adapter, or a native file of a family that came later.
    """
    if found.kind is Kind.ADAPTER:
        raise ConfigError(
            f"{source} is an adapter, not a model: load its base model and pass this as adapter="
        )
    if (found.kind, found.family) not in _CLASSES:
        known = ", ".join(repr(family) for kind, family in _CLASSES if kind is found.kind)
        raise ConfigError(
            f"{source}: its family is {found.family!r}; this release reads {known}: update heliodor"
        )
    kind: Any = __getattr__(_CLASSES[found.kind, found.family])
    if found.kind is Kind.TRANSFORMERS:
        return kind(folder=found.path, source=source)
    return kind(path=found.path, source=source)


def locate(
    source: str | Path,
    *,
    revision: str | None = None,
    adapter: bool = False,
    only_small: bool = False,
) -> Path:
    """The path of a checkpoint, which is downloaded where ``source`` is a hub id.

    Args:
        source: a path or a hub id; what exists on disk counts first.
        revision: branch, tag or commit, for hub ids alone.
        adapter: whether an adapter's files are wanted rather than a model's.
        only_small: of a hub id, fetch what says what it is, and no weights.

    Raises:
        ConfigError: neither a path nor a hub id.
        HubError: the download failed.
        InputError: a revision of something that is not on the hub.
    """
    path, name = Path(source).expanduser(), str(source)
    if not name or len(name) > _LONGEST:
        raise ConfigError(f"the checkpoint's name is {len(name)} letters long; give a folder or id")
    if path.exists() or (is_npz(path.name) and any(path.parent.glob(f"{path.name}.part*"))):
        if revision is not None:
            what = "folder" if path.is_dir() else "file"
            raise InputError(
                f"{name} is a {what}, which has no revision {revision!r}: leave revision out"
            )
        return path
    named = hub_id(source)
    if named is None:
        raise ConfigError(
            f"{name} does not exist; expected {READ}, or a hub id such as "
            "google/paligemma-3b-mix-224"
        )
    # A third of a second, for downloads alone.
    from heliodor.checkpoints import hub  # noqa: PLC0415

    if only_small:
        return hub.resolve(named[0], revision=revision, patterns=hub.SMALL)
    if adapter:
        return hub.resolve(named[0], revision=revision, patterns=hub.ADAPTER)
    return hub.resolve_model(named[0], revision=revision, file=named[1])


def hub_id(source: str | Path) -> tuple[str, str | None] | None:
    """The repository that a hub id names, and the file in it; None for what is no hub id."""
    named = None if isinstance(source, Path) else _HUB_ID.fullmatch(source)
    if named is None or (named[2] is not None and not named[2].endswith(_FILES)):
        return None
    return named[1], named[2]
