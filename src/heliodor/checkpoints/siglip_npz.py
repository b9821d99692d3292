"""SigLIP pairs in big_vision's npz files.

    params/img/...  the image tower with its pooling head (``MAPHead_0``)
    params/txt/...  the text tower
    params/t, b     logit scale and bias

SigLIP's files have one array for each layer, SigLIP 2's one for all layers of a tower; either is
read. The file holds neither the tokenizer nor what is done to pictures; the shapes tell everything
else but two things:

- Pictures of 384 pixels in patches of 14 make 27 x 27 patches, as 378 pixels would. 384 is what was
  published, and what is taken.
- Layer norms have an epsilon of 1e-6, flax's default, in all of them.

Sources: big_vision ``models/proj/image_text/two_towers.py``, ``text_transformer.py``,
``models/vit.py``. Old files hold the text's positions twice, to be added (``load`` there).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from heliodor.checkpoints.bigvision_arrays import (
    Opened,
    check,
    check_suffix,
    open_arrays,
    write_arrays,
)
from heliodor.checkpoints.bigvision_layout import (
    Array,
    Layers,
    Row,
    Shape,
    Stacking,
    attention_rows,
    dense_rows,
    encoder_rows,
    leading,
    mlp_rows,
    norm_rows,
    same,
    vision_rows,
)
from heliodor.checkpoints.bigvision_shapes import (
    Shapes,
    TowerShapes,
    infer_vision,
    single_layers,
)
from heliodor.checkpoints.siglip import assemble_pair, pair_shapes
from heliodor.checkpoints.weights import Weight
from heliodor.errors import ConfigError, KeyMismatchError, TokenizerError
from heliodor.image import ImageProcessor, Resize
from heliodor.models.pair import SiglipPair, SiglipPairConfig, SiglipTextConfig
from heliodor.models.siglip import SiglipVisionConfig
from heliodor.text.fixed import Cleaning, FixedTokenizer

_POSITION = "text.position"
_THEIR_POSITION, _TWICE = "txt/pos_embedding", "txt/Encoder_0/pos_embedding"
_PUBLISHED_SIZES = {(14, 27): 384}
_SECOND_VOCABULARY = 256_000  # Gemma's, which SigLIP 2 has
_NORM_EPS = 1e-6
_TOKENIZERS = ("spiece.model", "tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipNpzCheckpoint:
    """One of big_vision's npz files.

    Attributes:
        path: the file, or where its pieces lie.
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
        return npz_config(open_arrays(self.path).shapes, self.path)

    def weights(self) -> dict[str, Weight]:
        """The tensors by our names, checked against what the shapes told, none of them read.

        Raises:
            FileFormatError: the file is broken or of a type that is not read.
            KeyMismatchError: names or shapes are not those of a SigLIP pair.
        """
        return _weights(open_arrays(self.path), self.path)

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
            TokenizerError: none lies there.
        """
        cleaning = self.cleaning if cleaning is None else cleaning
        for name in _TOKENIZERS:
            beside = self.path.parent / name
            if beside.is_file():
                length = self.config().text.length
                return FixedTokenizer.from_file(beside, length=length, cleaning=cleaning)
        raise TokenizerError(
            f"{self.path} carries no tokenizer, as no npz does: pass tokenizer=<path to SigLIP's "
            "SentencePiece model, or Gemma's for SigLIP 2>, or put it beside the npz as "
            f"{_TOKENIZERS[0]}"
        )

    def processor(self) -> ImageProcessor:
        """big_vision's ``resize(S)|value_range(-1, 1)``."""
        return ImageProcessor(size=self.config().vision.image_size, resize=Resize.BIG_VISION)


def npz_config(shapes: Mapping[str, Shape], path: Path) -> SiglipPairConfig:
    """A configuration from the shapes of a file's arrays.

    Args:
        shapes: by their names without ``params/``.
        path: for messages.

    Raises:
        KeyMismatchError: an array that tells a size is missing or of another rank, or shapes that
            no pair has.
    """
    seen = Shapes(found=shapes, path=path, family="SigLIP pair")
    stacking = _stacking(shapes)
    text = TowerShapes(shapes=seen, base="txt/Encoder_0/encoderblock", stacked=stacking.language)
    try:
        vision = infer_vision(seen, stacked=stacking.vision)
        depth, num_heads, mlp_width = text.encoder()
        _, length, width = seen.of(_THEIR_POSITION, 3)
        out_width = seen.of("txt/head/kernel", 2)[1]
        return SiglipPairConfig(
            vision=replace(vision, image_size=_published(vision)),
            text=SiglipTextConfig(
                vocab_size=seen.of("txt/Embed_0/embedding", 2)[0],
                length=length,
                width=width,
                depth=depth,
                num_heads=num_heads,
                mlp_width=mlp_width,
                out_width=None if out_width == width else out_width,
            ),
        )
    except ConfigError as error:
        raise KeyMismatchError(f"{path}: {error}") from error


