"""What `import heliodor` promises: its names, and that it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import heliodor
from heliodor.cli.main import COMMANDS, build_parser, load_command

HEAVY = ("torch", "numpy", "PIL", "tokenizers", "sentencepiece", "huggingface_hub", "transformers")


def loaded_by(code: str) -> list[str]:
    """The heavy packages that a fresh interpreter holds after running `code`."""
    probe = f"{code}\nimport sys\nprint(*(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(  # a fresh interpreter is the only honest witness
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    return done.stderr.split()


@pytest.mark.parametrize("name", heliodor.__all__)
def test_every_public_name_is_there(name):
    assert getattr(heliodor, name) is not None


def test_dir_lists_the_public_names():
    assert dir(heliodor) == sorted(heliodor.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        heliodor.nothing  # noqa: B018


def test_import_loads_nothing_heavy():
    assert loaded_by("import heliodor") == []


def test_errors_load_nothing_heavy():
    assert loaded_by("import heliodor; heliodor.errors.ImageError") == []


@pytest.mark.parametrize("name", ["text", "image", "see.prompt", "see.boxes"])
def test_words_and_pixels_load_no_torch(name):
    assert "torch" not in loaded_by(f"import heliodor.{name}")


def test_help_of_every_command_loads_nothing_heavy():
    code = """
import contextlib, io
from heliodor.cli.main import COMMANDS, main
with contextlib.redirect_stdout(io.StringIO()):
    main(["--help"])
    for name in COMMANDS:
        with contextlib.suppress(SystemExit):
            main([name, "--help"])
"""
    assert loaded_by(code) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    help_text = build_parser(name, load_command(name)).format_help()
    assert help_text.startswith(f"usage: heliodor {name}")
    assert "--json" in help_text


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "heliodor", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"heliodor {heliodor.__version__}\n"


def test_the_console_script_names_a_function_that_exists():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="heliodor")
    from heliodor.cli.main import main

    assert script.load() is main
