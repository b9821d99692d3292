"""Build the native kernels: hatchling calls this for a wheel and for an editable install.

``python hatch_build.py`` does the same in place. Where no C compiler works, the install goes on
without the library, says so, and the package runs through torch. ``CC`` names the compiler,
``HELIODOR_BUILD=none`` skips it.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface as Hook
except ImportError:  # run as a script, without hatchling
    Hook = object

NATIVE = Path(__file__).parent / "src" / "heliodor" / "quant" / "native"
FLAGS = [
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
]
FLAGS += ["-Wno-psabi"]  # vectors are passed between inline functions only

AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"]
AMX = [*AVX512, "-mamx-tile", "-mamx-int8"]

# (source, the object's name, flags): a file that is compiled for several instruction sets comes
# several times. No other file gets -m flags, so one library runs on every processor of its kind.
FUSED = "-ffp-contract=fast"
COMMON = [(name, name, []) for name in ("pool", "dispatch", "product", "plain", "rows")]
COMMON.append(("learn", "learn", []))
COMMON += [("floats", "floats", [FUSED]), ("lessons", "lessons", [FUSED])]
X86 = [
    ("avx512vnni", "avx512vnni", AVX512),
    ("rows", "rows_avx512", [*AVX512, "-DROW=row_avx512"]),
    ("rows", "rows_avx2", [*AVX2, "-DROW=row_avx2"]),
    ("floats", "floats_avx512", [*AVX512, FUSED, "-DFLOATS=floats_avx512"]),
    ("floats", "floats_avx2", [*AVX2, FUSED, "-DFLOATS=floats_avx2"]),
    ("lessons", "lessons_avx512", [*AVX512, FUSED, "-DLESSON=lesson_avx512"]),
    ("lessons", "lessons_avx2", [*AVX2, FUSED, "-DLESSON=lesson_avx2"]),
    ("avx2", "avx2", AVX2),
]
YOUNG = ("amx", "amx", AMX)  # left out where the compiler is older than the instructions
ARM = [("neon", "neon", ["-march=armv8.2-a+dotprod"])]


def units(machine: str) -> list[tuple[str, str, list[str]]]:
    """What to compile for ``machine``, named as ``platform.machine()`` names it."""
    machine = machine.lower()
    if machine in ("x86_64", "amd64"):
        return [*COMMON, *X86, YOUNG]
    return COMMON + ARM if machine in ("aarch64", "arm64") else COMMON


def compiler() -> list[str] | None:
    """The C compiler's command, or None."""
    wanted = os.environ.get("CC")
    if wanted:
        return shlex.split(wanted)
    found = next(filter(shutil.which, ("gcc", "clang", "cc")), None)
    return None if found is None else [found]


def build(target: Path, machine: str, extra: Sequence[str] = ()) -> None:
    """Compile the library for ``machine`` to ``target``; whole or not at all.

    Raises:
        RuntimeError: No compiler, or it failed; the message holds its words.
    """
    command = compiler()
    if command is None:
        raise RuntimeError("no C compiler (gcc or clang) was found")
    with tempfile.TemporaryDirectory() as folder:
        objects: list[str] = []
        for source, name, flags in units(machine):
            if name == YOUNG[1] and not _knows(command, flags):
                continue
            objects.append(f"{folder}/{name}.o")
            _run(
                [*command, *FLAGS, *flags, *extra, "-c", f"{NATIVE / source}.c", "-o", objects[-1]]
            )
        made = Path(folder) / target.name
        _run([*command, *extra, "-shared", *objects, "-o", str(made), "-lpthread", "-lm"])
        fresh = target.with_suffix(".new")
        shutil.copyfile(made, fresh)
        fresh.replace(target)


def _knows(command: list[str], flags: list[str]) -> bool:
    """Whether the compiler takes these flags."""
    try:
        _run([*command, *flags, "-E", "-x", "c", os.devnull, "-o", os.devnull])
    except RuntimeError:
        return False
    return True


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")


def build_in_place() -> Path | None:
    """Build beside the sources: the library's path, or None where that is not possible."""
    target = NATIVE / ("libheliodor.dylib" if sys.platform == "darwin" else "libheliodor.so")
    try:
        if os.environ.get("HELIODOR_BUILD") == "none":
            raise RuntimeError("HELIODOR_BUILD is none")
        if sys.platform == "win32":
            raise RuntimeError("the kernels need POSIX threads, which Windows has not")
        build(target, platform.machine())
    except RuntimeError as error:
        target.unlink(missing_ok=True)
        sys.stderr.write(f"heliodor: no native kernels, torch will do their work: {error}\n")
        return None
    return target


class NativeHook(Hook):
    """Puts the library into the wheel, and says for which platform the wheel then is."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and mark the wheel; a pure one where nothing was built."""
        del version
        if self.target_name != "wheel":
            return
        target = build_in_place()
        if target is None:
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{wheel_platform()}"
        build_data["artifacts"].append(f"/{target.relative_to(Path(__file__).parent).as_posix()}")


def wheel_platform() -> str:
    """This machine's platform tag, for example linux_x86_64 or macosx_11_0_arm64."""
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    library = build_in_place()
    sys.stdout.write(f"{library}\n")
    sys.exit(library is None)