def _stacking(shapes: Mapping[str, Shape]) -> Stacking:
    return Stacking(
        vision=not single_layers(shapes, "img/Transformer/encoderblock_"),
        language=not single_layers(shapes, "txt/Encoder_0/encoderblock_"),
    )


def _published(vision: SiglipVisionConfig) -> int:
    """The size of pictures that make so many patches."""
    patch = vision.patch_size
    grid = vision.image_size // patch
    return _PUBLISHED_SIZES.get((patch, grid), patch * grid)


def pair_arrays(config: SiglipPairConfig, stacking: Stacking) -> Iterator[Array]:
    """All arrays of a pair; ``stacking.language`` is that of the text tower."""
    shapes = pair_shapes(config)
    vision, text = config.vision, config.text
    towers = (
        (vision.depth, vision.width // vision.num_heads, stacking.vision, _image_rows()),
        (text.depth, text.width // text.num_heads, stacking.language, _text_rows()),
    )
    for depth, head, stacked, rows in towers:
        layers = Layers(mark="_", depth=depth, head=head, stacked=stacked)
        yield from layers.arrays(rows, shapes)


def _image_rows() -> Iterator[Row]:
    yield from vision_rows()
    yield Row("img/MAPHead_0/probe", ("pool.probe",), same)
    yield from attention_rows("img/MAPHead_0", "pool")
    yield from norm_rows("img/MAPHead_0/LayerNorm_0", "pool.norm")
    yield from mlp_rows("img/MAPHead_0", "pool.mlp")


def _text_rows() -> Iterator[Row]:
    yield Row("txt/Embed_0/embedding", ("text.embedding.weight",), same)
    yield Row(_THEIR_POSITION, (_POSITION,), leading)
    yield from encoder_rows("txt/Encoder_0", "text")
    yield from dense_rows("txt/head", "text.head")
    yield Row("t", ("logit_scale",), same)
    yield Row("b", ("logit_bias",), same)


def _weights(opened: Opened, path: Path) -> dict[str, Weight]:
    config = npz_config(opened.shapes, path)
    try:
        layout = tuple(pair_arrays(config, _stacking(opened.shapes)))
    except (RuntimeError, OverflowError) as error:
        raise KeyMismatchError(f"{path}: no machine holds the sizes of its arrays") from error
    second = [
        replace(array, name=_TWICE)
        for array in layout
        if array.name == _THEIR_POSITION and _TWICE in opened.shapes
    ]
    check((*layout, *second), opened.shapes, path, "SigLIP pair")
    found = opened.weights(layout)
    for more in opened.weights(second).values():
        found[_POSITION] = _added(found[_POSITION], more)
    return found


def _added(position: Weight, more: Weight) -> Weight:
    """The text's positions, where a file holds them in two parts."""
    return Weight(
        name=position.name,
        dtype=torch.promote_types(position.dtype, more.dtype),
        shape=position.shape,
        read=lambda: position.read() + more.read(),
    )


def save_pair_npz(
    model: SiglipPair, path: str | Path, *, dtype: str | torch.dtype | None = None
) -> None:
    """Write one npz file that big_vision loads, whole or not at all.

    Layers are kept as in the published files: stacked where the vocabulary is Gemma's, as in
    SigLIP 2, otherwise one by one. big_vision's loader turns one into the other for the image tower
    alone; the text tower must be configured as the file is (``scan``).

    Args:
        model: the network.
        path: ``x.npz``; a file that is there is replaced.
        dtype: of the arrays; None keeps the model's.

    Raises:
        CheckpointError: the disk is full, or a value does not fit ``dtype``; what was there before
            is as it was.
        ConfigError: an unknown type, another suffix, or a model that the format would make another
            of.
    """
    write_pair_npz(model.config, model.state_dict(), path, dtype=dtype)


def write_pair_npz(
    config: SiglipPairConfig,
    state: Mapping[str, Tensor | Weight],
    path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
) -> None:
    """Write an npz from tensors by our names, in memory or in other files.

    Arguments and errors are those of :func:`save_pair_npz`.
    """
    path = Path(path)
    check_suffix(path)
    _check_expressible(config, path)
    stacked = config.text.vocab_size == _SECOND_VOCABULARY
    layout = pair_arrays(config, Stacking(vision=stacked, language=stacked))
    write_arrays(layout, state, path, dtype=dtype)


def _check_expressible(config: SiglipPairConfig, path: Path) -> None:
    """What a file cannot say must be what its readers take for granted."""
    pairs = {
        "vision.norm_eps": (config.vision.norm_eps, _NORM_EPS),
        "text.norm_eps": (config.text.norm_eps, _NORM_EPS),
        "vision.image_size": (config.vision.image_size, _published(config.vision)),
    }
    for name, (value, granted) in pairs.items():
        if value != granted:
            raise ConfigError(
                f"{path} cannot hold this model: its {name} is {value}, and a big_vision file, "
                f"which does not state it, means {granted}. Save as 'transformers' or 'native'"
            )
