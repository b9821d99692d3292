"""Tensor names of two worlds as one table, read strictly in both directions.

A row pairs our name with theirs. ``#`` stands for a layer number, ``*`` for ``weight`` or ``bias``,
and ``{vision}`` and the like for a prefix that differs between releases of transformers::

    vision.blocks.#.norm1.*   <->   {vision}.encoder.layers.#.layer_norm1.*

The inverse is derived from the row. :meth:`KeyMap.match` accepts a file only if it holds each
tensor that the model has, once, in its shape, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heliodor.errors import KeyMismatchError

if TYPE_CHECKING:  # names are looked up where no torch is loaded
    from heliodor.models.gemma import GemmaConfig
    from heliodor.models.paligemma import PaliGemmaConfig

Shape = tuple[int, ...]
_LISTED = 12  # groups of names that a message spells out per kind of fault


@dataclass(frozen=True, kw_only=True, slots=True)
class Spelling:
    """The prefixes of one release's names."""

    vision: str
    projector: str
    language: str

    def fill(self, theirs: str) -> str:
        """A row's right side with the prefixes put in."""
        return theirs.format(vision=self.vision, projector=self.projector, language=self.language)


HUB = Spelling(
    vision="vision_tower.vision_model",
    projector="multi_modal_projector.linear",
    language="language_model.model",
)
"""The names in the official files. Old and new releases of transformers read them (checked with
4.51 and 5.23), and 5.23 writes them back when it has read them."""

TRANSFORMERS_5 = Spelling(
    vision="model.vision_tower",
    projector="model.multi_modal_projector.linear",
    language="model.language_model",
)
"""The names of the modules of transformers 5, which releases before 4.52 do not read."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: our name, theirs, and for a tied duplicate only theirs to drop."""

    ours: str
    theirs: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """How a file's tensors serve a model.

    Attributes:
        source: our name -> the name in the file, for each tensor of the model.
        tied: name in the file -> our name, for duplicates that must equal ours.
    """

    source: dict[str, str]
    tied: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyMap:
    """A table of rows.

    Attributes:
        rows: a pair for each tensor or family of tensors.
        tied: pairs of ours and duplicates of it that a file may hold or leave out.
        prefixes: the prefixes accepted when reading, by placeholder; ``model.`` may precede each.
    """

    rows: tuple[Row, ...]
    tied: tuple[Row, ...]
    prefixes: Mapping[str, tuple[str, ...]]

    def to_theirs(self, ours: str, spelling: Spelling = HUB) -> str:
        """The name under which a tensor of ours is written.

        Raises:
            KeyMismatchError: the table has no row for it.
        """
        for row in self.rows:
            found = _translate(ours, _pattern(row.ours), row.theirs)
            if found is not None:
                return spelling.fill(found)
        raise KeyMismatchError(f"no row of the key table names the tensor {ours}")

    def to_ours(self, theirs: str) -> str | None:
        """Our name of a tensor in a file, in whichever spelling; None if no row fits."""
        return self._inverse(self.rows, theirs)

    def to_tied(self, theirs: str) -> str | None:
        """Our name of the tensor that a tensor in a file duplicates; None if it is no duplicate."""
        return self._inverse(self.tied, theirs)

    def _inverse(self, rows: Iterable[Row], theirs: str) -> str | None:
        for row in rows:
            found = _translate(theirs, self._reading_pattern(row), row.ours)
            if found is not None:
                return found
        return None

    def _reading_pattern(self, row: Row) -> str:
        pattern = _pattern(row.theirs)
        for placeholder, choices in self.prefixes.items():
            alternatives = "|".join(re.escape(choice) for choice in choices)
            pattern = pattern.replace(rf"\{{{placeholder}\}}", f"(?:{alternatives})")
        return rf"(?:model\.)?{pattern}"

    def match(self, wanted: Mapping[str, Shape], found: Mapping[str, Shape], place: Path) -> Match:
        """Pair the tensors that a model has with those that a file holds.

        Args:
            wanted: shapes by our names.
            found: shapes by the file's names.
            place: the file or folder, for the message.

        Raises:
            KeyMismatchError: a tensor is missing, unknown, given twice or of another shape; one
                message lists all of them.
        """
        source: dict[str, str] = {}
        tied: dict[str, str] = {}
        unknown: list[str] = []
        twice: list[str] = []
        for name in found:
            ours, duplicated = self.to_ours(name), self.to_tied(name)
            if duplicated is not None and duplicated in wanted:
                tied[name] = duplicated
            elif ours is None or ours not in wanted:
                unknown.append(name)
            elif ours in source:
                twice.append(f"{source[ours]} and {name}")
            else:
                source[ours] = name
        missing = [f"{name} ({self.to_theirs(name)})" for name in wanted if name not in source]
        wrong = [
            f"{name} is {list(found[name])}, the config asks for {list(wanted[ours])}"
            for name, ours in (*((n, o) for o, n in source.items()), *tied.items())
            if found[name] != wanted[ours]
        ]
        faults = {
            "missing from the file": missing,
            "in the file but unknown": unknown,
            "given twice": twice,
            "of the wrong shape": wrong,
        }
        if any(faults.values()):
            raise KeyMismatchError(_report(faults, place))
        return Match(source=source, tied=tied)


