"""The mask codec against a numpy one with loops, and against another build from the layout."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heliodor.checkpoints.maskcodec import read_mask_codec, write_mask_codec
from heliodor.errors import ConfigError, FileFormatError, InputError, KeyMismatchError
from heliodor.models.maskcodec import MaskCodec, MaskCodecConfig

SMALL = MaskCodecConfig(widths=(2, 3, 4, 5), code_width=6, num_codes=7, num_blocks=1)

PUBLISHED = {
    "_vq_vae._embedding": (128, 512),
    "encoder.0.weight": (16, 1, 4, 4),
    "encoder.2.weight": (32, 16, 4, 4),
    "encoder.4.weight": (64, 32, 4, 4),
    "encoder.6.weight": (128, 64, 4, 4),
    "encoder.8.net.0.weight": (128, 128, 3, 3),
    "encoder.8.net.2.weight": (128, 128, 3, 3),
    "encoder.8.net.4.weight": (128, 128, 1, 1),
    "encoder.9.net.0.weight": (128, 128, 3, 3),
    "encoder.9.net.2.weight": (128, 128, 3, 3),
    "encoder.9.net.4.weight": (128, 128, 1, 1),
    "encoder.10.weight": (512, 128, 1, 1),
    "decoder.0.weight": (128, 512, 1, 1),
    "decoder.2.net.0.weight": (128, 128, 3, 3),
    "decoder.2.net.2.weight": (128, 128, 3, 3),
    "decoder.2.net.4.weight": (128, 128, 1, 1),
    "decoder.3.net.0.weight": (128, 128, 3, 3),
    "decoder.3.net.2.weight": (128, 128, 3, 3),
    "decoder.3.net.4.weight": (128, 128, 1, 1),
    "decoder.4.weight": (128, 128, 4, 4),
    "decoder.6.weight": (128, 64, 4, 4),
    "decoder.8.weight": (64, 32, 4, 4),
    "decoder.10.weight": (32, 16, 4, 4),
    "decoder.12.weight": (1, 16, 1, 1),
}
TRANSPOSED = {"decoder.4", "decoder.6", "decoder.8", "decoder.10"}


def published_arrays() -> dict[str, np.ndarray]:
    """Random arrays in the layout of the published file, scaled so that every branch matters."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for name, shape in PUBLISHED.items():
        fan = np.prod(shape[1:]) if shape[2:] else 1
        arrays[name] = (rng.normal(size=shape) * 1.4 / np.sqrt(fan)).astype(np.float32)
        if name.endswith(".weight"):
            bias = name.replace(".weight", ".bias")
            width = shape[1] if bias.removesuffix(".bias") in TRANSPOSED else shape[0]
            arrays[bias] = rng.normal(size=width).astype(np.float32) * 0.2
    return arrays


