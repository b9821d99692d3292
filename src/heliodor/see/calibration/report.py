"""What a calibration did and what it cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from heliodor.quant.calibrate.block import LayerReport
from heliodor.see.calibration.judge import Judgement

__all__ = ["Report"]

_MB = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The result of a run.

    Attributes:
        path: the file that was written.
        settings: what was asked for.
        layers: what became of each layer, by its name in the network.
        judgement: next tokens compared.
        pictures: calibrated on, and held out.
        apart: whether the held-out pictures are other ones.
        samples: pairs of a picture and a prompt that were calibrated on.
        size: bytes of the file.
        float_size: bytes of the float network's tensors as they were loaded.
        seconds: the whole run took; a resumed one's since it went on.
    """

    path: str
    settings: Mapping[str, Any]
    layers: Mapping[str, LayerReport]
    judgement: Judgement
    pictures: tuple[int, int]
    apart: bool
    samples: int
    size: int
    float_size: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's own types."""
        return {
            "path": self.path,
            **self.settings,
            "pictures": self.pictures[0],
            "held_out_pictures": self.pictures[1] if self.apart else 0,
            "pairs": self.samples,
            "bytes": self.size,
            "float_bytes": self.float_size,
            "seconds": round(self.seconds, 1),
            "next_tokens": self.judgement.to_dict(),
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
        }

    def table(self) -> str:
        """The report for people: layers of one kind on a line, then what it came to."""
        kinds: dict[str, list[LayerReport]] = defaultdict(list)
        for name, layer in self.layers.items():
            kind = ".".join("*" if part.isdigit() else part for part in name.split("."))
            kinds[f"{kind} {layer.scheme}"].append(layer)
        width = max(len(kind) for kind in kinds)
        head = f"{'layers':<{width}}  count  error %  plain %  exponent"
        lines = [head, "-" * len(head)]
        for kind, members in kinds.items():
            count = len(members)
            error = sum(100 * member.error for member in members) / count
            plain = sum(100 * member.plain_error for member in members) / count
            exponent = sum(member.exponent for member in members) / count
            lines.append(
                f"{kind:<{width}}  {count:>5}  {error:>7.4f}  {plain:>7.4f}  {exponent:>8.2f}"
            )
        return "\n".join([*lines, "", *self._sentences()])

    def _sentences(self) -> list[str]:
        found = self.judgement
        where = (
            f"{self.pictures[1]} held-out pictures"
            if self.apart
            else "the only picture, which was calibrated on too: give more to measure on others"
        )
        return [
            f"next tokens   {found.agreement:.1%} the same as in float, KL {found.divergence:.4f} "
            f"nats, at worst {found.worst:.2f}, over {found.places} places of {where}",
            f"reading them  {found.seconds:.2f} s, in float {found.float_seconds:.2f} s",
            f"size          {self.size / _MB:,.1f} MB, in float {self.float_size / _MB:,.1f} MB",
            f"calibrated    on {self.samples} pairs of {self.pictures[0]} pictures and prompts, in "
            f"{self.seconds:.0f} s",
        ]
