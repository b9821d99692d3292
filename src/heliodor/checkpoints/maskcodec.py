"""Mask codec files: the layout of big_vision's ``vae-oid.npz``, read and written.

The file is a PyTorch state dict saved as npz: convolutions (out, in, kH, kW), transposed ones
(in, out, kH, kW). Every key is the module's own name but one, the code book. Two more arrays may
be present, moving averages of the original training; they are not needed and are left out.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heliodor.errors import FileFormatError, KeyMismatchError
from heliodor.models.maskcodec import MaskCodec, MaskCodecConfig

__all__ = ["CODEC_NAMES", "find_mask_codec", "read_mask_codec", "write_mask_codec"]

CODE_BOOK = ("codebook", "_vq_vae._embedding")
TRAINING_ONLY = frozenset({"_vq_vae._ema_cluster_size", "_vq_vae._ema_w"})
LARGEST_FILE = 64 * 2**20
"""Bytes after decompression; the published file is about 8 MiB in float32."""

_UNREADABLE = (
    *(OSError, EOFError, ValueError, MemoryError),  # cut short, or a header that lies
    *(zipfile.BadZipFile, zlib.error),  # damaged
    *(NotImplementedError, RuntimeError),  # compressed in another way, or locked
)

Arrays = Mapping[str, NDArray[np.floating]]


CODEC_NAMES = ("maskcodec.npz", "vae-oid.npz")
"""What a codec is called beside the weights of a model: our name, and big_vision's."""


def find_mask_codec(folder: str | Path) -> Path | None:
    """The codec that lies in a checkpoint's folder, None if there is none."""
    places = (Path(folder) / name for name in CODEC_NAMES)
    return next((place for place in places if place.is_file()), None)


def read_mask_codec(path: str | Path) -> MaskCodec:
    """Read an npz in the layout of ``vae-oid.npz``, of any widths, as float32.

    The sizes are those of the arrays; then every name and every shape must fit them.

    Raises:
        FileFormatError: not an npz, truncated, over 64 MiB unpacked, or holding other than floats.
        KeyMismatchError: missing, unknown or misshapen arrays; the message lists both sides.
    """
    arrays = _read_arrays(Path(path))
    with torch.device("meta"):
        codec = MaskCodec(_config(arrays, path))
    wanted = {_file_name(name): list(value.shape) for name, value in codec.state_dict().items()}
    _compare(path, {name: list(value.shape) for name, value in arrays.items()}, wanted)
    tensors = {
        name: torch.as_tensor(arrays[_file_name(name)].astype(np.float32))
        for name in codec.state_dict()
    }
    codec.load_state_dict(tensors, strict=True, assign=True)
    return codec.eval().requires_grad_(requires_grad=False)


def write_mask_codec(
    codec: MaskCodec, path: str | Path, dtype: Literal["float32", "float16"] = "float32"
) -> None:
    """Write the layout of ``vae-oid.npz``; the file appears whole or not at all."""
    arrays = {_file_name(name): _array(value, dtype) for name, value in codec.state_dict().items()}
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    partial.replace(target)


def _array(value: Tensor, dtype: str) -> NDArray[np.floating]:
    return np.ascontiguousarray(value.detach().cpu().float().numpy().astype(dtype))


def _file_name(name: str) -> str:
    return CODE_BOOK[1] if name == CODE_BOOK[0] else name


def _read_arrays(path: Path) -> dict[str, NDArray[np.floating]]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > LARGEST_FILE:
            raise FileFormatError(
                f"{path} unpacks to {unpacked} bytes and a mask codec to less than {LARGEST_FILE}: "
                f"this is another file"
            )
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name not in TRAINING_ONLY}
    except FileNotFoundError:
        raise FileFormatError(f"there is no mask codec file at {path}") from None
    except _UNREADABLE as error:
        raise FileFormatError(
            f"{path} cannot be read as an npz of arrays ({error}): fetch the file again"
        ) from error
    odd = {name: str(value.dtype) for name, value in arrays.items() if value.dtype.kind != "f"}
    if odd:
        raise FileFormatError(f"{path} must hold floating-point arrays, not {odd}")
    return arrays


def _config(arrays: Arrays, path: str | Path) -> MaskCodecConfig:
    """Sizes from four convolutions and the code book, the least that names them all."""
    try:
        widths = tuple(arrays[f"encoder.{layer}.weight"].shape[0] for layer in (0, 2, 4, 6))
        num_codes, code_width = arrays[CODE_BOOK[1]].shape
    except (KeyError, IndexError, ValueError):
        published = MaskCodec(MaskCodecConfig())
        wanted = {_file_name(n): list(v.shape) for n, v in published.state_dict().items()}
        _compare(path, {name: list(value.shape) for name, value in arrays.items()}, wanted)
        raise
    blocks = sum(name.startswith("encoder.") and name.endswith(".net.0.weight") for name in arrays)
    first, second, third, fourth = widths
    return MaskCodecConfig(
        widths=(first, second, third, fourth),
        code_width=code_width,
        num_codes=num_codes,
        num_blocks=blocks,
    )


def _compare(path: str | Path, found: dict[str, list[int]], wanted: dict[str, list[int]]) -> None:
    """Raise KeyMismatchError unless names and shapes are the same on both sides."""
    missing = sorted(wanted.keys() - found.keys())
    unknown = sorted(found.keys() - wanted.keys())
    misshapen = [
        f"{name}: file {found[name]}, wanted {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if missing or unknown or misshapen:
        raise KeyMismatchError(
            f"{path} does not hold a mask codec.\n  missing from the file: {missing}\n"
            f"  unknown in the file: {unknown}\n  of another shape: {misshapen}"
        )