class Published(nn.Module):
    """The decoder of the published file, spelled out layer by layer as its evaluator does."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.arrays = {name: torch.from_numpy(value) for name, value in arrays.items()}

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        weight, bias = self.arrays[f"{name}.weight"], self.arrays[f"{name}.bias"]
        return F.conv2d(x, weight, bias, stride=stride, padding=padding)

    def up(self, x: Tensor, name: str) -> Tensor:
        """A transposed convolution by hand: zeros between the pixels, the kernel turned round."""
        weight, bias = self.arrays[f"{name}.weight"], self.arrays[f"{name}.bias"]
        height, width = x.shape[2:]
        spread = x.new_zeros(*x.shape[:2], 2 * height - 1, 2 * width - 1)
        spread[:, :, ::2, ::2] = x
        return F.conv2d(spread, weight.transpose(0, 1).flip(2, 3), bias, padding=2).relu()

    def block(self, x: Tensor, name: str) -> Tensor:
        y = self.conv(x, f"{name}.net.0", padding=1).relu()
        y = self.conv(y, f"{name}.net.2", padding=1).relu()
        return x + self.conv(y, f"{name}.net.4")

    def encode(self, masks: Tensor) -> Tensor:
        x = 2.0 * (masks - 0.5)
        for layer in (0, 2, 4, 6):
            x = self.conv(x, f"encoder.{layer}", stride=2, padding=1).relu()
        x = self.conv(self.block(self.block(x, "encoder.8"), "encoder.9"), "encoder.10")
        cells = x.permute(0, 2, 3, 1).reshape(len(x), 16, 512)
        return torch.cdist(cells, self.arrays["_vq_vae._embedding"][None]).argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        x = self.arrays["_vq_vae._embedding"][codes].reshape(-1, 4, 4, 512).permute(0, 3, 1, 2)
        x = self.conv(x, "decoder.0").relu()
        x = self.block(self.block(x, "decoder.2"), "decoder.3")
        for layer in (4, 6, 8, 10):
            x = self.up(x, f"decoder.{layer}")
        return self.conv(x, "decoder.12")[:, 0]


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return published_arrays()


@pytest.fixture
def save(tmp_path) -> Callable[[dict[str, np.ndarray]], str]:
    def write(arrays: dict[str, np.ndarray]) -> str:
        np.savez(tmp_path / "codec.npz", allow_pickle=False, **arrays)
        return str(tmp_path / "codec.npz")

    return write


def test_the_published_layout_gives_the_published_masks_and_codes(arrays, save):
    codec, reference = read_mask_codec(save(arrays)), Published(arrays)
    masks = (torch.rand(6, 1, 64, 64) > 0.5).float()
    masks[0], masks[1] = 0.0, 1.0
    codes = torch.randint(0, 128, (6, 16))
    with torch.no_grad():
        torch.testing.assert_close(
            codec.decode(codes), reference.decode(codes), rtol=1e-4, atol=1e-4
        )
        assert torch.equal(codec.encode(masks), reference.encode(masks))
        assert codec.encode(masks).unique().numel() > 8


def test_every_published_name_and_shape_is_ours(tmp_path):
    write_mask_codec(MaskCodec(MaskCodecConfig()), tmp_path / "codec.npz")
    with np.load(tmp_path / "codec.npz", allow_pickle=False) as file:
        shapes = {name: file[name].shape for name in file.files if not name.endswith(".bias")}
        biases = {name for name in file.files if name.endswith(".bias")}
    assert shapes == PUBLISHED
    assert biases == {n.replace(".weight", ".bias") for n in PUBLISHED if n.endswith("weight")}


def numpy_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, pad: int):
    """x [C H W] -> [O H' W'], one multiplication at a time."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    side = (x.shape[1] - weight.shape[2]) // stride + 1
    out = np.zeros((len(weight), side, side))
    for row in range(side):
        for column in range(side):
            y, z = row * stride, column * stride
            patch = x[:, y : y + weight.shape[2], z : z + weight.shape[3]]
            out[:, row, column] = (weight * patch).sum((1, 2, 3)) + bias
    return out


