"""Runs in processes of their own: killed at every awkward moment, stopped by signals.

One process imports torch and forks the runs, which are of one thread each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.teach import small

ROOT = Path(__file__).parents[3]

KILLED = '''
import os, signal, sys, time, traceback
from pathlib import Path

import torch

torch.set_num_threads(1)
from heliodor.checkpoints import files, shards
from heliodor.teach import loop, state
from tests.unit.teach import small

STEPS, root = 8, Path(sys.argv[1])
RUN = small.run(steps=STEPS, save_seconds=0.0)
objective = small.objective()  # every child has its own copy
first = torch.nn.Parameter(torch.zeros(1))
first.grad = torch.zeros(1)
torch.optim.Adam([first], fused=True).step()  # what torch imports at the first step, imported once


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def after(count, function):
    """The function, until it is called for the count-th time: then death instead."""
    calls = []

    def wrapped(*args, **settings):
        calls.append(1)
        return die() if len(calls) == count else function(*args, **settings)

    return wrapped


def between_steps():
    loop._update = after(4, loop._update)


def before_the_first_save():
    loop.save_state = after(1, loop.save_state)


def while_weights_are_written():
    shards._write_tensor = after(200, shards._write_tensor)


def before_the_weights_take_their_name():
    """Three syncs a save: of the weights, of the mark, of the folder."""
    os.fsync = after(8, os.fsync)


def before_the_mark_takes_its_name():
    """Two renames a save: of the weights, of the mark."""
    files.Path.replace = after(4, files.Path.replace)


def before_old_states_are_swept():
    state._sweep = after(3, state._sweep)


def while_an_old_state_is_swept():
    def half(folder):
        (folder / "model.safetensors").unlink()
        die()

    state.shutil.rmtree = half


def in_its_own_time(child, log):
    """Killed from outside once three lines are logged, wherever it then is."""
    while not log.exists() or log.read_text().count("\\n") < 3:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)


def run(workdir, before=None, outside=None):
    child = os.fork()
    if not child:
        code = 1
        try:
            if before:
                before()
            loop.train(RUN, objective, workdir, quiet=True)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if outside:
        outside(child, workdir / "log.jsonl")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


assert run(root / "straight") == 0
points = [between_steps, before_the_first_save, while_weights_are_written,
          before_the_weights_take_their_name, before_the_mark_takes_its_name,
          before_old_states_are_swept, while_an_old_state_is_swept]
for point in points:
    killed = run(root / point.__name__, point)
    left = [path.name for path in state.find_states(root / point.__name__)]
    again = run(root / point.__name__)
    print(point.__name__, killed, len(left), again, flush=True)
killed = run(root / "in_its_own_time", None, in_its_own_time)
print("in_its_own_time", killed, -1, run(root / "in_its_own_time"), flush=True)
'''

COMMAND = '''
import sys

from heliodor.cli.main import main
from heliodor.teach import recipes
from heliodor.teach.loop import train
from heliodor.teach.recipes.settings import start_fresh
from tests.unit.teach import small


class Small:
    """A run whose end nobody waits for."""

    def run(self, workdir, overrides, *, resume):
        start_fresh(workdir, resume=resume)
        objective = small.objective()
        train(small.run(steps=int(overrides["steps"]), workers=1), objective, workdir)


recipes.RECIPES["small"] = Small()
sys.exit(main(["train", "small", *sys.argv[1:]]))
'''


def start(code: str, *words: str) -> subprocess.Popen[str]:
    """Python on the code, as the leader of a process group of its own."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.timeout(300)
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Weights and both moments of Adam, in the last two states, against an unbroken run."""
    with start(KILLED, str(tmp_path)) as process:
        out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert err == ""
    found = dict(line.split(" ", 1) for line in out.splitlines())
    assert found == {
        # how it ended, complete states left behind, how the second sitting ended
        "between_steps": "-9 2 0",
        "before_the_first_save": "-9 0 0",
        "while_weights_are_written": "-9 1 0",
        "before_the_weights_take_their_name": "-9 2 0",
        "before_the_mark_takes_its_name": "-9 1 0",
        "before_old_states_are_swept": "-9 3 0",
        "while_an_old_state_is_swept": "-9 2 0",
        "in_its_own_time": "-9 -1 0",
    }
    straight = small.state_files(tmp_path / "straight")
    assert sorted(straight) == ["state-00000007", "state-00000008"]
    assert straight["state-00000007"] != straight["state-00000008"]
    for name in found:
        resumed = tmp_path / name
        assert small.state_files(resumed) == straight, name
        left = sorted(path.name for path in resumed.iterdir())
        assert left == ["log.jsonl", "state-00000007", "state-00000008"], name


def wait_for_a_line(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("small "):
            return
    raise AssertionError(f"the run ended by itself with {process.wait()}")


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, -15, ""), (signal.SIGINT, 130, "heliodor: stopped\n")],
    ids=["sigterm", "sigint"],
)
def test_the_command_saves_and_leaves_with_the_signals_code(
    tmp_path: Path, number: int, code: int, said: str
) -> None:
    """The signal goes to the whole group, workers included, as from ``timeout`` or a terminal."""
    words = ["steps=100000", "--workdir", str(tmp_path)]
    with start(COMMAND, *words) as process:
        wait_for_a_line(process)
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.endswith(said)
    assert "Traceback" not in err
    (mark,) = tmp_path.glob("state-*/run.json")
    step = json.loads(mark.read_text())["step"]
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"]
    assert step == last > 0

    with start(COMMAND, *words) as refused:
        _, err = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert "holds an earlier run: pass --resume, or another --workdir" in err
