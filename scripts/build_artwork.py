"""Build the artwork pack: one WebP atlas and one JSON index a style.

The pack is committed, so this script is needed only to change it. It wants node's npm, the
Python package ``resvg_py`` (cairosvg draws the gradient style wrongly), and a few hundred MB:

    pip install resvg_py pillow
    python scripts/build_artwork.py --work /some/empty/folder

It installs the pinned npm packages there, draws every icon at 256 px, crops it to its alpha box,
shrinks it (premultiplied Lanczos) to ``--side`` pixels and packs the style's icons on shelves.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import unicodedata
from io import BytesIO
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

DATA = Path(__file__).resolve().parent.parent / "src/heliodor/teach/data"
PACKAGES = (
    "@iconify-json/noto@1.2.9",
    "@iconify-json/twemoji@1.2.5",
    "@iconify-json/fluent-emoji-flat@1.2.6",
    "@iconify-json/fluent-emoji@1.2.7",
    "@lobehub/fluent-emoji-3d@1.1.0",
    "@iconify-json/fxemoji@1.2.2",
    "@iconify-json/emojione@1.2.3",
)
RESOLVED = ("noto", "twemoji", "fluent-emoji-flat", "fluent-emoji")  # names stand in concepts.json
RENDER = 256
ATLAS_WIDTH = 2048

# Icons whose name in the set differs from every name that concepts.json knows; None leaves one out.
OVERRIDES: dict[str, dict[str, str | None]] = {
    "fxemoji": {
        "basketball": None,  # a hoop
        "die": None,  # a domino
        "keyboard": None,  # of a piano
        "sheep": "sheep",
        "rabbit": "bunnyside",
        "pine tree": "evergreen",
        "phone": "cellphone",
        "gift": "present",
        "snowman": "snowmanwithoutsnow",
        "racing car": "racecar",
        "high heel": "heels",
        "bouquet": "bouquetofflowers",
        "sun": "whitesun",
    },
    "emojione": {},
}


def install(work: Path) -> Path:
    """Install the pinned packages under ``work`` and return its ``node_modules``."""
    modules = work / "node_modules"
    if not modules.is_dir():
        (work / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES]
        subprocess.run(command, cwd=work, check=True)
    return modules


def draw_svg(icons: dict[str, Any], name: str) -> Image.Image:
    """One icon of an iconify set as RGBA, ``RENDER`` pixels on its longer side."""
    alias = icons.get("aliases", {}).get(name)
    entry = icons["icons"][alias["parent"] if alias else name]
    width = entry.get("width", icons.get("width", 16))
    height = entry.get("height", icons.get("height", 16))
    left, top = entry.get("left", 0), entry.get("top", 0)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{entry["body"]}</svg>'
    )
    data = resvg_py.svg_to_bytes(svg_string=svg, width=RENDER, height=RENDER)
    return Image.open(BytesIO(bytes(data))).convert("RGBA")


def shrink(image: Image.Image, side: int) -> Image.Image:
    """Crop to the alpha box, then premultiplied Lanczos down to at most ``side`` pixels."""
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    if box is None:
        raise SystemExit("an icon came out empty: has its set changed?")
    image = image.crop(box)
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


def find_name(concept: dict[str, Any], style: str, icons: dict[str, Any]) -> str | None:
    """The name of a concept's icon in an iconify set, or None when the set lacks it."""
    if style in RESOLVED:
        return concept["styles"][style]
    names = {n.replace("-", ""): n for n in [*icons["icons"], *icons.get("aliases", {})]}
    if concept["name"] in OVERRIDES[style]:
        return OVERRIDES[style][concept["name"]]
    tries = [concept["styles"][s] for s in RESOLVED]
    tries += [concept["name"], unicodedata.name(concept["char"])]
    keys = [t.lower().replace(" ", "").replace("-", "") for t in tries]
    return next((names[key] for key in keys if key in names), None)


def collect(style: str, modules: Path, concepts: list[dict[str, Any]], side: int) -> dict[str, Any]:
    """Every concept's picture in one style: code -> RGBA image."""
    pictures: dict[str, Image.Image] = {}
    if style == "fluent-3d":
        folder = modules / "@lobehub/fluent-emoji-3d/assets"
        for concept in concepts:
            image = Image.open(folder / concept["styles"][style]).convert("RGBA")
            pictures[concept["code"]] = shrink(image, side)
        return pictures
    icons = json.loads((modules / "@iconify-json" / style / "icons.json").read_text())
    for concept in concepts:
        name = find_name(concept, style, icons)
        if name is None:
            continue
        pictures[concept["code"]] = shrink(draw_svg(icons, name), side)
    missing = [c["name"] for c in concepts if c["code"] not in pictures]
    print(f"{style}: {len(pictures)} icons, missing {missing}")
    return pictures


def pack(pictures: dict[str, Image.Image]) -> tuple[Image.Image, dict[str, list[int]]]:
    """Lay pictures on shelves, tallest first, one pixel apart: the atlas and code -> [x y w h]."""
    index: dict[str, list[int]] = {}
    x = y = shelf = 0
    for code, image in sorted(pictures.items(), key=lambda item: (-item[1].height, item[0])):
        if x + image.width > ATLAS_WIDTH:
            x, y, shelf = 0, y + shelf + 1, 0
        index[code] = [x, y, image.width, image.height]
        x, shelf = x + image.width + 1, max(shelf, image.height)
    atlas = Image.new("RGBA", (ATLAS_WIDTH, y + shelf))
    for code, (left, top, _, _) in index.items():
        atlas.paste(pictures[code], (left, top))
    return atlas, index


def main() -> None:
    """Build the styles asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the npm packages")
    parser.add_argument("--side", type=int, default=128, help="longer side of an icon in pixels")
    parser.add_argument("--quality", type=int, default=80, help="WebP quality")
    styles = [*RESOLVED, "fluent-3d", "fxemoji", "emojione"]
    parser.add_argument("--styles", nargs="*", default=styles)
    arguments = parser.parse_args()
    modules = install(arguments.work)
    concepts = json.loads((DATA / "concepts.json").read_text())["concepts"]
    for style in arguments.styles:
        pictures = collect(style, modules, concepts, arguments.side)
        atlas, index = pack(pictures)
        path = DATA / "artwork" / f"{style}.webp"
        quality = arguments.quality
        atlas.save(path, quality=quality, alpha_quality=quality, method=6)
        path.with_suffix(".json").write_text(json.dumps(index, separators=(",", ":")) + "\n")
        print(f"{path.name}: {atlas.size[0]} x {atlas.size[1]}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
