"""SigLIP pairs in big_vision's npz files, one array for each layer.

    params/img/...  the image tower with its pooling head (``MAPHead_0``)
    params/txt/...  the text tower
    params/t, b     logit scale and bias

flax keeps a projection as [in, out], and those of attention with an axis for heads; a
:class:`Form` says how an array becomes one of our tensors and back. The file holds neither the
tokenizer nor what is done to pictures; the shapes tell everything else but two things:

- Pictures of 384 pixels in patches of 14 make 27 x 27 patches, as 378 pixels would. 384 is what was
  published, and what is taken.
- Layer norms have an epsilon of 1e-6, flax's default, in all of them.

Sources: big_vision ``models/proj/image_text/two_towers.py``, ``text_transformer.py``,
``models/vit.py``. Old files hold the text's positions twice, to be added (``load`` there).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from heliodor.checkpoints.files import Replacement
from heliodor.checkpoints.keymap import KeyMap, Row
from heliodor.checkpoints.npz import NpzFile, write_npz
from heliodor.checkpoints.siglip import assemble_pair, pair_shapes
from heliodor.checkpoints.weights import READABLE, Weight, parse_dtype
from heliodor.errors import FileFormatError, KeyMismatchError, TokenizerError
from heliodor.image import ImageProcessor, Resize
from heliodor.models.pair import SiglipPair, SiglipPairConfig, SiglipTextConfig
from heliodor.models.siglip import SiglipVisionConfig
from heliodor.text.fixed import Cleaning, FixedTokenizer

_ROOT = "params/"
_TWICE = "txt/Encoder_0/pos_embedding"
_POSITION = "txt/pos_embedding"
_PUBLISHED_SIZES = {(14, 27): 384}
_LAYER = re.compile(r"(img/Transformer|txt/Encoder_0)/encoderblock_(\d+)/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How an array of theirs becomes a tensor of ours, and back.

    Attributes:
        rank: axes of the array; None where any will do.
        ours: the array -> our tensor, a view where one is possible.
        theirs: our tensor and the number of heads -> the array.
    """

    rank: int | None
    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor, int], Tensor]


SAME = Form(rank=None, ours=lambda a: a, theirs=lambda t, _: t)
KERNEL = Form(rank=2, ours=lambda a: a.T, theirs=lambda t, _: t.T)
"""[in out] <-> [out in]."""
LEADING = Form(rank=3, ours=lambda a: a.flatten(0, 1), theirs=lambda t, _: t.unsqueeze(0))
"""[1 N D] <-> [N D]."""
PATCH = Form(
    rank=4, ours=lambda a: a.permute(3, 2, 0, 1), theirs=lambda t, _: t.permute(2, 3, 1, 0)
)
"""[P P 3 D] <-> [D 3 P P]."""
INWARD = Form(
    rank=3,
    ours=lambda a: a.flatten(1).T,
    theirs=lambda t, heads: t.T.reshape(t.shape[1], heads, -1),
)
"""Query, key and value: [D heads D/heads] <-> [D D]."""
INWARD_BIAS = Form(rank=2, ours=lambda a: a.flatten(), theirs=lambda t, heads: t.reshape(heads, -1))
"""[heads D/heads] <-> [D]."""
OUTWARD = Form(
    rank=3,
    ours=lambda a: a.flatten(0, 1).T,
    theirs=lambda t, heads: t.T.reshape(heads, -1, t.shape[0]),
)
"""The projection behind attention: [heads D/heads D] <-> [D D]."""


def _norm(ours: str, theirs: str) -> Iterator[tuple[str, str, Form]]:
    yield f"{ours}.weight", f"{theirs}/scale", SAME
    yield f"{ours}.bias", f"{theirs}/bias", SAME


def _dense(ours: str, theirs: str) -> Iterator[tuple[str, str, Form]]:
    yield f"{ours}.weight", f"{theirs}/kernel", KERNEL
    yield f"{ours}.bias", f"{theirs}/bias", SAME


def _attention(ours: str, theirs: str) -> Iterator[tuple[str, str, Form]]:
    for part, name in (("q", "query"), ("k", "key"), ("v", "value")):
        yield f"{ours}.{part}.weight", f"{theirs}/{name}/kernel", INWARD
        yield f"{ours}.{part}.bias", f"{theirs}/{name}/bias", INWARD_BIAS
    yield f"{ours}.out.weight", f"{theirs}/out/kernel", OUTWARD
    yield f"{ours}.out.bias", f"{theirs}/out/bias", SAME


def _mlp(ours: str, theirs: str) -> Iterator[tuple[str, str, Form]]:
    yield from _dense(f"{ours}.up", f"{theirs}/MlpBlock_0/Dense_0")
    yield from _dense(f"{ours}.down", f"{theirs}/MlpBlock_0/Dense_1")


def _blocks(ours: str, theirs: str) -> Iterator[tuple[str, str, Form]]:
    yield from _norm(f"{ours}.norm1", f"{theirs}/LayerNorm_0")
    yield from _attention(f"{ours}.attention", f"{theirs}/MultiHeadDotProductAttention_0")
    yield from _norm(f"{ours}.norm2", f"{theirs}/LayerNorm_1")
    yield from _mlp(f"{ours}.mlp", theirs)


