"""The native format: a whole model in one safetensors file.

The tensors have our names, the mask codec's behind ``mask_codec.``; all else is in the strings of
the header, so that any safetensors library opens the file:

    heliodor.format         "1"; another version is refused
    heliodor.family         "paligemma", "siglip" or "gemma"
    heliodor.scheme         how tensors are quantised: "none", or the name of
    heliodor.recipe         which layer is stored how, JSON; absent where the scheme is "none"
    heliodor.config         the fields of our configuration, JSON
    heliodor.processor      the content of a preprocessor_config.json; absent in a Gemma
    heliodor.tokenizer      the tokenizer's files, {name: text}; absent without a tokenizer
    heliodor.mask_codec     the codec's configuration, JSON; absent without a codec
    heliodor.generation     of a Gemma: the content of a generation_config.json
    heliodor.chat_template  of a Gemma: jinja text; absent without one
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import torch

from heliodor.checkpoints.contents import Contents
from heliodor.checkpoints.files import Replacement
from heliodor.checkpoints.language import assemble_gemma, read_ids
from heliodor.checkpoints.native_head import (
    FORMAT,
    SCHEME,
    VERSION,
    dump,
    matched,
    pack,
    read_object,
    read_recipe,
    read_strings,
    unpacked,
    wanted_tensors,
)
from heliodor.checkpoints.record import read_record
from heliodor.checkpoints.shards import Planned, write_file
from heliodor.checkpoints.siglip import assemble_pair
from heliodor.checkpoints.tensors import open_tensors
from heliodor.checkpoints.weights import Weight, asked_dtype, assemble, at_size, kept_names
from heliodor.errors import ConfigError
from heliodor.image import ImageProcessor
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.models.maskcodec import MaskCodec, MaskCodecConfig
from heliodor.models.pair import SiglipPair, SiglipPairConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.quant.scheme import Recipe
from heliodor.text import GemmaTokenizer, Tokenizer
from heliodor.text.fixed import Cleaning, FixedTokenizer
from heliodor.text.gemma import find_vocabulary
from heliodor.text.tokenizer import open_tokenizer

SUFFIX = ".safetensors"

_CODEC = "mask_codec."

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True, slots=True)
class _NativeFile:
    """A native file on this machine, of whatever family.

    Attributes:
        path: the file.
        source: what the user asked for.
    """

    path: Path
    source: str
    _family: ClassVar[str]
    """As the header names it."""

    def recipe(self) -> Recipe | None:
        """How the weights are quantised, None if they are numbers."""
        return read_recipe(self._strings(), self.path)

    def _config(self, kind: type[ConfigT]) -> ConfigT:
        values = read_object(self._strings(), "config", self.path)
        return read_record(kind, values, f"{self.path}: config.")

    def _strings(self) -> dict[str, str]:
        return read_strings(self.path, self._family)


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeCheckpoint(_NativeFile):
    """A native file of a PaliGemma on this machine."""

    _family: ClassVar[str] = "paligemma"

    def config(self) -> PaliGemmaConfig:
        """Shapes from the header."""
        return self._config(PaliGemmaConfig)

    def load(
        self,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device = "cpu",
        image_size: int | None = None,
        final_cap: bool = True,
    ) -> PaliGemma:
        """The network with its weights, tensor by tensor.

        Weights that need no conversion stay mapped from the file.

        Args:
            dtype: in which they rest; None keeps the file's.
            device: where they rest.
            image_size: pixels of a side, where another resolution is wanted than the file's.
            final_cap: False leaves out PaliGemma 2's soft cap on logits.

        Raises:
            ConfigError: the header is of a later version or cannot be used.
            FileFormatError: the file is broken.
            KeyMismatchError: names or shapes are not those that the configuration asks for.
        """
        stored, weights = self.config(), self.weights()
        config = at_size(stored, image_size)
        if not final_cap:
            config = replace(config, language=replace(config.language, final_cap=None))
        return assemble(
            config, weights, place=self.path, dtype=dtype, device=device, recipe=self.recipe()
        )

    def weights(self) -> dict[str, Weight]:
        """The network's tensors by our names, none of them read; checked against the config."""
        tensors = open_tensors(self.path)
        wanted = wanted_tensors(self.config(), self._family, self.path, self.recipe())
        names = [name for name in tensors if not name.startswith(_CODEC)]
        return matched(tensors, names, wanted, self.path)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the header.

        Raises:
            TokenizerError: there is none, or it cannot be used.
        """
        with unpacked(self._strings(), self.path) as folder:
            return Tokenizer.from_folder(folder)

    def processor(self, image_size: int | None = None) -> ImageProcessor:
        """How pictures become pixels; another size only where ``image_size`` asks for it."""
        size = self.config().vision.image_size
        processor = _processor(self._strings(), size, self.path)
        return processor if image_size is None else replace(processor, size=image_size)

    def mask_codec(self) -> MaskCodec | None:
        """The mask codec in the file, None if there is none."""
        strings = self._strings()
        if "heliodor.mask_codec" not in strings:
            return None
        values = read_object(strings, "mask_codec", self.path)
        config = read_record(MaskCodecConfig, values, f"{self.path}: mask_codec.")
        with torch.device("meta"):
            codec = MaskCodec(config)
        wanted = {_CODEC + name: value for name, value in codec.state_dict().items()}
        tensors = open_tensors(self.path)
        names = [name for name in tensors if name.startswith(_CODEC)]
        found = matched(tensors, names, wanted, self.path)
        state = {name.removeprefix(_CODEC): weight.read() for name, weight in found.items()}
        codec.load_state_dict(state, strict=True, assign=True)
        return codec.eval().requires_grad_(requires_grad=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeSiglipCheckpoint(_NativeFile):
    """A native file of a SigLIP pair. Errors are those of :class:`NativeCheckpoint`."""

    _family: ClassVar[str] = "siglip"

    def config(self) -> SiglipPairConfig:
        """Shapes from the header."""
        return self._config(SiglipPairConfig)

    def weights(self) -> dict[str, Weight]:
        """The tensors by our names, none of them read; checked against the config."""
        tensors = open_tensors(self.path)
        wanted = wanted_tensors(self.config(), self._family, self.path, self.recipe())
        return matched(tensors, list(tensors), wanted, self.path)

    def load(
        self, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> SiglipPair:
        """The network with its weights; see :func:`~heliodor.checkpoints.siglip.assemble_pair`."""
        config, weights = self.config(), self.weights()
        return assemble_pair(
            config, weights, place=self.path, dtype=dtype, device=device, recipe=self.recipe()
        )

    def tokenizer(self, cleaning: Cleaning | None = None) -> FixedTokenizer:
        """The tokenizer in the header, with the cleaning that was saved with it."""
        length = self.config().text.length
        with unpacked(self._strings(), self.path) as folder:
            return FixedTokenizer.from_folder(folder, length=length, cleaning=cleaning)

    def processor(self) -> ImageProcessor:
        """How pictures become pixels."""
        return _processor(self._strings(), self.config().vision.image_size, self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeGemmaCheckpoint(_NativeFile):
    """A native file of a Gemma without pictures. Errors are those of :class:`NativeCheckpoint`."""

    _family: ClassVar[str] = "gemma"

    def config(self) -> GemmaConfig:
        """Shapes from the header."""
        return self._config(GemmaConfig)

    def weights(self) -> dict[str, Weight]:
        """The tensors by our names, none of them read; checked against the config."""
        tensors = open_tensors(self.path)
        wanted = wanted_tensors(self.config(), self._family, self.path, self.recipe())
        return matched(tensors, list(tensors), wanted, self.path)

    def load(
        self, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> Gemma:
        """The network with its weights, tensor by tensor; see :meth:`NativeCheckpoint.load`."""
        return assemble_gemma(
            self.config(),
            self.weights(),
            place=self.path,
            dtype=dtype,
            device=device,
            recipe=self.recipe(),
        )

    def tokenizer(self) -> GemmaTokenizer:
        """The tokenizer in the header."""
        with unpacked(self._strings(), self.path) as folder:
            return open_tokenizer(find_vocabulary(folder))

    def ends(self) -> tuple[int, ...]:
        """Ids at which an answer ends, ``<eos>`` perhaps among them."""
        values = read_object(self._strings(), "generation", self.path)
        return read_ids(values.get("eos_token_id", []), self.path)

    def chat_template(self) -> str | None:
        """The chat template in jinja, as it stands; None if there is none."""
        return self._strings().get("heliodor.chat_template")

    has_pictures = False
    """Whether it is a PaliGemma of which the decoder is taken."""


def write(
    new: Replacement, name: str, contents: Contents, dtype: str | torch.dtype | None = None
) -> None:
    """Write one file, tensor by tensor.

    Args:
        new: the save under way.
        name: of the file.
        contents: what to write; the codec keeps its own type.
        dtype: of the network's tensors in the file; None keeps each one's own, as codes and their
            scales do in any case.

    Raises:
        CheckpointError: a value that the type cannot hold.
    """
    written = asked_dtype(dtype)
    kept = kept_names(contents.weights)
    planned = [
        Planned.of(key, weight, None if key in kept else written)
        for key, weight in contents.weights.items()
    ]
    if contents.codec is not None:
        state = contents.codec.state_dict()
        planned += [Planned.of(_CODEC + key, value, None) for key, value in state.items()]
    strings = _strings(contents)
    with new.open(name) as file:
        write_file(file, planned, strings)


def save(contents: Contents, path: str | Path, *, dtype: str | torch.dtype | None = None) -> None:
    """Write a native file, whole or not at all; what stood there is replaced.

    Args:
        contents: what to write.
        path: of the file, ending in ``.safetensors``.
        dtype: of the network's tensors in the file; None keeps each one's own.

    Raises:
        CheckpointError: the disk is full, the file cannot be written, or a value does not fit
            ``dtype``; what was there before is as it was.
        ConfigError: another suffix.
    """
    path = check_path(path)
    with Replacement(path.parent) as new:
        write(new, path.name, contents, dtype)


def check_path(path: str | Path) -> Path:
    """A path that names a native file.

    Raises:
        ConfigError: another suffix, or a folder.
    """
    path = Path(path)
    if path.suffix != SUFFIX or path.is_dir():
        what = "is a folder" if path.is_dir() else f"does not end in {SUFFIX}"
        raise ConfigError(
            f"{path} {what}; the native format is one file: give a name such as "
            f"model.heliodor{SUFFIX}"
        )
    return path


def _strings(contents: Contents) -> dict[str, str]:
    """The header's strings."""
    strings = {
        FORMAT: VERSION,
        "heliodor.family": contents.family,
        "heliodor.scheme": SCHEME if contents.recipe is None else contents.recipe.name,
        "heliodor.config": dump(asdict(contents.config)),
    }
    if contents.recipe is not None:
        strings["heliodor.recipe"] = dump(contents.recipe.to_dict())
    if contents.processor is not None:
        tokens = contents.config.vision.num_tokens
        strings["heliodor.processor"] = dump(contents.processor.to_preprocessor_config(tokens))
    if contents.tokenizer is not None:
        strings["heliodor.tokenizer"] = pack(_tokenizer_files(contents))
    if contents.codec is not None:
        strings["heliodor.mask_codec"] = dump(asdict(contents.codec.config))
    if contents.family == "gemma":
        extra = contents.extra or {}
        strings["heliodor.generation"] = dump({"eos_token_id": list(extra.get("ends", ()))})
        if extra.get("chat_template") is not None:
            strings["heliodor.chat_template"] = extra["chat_template"]
    return strings


def _tokenizer_files(contents: Contents) -> dict[str, bytes]:
    """What a folder in transformers layout would hold."""
    words = contents.tokenizer
    if contents.family == "siglip":
        return words.files()
    with tempfile.TemporaryDirectory() as folder:
        save_words = words.save_as_gemma if contents.family == "gemma" else words.save
        return {path.name: path.read_bytes() for path in save_words(folder)}


def _processor(strings: Mapping[str, str], size: int, path: Path) -> ImageProcessor:
    """How pictures become pixels, of the size that the model takes."""
    values = read_object(strings, "processor", path)
    processor = ImageProcessor.from_preprocessor_config(values)
    if processor.size != size:
        raise ConfigError(
            f"{path}: its processor makes pictures of {processor.size} pixels, its config "
            f"says that the model takes {size}"
        )
    return processor
