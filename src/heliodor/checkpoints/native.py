"""The native format: a whole model in one safetensors file.

The tensors have our names, the mask codec's behind ``mask_codec.``; all else is in the strings of
the header, so that any safetensors library opens the file:

    heliodor.format      "1"; another version is refused
    heliodor.family      "paligemma"
    heliodor.scheme      how tensors are quantised: "none"
    heliodor.config      the fields of our configuration, JSON
    heliodor.processor   the content of a preprocessor_config.json
    heliodor.tokenizer   the tokenizer's files, {name: text}; absent without a tokenizer
    heliodor.mask_codec  the codec's configuration, JSON; absent without a codec
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from heliodor.checkpoints.blueprint import blueprint
from heliodor.checkpoints.contents import Contents
from heliodor.checkpoints.files import Replacement, parse_json_object
from heliodor.checkpoints.header import read_header
from heliodor.checkpoints.recognise import MARK
from heliodor.checkpoints.record import read_record
from heliodor.checkpoints.shards import Planned, write_file
from heliodor.checkpoints.tensors import Tensors, open_tensors
from heliodor.checkpoints.weights import READABLE, Weight, assemble, at_size, parse_dtype
from heliodor.errors import ConfigError, FileFormatError, KeyMismatchError, TokenizerError
from heliodor.image import ImageProcessor
from heliodor.models.maskcodec import MaskCodec, MaskCodecConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.text import Tokenizer

SUFFIX = ".safetensors"
FORMAT = MARK
VERSION = "1"
FAMILY = "paligemma"
SCHEME = "none"

_CODEC = "mask_codec."
_LISTED = 8  # names that a message spells out per kind of fault


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeCheckpoint:
    """A native file on this machine.

    Attributes:
        path: the file.
        source: what the user asked for.
    """

    path: Path
    source: str

    def config(self) -> PaliGemmaConfig:
        """Shapes from the header."""
        return _config(read_strings(self.path), self.path)

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
        return assemble(config, weights, place=self.path, dtype=dtype, device=device)

    def weights(self) -> dict[str, Weight]:
        """The network's tensors by our names, none of them read; checked against the config."""
        tensors = open_tensors(self.path)
        config = self.config()
        try:
            state = blueprint(config).state_dict()
        except (RuntimeError, OverflowError) as error:
            raise ConfigError(f"{self.path}: no machine holds the sizes of its config") from error
        wanted = {name: tuple(value.shape) for name, value in state.items()}
        names = [name for name in tensors if not name.startswith(_CODEC)]
        return _matched(tensors, names, wanted, self.path)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the header.

        Raises:
            TokenizerError: there is none, or it cannot be used.
        """
        text = read_strings(self.path).get("heliodor.tokenizer")
        if text is None:
            raise TokenizerError(
                f"{self.path} was written without a tokenizer: pass tokenizer=<path to a "
                "tokenizer.json or SentencePiece model>"
            )
        files = parse_json_object(text.encode(), source=f"the tokenizer of {self.path}")
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                if name != Path(name).name or not isinstance(content, str):
                    raise FileFormatError(f"{self.path}: its tokenizer has a bad file {name!r}")
                (Path(folder) / name).write_text(content, encoding="utf-8")
            return Tokenizer.from_folder(folder)

    def processor(self, image_size: int | None = None) -> ImageProcessor:
        """How pictures become pixels; another size only where ``image_size`` asks for it."""
        strings = read_strings(self.path)
        values = _object(strings, "processor", self.path)
        processor = ImageProcessor.from_preprocessor_config(values)
        expected = _config(strings, self.path).vision.image_size
        if processor.size != expected:
            raise ConfigError(
                f"{self.path}: its processor makes pictures of {processor.size} pixels, its config "
                f"says that the model takes {expected}"
            )
        return processor if image_size is None else replace(processor, size=image_size)

    def mask_codec(self) -> MaskCodec | None:
        """The mask codec in the file, None if there is none."""
        strings = read_strings(self.path)
        if "heliodor.mask_codec" not in strings:
            return None
        values = _object(strings, "mask_codec", self.path)
        config = read_record(MaskCodecConfig, values, f"{self.path}: mask_codec.")
        with torch.device("meta"):
            codec = MaskCodec(config)
        wanted = {_CODEC + n: tuple(value.shape) for n, value in codec.state_dict().items()}
        tensors = open_tensors(self.path)
        names = [name for name in tensors if name.startswith(_CODEC)]
        found = _matched(tensors, names, wanted, self.path)
        state = {name.removeprefix(_CODEC): weight.read() for name, weight in found.items()}
        codec.load_state_dict(state, strict=True, assign=True)
        return codec.eval().requires_grad_(requires_grad=False)


def read_strings(path: Path) -> dict[str, str]:
    """The strings in the head of a native file, of a version and scheme that can be read.

    Raises:
        ConfigError: another version, family or scheme.
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
    for key, known in (("heliodor.family", FAMILY), ("heliodor.scheme", SCHEME)):
        if strings.get(key) != known:
            what = key.removeprefix("heliodor.")
            raise ConfigError(
                f"{path}: its {what} is {strings.get(key)!r}; this release reads {known!r}: update "
                "heliodor"
            )
    return strings


