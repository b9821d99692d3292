"""What lies at a path: which format, of which family. Names and headers are looked at, no weight.

Importing this module loads no torch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.header import read_header
from heliodor.errors import ConfigError, FileFormatError

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
MARK = "heliodor.format"
"""The string in a safetensors header that makes it a native file."""

READ = (
    "a folder in transformers layout (config.json and safetensors), a big_vision .npz or its "
    ".part pieces, or a native .safetensors file"
)
PIPELINE = "model_index.json"
"""Of diffusers: which parts a pipeline has."""

_PAINTER = "{} is a painter or a part of one: heliodor.load_painter() loads it"
_FAMILIES = {"paligemma": "paligemma", "siglip": "siglip", "gemma": "gemma", "gemma2": "gemma"}
_CODECS = ("maskcodec.npz", "vae-oid.npz")
_LISTED = 6


class Kind(Enum):
    """A format; the value is what the command line calls it."""

    TRANSFORMERS = "transformers"
    BIG_VISION = "big_vision"
    NATIVE = "native"
    ADAPTER = "adapter"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What lies at a path.

    Attributes:
        kind: the format.
        family: "paligemma", "siglip" or "gemma"; empty for an adapter.
        path: of the folder or file that holds it.
    """

    kind: Kind
    family: str
    path: Path


def recognise(path: Path) -> Found:
    """Look at a path.

    Raises:
        ConfigError: it exists and is nothing that is read; the message says what it is.
        FileFormatError: a broken file.
    """
    if path.is_dir():
        return _folder(path)
    if is_npz(path.name):
        return Found(kind=Kind.BIG_VISION, family=npz_family(npz_names(path), path), path=path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    raise ConfigError(f"{path} is a file of another kind; what can be read is {READ}")


def is_npz(name: str) -> bool:
    """Whether a file is an npz or a piece of one, by its name."""
    return name.endswith(".npz") or ".npz.part" in name


def _folder(folder: Path) -> Found:
    if holds_painter(folder):
        raise ConfigError(_PAINTER.format(folder))
    if (folder / CONFIG).is_file():
        return Found(kind=Kind.TRANSFORMERS, family=_family(folder / CONFIG), path=folder)
    if (folder / ADAPTER_CONFIG).is_file():
        return Found(kind=Kind.ADAPTER, family="", path=folder)
    names = sorted(entry.name for entry in folder.iterdir())
    whole = {name.partition(".part")[0] for name in names if is_npz(name)} - {*_CODECS}
    native = [n for n in names if n.endswith(".safetensors") and _is_marked(folder / n)]
    choices = sorted(whole) + native
    if len(choices) > 1:
        raise ConfigError(f"{folder} holds {', '.join(choices[:_LISTED])}: give one of them")
    if choices:
        return recognise(folder / choices[0])
    listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    raise ConfigError(
        f"{folder} has no {CONFIG} and no .npz ({f'it has {listed}' if names else 'it is empty'}); "
        f"what can be read is {READ}"
    )


def holds_painter(path: Path) -> bool:
    """Whether a folder is one of diffusers' or of Lumina-Next's, or a file the latter's.

    Raises:
        FileFormatError: a broken file.
    """
    if not path.is_dir():
        named = path.suffix == ".safetensors" and path.is_file()
        return named and "x_embedder.weight" in read_header(path).slots
    return _folder_of_painter(path)


def _folder_of_painter(folder: Path) -> bool:
    if (folder / PIPELINE).is_file() or any(folder.glob("consolidated*.safetensors")):
        return True
    values = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return "_class_name" in values and "model_type" not in values


def _family(config: Path) -> str:
    kind = read_json(config).get("model_type")
    family = _FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        came = f"model_type {kind!r}" if kind is not None else "no model_type"
        raise ConfigError(f"{config} has {came}; what is read are {', '.join(_FAMILIES)}")
    return family


def _safetensors(path: Path) -> Found:
    header = read_header(path)
    metadata = header.metadata
    if holds_painter(path):
        raise ConfigError(_PAINTER.format(path))
    if MARK in metadata:
        family = metadata.get("heliodor.family", "")
        return Found(kind=Kind.NATIVE, family=family, path=path)
    if (path.parent / CONFIG).is_file():
        raise ConfigError(f"{path} is a file; give the folder that holds it and {CONFIG}")
    raise ConfigError(
        f"{path} is a safetensors file without a word on what model it belongs to; give the "
        f"folder that holds it and {CONFIG}"
    )


def _is_marked(path: Path) -> bool:
    try:
        return MARK in read_header(path).metadata
    except FileFormatError:
        return False


def npz_names(path: Path) -> list[str]:
    """The arrays' names in an npz, or in the pieces of one.

    Raises:
        FileFormatError: it is no zip archive.
    """
    try:
        if path.is_file() and path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        else:
            # The only reader of pieces maps them for torch.
            from heliodor.checkpoints.npz import NpzFile  # noqa: PLC0415

            names = list(NpzFile(path).entries)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise FileFormatError(f"{path} cannot be read as an npz: {error}") from error
    return [name.removesuffix(".npy") for name in names]


def npz_family(names: Iterable[str], path: Path) -> str:
    """Which model the arrays are of.

    Raises:
        ConfigError: of none that is read.
    """
    plain = [name.removeprefix("opt/target/").removeprefix("params/") for name in names]
    if any(name.startswith("llm/") for name in plain):
        return "paligemma"
    if any(name.startswith("txt/") for name in plain):
        return "siglip"
    if any(name.startswith("_vq_vae.") for name in plain):
        raise ConfigError(f"{path} is a mask codec: pass it as codec=, beside a model")
    listed = ", ".join(plain[:_LISTED])
    raise ConfigError(
        f"{path} holds {len(plain)} arrays ({listed}), which are neither a PaliGemma's (llm/...) "
        "nor a SigLIP's (txt/...)"
    )