TABLE: tuple[tuple[str, str, Form], ...] = (
    ("vision.patch.weight", "img/embedding/kernel", PATCH),
    ("vision.patch.bias", "img/embedding/bias", SAME),
    ("vision.position", "img/pos_embedding", LEADING),
    *_blocks("vision.blocks.#", "img/Transformer/encoderblock_#"),
    *_norm("vision.norm", "img/Transformer/encoder_norm"),
    ("pool.probe", "img/MAPHead_0/probe", SAME),
    *_attention("pool", "img/MAPHead_0/MultiHeadDotProductAttention_0"),
    *_norm("pool.norm", "img/MAPHead_0/LayerNorm_0"),
    *_mlp("pool.mlp", "img/MAPHead_0"),
    ("text.embedding.weight", "txt/Embed_0/embedding", SAME),
    ("text.position", _POSITION, LEADING),
    *_blocks("text.blocks.#", "txt/Encoder_0/encoderblock_#"),
    *_norm("text.norm", "txt/Encoder_0/encoder_norm"),
    *_dense("text.head", "txt/head"),
    ("logit_scale", "t", SAME),
    ("logit_bias", "b", SAME),
)
"""Our name, theirs without ``params/``, and the form."""

SIGLIP_NPZ = KeyMap(
    rows=tuple(Row(ours, theirs) for ours, theirs, _ in TABLE), tied=(), prefixes={}
)
_FORMS = {ours: form for ours, _, form in TABLE}


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipNpzCheckpoint:
    """One of big_vision's npz files.

    Attributes:
        path: the file.
        source: what the user asked for.
    """

    path: Path
    source: str

    cleaning = Cleaning.BIG_VISION
    """What big_vision does to texts."""

    def config(self) -> SiglipPairConfig:
        """What the shapes tell.

        Raises:
            FileFormatError: the npz is broken.
            KeyMismatchError: it is not one of a SigLIP pair.
        """
        return npz_config({name: w.shape for name, w in _arrays(self.path).items()}, self.path)

    def weights(self) -> dict[str, Weight]:
        """The tensors by our names, checked against what the shapes told."""
        arrays = _arrays(self.path)
        config = npz_config({name: weight.shape for name, weight in arrays.items()}, self.path)
        found = {name: _ours(name, weight) for name, weight in arrays.items() if name != _TWICE}
        if _TWICE in arrays:
            found[_POSITION] = _added(found[_POSITION], arrays[_TWICE])
        shapes = {name: weight.shape for name, weight in found.items()}
        match = SIGLIP_NPZ.match(pair_shapes(config), shapes, self.path)
        return {ours: found[theirs] for ours, theirs in match.source.items()}

    def load(
        self, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> SiglipPair:
        """The network with its weights; see :func:`~heliodor.checkpoints.siglip.assemble_pair`."""
        return assemble_pair(
            self.config(), self.weights(), place=self.path, dtype=dtype, device=device
        )

    def tokenizer(self, cleaning: Cleaning | None = None) -> FixedTokenizer:
        """There is none in the file: one that lies beside it, if any.

        Raises:
            TokenizerError: no ``spiece.model`` there.
        """
        beside = self.path.parent / "spiece.model"
        if not beside.is_file():
            raise TokenizerError(
                f"{self.path} carries no tokenizer, as no npz does: pass tokenizer=<path to "
                "SigLIP's SentencePiece model>, or put it beside the npz as spiece.model"
            )
        length = self.config().text.length
        return FixedTokenizer.from_file(
            beside, length=length, cleaning=self.cleaning if cleaning is None else cleaning
        )

    def processor(self) -> ImageProcessor:
        """big_vision's ``resize(S)|value_range(-1, 1)``."""
        return ImageProcessor(size=self.config().vision.image_size, resize=Resize.BIG_VISION)


def npz_config(shapes: Mapping[str, tuple[int, ...]], path: Path) -> SiglipPairConfig:
    """A configuration from the shapes of a file's arrays.

    Args:
        shapes: by their names without ``params/``.
        path: for messages.

    Raises:
        KeyMismatchError: an array that tells a size is missing or of another rank.
    """
    seen = _Seen(shapes, path)
    patch, _, _, width = seen("img/embedding/kernel", 4)
    grid = math.isqrt(seen("img/pos_embedding", 3)[1])
    _, length, text_width = seen(_POSITION, 3)
    size = _PUBLISHED_SIZES.get((patch, grid), patch * grid)
    vision, text = "img/Transformer", "txt/Encoder_0"
    out_width = seen("txt/head/kernel", 2)[1]
    return SiglipPairConfig(
        vision=SiglipVisionConfig(
            image_size=size,
            patch_size=patch,
            width=width,
            depth=seen.depth(vision),
            num_heads=seen.heads(vision),
            mlp_width=seen.mlp_width(vision),
        ),
        text=SiglipTextConfig(
            vocab_size=seen("txt/Embed_0/embedding", 2)[0],
            length=length,
            width=text_width,
            depth=seen.depth(text),
            num_heads=seen.heads(text),
            mlp_width=seen.mlp_width(text),
            out_width=None if out_width == text_width else out_width,
        ),
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """The shapes of a file, asked one by one."""

    shapes: Mapping[str, tuple[int, ...]]
    path: Path

    def __call__(self, name: str, rank: int) -> tuple[int, ...]:
        shape = self.shapes.get(name)
        if shape is not None and len(shape) == rank and all(shape):
            return shape
        came = "is missing" if shape is None else f"has the shape {list(shape)}"
        stacked = any("/encoderblock/" in other for other in self.shapes)
        hint = (
            "its layers are stacked, as those of SigLIP 2 and PaliGemma are; only SigLIP's files "
            "with one array for each layer are read here"
            if stacked
            else f"expected {rank} axes: a pair of towers from big_vision's SigLIP"
        )
        raise KeyMismatchError(f"{self.path}: {_ROOT}{name} {came}; {hint}")

    def depth(self, tower: str) -> int:
        """Layers of a tower."""
        found = (_LAYER.match(name) for name in self.shapes)
        return len({match[2] for match in found if match and match[1] == tower})

    def heads(self, tower: str) -> int:
        """Heads of a tower's first layer."""
        name = f"{tower}/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"
        return self(name, 3)[1]

    def mlp_width(self, tower: str) -> int:
        """Inner width of a tower's first layer."""
        return self(f"{tower}/encoderblock_0/MlpBlock_0/Dense_0/kernel", 2)[1]


def _arrays(path: Path) -> dict[str, Weight]:
    """The arrays of a file by their names without ``params/``."""
    file = NpzFile(path)
    found: dict[str, Weight] = {}
    for name, entry in file.entries.items():
        if entry.dtype not in READABLE:
            raise FileFormatError(f"{path}: {name} is stored as {entry.dtype}, which is no weight")
        found[name.removeprefix(_ROOT)] = Weight(
            name=name,
            dtype=entry.dtype,
            shape=entry.shape,
            read=partial(file.read, name),
            release=partial(file.release, name),
        )
    return found


def _ours(name: str, weight: Weight) -> Weight:
    """An array in our shape; one that has no row, or another rank, stays as it is."""
    ours = SIGLIP_NPZ.to_ours(name)
    if ours is None:
        return weight
    form = _FORMS[re.sub(r"\.\d+\.", ".#.", ours)]
    if form.rank not in (None, len(weight.shape)):
        return weight
    shape = tuple(form.ours(torch.empty(weight.shape, device="meta")).shape)
    return Weight(
        name=weight.name,
        dtype=weight.dtype,
        shape=shape,
        read=lambda: form.ours(weight.read()),
        release=weight.release,
    )


def _added(position: Weight, more: Weight) -> Weight:
    """The text's positions, where a file holds them in two parts."""
    if more.shape != (1, *position.shape):
        return position
    return Weight(
        name=position.name,
        dtype=position.dtype,
        shape=position.shape,
        read=lambda: position.read() + more.read().squeeze(0),
    )


def save_pair_npz(
    model: SiglipPair, path: str | Path, *, dtype: str | torch.dtype | None = None
) -> None:
    """Write one npz file in big_vision's names and shapes, whole or not at all.

    Args:
        model: the network.
        path: the file.
        dtype: of the arrays; None keeps the model's.

    Raises:
        CheckpointError: the disk is full, or a value does not fit ``dtype``.
        ConfigError: an unknown type.
        FileFormatError: a name that does not end in ``.npz``.
        KeyMismatchError: a layer norm whose epsilon the format cannot say.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise FileFormatError(f"{path} must end in .npz: big_vision's format is one file")
    _check_expressible(model.config, path)
    heads = {"text": model.config.text.num_heads, "vision": model.config.vision.num_heads}
    arrays = {
        _ROOT + SIGLIP_NPZ.to_theirs(ours): partial(
            _theirs, ours, tensor, heads["text" if ours.startswith("text.") else "vision"]
        )
        for ours, tensor in model.state_dict().items()
    }
    with Replacement(path.parent) as new:
        write_npz(new, path.name, arrays, None if dtype is None else parse_dtype(dtype))


def _check_expressible(config: SiglipPairConfig, path: Path) -> None:
    """What a file cannot say must be what its readers take for granted."""
    if {config.vision.norm_eps, config.text.norm_eps} != {1e-6}:
        raise KeyMismatchError(
            f"{path}: layer norms with epsilons {config.vision.norm_eps} and "
            f"{config.text.norm_eps} cannot be written, the format knows 1e-6 alone"
        )
    patch = config.vision.patch_size
    grid = config.vision.image_size // patch
    told = _PUBLISHED_SIZES.get((patch, grid), patch * grid)
    if config.vision.image_size != told:
        raise KeyMismatchError(
            f"{path}: pictures of {config.vision.image_size} pixels would be read back as {told}; "
            "the format holds the number of patches alone"
        )


def _theirs(ours: str, tensor: Tensor, heads: int) -> Tensor:
    form = _FORMS[re.sub(r"\.\d+\.", ".#.", ours)]
    return form.theirs(tensor, heads)
