"""Which layer is stored how, and what a file says of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from heliodor.errors import ConfigError
from heliodor.quant import INT4, INT8, Recipe, Rule, Scheme, recipe

LAYERS = [
    "vision.blocks.0.attention.q",
    "projector",
    "language.embedding",
    "language.layers.0.mlp.down",
    "language.layers.11.attention.k",
]


def test_int8_is_for_every_layer() -> None:
    assert recipe("int8").named(LAYERS) == dict.fromkeys(LAYERS, INT8)


def test_int4_is_for_what_is_read_again_for_every_token() -> None:
    found = recipe("int4").named(LAYERS)
    assert [name for name, scheme in found.items() if scheme == INT4] == LAYERS[3:]
    assert [name for name, scheme in found.items() if scheme == INT8] == LAYERS[:3]
    alone = recipe("int4").named(["embedding", "layers.3.attention.out"])
    assert alone == {"embedding": INT8, "layers.3.attention.out": INT4}


def test_the_first_rule_that_matches_counts() -> None:
    mine = Recipe(
        name="mine",
        rules=(Rule("language.layers.0.*", None), Rule("*.down", INT8), Rule("*.layers.*", INT4)),
    )
    assert mine.named(LAYERS) == {
        "vision.blocks.0.attention.q": None,
        "projector": None,
        "language.embedding": None,
        "language.layers.0.mlp.down": None,
        "language.layers.11.attention.k": INT4,
    }


def test_a_recipe_is_the_same_after_a_file() -> None:
    for one in (recipe("int4"), Recipe(name="x", rules=(Rule("a.*", None), Rule("*", INT4)))):
        assert Recipe.from_dict(one.to_dict(), "x") == one


def test_layers_that_differ_by_a_number_are_told_together() -> None:
    schemes = {f"layers.{i}.{part}": INT4 for i in range(12) for part in ("q", "k")}
    schemes |= {"embedding": INT8, "head": None, "layers.3.k": INT8, "layers.4.k": None}
    found = Recipe.exactly("int4", schemes)
    assert found.named(schemes) == schemes
    assert Rule("layers.*.q", INT4) in found.rules
    assert len(found.rules) == 1 + 12 + 2


def test_a_number_in_the_pattern_never_reaches_into_another_layer() -> None:
    """``a.*.c`` matches ``a.0.b.c`` too, as letters go."""
    schemes = {"a.0.c": INT4, "a.1.c": INT4, "a.0.b.c": INT8, "a.1.b.c": INT8}
    assert Recipe.exactly("x", schemes).named(schemes) == schemes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "packed in layout 'None'"),
        ({"layout": 2, "name": "int8", "rules": []}, "packed in layout '2', this release reads 1"),
        ({"layout": True, "name": "int8", "rules": []}, "packed in layout 'True'"),
        ({"layout": 1, "rules": []}, "has no name"),
        ({"layout": 1, "name": "int8", "rules": {}}, "no list of at most"),
        ({"layout": 1, "name": "int8", "rules": [["*"]]}, "not two strings"),
        ({"layout": 1, "name": "int8", "rules": [["*", 8]]}, "not two strings"),
        ({"layout": 1, "name": "int8", "rules": ["ab"]}, "not two strings"),
        ({"layout": 1, "name": "int8", "rules": [["*", "int3"]]}, "the scheme 'int3' is unknown"),
        ({"layout": 1, "name": "int8", "rules": [["[*", "int8"]]}, r"has the pattern '\[\*'"),
        ({"layout": 1, "name": "int8", "rules": [["x" * 500, "int8"]]}, "has the pattern"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^FILE: .*{message}"):
        Recipe.from_dict(values, "FILE")


def test_wishes_are_named() -> None:
    mine = Recipe(name="mine", rules=())
    assert recipe(mine) is mine
    with pytest.raises(ConfigError, match="quantize is 'int3'; expected one of int8, int4, or a"):
        recipe("int3")
    with pytest.raises(ConfigError, match="there is no scheme of 3 bits"):
        Scheme(bits=3)
    with pytest.raises(ConfigError, match="no scheme of 4 bits in groups of None"):
        Scheme(bits=4)


def test_shapes_are_whole_blocks() -> None:
    assert INT8.parts(17, 9) == {"packed": ("uint8", (32, 12)), "scale": ("float32", (17,))}
    assert INT8.parts(16, 8) == {"packed": ("uint8", (16, 8)), "scale": ("float32", (16,))}


def test_recipes_need_no_torch() -> None:
    code = "import sys, heliodor.quant; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
