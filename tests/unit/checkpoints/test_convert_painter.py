"""Painters from one layout to the other and back: value by value, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests import painting
from tests.unit.paint.small import write_folder

from heliodor.checkpoints import convert_painter as module
from heliodor.checkpoints.convert import convert
from heliodor.checkpoints.diffusers_transformer import STEM, save_transformer
from heliodor.checkpoints.lumina import AVERAGE, LAST, save_lumina
from heliodor.checkpoints.lumina_keys import DIFFUSERS_SELF, OFFICIAL
from heliodor.errors import CheckpointError, InputError, KeyMismatchError

safetensors = pytest.importorskip("safetensors.torch")

ALONE = ("text_encoder", "vae")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("painter") / "pipeline")


@pytest.fixture
def pipeline(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "pipeline"))


def small() -> dict[str, torch.Tensor]:
    return painting.nextdit(replace(painting.SMALL, caption_width=32)).state_dict()


def held(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.load_file(path)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_pipeline_becomes_the_official_file_and_comes_back(
    pipeline: Path, tmp_path: Path, dtype: str | None
) -> None:
    done = convert(pipeline, tmp_path / "there", format="lumina", dtype=dtype, drop=ALONE)
    assert (done.format, done.dropped) == ("lumina", ALONE)
    stored = torch.float32 if dtype is None else torch.bfloat16
    wanted = {OFFICIAL.to_theirs(n): v.to(stored) for n, v in small().items()}
    found = held(tmp_path / "there" / LAST)
    assert done.tensors == len(found) == len(wanted)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    back = convert(tmp_path / "there", tmp_path / "back")
    assert back.format == "diffusers"
    theirs = held(tmp_path / "back" / "transformer" / f"{STEM}.safetensors")
    for name, value in small().items():
        assert torch.equal(theirs[DIFFUSERS_SELF.to_theirs(name)], value.to(stored))
    index = json.loads((tmp_path / "back" / "model_index.json").read_text("utf-8"))
    assert (index["vae"], index["text_encoder"]) == ([None, None], [None, None])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "pipeline", "there"]


def test_a_pipeline_keeps_its_parts_in_another_type(pipeline: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    convert(pipeline, tmp_path / "new", dtype="bfloat16", progress=lambda *each: told.append(each))
    for part, stem in (("transformer", STEM), ("text_encoder", "model")):
        ours = held(tmp_path / "new" / part / f"{stem}.safetensors")
        theirs = held(pipeline / part / f"{stem}.safetensors")
        ours, theirs = (
            {name.removeprefix("model."): value for name, value in each.items()}
            for each in (ours, theirs)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name].bfloat16()) for name, value in ours.items())
    name = f"vae/{STEM}.safetensors"
    assert (tmp_path / "new" / name).read_bytes() == (pipeline / name).read_bytes()
    assert {stage for stage, _, _ in told} == {"writing", "verifying"}
    assert all(done <= total for _, done, total in told)
    assert told[-1][1] == told[-1][2]


def test_a_moving_average_keeps_its_name(tmp_path: Path) -> None:
    save_lumina(painting.nextdit(), tmp_path / "painter", which="ema")
    convert(tmp_path / "painter" / AVERAGE, tmp_path / "half", format="lumina", dtype="float16")
    found = held(tmp_path / "half" / AVERAGE)
    assert torch.equal(found["pad_token"], painting.nextdit().pad_token.detach().half())


def test_a_transformers_folder_becomes_a_pipeline(tmp_path: Path) -> None:
    save_transformer(painting.nextdit(), tmp_path / "transformer")
    convert(tmp_path / "transformer", tmp_path / "painter")
    name = f"{STEM}.safetensors"
    written = (tmp_path / "painter" / "transformer" / name).read_bytes()
    assert written == (tmp_path / "transformer" / name).read_bytes()


def test_what_would_be_lost_is_named(pipeline: Path, tmp_path: Path) -> None:
    path = pipeline / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "shift": 3.0}))
    with pytest.raises(CheckpointError, match="say --drop text_encoder,vae,scheduler"):
        convert(pipeline, tmp_path / "there", format="lumina")
    with pytest.raises(CheckpointError, match=r"time grid .*shift=3.0.* say --drop scheduler"):
        convert(pipeline, tmp_path / "there", format="lumina", drop=ALONE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipeline"]


def test_queries_that_were_trained_apart_are_chosen(pipeline: Path, tmp_path: Path) -> None:
    path = pipeline / "transformer" / f"{STEM}.safetensors"
    tensors = held(path)
    other = tensors["layers.0.attn2.to_q.weight"] * 2
    safetensors.save_file({**tensors, "layers.0.attn2.to_q.weight": other}, path)
    with pytest.raises(KeyMismatchError, match="merge='self'"):
        convert(pipeline, tmp_path / "there", format="lumina", drop=ALONE)
    convert(pipeline, tmp_path / "there", format="lumina", drop=ALONE, merge="caption")
    found = held(tmp_path / "there" / LAST)["layers.0.attention.wq.weight"]
    assert torch.equal(found, other)


def test_a_variant_is_converted_to_plain_names(pipeline: Path, tmp_path: Path) -> None:
    for part in ("transformer", "vae"):
        plain = pipeline / part / f"{STEM}.safetensors"
        halved = {name: value.half() for name, value in held(plain).items()}
        safetensors.save_file(halved, pipeline / part / f"{STEM}.fp16.safetensors")
    convert(pipeline, tmp_path / "half", variant="fp16")
    for part in ("transformer", "vae"):
        found = held(tmp_path / "half" / part / f"{STEM}.safetensors")
        assert {value.dtype for value in found.values()} == {torch.float16}


def test_a_target_is_replaced_by_force_and_only_a_painter(pipeline: Path, tmp_path: Path) -> None:
    target = tmp_path / "there"
    convert(pipeline, target)
    with pytest.raises(InputError, match="exists; name another target, or give --force"):
        convert(pipeline, target)
    convert(pipeline, target, force=True, format="lumina", drop=ALONE)
    assert sorted(entry.name for entry in target.iterdir()) == ["config.json", LAST]
    (target / "photograph.jpg").touch()
    with pytest.raises(InputError, match=r"holds photograph\.jpg too"):
        convert(pipeline, target, force=True)
    with pytest.raises(InputError, match="are one, or one holds the other"):
        convert(pipeline, pipeline / "vae", force=True)


def test_other_values_are_noticed_and_nothing_is_left(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = module.write_lumina

    def spoiled(new: object, config: object, state: dict[str, object], **options: object) -> None:
        swapped = {**state, "patch.bias": state["pad_token"]}
        written(new, config, swapped, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module, "write_lumina", spoiled)
    with pytest.raises(CheckpointError, match="bias reads back from the target as other values"):
        convert(pipeline, tmp_path / "there", format="lumina", drop=ALONE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipeline"]


@pytest.mark.parametrize(
    ("target", "wishes", "message"),
    [
        ("there", {"format": "native"}, "a painter is not written as 'native'"),
        ("there.safetensors", {}, "names a file; a painter is written into a folder"),
        ("there", {"drop": ["padding"]}, "'padding' of a painter cannot be dropped"),
        ("there", {"quantize": "int8"}, "quantize is 'int8': a painter is converted without it"),
        ("there", {"adapter": "lora"}, "adapter is 'lora': a painter"),
        ("there", {"variant": "fp16"}, "holds no files of the variant 'fp16'"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(
    pipeline: Path, tmp_path: Path, target: str, wishes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        convert(pipeline, tmp_path / target, **wishes)  # pyright: ignore[reportArgumentType]


def test_wishes_of_painters_are_refused_for_others(tmp_path: Path) -> None:
    from heliodor import zoo

    with pytest.raises(InputError, match="merge is 'self': it belongs to painters"):
        convert(zoo.TINY, tmp_path / "new", merge="self")