def _pattern(side: str) -> str:
    """A row's side as a regular expression with groups for ``#`` and ``*``."""
    return (
        re.escape(side)
        .replace(r"\#", "(?P<layer>0|[1-9][0-9]{0,5})")
        .replace(r"\*", "(?P<kind>weight|bias)")
    )


def _translate(name: str, pattern: str, other: str) -> str | None:
    found = re.fullmatch(pattern, name)
    if found is None:
        return None
    groups = found.groupdict()
    return other.replace("#", groups.get("layer") or "#").replace("*", groups.get("kind") or "*")


def _report(faults: Mapping[str, list[str]], place: Path) -> str:
    """One message: each kind of fault, its count, and its names with layers drawn together."""
    lines = [f"the tensors of {place} do not fit the model that its config describes:"]
    for what, names in faults.items():
        if not names:
            continue
        lines.append(f"  {len(names)} {what}:")
        groups = _grouped(names)
        lines += [f"    {group}" for group in groups[:_LISTED]]
        if len(groups) > _LISTED:
            lines.append(f"    ... and {len(groups) - _LISTED} more kinds")
    lines.append("  Is config.json another checkpoint's, or the checkpoint of another family?")
    return "\n".join(lines)


def _grouped(names: Iterable[str]) -> list[str]:
    """Names that differ in their layer numbers alone become one line."""
    groups: dict[str, list[int]] = {}
    for name in names:
        layers = re.findall(r"(?<=\.)\d+(?=\.)", name)
        stem = re.sub(r"(?<=\.)\d+(?=\.)", "#", name)
        groups.setdefault(stem, []).extend(int(layer[:9]) for layer in layers[:1])
    return [_one_line(stem, layers) for stem, layers in groups.items()]


def _one_line(stem: str, layers: list[int]) -> str:
    text = stem.encode("utf-8", "backslashreplace").decode()
    text = text if len(text) <= 300 else f"{text[:300]}..."
    distinct = sorted(set(layers))
    if not distinct:
        return text
    if len(distinct) == 1:
        return text.replace("#", str(distinct[0]))
    return f"{text}  (# = {distinct[0]}..{distinct[-1]}, {len(distinct)} layers)"


def _rows(*pairs: tuple[str, str]) -> tuple[Row, ...]:
    return tuple(Row(*pair) for pair in pairs)


TOWER_ROWS = _rows(
    ("vision.patch.*", "{vision}.embeddings.patch_embedding.*"),
    ("vision.position", "{vision}.embeddings.position_embedding.weight"),
    ("vision.blocks.#.norm1.*", "{vision}.encoder.layers.#.layer_norm1.*"),
    ("vision.blocks.#.attention.q.*", "{vision}.encoder.layers.#.self_attn.q_proj.*"),
    ("vision.blocks.#.attention.k.*", "{vision}.encoder.layers.#.self_attn.k_proj.*"),
    ("vision.blocks.#.attention.v.*", "{vision}.encoder.layers.#.self_attn.v_proj.*"),
    ("vision.blocks.#.attention.out.*", "{vision}.encoder.layers.#.self_attn.out_proj.*"),
    ("vision.blocks.#.norm2.*", "{vision}.encoder.layers.#.layer_norm2.*"),
    ("vision.blocks.#.mlp.up.*", "{vision}.encoder.layers.#.mlp.fc1.*"),
    ("vision.blocks.#.mlp.down.*", "{vision}.encoder.layers.#.mlp.fc2.*"),
    ("vision.norm.*", "{vision}.post_layernorm.*"),
)
"""SigLIP's image tower without its pooling head."""

_EITHER_DECODER = _rows(
    ("language.embedding.weight", "{language}.embed_tokens.weight"),
    ("language.layers.#.pre_attention_norm.scale", "{language}.layers.#.input_layernorm.weight"),
    ("language.layers.#.attention.q.weight", "{language}.layers.#.self_attn.q_proj.weight"),
    ("language.layers.#.attention.k.weight", "{language}.layers.#.self_attn.k_proj.weight"),
    ("language.layers.#.attention.v.weight", "{language}.layers.#.self_attn.v_proj.weight"),
    ("language.layers.#.attention.out.weight", "{language}.layers.#.self_attn.o_proj.weight"),
    ("language.layers.#.mlp.gate.weight", "{language}.layers.#.mlp.gate_proj.weight"),
    ("language.layers.#.mlp.up.weight", "{language}.layers.#.mlp.up_proj.weight"),
    ("language.layers.#.mlp.down.weight", "{language}.layers.#.mlp.down_proj.weight"),
    ("language.norm.scale", "{language}.norm.weight"),
)

