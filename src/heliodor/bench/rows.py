"""What a run must show: each claim with its floor and its aim, and what was measured of it.

A row reads the recorded seconds of a part and nothing else, so that a table can be printed again
from the file. A row that could not be measured says why; one below its floor says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from heliodor.bench.timing import Spread, median, ratio

__all__ = ["ROWS", "Measured", "Part", "Row", "judge"]

Part = Mapping[str, Any]
"""The record of one part, as it stands in the JSON."""


class UnmeasuredError(Exception):
    """A figure cannot be had from this record, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One claim.

    Attributes:
        name: what is claimed, for the table.
        part: the part of the run that holds its figures.
        figure: the value from that part's record.
        floor: what must be reached.
        aim: what is hoped for.
        unit: behind the value.
        rising: whether more is better.
    """

    name: str
    part: str
    figure: Callable[[Part], Spread]
    floor: float
    aim: float
    unit: str = "x"
    rising: bool = True

    def reaches(self, value: float, bound: float) -> bool:
        """Whether a value is as good as a bound."""
        return value >= bound if self.rising else value <= bound


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A row and what came of it.

    Attributes:
        row: the claim.
        spread: the value, None where there is none.
        why: the reason for that, otherwise empty.
    """

    row: Row
    spread: Spread | None
    why: str

    @property
    def verdict(self) -> str:
        """One of "aim", "pass", "FAIL" and "not measured"."""
        if self.spread is None:
            return "not measured"
        if self.row.reaches(self.spread.middle, self.row.aim):
            return "aim"
        return "pass" if self.row.reaches(self.spread.middle, self.row.floor) else "FAIL"

    def record(self) -> dict[str, Any]:
        """The row in JSON's own types."""
        found = self.spread
        return {
            "row": self.row.name,
            "part": self.row.part,
            "value": None if found is None else found.middle,
            "low": None if found is None else found.low,
            "high": None if found is None else found.high,
            "unit": self.row.unit,
            "floor": self.row.floor,
            "aim": self.row.aim,
            "verdict": self.verdict,
            "why": self.why,
        }


def judge(parts: Mapping[str, Part], rows: tuple[Row, ...] | None = None) -> list[Measured]:
    """Every row against the parts that were measured."""
    return [_judged(row, parts.get(row.part)) for row in (ROWS if rows is None else rows)]


def _judged(row: Row, part: Part | None) -> Measured:
    if part is None:
        why = f"the part '{row.part}' was not run"
        return Measured(row=row, spread=None, why=why)
    reason = part.get("absent") or part.get("failed")
    if reason:
        return Measured(row=row, spread=None, why=reason)
    try:
        return Measured(row=row, spread=row.figure(part), why="")
    except UnmeasuredError as error:
        return Measured(row=row, spread=None, why=str(error))


def _samples(part: Part, engine: str) -> Mapping[str, Any]:
    found = part.get("samples", {}).get(engine)
    if found is None:
        reason = part.get("skipped", {}).get(engine)
        raise UnmeasuredError(f"{engine}: {reason}" if reason else f"{engine} took no part")
    return found


def _first(part: Part, engine: str) -> list[float]:
    return list(_samples(part, engine)["first"])


def _steps(part: Part, engine: str) -> list[float]:
    """The median step of each turn."""
    return [median(turn) for turn in _samples(part, engine)["step"]]


def first_token(fast: str, slow: str) -> Callable[[Part], Spread]:
    """How many times sooner one engine says its first token."""
    return lambda part: ratio(_first(part, slow), _first(part, fast))


def decoding(fast: str, slow: str) -> Callable[[Part], Spread]:
    """How many times as many tokens a second one engine decodes."""
    return lambda part: ratio(_steps(part, slow), _steps(part, fast))


def beside(what: str, fast: str, slow: str) -> Callable[[Part], Spread]:
    """The same of one list of seconds in each engine's samples."""
    return lambda part: ratio(_samples(part, slow)[what], _samples(part, fast)[what])


def gemm_share(engine: str) -> Callable[[Part], Spread]:
    """Rate of the linear layers over a prefill's rows, in percent of the int8 limit."""

    def figure(part: Part) -> Spread:
        _samples(part, engine)
        limit = part["limits"]["int8"]
        if not all(limit):
            raise UnmeasuredError("this processor has no int8 product that is known here")
        return ratio(part["gemm"][engine], limit).scaled(100.0)

    return figure


def read_share(engine: str) -> Callable[[Part], Spread]:
    """Bytes a second that decoding reads, in percent of the reading limit."""

    def figure(part: Part) -> Spread:
        size = part["costs"]["step_bytes"].get(engine, 0)
        rates = [size / span for span in _steps(part, engine)]
        return ratio(rates, part["limits"]["read"]).scaled(100.0)

    return figure


