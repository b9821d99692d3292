"""Lumina-Next as one calls it: words become a picture.

    painter = heliodor.load_painter("tiny")
    painter.paint("a red apple left of a blue car", seed=1).save("apple.png")

This file alone imports diffusers, for its AutoencoderKL.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor

from heliodor.errors import CancelledError, InputError, MissingExtraError
from heliodor.image import ImageSource
from heliodor.paint.batch import Painted, Snapshot, paint_batch
from heliodor.paint.memory import Plan, machine_memory, sampling_work, text_work
from heliodor.paint.opening import open_painter, vae_folder
from heliodor.paint.options import PaintOptions
from heliodor.paint.request import Job, Size, batches, make_jobs
from heliodor.paint.result import Painting, develop
from heliodor.paint.settings import Settings
from heliodor.paint.sources import Sources
from heliodor.paint.text import LIMIT, TextFeatures
from heliodor.paint.vae import Autoencoder, to_pictures
from heliodor.paint.vae_source import open_vae

__all__ = ["PaintOptions", "Painter", "load_painter", "load_vae", "new_vae"]

_REMEMBERED = 16  # prompts whose features are kept, so that the text encoder need not come back


def load_painter(
    source: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    memory: Literal["auto", "all", "staged"] = "auto",
    **parts: Any,
) -> Painter:
    """Open a painter; its parts are loaded when they are first used.

    Args:
        source: "tiny", a diffusers folder or hub id such as
            ``Alpha-VLLM/Lumina-Next-SFT-diffusers``, or the official
            ``consolidated*.safetensors`` or its folder.
        dtype: in which transformer and text encoder rest; None for the files' own.
        quantize: "int8" or "int4" for both; None for neither.
        device: "cpu", "cuda", ...
        revision: branch, tag or commit of a hub id.
        memory: "all" holds what was loaded, "staged" one part at a time, "auto" holds all where
            they take less than half of the machine.
        **parts: where the source lacks them or others are wanted: ``text_encoder``, a Gemma in any
            form; ``tokenizer``, its file; ``vae``, a folder of diffusers; ``vae_dtype``, float32
            by default, or bfloat16. Where a diffusers file's two copies of the queries differ,
            ``merge`` says whose count: "self" or "caption"; ``variant``, such as "fp16": of names.

    Raises:
        CheckpointError: files are missing, broken, or of another family.
        HubError: the download failed.
        InputError: a device that is not there, or an unknown setting.
    """
    sources = open_painter(
        source,
        dtype=dtype,
        quantize=quantize,
        device=device,
        revision=revision,
        autoencoder=_autoencoder_class,
        **parts,
    )
    return Painter(sources, memory=memory)


def load_vae(
    source: str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
) -> Autoencoder:
    """Load an autoencoder alone.

    Args:
        source: its folder, a pipeline's folder, or "tiny" for the shipped painter's.
        dtype: float32 or bfloat16.
        device: "cpu", "cuda", ...

    Raises:
        CheckpointError: files are missing, broken, or of another kind.
        MissingExtraError: diffusers is not installed.
    """
    found = open_vae(vae_folder(source))
    return found.load(_autoencoder_class(), dtype=dtype, device=device)


def new_vae(config: Mapping[str, Any]) -> Any:
    """An autoencoder to be trained: diffusers' network of that ``config.json``, random weights."""
    return _autoencoder_class().from_config(dict(config))


