"""Cuts the held-out fonts down to what the library draws, for src/heliodor/teach/data/fonts.

    apt-get install fonts-open-sans fonts-ebgaramond fonts-jetbrains-mono fonts-comic-neue
    python scripts/build_held_out_fonts.py FOLDER_OF_INSTALLED_FONTS

Needs fonttools. The outlines are untouched. Glyphs that are never drawn, hinting, and layout
features other than kerning go, so that a file is 8 to 27 kB. Where a face has figures of two
heights, the digits become the tall ones, since a low 0 and 1 read as o and i. No source reserves
its font name.
"""

from __future__ import annotations

import argparse
import io
import string
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

from heliodor.teach.data.fonts import CHARACTERS, HELD_OUT

TARGET = Path(__file__).parents[1] / "src/heliodor/teach/data/fonts"


def stand_figures_up(font: TTFont) -> None:
    """Points the digits at the lining figures, if the font has them apart (feature lnum)."""
    swaps: dict[str, str] = {}
    if "GSUB" in font:
        table = font["GSUB"].table
        for record in table.FeatureList.FeatureRecord:
            if record.FeatureTag == "lnum":
                for index in record.Feature.LookupListIndex:
                    for part in table.LookupList.Lookup[index].SubTable:
                        swaps.update(getattr(part, "mapping", {}))
    for part in font["cmap"].tables:
        for digit in map(ord, string.digits):
            if digit in part.cmap:
                part.cmap[digit] = swaps.get(part.cmap[digit], part.cmap[digit])


def cut(source: Path) -> bytes:
    """The font at `source` with the glyphs of `CHARACTERS` alone."""
    options = subset.Options(
        layout_features=["kern"], hinting=False, notdef_outline=True, name_IDs=["*"]
    )
    font = subset.load_font(str(source), options)
    stand_figures_up(font)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=CHARACTERS)
    subsetter.subset(font)
    written = io.BytesIO()
    subset.save_font(font, written, options)
    return written.getvalue()


def main() -> None:
    """Writes one subset beside the licence texts for every held-out face."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the Debian packages put their fonts")
    found = {path.name: path for path in parser.parse_args().folder.rglob("*.[ot]tf")}
    for family in HELD_OUT:
        for name in family.files:
            data = cut(found[name])
            (TARGET / name).write_bytes(data)
            print(f"{len(data):6d} bytes  {name}")


if __name__ == "__main__":
    main()
