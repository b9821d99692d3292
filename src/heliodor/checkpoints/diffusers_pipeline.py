"""A whole painter as diffusers saves it: the folder of a ``LuminaPipeline``, read and written.

    model_index.json      names the parts
    scheduler/            scheduler_config.json
    text_encoder/         a Gemma in transformers layout
    tokenizer/            its tokenizer
    transformer/          see :mod:`~heliodor.checkpoints.diffusers_transformer`
    vae/                  an AutoencoderKL, copied as it is

diffusers renamed the pipeline: ``LuminaText2ImgPipeline``, which the published folder still says,
is the same.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heliodor.checkpoints.config import language_values
from heliodor.checkpoints.diffusers_config import CLASS, VERSION
from heliodor.checkpoints.diffusers_transformer import (
    SHARD_SIZE,
    STEM,
    DiffusersTransformer,
    Merge,
    write_transformer,
)
from heliodor.checkpoints.files import Replacement, read_json, to_json
from heliodor.checkpoints.language import EMBEDDING, LanguageCheckpoint, language_keys
from heliodor.checkpoints.section import CONFIG, Section
from heliodor.checkpoints.shards import write_tensors
from heliodor.checkpoints.target import commit, staged
from heliodor.checkpoints.variants import chosen_names
from heliodor.checkpoints.weights import Weight, asked_dtype, name_of
from heliodor.errors import ConfigError, InputError
from heliodor.models.gemma import GemmaConfig
from heliodor.models.nextdit_config import NextDiTConfig
from heliodor.text import GemmaTokenizer
from heliodor.text.gemma import find_vocabulary
from heliodor.text.tokenizer import open_tokenizer

INDEX = "model_index.json"
SCHEDULER = "scheduler_config.json"
PIPELINES = ("LuminaPipeline", "LuminaText2ImgPipeline")
"""Its two names, the present one first."""

_PARTS = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
_SCHEDULER_CLASS = "FlowMatchEulerDiscreteScheduler"
_VAE_FILES = (CONFIG, f"{STEM}.safetensors", f"{STEM}.safetensors.index.json")

State = Mapping[str, Tensor] | Mapping[str, Weight]


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusersPipeline:
    """A pipeline's folder on this machine.

    Attributes:
        folder: where it lies.
        source: what the user asked for.
        merge: as for :class:`~heliodor.checkpoints.diffusers_transformer.DiffusersTransformer`.
        variant: of the files' names, such as "fp16". A part that has none is read as it is.
    """

    folder: Path
    source: str
    merge: Merge | None = None
    variant: str | None = None

    def check(self) -> None:
        """See that ``model_index.json`` is of this pipeline.

        Raises:
            ConfigError: there is none, or it is another pipeline's.
            FileFormatError: it is not JSON.
        """
        path = self.folder / INDEX
        top = Section(read_json(path), f"{path}: ")
        if top.values.get("_class_name") not in PIPELINES:
            raise top.wrong(
                "_class_name", f"{' or '.join(PIPELINES)}: other pipelines are not read"
            )

    @property
    def transformer(self) -> DiffusersTransformer:
        """What paints."""
        folder = self.folder / "transformer"
        return DiffusersTransformer(
            folder=folder, source=self.source, merge=self.merge, variant=self.variant
        )

    @property
    def text_encoder(self) -> LanguageCheckpoint | None:
        """What reads the prompt, its tokenizer apart; None where the folder has none."""
        folder = self.folder / "text_encoder"
        if not (folder / CONFIG).is_file():
            return None
        return LanguageCheckpoint(folder=folder, source=self.source, variant=self.variant)

    @property
    def vae(self) -> Path | None:
        """The autoencoder's folder; None where there is none."""
        folder = self.folder / "vae"
        return folder if (folder / CONFIG).is_file() else None

    @property
    def vocabulary(self) -> Path | None:
        """The tokenizer's file; None where the folder has no tokenizer."""
        folder = self.folder / "tokenizer"
        return find_vocabulary(folder) if folder.is_dir() else None

    def tokenizer(self) -> GemmaTokenizer:
        """The tokenizer.

        Raises:
            ConfigError: there is none.
            TokenizerError: it cannot be used.
        """
        found = self.vocabulary
        if found is None:
            raise ConfigError(f"{self.folder} has no tokenizer/: pass tokenizer=<a file>")
        return open_tokenizer(found)

    def scheduler(self) -> Scheduler:
        """The time grid of diffusers' sampler.

        Raises:
            ConfigError: another scheduler, or a field that cannot be used.
        """
        path = self.folder / "scheduler" / SCHEDULER
        if not path.is_file():
            return Scheduler()
        top = Section(read_json(path), f"{path}: ")
        top.require("_class_name", [_SCHEDULER_CLASS], "the only one that is known here")
        top.require("use_dynamic_shifting", [False], "the grid is the same for every size")
        for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
            top.require(name, [False], "sigmas are evenly spaced before they are shifted")
        return Scheduler(
            train_steps=top.count("num_train_timesteps", 1000), shift=top.number("shift", 1.0)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheduler:
    """What a ``FlowMatchEulerDiscreteScheduler`` is configured with.

    Attributes:
        train_steps: into how many steps the time is divided.
        shift: of its sigmas; above one there are more steps near noise.
    """

    train_steps: int = 1000
    shift: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PainterParts:
    """What a pipeline's folder is written from; tensors are in memory or in other files.

    Attributes:
        config: of the transformer.
        state: the transformer's tensors by our names.
        text_config: of the text encoder; None to leave it out.
        text_state: the text encoder's tensors by our names, of all its layers.
        tokenizer: None to leave it out.
        vae: the folder of an ``AutoencoderKL``; None to leave it out.
        vae_variant: of the names of its files, which are copied under the plain ones.
        scheduler: diffusers' time grid.
    """

    config: NextDiTConfig
    state: State = field(repr=False)
    text_config: GemmaConfig | None = None
    text_state: State | None = field(default=None, repr=False)
    tokenizer: GemmaTokenizer | None = None
    vae: Path | None = None
    vae_variant: str | None = None
    scheduler: Scheduler = field(default_factory=Scheduler)


def save_pipeline(
    parts: PainterParts,
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = SHARD_SIZE,
) -> None:
    """Write a folder that ``LuminaPipeline.from_pretrained`` reads, whole or not at all.

    Args:
        parts: what to write. Those that are left out are null in ``model_index.json``; diffusers
            then wants them passed.
        folder: made if it does not exist; a pipeline that lies there is replaced.
        dtype: of the transformer's and the text encoder's tensors; None keeps what they have.
        max_shard_size: bytes from which on weights are divided among several files.

    Raises:
        CheckpointError: the disk is full, the folder cannot be written, or a value does not fit
            ``dtype``; what was there before is as it was.
        ConfigError: parts that cannot be written in this layout.
        InputError: something else than a pipeline lies there.
    """
    target = Path(folder).resolve()
    _check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with staged(target) as stage:
        with Replacement(stage) as new:
            new.write(INDEX, to_json(_index(parts)))
        with Replacement(stage / "scheduler") as new:
            new.write(SCHEDULER, to_json(_scheduler_values(parts.scheduler)))
        with Replacement(stage / "transformer") as new:
            write_transformer(
                new, parts.config, parts.state, dtype=dtype, max_shard_size=max_shard_size
            )
        _write_text(parts, stage, dtype, max_shard_size)
        if parts.vae is not None:
            _copy_vae(parts.vae, stage / "vae", parts.vae_variant)
        commit(stage, target)


def _check_target(target: Path) -> None:
    """A place that is free, or holds a pipeline and nothing else."""
    if not target.exists():
        return
    names = sorted(entry.name for entry in target.iterdir()) if target.is_dir() else [target.name]
    others = [name for name in names if name not in (*_PARTS, INDEX)]
    if others or (names and INDEX not in names):
        what = f"holds {others[0]}" if others else f"has no {INDEX}"
        raise InputError(
            f"{target} exists and {what}: only a folder with a pipeline and nothing else is "
            "replaced; name another"
        )


def _index(parts: PainterParts) -> dict[str, Any]:
    def part(present: object, library: str, kind: str) -> list[str | None]:
        return [None, None] if present is None else [library, kind]

    gemma = "GemmaModel" if parts.text_config is None else _text_class(parts.text_config)
    return {
        "_class_name": PIPELINES[0],
        "_diffusers_version": VERSION,
        "scheduler": ["diffusers", _SCHEDULER_CLASS],
        "text_encoder": part(parts.text_config, "transformers", gemma),
        "tokenizer": part(parts.tokenizer, "transformers", "GemmaTokenizerFast"),
        "transformer": ["diffusers", CLASS],
        "vae": part(parts.vae, "diffusers", "AutoencoderKL"),
    }


def _text_class(config: GemmaConfig) -> str:
    return "Gemma2Model" if config.is_gemma2 else "GemmaModel"


def _scheduler_values(scheduler: Scheduler) -> dict[str, Any]:
    return {
        "_class_name": _SCHEDULER_CLASS,
        "_diffusers_version": VERSION,
        "num_train_timesteps": scheduler.train_steps,
        "shift": scheduler.shift,
    }


def _write_text(
    parts: PainterParts, stage: Path, dtype: str | torch.dtype | None, max_shard_size: int
) -> None:
    """Text encoder, a bare model without ``model.`` before its names, and tokenizer."""
    words = parts.tokenizer
    if words is not None:
        folder = stage / "tokenizer"
        with Replacement(folder) as new, tempfile.TemporaryDirectory() as place:
            for path in words.save_as_gemma(place):
                new.write(path.name, path.read_bytes())
    config, state = parts.text_config, parts.text_state
    if config is None or state is None:
        return
    written = asked_dtype(dtype)
    resting = name_of(written or state[EMBEDDING].dtype)
    special = {}
    if words is not None:
        special = {
            "bos_token_id": words.bos,
            "eos_token_id": words.eos,
            "pad_token_id": words.pad,
        }
    values = language_values(config, dtype=resting, special=special)
    keys = language_keys(config)
    tensors: dict[str, Any] = {keys.to_theirs(name): value for name, value in state.items()}
    with Replacement(stage / "text_encoder") as new:
        new.write(CONFIG, to_json({**values, "architectures": [_text_class(config)]}))
        write_tensors(new, tensors, written, max_shard_size)


def _copy_vae(source: Path, target: Path, variant: str | None) -> None:
    """Configuration and safetensors, byte by byte; nothing else that may lie there."""
    single, _ = chosen_names(source, STEM, variant)
    if single != f"{STEM}.safetensors" and (source / single).is_file():
        target.mkdir()
        shutil.copyfile(source / CONFIG, target / CONFIG)
        shutil.copyfile(source / single, target / f"{STEM}.safetensors")
        return
    files = [source / name for name in _VAE_FILES if (source / name).is_file()]
    files += sorted(source.glob(f"{STEM}-*-of-*.safetensors"))
    if not any(path.suffix == ".safetensors" for path in files) or files[0].name != CONFIG:
        raise ConfigError(
            f"{source} is no folder of an AutoencoderKL: expected {CONFIG} and {STEM}.safetensors"
        )
    target.mkdir()
    for path in files:
        shutil.copyfile(path, target / path.name)
