"""The pool of the kernels: any number of threads, several callers, forks; and how it is built."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from heliodor.quant import kernels

pytestmark = pytest.mark.skipif(kernels.available() is None, reason="no native library was built")


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def work() -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    results: list[Tensor] = []
    for m, n, k in ((1, 700, 96), (5, 300, 64), (70, 150, 128), (300, 90, 64)):
        x = torch.randn(m, k, generator=generator)
        codes = torch.randint(-8, 8, (n, k), generator=generator, dtype=torch.int8)
        scale = torch.rand(n, generator=generator)
        wide = kernels.pack4_scales(torch.rand(n, -(-k // 64), generator=generator))
        results.append(kernels.linear8(x, kernels.pack8(codes), scale))
        results.append(kernels.linear4(x, kernels.pack4(codes), wide, channels=n))
        results.append(kernels.linear_bf16(x, codes.bfloat16()))
        results.extend(kernels.geglu_quantise(x.repeat(1, 9), x.repeat(1, 9)))
    return results


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_no_bit(threads: int) -> None:
    torch.set_num_threads(1)
    alone = work()
    torch.set_num_threads(threads)
    assert same(work(), alone)


def test_callers_at_once_do_not_disturb_each_other() -> None:
    torch.set_num_threads(2)
    expected = work()
    right: list[bool] = []

    def call() -> None:
        torch.set_num_threads(2)
        right.extend(same(work(), expected) for _ in range(3))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert right == [True] * 12


def test_a_forked_child_computes_with_threads_of_its_own() -> None:
    torch.set_num_threads(2)
    x, packed, scale = (
        torch.randn(1, 64),
        kernels.pack8(torch.ones(4096, 64, dtype=torch.int8)),
        torch.ones(4096),
    )
    expected = kernels.linear8(x, packed, scale)  # the parent's pool is running now
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads and forks
        child = os.fork()
    if child == 0:
        right = all(torch.equal(kernels.linear8(x, packed, scale), expected) for _ in range(20))
        started = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 2  # noqa: PTH208
        os.write(write, b"y" if right and started >= 2 else b"n")
        os._exit(0)
    os.close(write)
    assert os.read(read, 1) == b"y"
    os.close(read)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(kernels.linear8(x, packed, scale), expected)


def test_the_pool_sleeps_between_jobs() -> None:
    torch.set_num_threads(2)
    work()
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05


def say(environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from heliodor.quant import kernels; print(kernels.available())"],
        env={**os.environ, "HELIODOR_KERNELS": environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_chooses_the_path() -> None:
    assert say("plain").stdout == "plain\n"
    assert say("torch").stdout == "None\n"
    refused = say("mmx")
    assert refused.returncode == 1
    assert "HELIODOR_KERNELS is 'mmx', which this processor has not" in refused.stderr


def test_without_a_compiler_the_build_passes_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    source = Path(__file__).parents[3] / "hatch_build.py"
    spec = importlib.util.spec_from_file_location("hatch_build", source)
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    monkeypatch.setattr(hook, "NATIVE", tmp_path)  # no sources, and nothing of this checkout's
    monkeypatch.setenv("CC", str(tmp_path / "no-such-compiler"))
    assert hook.build_in_place() is None
    assert "no native kernels, torch will do their work" in capsys.readouterr().err
    monkeypatch.setenv("HELIODOR_BUILD", "none")
    assert hook.build_in_place() is None
    assert list(tmp_path.iterdir()) == []