def write(
    new: Replacement, name: str, contents: Contents, dtype: str | torch.dtype | None = None
) -> None:
    """Write one file, tensor by tensor.

    Args:
        new: the save under way.
        name: of the file.
        contents: what to write; the codec keeps its own type.
        dtype: of the network's tensors in the file; None keeps each one's own.

    Raises:
        CheckpointError: a value that the type cannot hold.
    """
    written = None if dtype is None else parse_dtype(dtype)
    planned = [Planned.of(key, weight, written) for key, weight in contents.weights.items()]
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
    assert contents.processor is not None, "every PaliGemma has one"
    tokens = contents.config.vision.num_tokens
    strings = {
        FORMAT: VERSION,
        "heliodor.family": FAMILY,
        "heliodor.scheme": SCHEME,
        "heliodor.config": _dump(asdict(contents.config)),
        "heliodor.processor": _dump(contents.processor.to_preprocessor_config(tokens)),
    }
    if contents.tokenizer is not None:
        strings["heliodor.tokenizer"] = _dump(_tokenizer_files(contents.tokenizer))
    if contents.codec is not None:
        strings["heliodor.mask_codec"] = _dump(asdict(contents.codec.config))
    return strings


def _tokenizer_files(tokenizer: Tokenizer) -> dict[str, str]:
    """What a folder in transformers layout would hold, without its indentation."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return {
            path.name: _dump(json.loads(path.read_text("utf-8")))
            for path in sorted(Path(folder).iterdir())
        }


def _dump(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _object(strings: Mapping[str, str], key: str, path: Path) -> dict[str, Any]:
    text = strings.get(f"heliodor.{key}")
    if text is None:
        raise FileFormatError(f"{path}: its header has no heliodor.{key}")
    return parse_json_object(text.encode(), source=f"the {key} of {path}")


def _config(strings: Mapping[str, str], path: Path) -> PaliGemmaConfig:
    return read_record(PaliGemmaConfig, _object(strings, "config", path), f"{path}: config.")


def _matched(
    tensors: Tensors, names: list[str], wanted: Mapping[str, tuple[int, ...]], path: Path
) -> dict[str, Weight]:
    """The file's tensors, if they are exactly those that are wanted."""
    found = {name: tensors.weight(name) for name in names}
    both = wanted.keys() & found.keys()
    faults = {
        "missing": sorted(wanted.keys() - both),
        "unknown": sorted(found.keys() - both),
        "of another shape": sorted(n for n in both if found[n].shape != wanted[n]),
        "of a type that is no weight": sorted(n for n in both if found[n].dtype not in READABLE),
    }
    if any(faults.values()):
        said = [
            f"{len(found)} {what}: {', '.join(found[:_LISTED])}"
            + (" ..." if len(found) > _LISTED else "")
            for what, found in faults.items()
            if found
        ]
        raise KeyMismatchError(
            f"the tensors of {path} are not those that its config asks for. {'; '.join(said)}"
        )
    return {name: found[name] for name in wanted}