def batch_gain(scheme: str) -> Callable[[Part], Spread]:
    """Tokens a second of the wide batch over those of one row."""

    def figure(part: Part) -> Spread:
        rows = part["rows"]
        found = _samples(part, scheme)
        return ratio(found["1"], found[str(rows)]).scaled(rows)

    return figure


def peak(scheme: str) -> Callable[[Part], Spread]:
    """Peak of resident memory of a process that loads a file and runs, GiB."""
    return lambda part: Spread.of([x / 2**30 for x in _samples(part, scheme)["peak_bytes"]])


def start_up(scheme: str) -> Callable[[Part], Spread]:
    """Seconds from asking for a file to the first token, a warm first token's taken off."""

    def figure(part: Part) -> Spread:
        found = _samples(part, scheme)
        pairs = zip(found["first_s"], found["warm_s"], strict=True)
        return Spread.of([first - warm for first, warm in pairs])

    return figure


_F32 = "transformers"


def _over_float32(
    said: str,
    what: Callable[[str, str], Callable[[Part], Spread]],
    scheme: str,
    *,
    floor: float,
    aim: float,
) -> Row:
    """One engine over transformers in float32."""
    name = f"{said} over transformers float32"
    return Row(name=name, part="first", figure=what(scheme, _F32), floor=floor, aim=aim)


def _over_llama(said: str, what: str, scheme: str, theirs: str, *, floor: float, aim: float) -> Row:
    """One half of the work over llama.cpp's in about as many bits."""
    other = f"llama.cpp {theirs}"
    return Row(
        name=f"{said}: {scheme} over {other}",
        part="llama",
        figure=beside(what, scheme, other),
        floor=floor,
        aim=aim,
    )


def _peak(scheme: str, *, floor: float, aim: float) -> Row:
    return Row(
        name=f"peak memory, loading included: {scheme}",
        part="files",
        figure=peak(scheme),
        floor=floor,
        aim=aim,
        unit="GiB",
        rising=False,
    )


ROWS: tuple[Row, ...] = (
    _over_float32("first token, picture included: int8", first_token, "int8", floor=3.5, aim=5.0),
    _over_float32("decoding: int8", decoding, "int8", floor=4.0, aim=4.6),
    _over_float32("decoding: int4", decoding, "int4", floor=6.0, aim=8.0),
    _over_llama("prefill", "prefill", "int8", "Q8_0", floor=5.0, aim=8.0),
    _over_llama("prefill", "prefill", "int4", "Q4_0", floor=3.0, aim=4.5),
    _over_llama("decoding", "step", "int8", "Q8_0", floor=1.7, aim=2.0),
    _over_llama("decoding", "step", "int4", "Q4_0", floor=1.5, aim=2.0),
    _over_float32("first token: exact float32", first_token, "float32", floor=1.0, aim=1.3),
    _over_float32("decoding: exact float32", decoding, "float32", floor=1.0, aim=1.1),
    Row(
        name="first token: weights kept in bfloat16 over transformers bfloat16",
        part="bfloat16",
        figure=first_token("bfloat16", _F32),
        floor=4.0,
        aim=6.0,
    ),
    Row(
        name="int8 products of a prefill, of the machine's limit",
        part="first",
        figure=gemm_share("int8"),
        floor=60.0,
        aim=80.0,
        unit="%",
    ),
    Row(
        name="int8 decoding, of the machine's reading limit",
        part="first",
        figure=read_share("int8"),
        floor=85.0,
        aim=95.0,
        unit="%",
    ),
    Row(
        name="time a token of 'detect dog' over free text, int8",
        part="head",
        figure=lambda part: ratio(_samples(part, "int8")["detect"], _samples(part, "int8")["free"]),
        floor=0.85,
        aim=0.75,
        rising=False,
    ),
    _peak("int8", floor=3.6, aim=3.2),
    _peak("int4", floor=2.4, aim=2.0),
    Row(
        name="from a quantised file to the first token, less the prefill: int8",
        part="files",
        figure=start_up("int8"),
        floor=3.0,
        aim=1.0,
        unit="s",
        rising=False,
    ),
    Row(
        name="tokens/s of eight rows over one row, int8",
        part="batch",
        figure=batch_gain("int8"),
        floor=4.0,
        aim=6.0,
    ),
    Row(
        name="Next-DiT 2B, 256 image tokens, guidance: int8 over float32",
        part="nextdit",
        figure=beside("step", "int8", "float32"),
        floor=2.5,
        aim=4.0,
    ),
)
"""Every line of what must be shown."""
