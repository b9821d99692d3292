"""Font files to draw text with: families for training, and others that training never sees.

Training families come from Debian packages and are looked for in the usual font folders. The
held-out families are bundled as small subsets, so that an evaluation needs no system font and
gives the same pictures on every machine.
"""

from __future__ import annotations

import enum
import os
import string
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import ImageFont

from heliodor.errors import DataError

__all__ = [
    "CHARACTERS",
    "HELD_OUT",
    "TRAINING",
    "Face",
    "Family",
    "TextSplit",
    "faces",
    "font",
    "font_folders",
]

CHARACTERS = string.ascii_letters + string.digits + " .,:;!?'\"()[]-+/&%#@*=_$£€"
"""What every face can draw, and what the generators write."""

_ENTROPY = 0x54455854  # "TEXT"
_STREAMS = {"train": 0, "test": 1}
_BUNDLED = Path(__file__).parent / "fonts"


class TextSplit(enum.Enum):
    """What drawn text is for: TRAIN and TEST share neither type families nor random streams."""

    TRAIN = "train"
    TEST = "test"

    def rng(self, index: int, purpose: int = 0) -> np.random.Generator:
        """The random generator of one example.

        Args:
            index: the example's number, 0 or more; the same number gives the same example.
            purpose: another stream with the same number, for instance one for each task.

        Raises:
            ValueError: a negative number.
        """
        stream = _STREAMS[self.value]
        return np.random.default_rng(np.random.SeedSequence([_ENTROPY, stream, purpose, index]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A type family: its name, the Debian package that holds it, and the files worth drawing."""

    name: str
    package: str
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """One font file of a family."""

    family: str
    path: Path


def _family(name: str, package: str, stem: str, styles: str, suffix: str = ".ttf") -> Family:
    files = tuple(f"{stem}{style}{suffix}" for style in styles.split(" "))
    return Family(name=name, package=package, files=files)


TRAINING: tuple[Family, ...] = (
    _family("Liberation Sans", "fonts-liberation2", "LiberationSans-", "Regular Bold Italic"),
    _family("Liberation Serif", "fonts-liberation2", "LiberationSerif-", "Regular Bold Italic"),
    _family("Liberation Mono", "fonts-liberation2", "LiberationMono-", "Regular Bold"),
    _family("Lato", "fonts-lato", "Lato-", "Regular Bold Italic Black"),
    _family("Roboto", "fonts-roboto-unhinted", "Roboto-", "Regular Bold Italic Medium"),
    _family("Roboto Condensed", "fonts-roboto-unhinted", "RobotoCondensed-", "Regular Bold"),
    _family("Carlito", "fonts-crosextra-carlito", "Carlito-", "Regular Bold Italic"),
    _family("Caladea", "fonts-crosextra-caladea", "Caladea-", "Regular Bold Italic"),
    _family("Quicksand", "fonts-quicksand", "Quicksand-", "Regular Medium Bold"),
    _family(
        "League Spartan", "fonts-league-spartan", "LeagueSpartan-", "Regular SemiBold Bold", ".otf"
    ),
    _family("Lobster", "fonts-lobster", "lobster", "", ".otf"),
    _family("Dancing Script", "fonts-dancingscript", "DancingScript-", "Regular Bold", ".otf"),
    _family("Play", "fonts-play", "Play-", "Regular Bold"),
    _family("DejaVu Sans", "fonts-dejavu-core", "DejaVuSans", " -Bold"),
    _family("DejaVu Sans Mono", "fonts-dejavu-core", "DejaVuSansMono", " -Bold"),
    _family("DejaVu Serif", "fonts-dejavu-core", "DejaVuSerif", " -Bold"),
    _family("Hack", "fonts-hack", "Hack-", "Regular Bold Italic"),
)
"""Families that training draws with, as far as they are installed."""

HELD_OUT: tuple[Family, ...] = (
    _family("Open Sans", "fonts-open-sans", "OpenSans-", "Regular Bold"),
    _family("EB Garamond", "fonts-ebgaramond", "EBGaramond12-", "Regular Italic", ".otf"),
    _family("JetBrains Mono", "fonts-jetbrains-mono", "JetBrainsMono-", "Regular Bold"),
    _family("Comic Neue", "fonts-comic-neue", "ComicNeue-", "Regular Bold", ".otf"),
)
"""Families that evaluation draws with: a sans, a serif, a monospaced face and a hand."""


def font_folders() -> tuple[Path, ...]:
    """The folders in which this kind of system keeps fonts, most specific first."""
    home = Path.home()
    if sys.platform == "darwin":
        return (home / "Library/Fonts", Path("/Library/Fonts"), Path("/opt/homebrew/share/fonts"))
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", str(home)))
        windows = Path(os.environ.get("WINDIR", "C:/Windows"))
        return (local / "Microsoft/Windows/Fonts", windows / "Fonts")
    data_home = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    roots = [data_home, *(Path(root) for root in shared.split(":") if root)]
    usual = (Path("/usr/local/share/fonts"), Path("/usr/share/fonts"))
    return tuple(dict.fromkeys([home / ".fonts", *(root / "fonts" for root in roots), *usual]))


@cache
def faces(split: TextSplit, folders: tuple[Path, ...] | None = None) -> tuple[Face, ...]:
    """The faces to draw a split's text with, in the order of `TRAINING` or `HELD_OUT`.

    Args:
        split: TRAIN asks for installed families, TEST for the bundled ones.
        folders: where to look for installed fonts; `font_folders()` when absent.

    Raises:
        DataError: no training family is installed; the message lists the Debian packages.
    """
    if split is TextSplit.TEST:
        found, families = {path.name: path for path in sorted(_BUNDLED.iterdir())}, HELD_OUT
    else:
        folders = font_folders() if folders is None else folders
        found, families = _installed(folders), TRAINING
    chosen = tuple(
        Face(family=family.name, path=found[name])
        for family in families
        for name in family.files
        if name in found
    )
    if not chosen:
        looked = ", ".join(map(str, folders or (_BUNDLED,)))
        packages = " ".join(dict.fromkeys(family.package for family in families))
        raise DataError(
            f"no font to draw {split.value} text with was found in {looked}; expected at least one "
            f"of the {len(families)} families. On Debian or Ubuntu: apt-get install {packages}"
        )
    return chosen


def _installed(folders: tuple[Path, ...]) -> dict[str, Path]:
    """File name -> path of every font under `folders`; the first folder wins."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.[ot]tf")) if folder.is_dir() else ():
            found.setdefault(path.name, path)
    return found


@lru_cache(maxsize=512)  # at about 200 kB each
def font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """The font file at `path`, `size` pixels to the em, kept once opened.

    Layout is the basic one (kerning alone), so that pictures do not depend on whether the imaging
    library was built with a shaping engine.
    """
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