class Painter:
    """Text encoder, transformer and autoencoder, and what one asks of them.

    Attributes:
        sources: where its parts come from.
        stages: which of them are in memory.
    """

    def __init__(
        self, sources: Sources, *, memory: Literal["auto", "all", "staged"] = "auto"
    ) -> None:
        """Put parts together; :func:`load_painter` finds them.

        Raises:
            InputError: an unknown way to use memory.
        """
        self.sources = sources
        self.stages = sources.stages(memory)
        self._features: dict[str, TextFeatures] = {}

    @overload
    def paint(
        self,
        prompt: str,
        *,
        output: Literal["image"] = "image",
        **options: Unpack[PaintOptions],
    ) -> Painting: ...
    @overload
    def paint(
        self,
        prompt: str | Sequence[str],
        *,
        count: int,
        output: Literal["image"] = "image",
        **options: Unpack[PaintOptions],
    ) -> list[Painting]: ...
    @overload
    def paint(
        self,
        prompt: list[str] | tuple[str, ...],
        *,
        output: Literal["image"] = "image",
        **options: Unpack[PaintOptions],
    ) -> list[Painting]: ...
    @overload
    def paint(
        self,
        prompt: str | Sequence[str],
        *,
        output: Literal["latents"],
        count: int = 1,
        **options: Unpack[PaintOptions],
    ) -> Tensor: ...
    def paint(
        self,
        prompt: str | Sequence[str],
        *,
        size: Size | Sequence[Size] | None = None,
        seed: int | Sequence[int] | None = None,
        negative: str | Sequence[str] = "",
        latents: Tensor | None = None,
        image: ImageSource | Sequence[ImageSource] | None = None,
        output: str = "image",
        **options: Any,
    ) -> Painting | list[Painting] | Tensor:
        """Paint one picture, or several.

        Args:
            prompt: what to paint, in any language, used exactly as it is typed; or several.
            size: width and height in pixels, multiples of 16 for the published models; one for
                all, or one a prompt. By default that of ``image`` or ``latents``, else the trained.
            seed: of the first picture, the next ones counting up; one for each; or None for any.
                A picture does not depend on what is painted with it.
            negative: what guidance leads away from, one for all or one a prompt.
            latents: the noise, float32 [B C h w], instead of drawing it.
            image: a picture to paint over, one for all or one a prompt.
            output: "image", or "latents" as they stand before the autoencoder.
            **options: ``count`` of pictures for each prompt, and what
                :class:`~heliodor.paint.options.PaintOptions` lists: steps, solver, grid, guidance,
                progress and more.

        Returns:
            A :class:`~heliodor.paint.result.Painting` for one prompt, a list for a list or where
            ``count`` is given; with "latents" float32 [B C h w].

        Raises:
            CancelledError: ``cancelled`` said so; ``finished`` of it holds what was done.
            InputError: a setting that cannot be used, or a size too large for the machine.
            MissingExtraError: diffusers is not installed, which decodes latents.
            PaintingError: NaN in sampling or decoding.
            PromptError: an empty prompt.
        """
        count, batch_size = options.pop("count", None), options.pop("batch_size", 4)
        progress, cancelled = options.pop("progress", None), options.pop("cancelled", None)
        settings = self._settings(options, over=image is not None)
        jobs = make_jobs(
            prompt,
            self.sources.shape,
            size=size,
            seed=seed,
            negative=negative,
            latents=latents,
            image=image,
            count=1 if count is None else count,
        )
        groups = batches(jobs, batch_size)
        self._check_output(output, jobs, needs_vae=image is not None)
        self._check_memory(jobs, groups, settings, previews=progress is not None)
        give = partial(self._given, jobs, settings, output)
        found = _collected(self._paint(jobs, groups, settings, progress, cancelled), give)
        if output == "latents":
            return torch.stack(found)
        return found[0] if isinstance(prompt, str) and count is None else found

    def plan(
        self,
        size: Size | None = None,
        *,
        pictures: int = 1,
        guided: bool = True,
        previews: bool = False,
    ) -> Plan:
        """What painting needs of memory, before anything is loaded.

        Args:
            size: width and height in pixels; None for the trained.
            pictures: painted together.
            guided: whether guidance is on, which doubles what goes through the transformer.
            previews: whether previews are wanted while painting.

        Raises:
            InputError: a size that cannot be painted.
        """
        sources = self.sources
        wanted = sources.shape.default if size is None else sources.shape.check(size)
        _, *latent = sources.shape.latent(wanted)
        rows = pictures * (2 if guided else 1)
        return Plan(
            text_encoder=sources.text.nbytes,
            transformer=sources.transformer.nbytes,
            autoencoder=sources.vae.nbytes,
            encoding=text_work(sources.text_config, rows, LIMIT),
            sampling=sampling_work(
                sources.config, rows, (latent[0], latent[1]), sources.dtype.itemsize
            ),
            decoding=sources.vae_work((latent[0], latent[1])),
            staged=self.stages.staged,
            previews=previews,
        )

    def encode_prompts(self, prompts: Sequence[str]) -> list[TextFeatures]:
        """Prompts as the transformer reads them; the last few are remembered.

        Raises:
            PromptError: half a surrogate pair.
        """
        fresh = [text for text in dict.fromkeys(prompts) if text not in self._features]
        if fresh:
            encoder = self.stages.use(self.sources.text)
            self._features |= {each.text: each for each in encoder.encode(fresh)}
        found = [self._features[text] for text in prompts]
        while len(self._features) > max(_REMEMBERED, len(set(prompts))):
            del self._features[next(iter(self._features))]
        return found

    def save(
        self,
        path: str | Path,
        format: Literal["diffusers", "lumina"] = "diffusers",  # noqa: A002 - the public name
    ) -> None:
        """Write the painter, whole or not at all.

        Args:
            path: a folder; a painter that lies there is replaced.
            format: "diffusers": a folder that its LuminaPipeline loads; "lumina": the official
                layout, which holds the transformer alone.

        Raises:
            CheckpointError: the disk refused; what was there before is as it was.
            ConfigError: a format that is not written.
            InputError: something else than a painter lies there.
        """
        self.sources.writer(Path(path), format)

    def _settings(self, options: dict[str, Any], *, over: bool) -> Settings:
        """The settings of a call, which may paint ``over`` a picture."""
        if over and options.get("strength") is None:
            options["strength"] = 0.6
        if options.get("grid") == "diffusers" and options.get("shift") is None:
            options["shift"] = self.sources.shift
        settings = Settings.choose(**options)
        if settings.strength is not None and not over:
            raise InputError("strength belongs to a picture that is painted over: give image=")
        return settings

    def _check_output(self, output: str, jobs: list[Job], *, needs_vae: bool) -> None:
        """Refuse before the work what could not be given after it."""
        if output not in ("image", "latents"):
            raise InputError(f"output is {output!r}; expected 'image' or 'latents'")
        if output == "image" or needs_vae:
            self.sources.require_vae()
        if output == "latents" and len({job.size for job in jobs}) > 1:
            raise InputError("latents of several sizes make no tensor: paint one size at a time")

    def _check_memory(
        self, jobs: list[Job], groups: list[list[int]], settings: Settings, *, previews: bool
    ) -> None:
        limit = machine_memory() if self.sources.device.type == "cpu" else None
        for group in groups:
            plan = self.plan(
                jobs[group[0]].size,
                pictures=len(group),
                guided=settings.guidance.ever,
                previews=previews,
            )
            plan.check(limit)

    def _paint(
        self,
        jobs: list[Job],
        groups: list[list[int]],
        settings: Settings,
        progress: Callable[[Snapshot], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> Generator[dict[int, Painted]]:
        """The latents of every job by its number, batch by batch."""
        texts = [text for job in jobs for text in (job.prompt, job.negative)]
        features = self.encode_prompts(texts)
        for group in groups:
            found = paint_batch(
                self.sources,
                self.stages,
                [jobs[number] for number in group],
                [(features[2 * number], features[2 * number + 1]) for number in group],
                settings,
                progress=_numbered(progress, group),
                cancelled=cancelled,
            )
            yield dict(zip(group, found, strict=True))

    def _given(
        self, jobs: list[Job], settings: Settings, output: str, painted: Mapping[int, Painted]
    ) -> dict[int, Any]:
        """What was painted as it is handed out, in order by its number: pictures, or latents."""
        if output == "latents" or not painted:
            return {number: each.latents for number, each in sorted(painted.items())}
        autoencoder = self.stages.use(self.sources.vae)
        found: dict[int, Painting] = {}
        for number, each in sorted(painted.items()):
            (picture,) = to_pictures(autoencoder.decode(each.latents[None]))
            found[number] = develop(picture, jobs[number], each, settings, self.sources)
        return found


def _collected(
    batches: Iterator[dict[int, Painted]], give: Callable[[dict[int, Painted]], dict[int, Any]]
) -> list[Any]:
    """What batches give all together; if they are stopped, what they gave goes with the error."""
    painted: dict[int, Painted] = {}
    try:
        for batch in batches:
            painted |= batch
    except CancelledError as error:
        raise CancelledError(str(error), finished=give(painted)) from None
    return list(give(painted).values())


def _numbered(
    progress: Callable[[Snapshot], None] | None, group: list[int]
) -> Callable[[Snapshot], None] | None:
    """The caller's function, told which of all pictures are meant."""
    if progress is None:
        return None
    return lambda snapshot: progress(snapshot.numbered(group))


def _autoencoder_class() -> Any:
    """diffusers' AutoencoderKL.

    Raises:
        MissingExtraError: diffusers is not installed.
    """
    try:
        return importlib.import_module("diffusers").AutoencoderKL
    except ImportError as error:
        raise MissingExtraError("diffusers", "paint", "the autoencoder of a painter") from error