def numpy_up(x: np.ndarray, weight: np.ndarray, bias: np.ndarray):
    """x [C H W] -> [O 2H 2W]: each pixel stamps a 4x4 kernel, one pixel of rim cut away."""
    out = np.zeros((weight.shape[1], 2 * x.shape[1] + 2, 2 * x.shape[2] + 2))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            stamp = (x[:, row, column, None, None, None] * weight).sum(0)
            out[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += stamp
    return out[:, 1:-1, 1:-1] + bias[:, None, None]


class Loops:
    """The whole codec in numpy loops, float64."""

    def __init__(self, codec: MaskCodec) -> None:
        self.w = {name: value.double().numpy() for name, value in codec.state_dict().items()}

    def conv(self, x: np.ndarray, name: str, stride: int = 1, pad: int = 0) -> np.ndarray:
        return numpy_conv(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], stride, pad)

    def block(self, x: np.ndarray, name: str) -> np.ndarray:
        y = np.maximum(self.conv(x, f"{name}.net.0", pad=1), 0)
        y = np.maximum(self.conv(y, f"{name}.net.2", pad=1), 0)
        return x + self.conv(y, f"{name}.net.4")

    def encode(self, mask: np.ndarray) -> list[int]:
        x = 2 * (mask[None] - 0.5)
        for layer in (0, 2, 4, 6):
            x = np.maximum(self.conv(x, f"encoder.{layer}", stride=2, pad=1), 0)
        x = self.conv(self.block(x, "encoder.8"), "encoder.9")
        cells = [x[:, row, column] for row in range(4) for column in range(4)]
        book = self.w["codebook"]
        return [int(np.argmin([((cell - code) ** 2).sum() for code in book])) for cell in cells]

    def decode(self, codes: list[int]) -> np.ndarray:
        x = np.stack([self.w["codebook"][code] for code in codes], axis=1).reshape(-1, 4, 4)
        x = self.block(np.maximum(self.conv(x, "decoder.0"), 0), "decoder.2")
        for layer in (3, 5, 7, 9):
            name = f"decoder.{layer}"
            x = np.maximum(numpy_up(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"]), 0)
        return self.conv(x, "decoder.11")[0]


def test_codes_and_masks_are_those_of_plain_loops():
    codec = MaskCodec(SMALL).eval()
    with torch.no_grad():
        for weight in codec.parameters():
            weight.normal_(0, 0.4)
        mask = np.random.default_rng(1).random((64, 64))
        codes = codec.encode(torch.tensor(mask[None, None], dtype=torch.float32))
        loops = Loops(codec)
        assert codes[0].tolist() == loops.encode(mask)
        assert codes.unique().numel() > 1
        other = torch.arange(16)[None] % 7
        drawn = codec.decode(other)
        assert drawn.shape == (1, 64, 64)
        expected = torch.tensor(loops.decode(other[0].tolist()), dtype=torch.float32)
        torch.testing.assert_close(drawn[0], expected, rtol=1e-4, atol=1e-5)


class Fixed(nn.Module):
    """Gives the same tensor whatever comes."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given = given

    def forward(self, _: Tensor) -> Tensor:
        return self.given


def test_codes_run_row_by_row():
    codec = MaskCodec(SMALL)
    codes = torch.randint(0, 7, (1, 4, 4))
    codec.encoder = nn.Sequential(Fixed(codec.codebook.detach()[codes].permute(0, 3, 1, 2)))
    assert torch.equal(codec.encode(torch.zeros(1, 1, 64, 64)), codes.reshape(1, 16))


def test_a_file_comes_back_as_it_was_and_half_precision_is_read_as_single(tmp_path):
    codec = MaskCodec(SMALL)
    pairs: list[tuple[Literal["float32", "float16"], torch.dtype]]
    pairs = [("float32", torch.float32), ("float16", torch.float16)]
    for dtype, kept in pairs:
        write_mask_codec(codec, tmp_path / "codec.npz", dtype=dtype)
        back = read_mask_codec(tmp_path / "codec.npz")
        assert back.config == SMALL
        for name, value in codec.state_dict().items():
            assert torch.equal(back.state_dict()[name], value.to(kept).float())
    assert [path.name for path in tmp_path.iterdir()] == ["codec.npz"]


def test_the_same_codec_is_written_as_the_same_bytes(tmp_path):
    codec = MaskCodec(SMALL)
    for name in ("a", "b"):
        write_mask_codec(codec, tmp_path / name, dtype="float16")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_moving_averages_of_training_are_ignored(arrays, save):
    extra = {"_vq_vae._ema_cluster_size": np.ones(128), "_vq_vae._ema_w": np.ones((128, 512))}
    codec = read_mask_codec(save({**arrays, **extra}))
    assert torch.equal(codec.codebook, torch.from_numpy(arrays["_vq_vae._embedding"]))


def without(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: without(a, "decoder.8.bias"), r"missing from the file: \['decoder.8.bias'\]"),
        (
            lambda a: without(a, "encoder.2.weight"),
            r"missing from the file: \['encoder.2.weight'\]",
        ),
        (lambda a: {**a, "extra": np.ones(3, "f4")}, r"unknown in the file: \['extra'\]"),
        (
            lambda a: {**a, "decoder.4.weight": np.ones((128, 128, 3, 3), "f4")},
            r"decoder.4.weight: file \[128, 128, 3, 3\], wanted \[128, 128, 4, 4\]",
        ),
        (
            lambda a: {**a, "encoder.0.weight": np.ones((16, 3, 4, 4), "f4")},
            r"encoder.0.weight: file \[16, 3, 4, 4\], wanted \[16, 1, 4, 4\]",
        ),
        (lambda _: {"weights": np.ones(3, "f4")}, "missing from the file"),
    ],
)
def test_another_layout_is_refused_with_both_sides(arrays, save, change, message):
    with pytest.raises(KeyMismatchError, match=message):
        read_mask_codec(save(change(arrays)))


def test_files_that_are_no_codec_are_refused(tmp_path, arrays, save):
    path = tmp_path / "codec.npz"
    with pytest.raises(FileFormatError, match="no mask codec file"):
        read_mask_codec(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_mask_codec(path)
    np.savez(path, allow_pickle=True, a=np.array([{"run": "me"}], dtype=object))
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_mask_codec(path)
    np.savez_compressed(path, a=np.zeros(17 * 2**20, np.float32))
    with pytest.raises(FileFormatError, match="unpacks to"):
        read_mask_codec(path)
    save({**arrays, "encoder.0.bias": np.ones(16, np.int64)})
    with pytest.raises(FileFormatError, match="floating-point"):
        read_mask_codec(path)


def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path):
    facts = b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }"
    head = b"\x93NUMPY\x01\x00v\x00" + facts
    with zipfile.ZipFile(tmp_path / "codec.npz", "w") as archive:
        archive.writestr("a.npy", head.ljust(127) + b"\n")
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_mask_codec(tmp_path / "codec.npz")


@pytest.mark.parametrize("cut", [0, 10, 1000, 5000, -200, -1])
def test_a_truncated_file_is_refused(tmp_path, cut):
    write_mask_codec(MaskCodec(SMALL), tmp_path / "codec.npz")
    whole = (tmp_path / "codec.npz").read_bytes()
    (tmp_path / "codec.npz").write_bytes(whole[:cut])
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_mask_codec(tmp_path / "codec.npz")


def test_bytes_changed_inside_are_refused(tmp_path):
    write_mask_codec(MaskCodec(SMALL), tmp_path / "codec.npz")
    damaged = bytearray((tmp_path / "codec.npz").read_bytes())
    for position in range(200, 400):
        damaged[position] ^= 0xFF
    (tmp_path / "codec.npz").write_bytes(bytes(damaged))
    with pytest.raises((FileFormatError, KeyMismatchError)):
        read_mask_codec(tmp_path / "codec.npz")


@pytest.mark.parametrize(
    "codes",
    [torch.zeros(1, 15, dtype=torch.long), torch.zeros(16, dtype=torch.long), torch.zeros(1, 16)],
)
def test_codes_of_another_shape_or_kind_are_refused(codes):
    with pytest.raises(InputError, match="codes must be integers"):
        MaskCodec(SMALL).decode(codes)


@pytest.mark.parametrize("code", [-1, 7])
def test_a_code_outside_the_book_is_refused(code):
    with pytest.raises(InputError, match=r"codes must lie in 0\.\.6"):
        MaskCodec(SMALL).decode(torch.full((1, 16), code))


def test_masks_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"not \[1, 1, 32, 32\]"):
        MaskCodec(SMALL).encode(torch.zeros(1, 1, 32, 32))


def test_no_masks_give_no_codes():
    codec = MaskCodec(SMALL)
    assert codec.encode(torch.zeros(0, 1, 64, 64)).shape == (0, 16)
    assert codec.decode(torch.zeros(0, 16, dtype=torch.long)).shape == (0, 64, 64)


def test_sizes_that_make_no_codec_are_refused():
    with pytest.raises(ConfigError, match="four positive widths"):
        MaskCodecConfig(widths=(0, 1, 1, 1))
