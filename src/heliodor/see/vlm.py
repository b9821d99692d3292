"""The model as one calls it: pictures and words in, typed results out.

model = heliodor.load("tiny")
model.detect("garden.png", "bee ; tulip").draw("garden.png")
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch

from heliodor import zoo
from heliodor.checkpoints import open_paligemma
from heliodor.checkpoints import transformers as transformers_layout
from heliodor.checkpoints.adapters import find_adapter, merged
from heliodor.checkpoints.contents import Contents
from heliodor.checkpoints.maskcodec import (
    CODEC_NAMES,
    find_mask_codec,
    read_mask_codec,
    write_mask_codec,
)
from heliodor.checkpoints.native import NativeCheckpoint
from heliodor.checkpoints.native import save as save_native
from heliodor.checkpoints.quantised import check_float, chosen_recipe, load_quantised
from heliodor.checkpoints.recognise import Kind
from heliodor.checkpoints.transformers import TransformersCheckpoint
from heliodor.checkpoints.weights import Weight, assemble
from heliodor.errors import ConfigError, InputError, PromptError
from heliodor.generation import DetectGrammar, PromptLookup, RepeatStop
from heliodor.image import ImageProcessor
from heliodor.models.maskcodec import MaskCodec
from heliodor.models.paligemma import PaliGemma
from heliodor.quant.apply import recipe_of
from heliodor.quant.scheme import Recipe
from heliodor.quant.stored import accelerate
from heliodor.see import prompt as words
from heliodor.see.answers import Answer, Detections, Segments
from heliodor.see.boxes import (
    ScoredBox,
    TokenPiece,
    format_object,
    parse,
    parse_tokens,
    to_detections,
)
from heliodor.see.engine import Engine, Generation
from heliodor.see.inputs import ImageFeatures, Picture, check_device, check_list
from heliodor.see.masks import to_segments
from heliodor.text import Tokenizer

if TYPE_CHECKING:
    from heliodor.checkpoints import PaliGemmaCheckpoint

__all__ = ["Generation", "ImageFeatures", "VisionLanguageModel", "load"]

_SEPARATOR = " ; "
_ANYWHERE = ("<loc0000>",) * 4

NO_LOOP = RepeatStop(times=6, shortest=2)
"""Ends an answer that goes round in circles, and lets "100000" and a row of zeros pass."""


def load(  # noqa: PLR0913 - each is one wish of the caller's
    source: str | Path = "tiny",
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    image_size: int | None = None,
    adapter: str | Path | None = None,
    tokenizer: str | Path | None = None,
    codec: str | Path | None = None,
    final_cap: bool = True,
    quantize: str | Recipe | None = None,
) -> VisionLanguageModel:
    """Load a PaliGemma, 1 or 2.

    Args:
        source: ``"tiny"``, the model in this package; a folder in transformers layout (a Path,
            "./tiny" too, is always a path); a big_vision ``.npz``; a native file; or a hub id such
            as ``google/paligemma-3b-mix-224``.
        revision: branch, tag or commit of a hub id, for instance ``bfloat16``.
        dtype: in which the weights rest, ``"float32"``, ``"bfloat16"`` or ``"float16"``; by
            default the file's own, for tiny float32.
        device: "cpu", "cuda", ...
        image_size: another resolution than the checkpoint's; positions are then resized.
        adapter: the folder or hub id of a LoRA adapter in peft's layout, merged into the weights.
        tokenizer: a ``tokenizer.json`` or SentencePiece file, where the checkpoint carries none, as
            an npz does.
        codec: the npz file of the mask codec whose codes the model writes; for the official
            checkpoints big_vision's ``vae-oid.npz``. By default the one beside the weights, if any.
        final_cap: False leaves out PaliGemma 2's soft cap on logits, as big_vision's settings for
            single tasks do. The likeliest token is the same either way, probabilities are not.
        quantize: "int8", "int4" or a :class:`~heliodor.quant.Recipe`: weights are stored in so many
            bits, quantised as they are read. A file that is quantised already needs no such wish.

    Raises:
        CheckpointError: the files are missing, broken, or of another family.
        HubError: the download failed.
        InputError: a device that is not there, or a revision of what is not on the hub.
    """
    check_device(device)
    accelerate()
    checkpoint: PaliGemmaCheckpoint
    if source == "tiny":
        if revision is not None:
            raise InputError(f"tiny ships in the package and has no revision {revision!r}")
        checkpoint = TransformersCheckpoint(folder=zoo.TINY, source="tiny")
        dtype = "float32" if dtype is None else dtype
    else:
        checkpoint = open_paligemma(source, revision=revision)
    recipe = chosen_recipe(checkpoint, quantize, adapter=adapter is not None)
    resting = _Resting(dtype=dtype, device=device, image_size=image_size, final_cap=final_cap)
    model = _network(checkpoint, recipe, adapter, resting)
    return VisionLanguageModel(
        model=model,
        tokenizer=checkpoint.tokenizer() if tokenizer is None else Tokenizer.from_file(tokenizer),
        processor=checkpoint.processor(image_size),
        codec=_codec_of(checkpoint) if codec is None else Path(codec),
    )


class _Resting(TypedDict):
    """How weights shall rest: arguments of :func:`load`."""

    dtype: str | torch.dtype | None
    device: str | torch.device
    image_size: int | None
    final_cap: bool


def _network(
    checkpoint: PaliGemmaCheckpoint,
    recipe: Recipe | None,
    adapter: str | Path | None,
    resting: _Resting,
) -> PaliGemma:
    """The network, quantised on the way where there is a recipe, an adapter in its weights."""
    if recipe is not None:
        return load_quantised(checkpoint, recipe, adapter=adapter, **resting)
    model = checkpoint.load(**resting)
    if adapter is None:
        return model
    return assemble(
        model.config,
        merged(checkpoint.weights(), find_adapter(adapter), checkpoint.config()),
        place=Path(checkpoint.source),
        dtype=model.language.embedding.weight.dtype,
        device=resting["device"],
    )


def _codec_of(checkpoint: PaliGemmaCheckpoint) -> Path | MaskCodec | None:
    """The mask codec inside a native file, or beside the weights of another format."""
    if isinstance(checkpoint, NativeCheckpoint):
        return checkpoint.mask_codec()
    if isinstance(checkpoint, TransformersCheckpoint):
        shipped = checkpoint.folder == zoo.TINY
        return zoo.MASK_CODEC if shipped else find_mask_codec(checkpoint.folder)
    return find_mask_codec(checkpoint.path.parent)


class VisionLanguageModel(Engine):
    """A PaliGemma and its verbs."""

    def __init__(
        self,
        *,
        model: PaliGemma,
        tokenizer: Tokenizer,
        processor: ImageProcessor,
        codec: Path | MaskCodec | None = None,
    ) -> None:
        """Put parts together; :func:`load` does it from files.

        Args:
            model: the network.
            tokenizer: words to ids.
            processor: pictures to pixels.
            codec: the mask codec, or its npz file, which is read when first needed; without one
                the model does everything but segment.

        Raises:
            ConfigError: the tokenizer knows ids that the model has no rows for.
        """
        super().__init__(model=model, tokenizer=tokenizer, processor=processor)
        self._codec = codec

    @cached_property
    def codec(self) -> MaskCodec:
        """The mask codec.

        Raises:
            ConfigError: the model came without one.
            FileFormatError: its file is missing or broken.
        """
        codec = self._codec
        if codec is None:
            raise ConfigError(
                "masks need the codec that the model was trained with, and none came with it: pass "
                f"codec=FILE (big_vision's vae-oid.npz for the official checkpoints), or put it "
                f"into the folder as {CODEC_NAMES[0]}"
            )
        return codec if isinstance(codec, MaskCodec) else read_mask_codec(codec)

    def caption(self, image: Picture, lang: str = "en", *, max_new_tokens: int = 96) -> Answer:
        """One sentence about a picture, in one of 35 languages by code."""
        return self._answer(image, words.caption(lang), max_new_tokens)

    def ask(
        self, image: Picture, question: str, lang: str = "en", *, max_new_tokens: int = 64
    ) -> Answer:
        """The answer to a question about a picture."""
        return self._answer(image, words.ask(question, lang), max_new_tokens)

    def read(self, image: Picture, *, max_new_tokens: int = 256) -> Answer:
        """The text in a picture."""
        return self._answer(image, words.read(), max_new_tokens)

    def detect(
        self, image: Picture, labels: str | Sequence[str], *, max_objects: int = 64
    ) -> Detections:
        """Where things are.

        Args:
            image: the picture.
            labels: what to look for: "bee ; tulip", or a list.
            max_objects: boxes at most.

        Returns:
            Boxes in pixels of the picture given, with scores; only labels asked for.

        Raises:
            PromptError: no label, or one that holds ";", a line break or a special token's name.
        """
        return self.detect_batch([image], [labels], max_objects=max_objects)[0]

    def detect_batch(
        self,
        images: Sequence[Picture],
        labels: Sequence[str | Sequence[str]],
        *,
        max_objects: int = 64,
    ) -> list[Detections]:
        """:meth:`detect` for several pictures at once, each with labels of its own."""
        features = self.encode_images(images)
        found = self._objects(features, labels, max_objects, masks=False)
        return [to_detections(b, f.size) for b, f in zip(found, features, strict=True)]

    def segment(
        self, image: Picture, labels: str | Sequence[str], *, max_objects: int = 16
    ) -> Segments:
        """Where things are, to the pixel. Arguments and errors are those of :meth:`detect`."""
        return self.segment_batch([image], [labels], max_objects=max_objects)[0]

    def segment_batch(
        self,
        images: Sequence[Picture],
        labels: Sequence[str | Sequence[str]],
        *,
        max_objects: int = 16,
    ) -> list[Segments]:
        """:meth:`segment` for several pictures at once, each with labels of its own."""
        codec = self.codec  # before any work: a missing one is an error
        features = self.encode_images(images)
        found = self._objects(features, labels, max_objects, masks=True)
        return [to_segments(codec, b, f.size) for b, f in zip(found, features, strict=True)]

    def save(
        self,
        path: str | Path,
        format: str = "transformers",  # noqa: A002 - the public name
        dtype: str | torch.dtype | None = None,
    ) -> None:
        """Write the model, whole or not at all, and the mask codec with it.

        Args:
            path: a folder, made if it does not exist; for the other formats a file.
            format: "transformers", a folder that its from_pretrained loads; "native", one
                ``.safetensors`` file with everything in it; "big_vision", an ``.npz`` of the
                weights alone: tokenizer and mask codec are given when it is loaded.
            dtype: of the tensors in the file; None keeps the model's.

        Raises:
            ConfigError: a format that is not written, or one that cannot say what this model is.
            CheckpointError: the disk refused.
        """
        if format in ("transformers", "big_vision"):
            check_float(self.model, format)
        if format == "transformers":
            transformers_layout.save(self.model, self.tokenizer, self.processor, path, dtype=dtype)
            if self._codec is not None:
                write_mask_codec(self.codec, Path(path) / CODEC_NAMES[0], dtype="float32")
        elif format == "native":
            save_native(self._contents(), path, dtype=dtype)
        elif format == "big_vision":
            from heliodor.checkpoints import bigvision  # noqa: PLC0415 - one format of three

            bigvision.save(self.model, path, dtype=dtype)
        else:
            raise ConfigError(
                f"format {format!r} is not written; there are 'transformers', 'native' and "
                "'big_vision'"
            )

    def _contents(self) -> Contents:
        state = self.model.state_dict()
        return Contents(
            kind=Kind.NATIVE,
            family="paligemma",
            config=self.model.config,
            weights={name: Weight.of(name, tensor) for name, tensor in state.items()},
            tokenizer=self.tokenizer,
            processor=self.processor,
            codec=None if self._codec is None else self.codec,
            recipe=recipe_of(self.model),
        )

    def _answer(self, image: Picture, prompt: str, max_new_tokens: int) -> Answer:
        (found,) = self.generate(
            [image],
            [prompt],
            max_new_tokens=max_new_tokens,
            constraint=NO_LOOP,
            speculate=PromptLookup(),
        )
        return Answer(text=found.text.strip(), score=found.score, tokens=found.tokens)

    def _objects(
        self,
        features: Sequence[ImageFeatures],
        labels: Sequence[str | Sequence[str]],
        max_objects: int,
        *,
        masks: bool,
    ) -> list[tuple[ScoredBox, ...]]:
        """Objects under the grammar of their kind, with the scores of their tokens."""
        check_list(labels, "sets of labels")
        if not features or len(features) != len(labels):
            raise InputError(
                f"{len(features)} pictures came with {len(labels)} sets of labels: give one for "
                "each picture, at least one"
            )
        listed = [_plain_labels(one) for one in labels]
        prompts = [words.segment(each) if masks else words.detect(each) for each in listed]
        grammars = [self._grammar(each, max_objects, masks=masks) for each in listed]
        longest = max(len(label) for grammar in grammars for label in grammar.labels)
        per_object = 4 + (16 if masks else 0) + longest + len(grammars[0].separator)
        images = max(f.tokens.shape[0] for f in features)
        asked = max(len(self.tokenizer.encode(prompt)) for prompt in prompts)
        room = self.model.config.language.context - images - asked - 2
        generations = self.generate(
            features,
            prompts,
            max_new_tokens=max(1, min(max_objects * per_object + 1, room)),
            constraint=grammars,
        )
        return [self._read_objects(found) for found in generations]

    def _grammar(self, labels: Sequence[str], max_objects: int, *, masks: bool) -> DetectGrammar:
        encode = self.tokenizer.encode
        named = tuple(tuple(encode(f" {label}")) for label in labels)
        together = encode(f" {labels[0]}{_SEPARATOR}")
        split = len(named[0])
        fits = tuple(together[:split]) == named[0]
        return DetectGrammar(
            loc_start=self.tokenizer.loc_start,
            seg_start=self.tokenizer.seg_start if masks else None,
            labels=named,
            separator=tuple(together[split:] if fits else encode(_SEPARATOR)),
            eos=self.tokenizer.eos,
            max_objects=max_objects,
        )

    def _read_objects(self, found: Generation) -> tuple[ScoredBox, ...]:
        text = self.tokenizer.stream()
        pieces = [
            TokenPiece(text.push(token), logprob)
            for token, logprob in zip(found.tokens, found.logprobs, strict=False)
        ]
        return parse_tokens(pieces)


def _plain_labels(labels: str | Sequence[str]) -> tuple[str, ...]:
    """Labels as an answer can hold them, runs of blanks made one."""
    plain = tuple(" ".join(label.split()) for label in words.split_labels(labels))
    for label in plain:
        read = [found.label for found in parse(format_object(_ANYWHERE, label))]
        if read != [label]:
            raise PromptError(
                f"the label {label!r} would be read back as {' and '.join(map(repr, read))}: leave "
                "out commas at its ends and the names of special tokens"
            )
    return plain
