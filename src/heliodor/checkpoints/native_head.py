"""The strings in the head of a native file, and whether its tensors are those that they promise."""

from __future__ import annotations

import base64
import binascii
import json
import re
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from heliodor.checkpoints.blueprint import unfilled
from heliodor.checkpoints.contents import NETWORKS
from heliodor.checkpoints.files import parse_json_object
from heliodor.checkpoints.header import read_header
from heliodor.checkpoints.recognise import MARK
from heliodor.checkpoints.tensors import Tensors
from heliodor.checkpoints.weights import READABLE, Weight, kept_names
from heliodor.errors import ConfigError, FileFormatError, KeyMismatchError, TokenizerError
from heliodor.quant.apply import apply_empty
from heliodor.quant.scheme import RECIPES, Recipe

FORMAT = MARK
VERSION = "1"
SCHEME = "none"
"""Of a file whose tensors are numbers. Any other scheme is a recipe's name, and ``heliodor.recipe``
says what it means."""

_LISTED = 8  # names that a message spells out per kind of fault
_BASE64 = "base64"
_FILE = re.compile(r"\w[\w.-]{0,99}")


def read_strings(path: Path, family: str) -> dict[str, str]:
    """The strings in the head of a native file, of a version and family that can be read.

    Args:
        path: of the file.
        family: that it must be of.

    Raises:
        ConfigError: another version or family.
        FileFormatError: not a native file, or a broken one.
    """
    strings = read_header(path).metadata
    if FORMAT not in strings:
        raise FileFormatError(
            f"{path} is a safetensors file of another kind: nothing in it says what model its "
            "tensors belong to. Give the folder that holds it and config.json"
        )
    if strings[FORMAT] != VERSION:
        raise ConfigError(
            f"{path} is in version {strings[FORMAT]!r} of the native format, this release reads "
            f"{VERSION!r}: update heliodor, or write the file again with this release"
        )
    found = strings.get("heliodor.family")
    if found != family:
        raise ConfigError(f"{path}: its family is {found!r}, where a {family} is wanted")
    return strings


def read_recipe(strings: Mapping[str, str], path: Path) -> Recipe | None:
    """How the tensors of a native file are quantised, None if they are numbers.

    Raises:
        ConfigError: a scheme that this release does not know.
        FileFormatError: the recipe is no JSON object.
    """
    scheme = strings.get("heliodor.scheme")
    if scheme == SCHEME:
        return None
    if "heliodor.recipe" not in strings or scheme is None:
        known = ", ".join(map(repr, (SCHEME, *RECIPES)))
        raise ConfigError(
            f"{path}: its scheme is {scheme!r} and no heliodor.recipe says what that is; this "
            f"release reads {known}: update heliodor"
        )
    return Recipe.from_dict(read_object(strings, "recipe", path), str(path))


def read_object(strings: Mapping[str, str], key: str, path: Path) -> dict[str, Any]:
    """The JSON object in one of the strings.

    Raises:
        FileFormatError: there is no such string, or it is no object.
    """
    text = strings.get(f"heliodor.{key}")
    if text is None:
        raise FileFormatError(f"{path}: its header has no heliodor.{key}")
    return parse_json_object(text.encode(), source=f"the {key} of {path}")


def dump(values: object) -> str:
    """JSON without blanks."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def pack(files: Mapping[str, bytes]) -> str:
    """A tokenizer's files as one string: JSON as text without its indentation, others in base64."""
    packed: dict[str, str | dict[str, str]] = {}
    for name, content in sorted(files.items()):
        if name.endswith(".json"):
            packed[name] = dump(json.loads(content))
        else:
            packed[name] = {_BASE64: base64.b64encode(content).decode()}
    return dump(packed)


@contextmanager
def unpacked(strings: Mapping[str, str], path: Path) -> Generator[Path]:
    """A folder, for a while, with the files of the tokenizer in a header.

    Raises:
        FileFormatError: a file whose name would leave the folder, or that is no file.
        TokenizerError: the header has no tokenizer.
    """
    text = strings.get("heliodor.tokenizer")
    if text is None:
        raise TokenizerError(
            f"{path} was written without a tokenizer: pass tokenizer=<path to a "
            "tokenizer.json or SentencePiece model>"
        )
    files = parse_json_object(text.encode(), source=f"the tokenizer of {path}")
    with tempfile.TemporaryDirectory() as place:
        for name, packed in files.items():
            content = _unpack(packed)
            if not _FILE.fullmatch(name) or content is None:
                raise FileFormatError(f"{path}: its tokenizer has a bad file {name[:80]!r}")
            (Path(place) / name).write_bytes(content)
        yield Path(place)


def _unpack(packed: object) -> bytes | None:
    """A file's content; None for what is none."""
    try:
        if isinstance(packed, str):
            return packed.encode()
        if isinstance(packed, dict):
            text: Any = cast("dict[str, Any]", packed).get(_BASE64)
            return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        pass  # half a surrogate pair, or letters that are not base64's
    return None


def wanted_tensors(
    config: Any, family: str, path: Path, recipe: Recipe | None = None
) -> dict[str, torch.Tensor]:
    """Each tensor of a network by our names, on the meta device: its shape, and of codes its type.

    Raises:
        ConfigError: sizes beyond any machine's, or a recipe that is none for this network.
    """
    try:
        network: nn.Module = unfilled(lambda: NETWORKS[family](config))
        if recipe is not None:
            apply_empty(network, recipe)
    except (RuntimeError, OverflowError) as error:
        raise ConfigError(f"{path}: no machine holds the sizes of its config") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return network.state_dict()


def matched(
    tensors: Tensors, names: list[str], wanted: Mapping[str, torch.Tensor], path: Path
) -> dict[str, Weight]:
    """The file's tensors, if they are exactly those that are wanted.

    Raises:
        KeyMismatchError: one is missing, unknown, of another shape or of a type that is no weight.
    """
    found = {name: tensors.weight(name) for name in names}
    both = wanted.keys() & found.keys()
    kept = kept_names(wanted)
    types = {name: (wanted[name].dtype,) if name in kept else READABLE for name in wanted}
    faults = {
        "missing": sorted(wanted.keys() - both),
        "unknown": sorted(found.keys() - both),
        "of another shape": sorted(n for n in both if found[n].shape != tuple(wanted[n].shape)),
        "of a type that is no weight": sorted(n for n in both if found[n].dtype not in types[n]),
    }
    if any(faults.values()):
        said = [
            f"{len(found)} {what}: {', '.join(found[:_LISTED])}"
            + (" ..." if len(found) > _LISTED else "")
            for what, found in faults.items()
            if found
        ]
        text = "; ".join(said).encode("utf-8", "backslashreplace").decode()
        raise KeyMismatchError(
            f"the tensors of {path} are not those that its config asks for. {text}"
        )
    return {name: found[name] for name in wanted}
