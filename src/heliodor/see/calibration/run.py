"""A calibration from a model and a folder of pictures to a file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heliodor.checkpoints.blueprint import blueprint
from heliodor.checkpoints.native import check_path
from heliodor.errors import ConfigError, InputError
from heliodor.models.maskcodec import MaskCodec
from heliodor.models.paligemma import PaliGemma
from heliodor.quant.apply import apply_empty, recipe_of
from heliodor.quant.calibrate.block import LayerReport, Workbench
from heliodor.quant.calibrate.sensitivity import Sensitivity, choose_schemes, stored_bytes
from heliodor.quant.pack import decode, encode
from heliodor.quant.scheme import INT4, INT8, Recipe, Scheme, recipe
from heliodor.see.calibration.judge import judge
from heliodor.see.calibration.report import Report
from heliodor.see.calibration.samples import (
    Data,
    Pictures,
    Progress,
    find_pictures,
    gather,
    read_prompts,
)
from heliodor.see.calibration.settings import Settings, described
from heliodor.see.calibration.store import Store
from heliodor.see.calibration.walk import Stage, Walk
from heliodor.see.vlm import VisionLanguageModel, load

__all__ = ["calibrate", "check_output"]

TABLE = "language.embedding"
_LOOKED_AT = 256  # values of each tensor by which a model is known again
_PROBES = 4  # pieces of data that tell which layers are sensitive


def _silent(_: str) -> None:
    """Tell nobody."""


@torch.no_grad()
def calibrate(
    model: VisionLanguageModel,
    output: str | Path,
    folder: str | Path,
    *,
    settings: Settings,
    prompts: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress = _silent,
) -> Report:
    """Quantise a model to a native file, its codes found on pictures.

    Finished blocks are kept in a folder beside the output until it is written; a run that was
    killed goes on with ``resume``, and gives the same file.

    Args:
        model: in float, on the CPU. It stays as it is.
        output: the file to write, ending in ``.safetensors``.
        folder: pictures like those it will see; a quarter is held out to measure on.
        settings: what is wanted.
        prompts: a file of prompts, one a line; None for some of every task.
        resume: go on with what an earlier run of the same left.
        force: replace the output if it is there.
        progress: told how far it is.

    Raises:
        InputError: no pictures or folder, an output that is there or cannot be written, a quantised
            model, or a work folder of another run.
        CheckpointError: the disk refused.
        ImageError: a picture that cannot be opened.
    """
    began = time.perf_counter()
    target = check_output(output, force=force, resume=resume)
    _check_model(model)
    wanted, store = read_prompts(prompts), Store(target)
    pictures = find_pictures(folder, settings.held_out, settings.samples)
    run = _described(model, settings, pictures, wanted)
    finished = store.open(run, resume=resume)
    progress(f"{finished} blocks were finished before")
    data = gather(model, pictures, wanted, settings, progress)
    work = _Work(network=model.model, data=data, settings=settings, store=store, tell=progress)
    schemes = work.schemes()
    reports = work.finish(schemes, finished)
    progress(f"writing {target}")
    _write(model, target, schemes, store)
    judgement = judge(model.model, load(target).model, data.held_pixels, data.held)
    store.remove()
    return Report(
        path=str(target),
        settings=settings.to_dict(),
        layers=reports,
        judgement=judgement,
        pictures=(len(pictures.calibrating), len(pictures.held_out)),
        apart=pictures.apart,
        samples=len(data.examples),
        size=target.stat().st_size,
        float_size=_bytes_of(model),
        seconds=time.perf_counter() - began,
    )


def _bytes_of(model: VisionLanguageModel) -> int:
    state = model.model.state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in state)


def check_output(output: str | Path, *, force: bool = False, resume: bool = False) -> Path:
    """The path of a file that can be written; asked before anything is loaded.

    A run that was killed between writing the file and removing its work folder may write it again.

    Raises:
        InputError: it is there, or no folder is.
        ConfigError: another suffix than ``.safetensors``.
    """
    target = check_path(output)
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent} to write {target.name} into")
    ours = resume and Store(target).exists()
    if target.exists() and not (force or ours):
        raise InputError(f"{target} exists: give another name, or --force to replace it")
    return target


def _check_model(model: VisionLanguageModel) -> None:
    if recipe_of(model.model) is not None:
        raise InputError(
            "the model is quantised already, and what it was before is lost: give the float one"
        )
    if model.device.type != "cpu":
        raise InputError(f"a model on {model.device} was given; calibration runs on the CPU")


def _described(
    model: VisionLanguageModel, settings: Settings, pictures: Pictures, prompts: tuple[str, ...]
) -> dict[str, Any]:
    """All that decides what the blocks become, so that no other run goes on from them."""
    digest = hashlib.sha256()
    for name, tensor in model.model.state_dict().items():
        values = tensor.reshape(-1)  # a view of what is contiguous, as weights are
        some = values[:: max(1, values.shape[0] // _LOOKED_AT)].double()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(some.numpy().tobytes())
    return {
        "model": digest.hexdigest(),
        "config": asdict(model.model.config),
        "settings": settings.to_dict(),
        "method": described(settings.how()),
        "pictures": pictures.fingerprint(),
        "prompts": list(prompts),
        "number of threads": torch.get_num_threads(),
    }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Work:
    """The blocks of one run."""

    network: PaliGemma
    data: Data
    settings: Settings
    store: Store
    tell: Progress

    def schemes(self) -> dict[str, Scheme]:
        """The scheme of every layer that is calibrated, and of the table."""
        named = recipe("int8" if self.settings.scheme == "int8" else "int4")
        walk = Walk(self.network, [], [])
        chosen: dict[str, Scheme] = {}
        for layer in (*walk.all_layers(), TABLE):
            scheme = named.scheme_for(layer)
            assert scheme is not None
            chosen[layer] = scheme
        if self.settings.scheme == "mixed":
            chosen |= self._sensitive([n for n, scheme in chosen.items() if scheme == INT4])
        return chosen

    def _sensitive(self, layers: list[str]) -> dict[str, Scheme]:
        """Int8 for the layers that need it most, within the budget."""
        found = self.store.read_harm()
        if found is None:
            found = self._measure_harm(frozenset(layers))
            self.store.write_harm(found)
        listed = [_sensitivity(self.network, name, found[name]) for name in layers]
        least = sum(stored_bytes(INT4, *layer.shape) for layer in listed)
        budget = self.settings.budget
        return choose_schemes(listed, least + least // 10 if budget is None else budget)

    def _measure_harm(self, layers: frozenset[str]) -> dict[str, list[float]]:
        walk = Walk(self.network, self.data.pixels, self.data.examples[:_PROBES])
        harms: dict[str, list[float]] = {}
        for stage in walk.stages():
            if layers.intersection(stage.layers):
                self.tell(f"how sensitive {stage.title} is")
                bench = Workbench(stage.block, stage.inputs)
                found = bench.harm(lambda block, stage=stage: stage.run(block, _PROBES))
                harms |= {stage.name + name: list(pair) for name, pair in found.items()}
            stage.take(stage.run(stage.block, None))
        return {name: harms[name] for name in sorted(layers)}

    def finish(self, schemes: Mapping[str, Scheme], finished: int) -> dict[str, LayerReport]:
        """Calibrate the blocks that are not finished; the reports of all of them."""
        walk = Walk(self.network, self.data.pixels, self.data.examples)
        total = len(self.network.vision.blocks) + 1 + len(self.network.language.layers)
        reports: dict[str, LayerReport] = {}
        for index, stage in enumerate(walk.stages()):
            bench = Workbench(stage.block, stage.inputs)
            if index < finished:
                found = self._put_back(index, stage, bench)
            else:
                self.tell(f"block {index + 1} of {total}: {stage.title}")
                found = self._calibrate(index, stage, bench, schemes)
            reports |= {name: LayerReport(**found[name]) for name in stage.layers}
            if index + 1 < total:
                stage.take(stage.run(bench.block, None))
        return reports

    def _calibrate(
        self, index: int, stage: Stage, bench: Workbench, schemes: Mapping[str, Scheme]
    ) -> dict[str, Any]:
        """One block, and its file."""
        method = self.settings.how()
        seen = bench.watch(
            lambda block: _discard(stage.run(block, None)), method, stage.pieces, stage.weights
        )
        local = {name: schemes[stage.name + name] for name in bench.layers}
        codes, reports = bench.calibrate(seen, local, method)
        tensors: dict[str, Tensor] = {}
        for name, made in codes.items():
            parts = made.parts()
            tensors |= {f"{stage.name}{name}.{part}": value for part, value in parts.items()}
        tensors |= {stage.name + name: value for name, value in _others(bench).items()}
        report = {stage.name + name: asdict(each) for name, each in reports.items()}
        self.store.write_block(index, tensors, report)
        return report

    def _put_back(self, index: int, stage: Stage, bench: Workbench) -> dict[str, Any]:
        """A finished block as it was when it was finished."""
        tensors, report = self.store.read_block(index)
        for name, layer in bench.layers.items():
            whole = stage.name + name
            parts = {part: tensors[f"{whole}.{part}"] for part in ("packed", "scale")}
            scheme = INT4 if report[whole]["scheme"] == INT4.name else INT8
            values = decode(parts, scheme, *layer.weight.shape)
            layer.weight = nn.Parameter(values, requires_grad=False)
            layer.rounds = True
        for name in _others(bench):
            parent, _, last = name.rpartition(".")
            value = nn.Parameter(tensors[stage.name + name], requires_grad=False)
            bench.block.get_submodule(parent).register_parameter(last, value)
        return report


def _codec(model: VisionLanguageModel) -> MaskCodec | None:
    try:
        return model.codec
    except ConfigError:  # it came without one
        return None


def _discard(_: list[Tensor]) -> None:
    """Only what went into the layers was wanted."""


def _others(bench: Workbench) -> dict[str, Tensor]:
    """The tensors of a block beside its quantised weights: norms and biases."""
    weights = {f"{name}.weight" for name in bench.layers}
    return {n: value for n, value in bench.block.state_dict().items() if n not in weights}


def _sensitivity(network: PaliGemma, name: str, harms: list[float]) -> Sensitivity:
    rows, width = network.get_parameter(f"{name}.weight").shape
    return Sensitivity(name=name, shape=(rows, width), harm4=harms[0], harm8=harms[1])


def _write(
    model: VisionLanguageModel, target: Path, schemes: Mapping[str, Scheme], store: Store
) -> None:
    """Put the blocks together with what stays in float, and save."""
    network = blueprint(model.model.config)
    apply_empty(network, Recipe.exactly("calibrated", dict(schemes)))
    state = dict(model.model.state_dict())
    state |= {f"{TABLE}.{n}": part for n, part in encode(state[f"{TABLE}.weight"], INT8).items()}
    total = len(model.model.vision.blocks) + 1 + len(model.model.language.layers)
    for index in range(total):
        state |= store.read_block(index)[0]
    wanted = {name: state[name] for name in network.state_dict()}
    network.load_state_dict(wanted, strict=True, assign=True)
    made = VisionLanguageModel(
        model=network.eval(),
        tokenizer=model.tokenizer,
        processor=model.processor,
        codec=_codec(model),
    )
    made.save(target, format="native")
