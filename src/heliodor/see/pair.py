"""SigLIP as one calls it: how well do these words fit this picture?

pair = heliodor.load_siglip("google/siglip-base-patch16-224")
pair.classify("garden.png", ["a bee", "a tulip"]).best.label
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from heliodor import zoo
from heliodor.checkpoints import open_checkpoint
from heliodor.checkpoints.contents import Contents
from heliodor.checkpoints.native import NativeSiglipCheckpoint
from heliodor.checkpoints.native import save as save_native
from heliodor.checkpoints.quantised import check_float, chosen_recipe, load_quantised_pair
from heliodor.checkpoints.recognise import Kind
from heliodor.checkpoints.siglip import SiglipCheckpoint, check_fit, save_pair
from heliodor.checkpoints.siglip_npz import SiglipNpzCheckpoint, save_pair_npz
from heliodor.checkpoints.weights import Weight
from heliodor.errors import ConfigError, InputError
from heliodor.image import ImageProcessor, ImageSource
from heliodor.models.pair import SiglipPair, SiglipPairConfig
from heliodor.quant.apply import recipe_of
from heliodor.quant.scheme import Recipe
from heliodor.quant.stored import accelerate
from heliodor.see.inputs import check_device, check_list, check_texts
from heliodor.see.labels import (
    TEMPLATE,
    Classification,
    LabelSet,
    fill_template,
    split_labels,
    to_classification,
)
from heliodor.text.fixed import Cleaning, FixedTokenizer

__all__ = ["ImageTextModel", "load_siglip"]

PUBLISHED = (
    "google/siglip-base-patch16-224 (also -256, -384, -512), google/siglip-large-patch16-256 and "
    "-384, google/siglip-so400m-patch14-224 and -384"
)
TINY = Path(zoo.__file__).parent / "tiny-siglip"


class PairCheckpoint(Protocol):
    """What :func:`load_siglip` needs of a file format."""

    def config(self) -> SiglipPairConfig:
        """Shapes."""
        ...

    def load(
        self, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> SiglipPair:
        """The network."""
        ...

    def tokenizer(self, cleaning: Cleaning | None = None) -> FixedTokenizer:
        """Words to ids."""
        ...

    def processor(self) -> ImageProcessor:
        """Pictures to pixels."""
        ...


def load_siglip(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    tokenizer: str | Path | None = None,
    cleaning: Cleaning | None = None,
    quantize: str | Recipe | None = None,
) -> ImageTextModel:
    """Load a SigLIP pair.

    Args:
        source: a folder in transformers layout; one of big_vision's ``.npz`` files; a native file;
            or a hub id such as ``google/siglip-so400m-patch14-384``.
        revision: branch, tag or commit of a hub id.
        dtype: in which the weights rest, ``"float32"``, ``"bfloat16"`` or ``"float16"``; by
            default the file's own.
        device: "cpu", "cuda", ...
        tokenizer: SigLIP's SentencePiece model (``spiece.model``) or a ``tokenizer.json``, where
            the source carries none, as npz files do.
        cleaning: what is done to texts first; by default as the checkpoint's reference does it
            (:class:`~heliodor.text.fixed.Cleaning`).
        quantize: "int8", "int4" or a :class:`~heliodor.quant.Recipe`: weights are stored in so many
            bits, quantised as they are read. A file that is quantised already needs no such wish.

    Raises:
        CheckpointError: the files are missing, broken, or of another family.
        HubError: the download failed.
        InputError: a device that is not there, a model that does not ship, or a revision of what
            is not on the hub.
    """
    check_device(device)
    accelerate()
    checkpoint = _open(source, revision)
    if tokenizer is None:
        words = checkpoint.tokenizer(cleaning)
    else:
        if cleaning is None and isinstance(checkpoint, SiglipNpzCheckpoint):
            cleaning = checkpoint.cleaning
        length = checkpoint.config().text.length
        words = FixedTokenizer.from_file(tokenizer, length=length, cleaning=cleaning)
    processor = checkpoint.processor()
    check_fit(checkpoint.config(), words, processor)  # before the weights, which take longer
    recipe = chosen_recipe(checkpoint, quantize, adapter=False)
    if recipe is None:
        model = checkpoint.load(dtype=dtype, device=device)
    else:
        model = load_quantised_pair(checkpoint, recipe, dtype=dtype, device=device)
    return ImageTextModel(model=model, tokenizer=words, processor=processor)


def _open(source: str | Path, revision: str | None) -> PairCheckpoint:
    """Find the files."""
    if source == "tiny":
        if not TINY.is_dir():
            raise InputError(
                f"no SigLIP pair ships with this package: give a folder, an npz file, or a hub id, "
                f"of which there are {PUBLISHED}"
            )
        if revision is not None:
            raise InputError(f"tiny ships in the package and has no revision {revision!r}")
        return SiglipCheckpoint(folder=TINY, source="tiny")
    found = open_checkpoint(source, revision=revision)
    if isinstance(found, SiglipCheckpoint | SiglipNpzCheckpoint | NativeSiglipCheckpoint):
        return found
    raise ConfigError(
        f"{source} is no SigLIP pair: heliodor.load() loads a PaliGemma, heliodor.load_gemma() a "
        "Gemma"
    )


class ImageTextModel:
    """A SigLIP pair and its verbs.

    Attributes:
        model: the network.
        tokenizer: words to ids.
        processor: pictures to pixels.
    """

    def __init__(
        self, *, model: SiglipPair, tokenizer: FixedTokenizer, processor: ImageProcessor
    ) -> None:
        """Put parts together; :func:`load_siglip` does it from files.

        Raises:
            ConfigError: parts of different models.
        """
        check_fit(model.config, tokenizer, processor)
        self.model = model
        self.tokenizer = tokenizer
        self.processor = processor

    @property
    def device(self) -> torch.device:
        """Where the weights rest."""
        return self.model.logit_scale.device

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return self.model.config.vision.width

    def classify(
        self,
        image: ImageSource,
        labels: str | Sequence[str] | LabelSet,
        *,
        template: str | None = TEMPLATE,
    ) -> Classification:
        """How well each label fits a picture.

        Args:
            image: the picture.
            labels: "bee ; tulip", a list, or what :meth:`label_set` made of them.
            template: a sentence with ``{}`` where the label goes; None takes labels as they are.

        Returns:
            Labels with their scores, the best first.

        Raises:
            ImageError: the picture cannot be opened.
            PromptError: no label, an empty one, or a template without exactly one ``{}``.
        """
        return self.classify_batch([image], labels, template=template)[0]

    def classify_batch(
        self,
        images: Sequence[ImageSource],
        labels: str | Sequence[str] | LabelSet,
        *,
        template: str | None = TEMPLATE,
    ) -> list[Classification]:
        """:meth:`classify` for several pictures with the same labels, whose texts are read once."""
        if not isinstance(labels, LabelSet):
            labels = self.label_set(labels, template=template)
        logits = self.score(self.embed_images(images), labels.vectors)
        return [to_classification(labels.names, row) for row in logits]

    def label_set(
        self, labels: str | Sequence[str], *, template: str | None = TEMPLATE
    ) -> LabelSet:
        """Labels embedded once, for many calls of :meth:`classify`.

        Raises:
            PromptError: as :meth:`classify`.
        """
        names = split_labels(labels)
        return LabelSet(names=names, vectors=self.embed_texts(fill_template(names, template)))

    def embed_images(self, images: Sequence[ImageSource], *, batch: int = 16) -> Tensor:
        """Unit vectors of pictures.

        Args:
            images: B pictures.
            batch: how many go through the tower at once.

        Returns:
            float32 [B D], on the CPU.

        Raises:
            ImageError: a picture cannot be opened.
            InputError: one picture where a list is expected.
        """
        check_list(images, "pictures")

        def embed(part: Sequence[ImageSource]) -> Tensor:
            pixels = torch.from_numpy(self.processor(part))  # pyright: ignore[reportUnknownMemberType]
            return self.model.embed_images(pixels.to(self.device))

        return self._in_batches(images, batch, embed)

    def embed_texts(self, texts: Sequence[str], *, batch: int = 64) -> Tensor:
        """Unit vectors of texts, cleaned and cut as the checkpoint's tokenizer does.

        Args:
            texts: C texts; no template is put around them.
            batch: how many go through the tower at once.

        Returns:
            float32 [C D], on the CPU.

        Raises:
            InputError: one text where a list is expected.
            PromptError: a text that is no string.
        """
        check_texts(texts, "text", "texts")

        def embed(part: Sequence[str]) -> Tensor:
            tokens = torch.tensor(self.tokenizer.encode_batch(part), device=self.device)
            return self.model.embed_texts(tokens)

        return self._in_batches(texts, batch, embed)

    @torch.no_grad()
    def score(self, images: Tensor, texts: Tensor) -> Tensor:
        """Embeddings to logits; ``.sigmoid()`` makes probabilities of them.

        Args:
            images: unit vectors float32 [B D].
            texts: unit vectors float32 [C D].

        Returns:
            float32 [B C], on the CPU.
        """
        return self.model.score(images.to(self.device), texts.to(self.device)).cpu()

    def logits(self, images: Sequence[ImageSource], texts: Sequence[str]) -> Tensor:
        """Logits of "this text belongs to this picture", float32 [B C].

        Raises:
            InputError: a picture or text that cannot be used.
        """
        return self.score(self.embed_images(images), self.embed_texts(texts))

    def save(
        self,
        path: str | Path,
        format: str = "transformers",  # noqa: A002 - the public name
        dtype: str | torch.dtype | None = None,
    ) -> None:
        """Write the pair, whole or not at all.

        Args:
            path: a folder, made if it does not exist; for the other formats a file.
            format: "transformers": what ``SiglipModel`` and ``AutoProcessor`` load;
                "native": one ``.safetensors`` file with everything in it; "big_vision": one npz
                file, without tokenizer.
            dtype: of the tensors in the file; None keeps the model's.

        Raises:
            ConfigError: a format that is not written.
            CheckpointError: the disk refused.
        """
        if format in ("transformers", "big_vision"):
            check_float(self.model, format)
        if format == "transformers":
            save_pair(self.model, self.tokenizer, self.processor, path, dtype=dtype)
        elif format == "native":
            save_native(self._contents(), path, dtype=dtype)
        elif format == "big_vision":
            save_pair_npz(self.model, path, dtype=dtype)
        else:
            raise ConfigError(
                f"format {format!r} is not written; there are 'transformers', 'native' and "
                "'big_vision'"
            )

    def _contents(self) -> Contents:
        check_fit(self.model.config, self.tokenizer, self.processor)
        state = self.model.state_dict()
        return Contents(
            kind=Kind.NATIVE,
            family="siglip",
            config=self.model.config,
            weights={name: Weight.of(name, tensor) for name, tensor in state.items()},
            tokenizer=self.tokenizer,
            processor=self.processor,
            recipe=recipe_of(self.model),
        )

    @torch.no_grad()
    def _in_batches(
        self, items: Sequence[Any], batch: int, embed: Callable[[Sequence[Any]], Tensor]
    ) -> Tensor:
        if batch < 1:
            raise InputError(f"batch is {batch}; expected at least 1")
        rows = [embed(items[start : start + batch]).cpu() for start in range(0, len(items), batch)]
        return torch.cat(rows) if rows else torch.zeros((0, self.width))
