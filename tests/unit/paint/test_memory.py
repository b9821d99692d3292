"""What is said of memory before loading, and that it is kept to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from heliodor.errors import InputError
from heliodor.paint import memory
from heliodor.paint.memory import Part, Plan, Stages, machine_memory
from heliodor.paint.vae import decoding_work

PLAN = Plan(
    text_encoder=5_000_000_000,
    transformer=3_000_000_000,
    autoencoder=300_000_000,
    encoding=10_000_000,
    sampling=700_000_000,
    decoding=4_000_000_000,
    staged=True,
)

MEASURE = """
import torch, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NextDiTConfig
from heliodor.paint.memory import sampling_work
from heliodor.paint.vae import Autoencoder, decoding_work
from tests.unit.paint.small import kind
def read(name):
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(name)).split()[1]) * 1024
def grown(call, small, large):
    call(small)  # torch's own first use
    Path("/proc/self/clear_refs").write_text("5")
    before = read("VmRSS")
    call(large)
    return read("VmHWM") - before
widths = [16, 16, 16, 16]
vae = Autoencoder(kind()(block_out_channels=widths, norm_num_groups=4,
    down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4))
with torch.no_grad():
    print(grown(vae.decode, torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 64, 96)),
          decoding_work(widths, (64, 96)))
    config = NextDiTConfig(width=192, depth=1, num_heads=8, num_kv_heads=8, mlp_width=512,
        caption_width=16)
    model = NextDiT(config)
    prompt = model.prepare(torch.zeros(2, 3, 16))
    call = lambda x: model(x, 0.5, prompt)
    print(grown(call, torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 96, 96)),
          sampling_work(config, 2, (96, 96), 4))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_the_work_of_decoding_and_sampling_is_bounded_and_not_wildly():
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        capture_output=True,
        check=False,  # its words on stderr are shown below
        text=True,
        env=environment,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        grew, said = map(int, line.split())
        assert said / 4 < grew <= said


def test_a_stage_holds_one_part_or_all():
    assert PLAN.stages == {
        "text": 5_010_000_000,
        "sampling": 3_700_000_000,
        "decoding": 4_300_000_000,
    }
    assert PLAN.peak == 5_010_000_000
    assert PLAN.describe() == (
        "about 5.0 GB at the peak (one part at a time: text 5.0 GB, sampling 3.7 GB, "
        "decoding 4.3 GB)"
    )


def test_what_does_not_fit_is_refused():
    PLAN.check(None)
    PLAN.check(5_010_000_000)
    with pytest.raises(InputError, match=r"needs about 5\.0 GB .* the machine has 4\.0 GB: take"):
        PLAN.check(4_000_000_000)


def test_a_tile_bounds_the_work_of_decoding():
    widths = [128, 256, 512, 512]
    assert decoding_work(widths, (64, 64)) == 4 * ((4 * 256 + 128) * 512**2 + 2 * 3 * 512**2)
    grown = decoding_work(widths, (256, 256)) - decoding_work(widths, (128, 128))
    assert grown == 4 * 2 * 3 * (2048**2 - 1024**2)  # the picture itself, no more


def test_the_machines_memory_is_its_groups_where_that_is_less(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "none")
    whole = machine_memory()
    assert whole is not None
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP", limit)
    for text, wanted in (("max\n", whole), ("1000000\n", 1_000_000), (f"{2**62}\n", whole)):
        limit.write_text(text)
        assert machine_memory() == wanted


def test_parts_are_loaded_when_it_is_their_turn():
    loaded: list[str] = []

    def part(name: str) -> Part[str]:
        return Part(name=name, nbytes=1, load=lambda: loaded.append(name) or name)

    first, second, third = part("a"), part("b"), part("c")
    stages = Stages(staged=True)
    assert [stages.use(first), stages.use(first), stages.use(second)] == ["a", "a", "b"]
    assert (loaded, stages.held()) == (["a", "b"], ["b"])
    stages.use(third, beside=second)
    assert stages.held() == ["b", "c"]
    stages.use(first)
    assert stages.held() == ["a"]
    kept = Stages(staged=False)
    for each in (first, second, first):
        kept.use(each)
    assert kept.held() == ["a", "b"]
    kept.drop()
    assert kept.held() == []
