"""The place that a checkpoint is written to: what may stand there, and how the new one gets there.

Everything is written in a hidden folder beside the target and takes the target's name at the end,
so that whoever looks sees the old one or the new one, never half of either.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from heliodor.checkpoints.files import sync_folder
from heliodor.checkpoints.recognise import PIPELINE, Kind
from heliodor.errors import CheckpointError, InputError

FORMATS = ("transformers", "big_vision", "native")
_OURS = re.compile(
    r"(config|generation_config|preprocessor_config|processor_config|tokenizer|tokenizer_config|"
    r"special_tokens_map|added_tokens|model\.safetensors\.index)\.json|chat_template\.(json|jinja)|"
    r"model(-\d+-of-\d+)?\.safetensors|(tokenizer|spiece)\.model|maskcodec\.npz|vae-oid\.npz"
)
"""What lies in a checkpoint's folder."""
_PAINTERS = re.compile(
    r"(model_index|config)\.json|consolidated(_ema)?\.00-of-01\.safetensors|"
    r"scheduler|text_encoder|tokenizer|transformer|vae"
)
"""What lies in a painter's, in either layout."""
_OLD = "replaced"


def target_kind(target: Path, name: str | None) -> Kind:
    """The format to write: the one named, or what the target's suffix says.

    Raises:
        InputError: an unknown format, or a suffix that belongs to another.
    """
    by_suffix = {".npz": Kind.BIG_VISION, ".safetensors": Kind.NATIVE}
    told = by_suffix.get(target.suffix, Kind.TRANSFORMERS)
    if name is None:
        return told
    if name not in FORMATS:
        raise InputError(f"format {name!r} is not written; there are {', '.join(FORMATS)}")
    if Kind(name) is not told:
        ends = {kind.value: suffix for suffix, kind in by_suffix.items()}
        wanted = f"a name that ends in {ends[name]}" if name in ends else "a folder's name"
        raise InputError(f"{target.name} does not name a {name} checkpoint; give {wanted}")
    return told


def check_target(target: Path, source: Path, *, force: bool) -> None:
    """A target that is free, or that may be replaced.

    Raises:
        InputError: something stands there, or it is the source, or no folder to write into.
    """
    origin = source.resolve()
    if target == origin or origin in target.parents or target in origin.parents:
        raise InputError(f"{target} and the source {origin} are one, or one holds the other")
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent} to write into")
    if not target.exists():
        return
    if not force:
        raise InputError(f"{target} exists; name another target, or give --force to replace it")
    if target.is_dir():
        _check_replaceable(target)
    elif target.suffix not in (".npz", ".safetensors"):
        raise InputError(f"{target} is no checkpoint file, and nothing else is replaced")


def _check_replaceable(folder: Path) -> None:
    """A folder in which nothing but a checkpoint lies: what else is there would be lost."""
    names = sorted(entry.name for entry in folder.iterdir())
    others = [n for n in names if not _OURS.fullmatch(n) or (folder / n).is_dir()]
    if any(n == PIPELINE or n.startswith("consolidated") for n in names):
        others = [n for n in names if not _PAINTERS.fullmatch(n)]
        names = []
    if others or (names and "config.json" not in names):
        what = f"holds {others[0]} too" if others else "has no config.json"
        raise InputError(
            f"{folder} {what}: only a folder with a checkpoint and nothing else is replaced"
        )


@contextmanager
def staged(target: Path) -> Generator[Path]:
    """A path of the target's name in a folder of its own beside it; removed in any case."""
    folder = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    try:
        folder.mkdir()
        yield folder / target.name
    except OSError as error:
        raise CheckpointError(
            f"writing {target} failed, nothing was changed: {error.strerror or error}"
        ) from error
    finally:
        if target.exists() or not (folder / _OLD).exists():
            shutil.rmtree(folder, ignore_errors=True)


def commit(stage: Path, target: Path) -> None:
    """Give what was written its name; what stood there goes when the new one stands."""
    if not target.is_dir():
        stage.replace(target)
    else:
        old = stage.parent / _OLD
        try:
            target.replace(old)
            stage.replace(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.replace(target)
            raise
    sync_folder(target.parent)