_AFTER_ATTENTION = "{language}.layers.#.post_attention_layernorm.weight"

DECODER_ROWS = (
    *_EITHER_DECODER,
    Row("language.layers.#.pre_mlp_norm.scale", _AFTER_ATTENTION),
)
"""Gemma 1. Its ``post_attention_layernorm`` is the norm before the MLP."""

DECODER2_ROWS = (
    *_EITHER_DECODER,
    Row("language.layers.#.post_attention_norm.scale", _AFTER_ATTENTION),
    *_rows(
        (
            "language.layers.#.pre_mlp_norm.scale",
            "{language}.layers.#.pre_feedforward_layernorm.weight",
        ),
        (
            "language.layers.#.post_mlp_norm.scale",
            "{language}.layers.#.post_feedforward_layernorm.weight",
        ),
    ),
)
"""Gemma 2. Its ``post_attention_layernorm`` is another norm than Gemma 1's of that name: the one
behind attention, before the sum."""


def decoder_rows(config: GemmaConfig) -> tuple[Row, ...]:
    """The rows of a decoder's generation."""
    return DECODER2_ROWS if config.is_gemma2 else DECODER_ROWS


def _paligemma(decoder: tuple[Row, ...]) -> KeyMap:
    return KeyMap(
        rows=(*TOWER_ROWS, Row("projector.*", "{projector}.*"), *decoder),
        tied=_rows(
            ("language.embedding.weight", "language_model.lm_head.weight"),
            ("language.embedding.weight", "lm_head.weight"),
        ),
        prefixes={
            "vision": ("vision_tower.vision_model", "vision_tower"),
            "projector": ("multi_modal_projector.linear",),
            "language": ("language_model.model", "language_model"),
        },
    )


PALIGEMMA = _paligemma(DECODER_ROWS)
"""PaliGemma 1 and transformers' ``PaliGemmaForConditionalGeneration`` over Gemma."""

PALIGEMMA2 = _paligemma(DECODER2_ROWS)
"""PaliGemma 2 and the same class over Gemma 2."""


def paligemma_keys(config: PaliGemmaConfig) -> KeyMap:
    """The table of a model's generation."""
    return PALIGEMMA2 if config.language.is_gemma2 else PALIGEMMA


def _gemma(decoder: tuple[Row, ...]) -> KeyMap:
    rows = (
        Row(row.ours.removeprefix("language."), row.theirs.removeprefix("{language}."))
        for row in decoder
    )
    return KeyMap(rows=tuple(rows), tied=_rows(("embedding.weight", "lm_head.weight")), prefixes={})


GEMMA = _gemma(DECODER_ROWS)
"""A Gemma alone; ``model.``, which ``GemmaForCausalLM`` puts in front, may be there."""

GEMMA2 = _gemma(DECODER2_ROWS)
"""The same of Gemma 2."""


def _text_row(ours: str, theirs: str) -> Row:
    return Row(f"text.blocks.#.{ours}.*", "text_model.encoder.layers.#." + f"{theirs}.*")


SIGLIP = KeyMap(
    rows=(
        *(Row(row.ours, row.theirs.format(vision="vision_model")) for row in TOWER_ROWS),
        Row("pool.probe", "vision_model.head.probe"),
        *(
            Row(f"pool.{part}.{kind}", f"vision_model.head.attention.in_proj_{kind}[{index}]")
            for index, part in enumerate("qkv")
            for kind in ("weight", "bias")
        ),
        Row("pool.out.*", "vision_model.head.attention.out_proj.*"),
        Row("pool.norm.*", "vision_model.head.layernorm.*"),
        Row("pool.mlp.up.*", "vision_model.head.mlp.fc1.*"),
        Row("pool.mlp.down.*", "vision_model.head.mlp.fc2.*"),
        Row("text.embedding.weight", "text_model.embeddings.token_embedding.weight"),
        Row("text.position", "text_model.embeddings.position_embedding.weight"),
        _text_row("norm1", "layer_norm1"),
        _text_row("attention.q", "self_attn.q_proj"),
        _text_row("attention.k", "self_attn.k_proj"),
        _text_row("attention.v", "self_attn.v_proj"),
        _text_row("attention.out", "self_attn.out_proj"),
        _text_row("norm2", "layer_norm2"),
        _text_row("mlp.up", "mlp.fc1"),
        _text_row("mlp.down", "mlp.fc2"),
        Row("text.norm.*", "text_model.final_layer_norm.*"),
        Row("text.head.*", "text_model.head.*"),
        Row("logit_scale", "logit_scale"),
        Row("logit_bias", "logit_bias"),
    ),
    tied=(),
    prefixes={},
)
"""SigLIP's pair and transformers' ``SiglipModel``."""
