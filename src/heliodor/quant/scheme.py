"""How weights are stored in fewer bits, and which layer is stored how. No torch is needed here.

    recipe("int8").scheme_for("language.layers.0.mlp.gate")      # INT8
    Recipe(name="mine", rules=(Rule("*.down", INT8), Rule("*layers.*", INT4), Rule("*", INT8)))

int8: one float32 scale an output channel, codes -127..127. int4: codes -8..7, one bfloat16 scale
for every 64 weights of an output channel. Both are symmetric, zero is code 0. Activations are int8,
with a scale for each row of the input, made while the model runs: rows do not see each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

from heliodor.errors import ConfigError

__all__ = ["INT4", "INT8", "LAYOUT", "RECIPES", "Recipe", "Rule", "Scheme", "recipe"]

LAYOUT = 1
"""Version of the packed layout of :mod:`heliodor.quant.kernels`, which files are written in."""

GROUP = 64
COLUMNS = 16  # output channels of a block
STEP = 4  # int8 weights that one instruction multiplies and adds

_MOST_RULES = 2**12
_LONGEST = 400  # letters of a pattern


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How one layer's weights are stored.

    Attributes:
        bits: 8 or 4.
        group: weights that share a scale, along the input; None for all of an output channel.
    """

    bits: int = 8
    group: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no kernel multiplies."""
        if (self.bits, self.group) not in ((8, None), (4, GROUP)):
            raise ConfigError(
                f"there is no scheme of {self.bits} bits in groups of {self.group}; there are 8 "
                f"bits with one scale a channel (group None) and 4 bits in groups of {GROUP}"
            )

    @property
    def name(self) -> str:
        """``"int8"`` or ``"int4"``."""
        return f"int{self.bits}"

    @property
    def limit(self) -> int:
        """The largest code."""
        return 127 if self.bits == 8 else 7

    def parts(self, rows: int, width: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Types and shapes of the tensors that stand for a weight [rows width].

        The padding up to whole blocks is among them; see :mod:`heliodor.quant.kernels`.
        """
        blocks = -(-rows // COLUMNS)
        if self.bits == 8:
            step = -(-width // STEP) * STEP
            return {
                "packed": ("uint8", (blocks * COLUMNS, step)),
                "scale": ("float32", (rows,)),
            }
        groups = -(-width // GROUP)
        return {
            "packed": ("uint8", (blocks, groups * GROUP // 2 * COLUMNS)),
            "scale": ("bfloat16", (blocks, groups * COLUMNS)),
        }


INT8 = Scheme(bits=8)
INT4 = Scheme(bits=4, group=GROUP)
_NAMED = {scheme.name: scheme for scheme in (INT8, INT4)}
_FLOAT = "float"


@dataclass(frozen=True, slots=True)
class Rule:
    """Layers whose names match a pattern are stored in a scheme.

    Attributes:
        pattern: a layer's name as the network has it, ``*`` for any letters, dots too.
        scheme: None leaves such layers as they are.
    """

    pattern: str
    scheme: Scheme | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Which layer is stored how.

    Attributes:
        name: for people, such as "int8".
        rules: the first that matches a layer's name counts; a layer without one stays as it is.
    """

    name: str
    rules: tuple[Rule, ...]

    def scheme_for(self, layer: str) -> Scheme | None:
        """The scheme of a layer, None if it stays as it is.

        Args:
            layer: its dotted name, without the ``.weight`` behind it.
        """
        for rule in self.rules:
            if rule.pattern == layer or fnmatchcase(layer, rule.pattern):
                return rule.scheme
        return None

    def to_dict(self) -> dict[str, Any]:
        """The recipe in JSON's own types, read back by :meth:`from_dict`."""
        rules = [[rule.pattern, rule.scheme.name if rule.scheme else _FLOAT] for rule in self.rules]
        return {"name": self.name, "layout": LAYOUT, "rules": rules}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Recipe:
        """A recipe as :meth:`to_dict` gave it.

        Args:
            values: the JSON object.
            where: opens each message, such as a file's name.

        Raises:
            ConfigError: a field of another type, an unknown scheme, or a layout of a later release.
        """
        layout = values.get("layout")
        if layout != LAYOUT or type(layout) is not int:
            raise ConfigError(
                f"{where}: its weights are packed in layout {str(layout)[:40]!r}, this release "
                f"reads {LAYOUT}: update heliodor, or quantise the model again with this release"
            )
        name, rules = values.get("name"), values.get("rules")
        if not isinstance(name, str) or len(name) > _LONGEST:
            raise ConfigError(f"{where}: its recipe has no name")
        listed: list[object] | None = (
            cast("list[object]", rules) if isinstance(rules, list) else None
        )
        if listed is None or len(listed) > _MOST_RULES:
            raise ConfigError(f"{where}: its recipe has no list of at most {_MOST_RULES} rules")
        return cls(name=name, rules=tuple(_rule(rule, where) for rule in listed))

    @classmethod
    def exactly(cls, name: str, layers: Mapping[str, Scheme | None]) -> Recipe:
        """The recipe that gives each layer its scheme, layers that differ by a number together.

        Args:
            name: of the recipe.
            layers: the scheme of each layer, None for those that stay as they are.
        """
        alike: dict[str, dict[str, Scheme | None]] = {}
        for layer, scheme in layers.items():
            alike.setdefault(_any_number(layer), {})[layer] = scheme
        rules: list[Rule] = []
        for pattern, members in alike.items():
            schemes = set(members.values())
            if len(schemes) == 1:
                rules.append(Rule(pattern, schemes.pop()))
            else:
                rules += [Rule(layer, scheme) for layer, scheme in members.items()]
        # A star takes dots too: a pattern of more dots, then of fewer stars, comes first.
        rules.sort(key=lambda rule: (-rule.pattern.count("."), rule.pattern.count("*")))
        return cls(name=name, rules=tuple(rules))

    def named(self, layers: Iterable[str]) -> dict[str, Scheme | None]:
        """The scheme of each layer by name."""
        return {layer: self.scheme_for(layer) for layer in layers}


def _any_number(layer: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in layer.split("."))


def _rule(value: object, where: str) -> Rule:
    """One rule out of a file."""
    pair = cast("list[object]", value) if isinstance(value, list) else []
    if len(pair) != 2 or not all(isinstance(item, str) for item in pair):
        told = str(cast("object", value))[:80]
        raise ConfigError(f"{where}: a rule of its recipe is {told!r}, not two strings")
    pattern, scheme = cast("tuple[str, str]", tuple(pair))
    if scheme != _FLOAT and scheme not in _NAMED:
        raise ConfigError(
            f"{where}: the scheme {scheme[:40]!r} is unknown; this release reads "
            f"{', '.join(_NAMED)}: update heliodor"
        )
    if len(pattern) > _LONGEST or "[" in pattern:
        raise ConfigError(f"{where}: a rule of its recipe has the pattern {pattern[:40]!r}")
    return Rule(pattern, _NAMED.get(scheme))


_PAINTER = tuple(
    Rule(name, None) for name in ("patch", "time.*", "caption.*", "*.modulation", "last.*")
)
"""Layers of a Next-DiT that stay as they are: what comes in, what goes out, and what time and
caption scale every layer by. They cost little, and an error there is all of the picture's."""

RECIPES: dict[str, Recipe] = {
    "int8": Recipe(name="int8", rules=(*_PAINTER, Rule("*", INT8))),
    "int4": Recipe(
        name="int4",
        rules=(*_PAINTER, Rule("layers.*", INT4), Rule("*.layers.*", INT4), Rule("*", INT8)),
    ),
}
"""What :func:`recipe` knows by name. The layers of "int4" are those that are read again for every
token that is written; towers, which run once a picture, the projector and the embedding table,
which is the output head too, have 8 bits."""


def recipe(wish: str | Recipe) -> Recipe:
    """A recipe by name, or itself.

    Raises:
        ConfigError: an unknown name.
    """
    if isinstance(wish, Recipe):
        return wish
    found = RECIPES.get(wish) if isinstance(wish, str) else None  # pyright: ignore[reportUnnecessaryIsInstance] - what a caller passes
    if found is None:
        raise ConfigError(
            f"quantize is {wish!r}; expected one of {', '.join(RECIPES)}, or a Recipe"
        )
    return found
