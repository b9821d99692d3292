"""Quantised files: the same model to the bit, mapped, small in memory, refused when damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests import sentences, talking, tiny

import heliodor
from heliodor.checkpoints import bigvision, open_checkpoint, open_paligemma
from heliodor.checkpoints.convert import convert
from heliodor.checkpoints.native import NativeCheckpoint
from heliodor.checkpoints.survey import survey
from heliodor.cli.main import main
from heliodor.errors import CheckpointError, ConfigError, FileFormatError, KeyMismatchError
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemma
from heliodor.quant import INT8, Recipe, Rule, recipe
from heliodor.quant.apply import quantise
from heliodor.see.vlm import VisionLanguageModel

NAME = "model.safetensors"
PICTURE = tiny.picture(1)
SAID = [" a bee <loc0012>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PaliGemma in transformers layout."""
    path = tmp_path_factory.mktemp("float") / "model"
    tiny.vlm().save(path)
    return path


@pytest.fixture(scope="module", params=["int8", "int4"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(folder: Path, name: str) -> VisionLanguageModel:
    return heliodor.load(folder, quantize=name)


@pytest.fixture(scope="module")
def saved(model: VisionLanguageModel, name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(name) / NAME
    model.save(path, format="native")
    return path


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


def logits(model: VisionLanguageModel) -> torch.Tensor:
    return model.logits([PICTURE], ["caption en"], SAID)


def strings(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def rewritten(
    saved: Path, path: Path, tensors: Mapping[str, torch.Tensor | None], **changes: str | None
) -> Path:
    """The file with other tensors or strings."""
    head: dict[str, Any] = strings(saved) | {f"heliodor.{k}": v for k, v in changes.items()}
    found: dict[str, Any] = load_file(saved) | dict(tensors)
    save_file(
        {n: value for n, value in found.items() if value is not None},
        path,
        metadata={n: value for n, value in head.items() if value is not None},
    )
    return path


def test_quantised_on_the_way_is_what_quantising_afterwards_gives(
    model: VisionLanguageModel, folder: Path, name: str
) -> None:
    plain = heliodor.load(folder)
    quantise(plain.model, recipe(name))
    assert equal(model.model.state_dict(), plain.model.state_dict())


def test_a_file_holds_the_model_to_the_bit(
    model: VisionLanguageModel, saved: Path, name: str
) -> None:
    back = heliodor.load(saved)
    assert equal(back.model.state_dict(), model.model.state_dict())
    assert torch.equal(logits(back), logits(model))
    assert strings(saved)["heliodor.scheme"] == name
    rules = json.loads(strings(saved)["heliodor.recipe"])["rules"]
    assert ["language.layers.*.mlp.up", name] in rules
    again = saved.parent / "again.safetensors"
    back.save(again, format="native")
    assert again.read_bytes() == saved.read_bytes()


def test_codes_lie_on_boundaries_of_64_bytes_and_stay_mapped(saved: Path) -> None:
    before = saved.read_bytes()
    state = open_paligemma(saved).load().state_dict()
    packed = {n: value for n, value in state.items() if n.endswith(".packed")}
    assert len(packed) > 30
    assert all(value.data_ptr() % 64 == 0 for value in packed.values())
    for value in packed.values():
        value.zero_()
    assert saved.read_bytes() == before


def test_convert_writes_what_saving_writes(
    saved: Path, folder: Path, name: str, tmp_path: Path
) -> None:
    done = convert(folder, tmp_path / NAME, quantize=name)
    assert done.format == "native"
    assert equal(load_file(tmp_path / NAME), load_file(saved))
    assert strings(tmp_path / NAME) == strings(saved)
    convert(tmp_path / NAME, tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").read_bytes() == (tmp_path / NAME).read_bytes()


def test_what_is_no_code_rests_in_the_type_asked_for(folder: Path, tmp_path: Path) -> None:
    model = heliodor.load(folder, quantize="int8", dtype="bfloat16")
    state = model.model.state_dict()
    assert state["language.norm.scale"].dtype == torch.bfloat16
    assert state["projector.scale"].dtype == state["projector.bias"].dtype == torch.float32
    model.save(tmp_path / NAME, format="native", dtype="float16")
    found = load_file(tmp_path / NAME)
    assert found["language.norm.scale"].dtype == torch.float16
    assert found["projector.scale"].dtype == torch.float32
    assert found["language.embedding.packed"].dtype == torch.uint8
    wide = heliodor.load(tmp_path / NAME, dtype="float32").model.state_dict()
    assert wide["language.norm.scale"].dtype == torch.float32


def test_an_npz_is_quantised_as_it_is_read(folder: Path, name: str, tmp_path: Path) -> None:
    """Its arrays lie turned, and some of them as one."""
    config = tiny.vlm().model.config
    language = replace(config.language, norm_eps=1e-6, context=8192)
    bigvision.save(
        tiny.filled(PaliGemma(replace(config, language=language, image_token=None))),
        tmp_path / "x.npz",
    )
    words = folder / "tokenizer.json"
    plain = heliodor.load(tmp_path / "x.npz", tokenizer=words)
    quantise(plain.model, recipe(name))
    found = heliodor.load(tmp_path / "x.npz", quantize=name, tokenizer=words)
    assert equal(found.model.state_dict(), plain.model.state_dict())


def test_another_resolution_is_chosen_when_loading(folder: Path, saved: Path, name: str) -> None:
    for sharp in (
        heliodor.load(folder, quantize=name, image_size=48),
        heliodor.load(saved, image_size=48),
    ):
        assert sharp.encode_image(PICTURE).tokens.shape[0] == 36


def test_a_pair_and_a_gemma_are_quantised_and_kept(name: str, tmp_path: Path) -> None:
    place = sentences.pair_folder(tmp_path / "pair")
    pair = heliodor.load_siglip(place, quantize=name)
    pair.save(tmp_path / "p.safetensors", format="native")
    back = heliodor.load_siglip(tmp_path / "p.safetensors")
    labels = ["a red tulip", "Two dogs!"]
    assert torch.equal(back.logits([PICTURE], labels), pair.logits([PICTURE], labels))
    talking.lm(talking.SECOND).save(tmp_path / "lm")
    lm = heliodor.load_gemma(tmp_path / "lm", quantize=name)
    lm.save(tmp_path / "g.safetensors", format="native")
    again = heliodor.load_gemma(tmp_path / "g.safetensors", quantize=name)
    assert equal(again.model.state_dict(), lm.model.state_dict())
    assert torch.equal(again.logits(["a bee"]), lm.logits(["a bee"]))
    for one in (pair, lm):
        with pytest.raises(ConfigError, match=r"is quantised .* the format transformers holds"):
            one.save(tmp_path / "x")


def test_the_decoder_of_a_quantised_paligemma(saved: Path, folder: Path, name: str) -> None:
    of_file = heliodor.load_gemma(saved)
    of_folder = heliodor.load_gemma(folder, quantize=name)
    assert equal(of_file.model.state_dict(), of_folder.model.state_dict())


def test_other_formats_are_refused(
    model: VisionLanguageModel, saved: Path, folder: Path, tmp_path: Path
) -> None:
    for form in ("transformers", "big_vision"):
        with pytest.raises(ConfigError, match=f"the format {form} holds none such.*native"):
            model.save(tmp_path / "x.npz", format=form)
    with pytest.raises(ConfigError, match="the format transformers holds none such"):
        convert(saved, tmp_path / "x")
    with pytest.raises(ConfigError, match=r"native format alone.*x\.safetensors"):
        convert(folder, tmp_path / "x", quantize="int8")
    assert not list(tmp_path.iterdir())


def test_what_is_quantised_is_not_quantised_again(saved: Path, name: str, tmp_path: Path) -> None:
    other = "int4" if name == "int8" else "int8"
    with pytest.raises(ConfigError, match=f"quantised as {name} already, and {other} is asked"):
        heliodor.load(saved, quantize=other)
    with pytest.raises(ConfigError, match="an adapter is merged into numbers, not into codes"):
        heliodor.load(saved, adapter=tmp_path)
    with pytest.raises(ConfigError, match="the source is quantised already"):
        convert(saved, tmp_path / NAME, quantize=name)
    with pytest.raises(ConfigError, match="an adapter is merged into numbers"):
        convert(saved, tmp_path / NAME, adapter=tmp_path)
    with pytest.raises(ConfigError, match="quantize is 'int2'; expected one of int8, int4"):
        heliodor.load("tiny", quantize="int2")


def test_a_weight_that_is_no_number_is_named(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / NAME)
    key = next(n for n in tensors if n.endswith("layers.1.mlp.up_proj.weight"))
    tensors[key][3, 2] = torch.nan
    convert(folder, tmp_path / "broken")
    save_file(tensors, tmp_path / "broken" / NAME, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{key}: a weight is NaN or infinite"):
        heliodor.load(tmp_path / "broken", quantize="int4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": None}, "no heliodor.recipe says what that is"),
        ({"recipe": "{"}, "not valid JSON"),
        ({"recipe": "{}"}, "packed in layout 'None'"),
        ({"recipe": '{"layout": 1, "name": "x", "rules": []}'}, "matches none of"),
        ({"recipe": '{"layout": 1, "name": "x", "rules": [["*", "int4"]]}'}, "table is stored in"),
        ({"recipe": '{"layout": 1, "name": "x", "rules": [["*up", "int8"]]}'}, "missing"),
        ({"scheme": "none"}, "missing: .*weight"),
        ({"scheme": None}, "its scheme is None"),
    ],
)
def test_a_header_that_says_something_else_is_refused(
    saved: Path, tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    path = rewritten(saved, tmp_path / NAME, {}, **changes)
    with pytest.raises(CheckpointError, match=message):
        heliodor.load(path)


def test_tensors_that_are_not_what_they_should_be_are_refused(
    saved: Path, name: str, tmp_path: Path
) -> None:
    up = "language.layers.0.mlp.up"
    tensors = load_file(saved)
    packed, scale = tensors[f"{up}.packed"], tensors[f"{up}.scale"]
    infinite = scale.clone()
    infinite.view(-1)[1] = torch.inf
    cases: list[tuple[dict[str, torch.Tensor | None], type[CheckpointError], str]] = [
        ({f"{up}.packed": None}, KeyMismatchError, f"1 missing: {up}.packed"),
        ({f"{up}.weight": torch.zeros(2)}, KeyMismatchError, f"1 unknown: {up}.weight"),
        ({f"{up}.packed": packed[1:].clone()}, KeyMismatchError, "1 of another shape"),
        ({f"{up}.packed": packed.view(torch.int8)}, KeyMismatchError, "type that is no weight"),
        ({f"{up}.scale": scale.half()}, KeyMismatchError, f"that is no weight: {up}.scale"),
        ({"projector.bias": tensors["projector.bias"].half()}, KeyMismatchError, "projector.bias"),
        ({f"{up}.scale": infinite}, FileFormatError, f"{up}.scale holds a scale or bias that is"),
    ]
    for changes, kind, message in cases:
        path = rewritten(saved, tmp_path / NAME, changes)
        with pytest.raises(kind, match=message):
            heliodor.load(path)
    cut = saved.read_bytes()[:-7]
    (tmp_path / NAME).write_bytes(cut)
    with pytest.raises(FileFormatError):
        heliodor.load(tmp_path / NAME)


def test_inspect_says_how_it_is_stored(
    saved: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = survey(saved)
    assert (facts["scheme"], facts["complete"], facts["broken"]) == (name, True, [])
    assert facts["schemes"] == {
        "vision.blocks": "12 int8",
        "projector": "1 int8",
        "language.embedding": "1 int8",
        "language.layers": f"21 {name}",
    }
    network = tiny.vlm().model
    assert facts["parameters"] == sum(p.numel() for p in network.parameters())
    assert not any("types" in said for said in facts["odd"])
    up = "language.layers.0.mlp.up.scale"
    broken = rewritten(saved, tmp_path / NAME, {up: torch.zeros(3, dtype=torch.int32)})
    said = survey(broken)["broken"]
    assert len(said) == 2
    assert all(up in line for line in said)
    assert main(["inspect", str(saved), "--engine", "--json"]) == 0
    engine = json.loads(capsys.readouterr().out)["engine"]
    assert engine["threads"] == torch.get_num_threads()
    assert engine["path"] in ("avx512-amx", "avx512-vnni", "avx2", "neon", "plain", "torch")
    assert engine["int8"] in ("native", "onednn", "int_mm", "float32")


def test_a_recipe_of_ones_own_leaves_layers_alone(folder: Path, tmp_path: Path) -> None:
    mine = Recipe(name="mine", rules=(Rule("vision.*", None), Rule("*", INT8)))
    model = heliodor.load(folder, quantize=mine)
    assert model.model.state_dict()["vision.blocks.0.mlp.up.weight"].dtype == torch.float32
    model.save(tmp_path / NAME, format="native")
    assert torch.equal(logits(heliodor.load(tmp_path / NAME)), logits(model))
    groups = survey(tmp_path / NAME)["schemes"]
    assert (groups["vision.blocks"], groups["language.layers"]) == ("12 float", "21 int8")
    checkpoint = open_checkpoint(tmp_path / NAME)
    assert isinstance(checkpoint, NativeCheckpoint)
    assert checkpoint.recipe() is not None


SCRIPT = """
import sys, torch, heliodor
from pathlib import Path
def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
torch.ones(4, 4) @ torch.ones(4, 4)
heliodor.load(sys.argv[1])  # tokenizer and modules; the weights stay mapped, and are not read
before = peak()
state = heliodor.load(sys.argv[1], quantize=sys.argv[2]).model.state_dict()
print(peak() - before, sum(t.numel() * t.element_size() for t in state.values()))
"""


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 MB of float32 weights."""
    small = tiny.vlm()
    language = GemmaConfig(
        vocab_size=small.tokenizer.vocab_size,
        width=1024,
        depth=2,
        num_heads=4,
        num_kv_heads=1,
        mlp_width=2560,
    )
    network = tiny.paligemma(language=language, image_token=small.tokenizer.image_token)
    model = VisionLanguageModel(model=network, tokenizer=small.tokenizer, processor=small.processor)
    path = tmp_path_factory.mktemp("heavy") / NAME
    model.save(path, format="native")
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_quantising_while_loading_costs_the_codes_and_one_piece(heavy: Path, name: str) -> None:
    """At no time is there a layer in float32, nor the codes twice."""
    command = [sys.executable, "-c", SCRIPT, str(heavy), name]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    grown, codes = map(int, out.stdout.split())
    assert codes < heavy.stat().st_size * (0.27 if name == "int8" else 0.20)
    # 16 pieces of 1 MB are mapped at a time; one is worked on.
    assert grown < codes + 28 * 2**20
    assert grown < 0.6 * heavy.stat().st_size
