"""Latents and captions' features on disk, in shards: what a painter learns from, made once.

    cache.json                 what it depends on, in words, and the key of that
    empty.safetensors          the features of the empty prompt
    latents-00000.safetensors  of each scene its latents; of each of its captions the features

Encoding a picture costs more than learning from it once, and every picture is learnt from many
times; so each is encoded once. A shard is written whole or not at all, and scenes are functions of
their number: what was killed goes on with the next shard, and a larger cache keeps a smaller one.

S scenes of a shard, C channels, h and w of latents, K captions of a scene, T tokens of all captions
of a shard, W width of the text encoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from heliodor.checkpoints.files import Replacement, read_json, to_json
from heliodor.checkpoints.shards import write_tensors
from heliodor.checkpoints.tensors import TensorFile
from heliodor.errors import TrainingError

__all__ = ["CachedScenes", "LatentCache", "build_cache", "cache_key", "file_digest"]

ABOUT = "cache.json"
_EMPTY = "empty"
_FORMAT = 1
_ONE_FILE = 2**40


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CachedScenes:
    """Some scenes as they are learnt from.

    Attributes:
        latents: float [S C h w], scaled as the transformer sees them.
        states: of every caption, all of the first scene's first, float [tokens W] each.
        captions: the same captions in words.
    """

    latents: Tensor
    states: Sequence[Tensor] = field(repr=False)
    captions: Sequence[str]


def cache_key(about: Mapping[str, Any]) -> str:
    """A name for everything that a cache depends on; its order does not matter."""
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(f"{_FORMAT} {text}".encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_cache(
    folder: Path,
    about: Mapping[str, Any],
    *,
    scenes: int,
    shard: int,
    empty: Callable[[], Tensor],
    make: Callable[[range], CachedScenes],
    progress: Callable[[int, int], None] | None = None,
) -> LatentCache:
    """Make what is missing of a cache.

    Args:
        folder: where it lies, or shall.
        about: everything that its content depends on beside the scenes' numbers, JSON's own types.
        scenes: how many it shall hold at least; whole shards are made.
        shard: scenes of a shard.
        empty: features of the empty prompt, float [tokens W].
        make: scenes by number; the same number gives the same, whatever else is made.
        progress: told the shards done and those wanted.

    Raises:
        TrainingError: ``folder`` holds a cache of something else.
        CheckpointError: the disk refused; the shards that were written stay.
    """
    about = {**about, "shard": shard}
    key, wanted = cache_key(about), -(-scenes // shard)
    if (folder / ABOUT).is_file():
        _check(folder, key, about)
    else:
        with Replacement(folder) as new:
            write_tensors(new, {"states": empty().half()}, None, _ONE_FILE, stem=_EMPTY)
            new.write(ABOUT, to_json({"key": key, "about": about}))
    for number in range(wanted):
        if not _shard_path(folder, number).is_file():
            _write_shard(folder, number, make(range(number * shard, (number + 1) * shard)))
        if progress is not None:
            progress(number + 1, wanted)
    return LatentCache(folder)


def _check(folder: Path, key: str, about: Mapping[str, Any]) -> None:
    held = read_json(folder / ABOUT)
    if held.get("key") == key:
        return
    before: Any = held.get("about")
    known = cast("dict[str, Any]", before if isinstance(before, dict) else {})
    differ = [name for name in about if known.get(name) != about[name]]
    where = ", ".join(differ) or "its form"
    raise TrainingError(
        f"{folder} holds latents of something else; it differs in {where}: use another folder, or "
        "remove this one"
    )


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"latents-{number:05d}.safetensors"


def _write_shard(folder: Path, number: int, made: CachedScenes) -> None:
    ends = torch.tensor([len(states) for states in made.states]).cumsum(0)
    text = json.dumps(list(made.captions), ensure_ascii=False).encode()
    tensors = {
        "latents": made.latents.half(),
        "states": torch.cat([states.half() for states in made.states]),
        "ends": ends,
        "captions": torch.frombuffer(bytearray(text), dtype=torch.uint8),
    }
    with Replacement(folder) as new:
        write_tensors(new, tensors, None, _ONE_FILE, stem=_shard_path(folder, number).stem)


class LatentCache:
    """A cache, opened: nothing is read before it is looked at.

    Attributes:
        folder: where it lies.
        key: of what it depends on.
        shard: scenes of a shard.
        per_scene: captions of a scene.
        empty: features of the empty prompt, float16 [tokens W].
    """

    def __init__(self, folder: Path) -> None:
        """Open it.

        Raises:
            TrainingError: it holds no scene, or a shard between others is missing.
            CheckpointError: its files are broken.
        """
        about = read_json(folder / ABOUT)
        self.folder, self.key = folder, str(about["key"])
        self.shard = int(about["about"]["shard"])
        self.empty = TensorFile(folder / f"{_EMPTY}.safetensors").read("states")
        found = sorted(folder.glob("latents-*.safetensors"))
        if not found or [path.name for path in found] != [
            _shard_path(folder, number).name for number in range(len(found))
        ]:
            raise TrainingError(
                f"{folder} holds {len(found)} shards, or not the first ones: make them with "
                "heliodor train painter-cache"
            )
        self._files = [TensorFile(path) for path in found]
        self._ends = [file.read("ends").clone() for file in self._files]
        self.per_scene = len(self._ends[0]) // self.shard

    def __len__(self) -> int:
        """Scenes."""
        return self.shard * len(self._files)

    @property
    def sides(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        channels, height, width = self._files[0].entries["latents"].shape[1:]
        return channels, height, width

    def latents(self, scene: int) -> Tensor:
        """Float16 [C h w]."""
        return self._files[scene // self.shard].read("latents")[scene % self.shard]

    def states(self, scene: int, caption: int) -> Tensor:
        """Features of a scene's caption, float16 [tokens W]."""
        number, place = divmod(scene, self.shard)
        place = place * self.per_scene + caption
        ends = self._ends[number]
        start = int(ends[place - 1]) if place else 0
        return self._files[number].read("states")[start : int(ends[place])]

    def captions(self, scene: int) -> list[str]:
        """A scene's captions in words."""
        number, place = divmod(scene, self.shard)
        every: list[str] = json.loads(self._files[number].read("captions").numpy().tobytes())
        return every[place * self.per_scene : (place + 1) * self.per_scene]
