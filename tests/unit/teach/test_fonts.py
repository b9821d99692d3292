from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from heliodor.errors import DataError
from heliodor.teach.data import fonts
from heliodor.teach.data.fonts import (
    CHARACTERS,
    HELD_OUT,
    TRAINING,
    Face,
    TextSplit,
    faces,
    font,
    font_folders,
)

BUNDLED = faces(TextSplit.TEST)


def _picture(typeface: ImageFont.FreeTypeFont, character: str) -> bytes:
    image = Image.new("L", (64, 64))
    ImageDraw.Draw(image).text((32, 48), character, 255, typeface, anchor="ms")
    return image.tobytes()


def test_four_families_are_bundled_and_none_of_them_trains():
    assert {face.family for face in BUNDLED} == {
        "Open Sans",
        "EB Garamond",
        "JetBrains Mono",
        "Comic Neue",
    }
    training_names = {family.name for family in TRAINING}
    training_files = {name for family in TRAINING for name in family.files}
    assert not training_names & {family.name for family in HELD_OUT}
    assert not training_files & {name for family in HELD_OUT for name in family.files}
    assert len(training_names) == len(TRAINING) == 17


def test_installed_training_faces_share_no_family_and_no_file_with_the_held_out():
    try:
        training = faces(TextSplit.TRAIN)
    except DataError:
        pytest.skip("no training font is installed")
    assert not {face.family for face in training} & {face.family for face in BUNDLED}
    assert not {face.path for face in training} & {face.path for face in BUNDLED}
    names = {ImageFont.truetype(face.path, 12).getname()[0] for face in training}
    assert not any(held.name in str(name) for held in HELD_OUT for name in names)


@pytest.mark.parametrize("face", BUNDLED, ids=lambda face: face.path.name)
def test_a_bundled_face_draws_every_character_with_a_picture_of_its_own(face: Face):
    typeface = font(face.path, 40)
    missing = _picture(typeface, "\u4e00")  # a character that no subset holds
    pictures = {character: _picture(typeface, character) for character in CHARACTERS}
    assert all(picture != missing for picture in pictures.values())
    assert len(set(pictures.values())) == len(CHARACTERS)


@pytest.mark.parametrize("face", BUNDLED, ids=lambda face: face.path.name)
def test_figures_of_a_bundled_face_stand_as_high_as_each_other_and_on_the_line(face: Face):
    """Old-style figures, with a low 0 and 1 and a hanging 9, read as letters."""
    boxes = [font(face.path, 100).getbbox(digit, anchor="ls") for digit in "0123456789"]
    heights = [-box[1] for box in boxes]
    assert max(heights) - min(heights) <= 8
    assert max(abs(box[3]) for box in boxes) <= 12


def test_the_bundled_files_are_small_and_their_licences_lie_beside_them():
    folder = BUNDLED[0].path.parent
    assert sum(face.path.stat().st_size for face in BUNDLED) < 150_000
    open_font = (folder / "OFL.txt").read_text("utf-8")
    assert "SIL OPEN FONT LICENSE Version 1.1" in open_font
    apache = (folder / "OpenSans_LICENSE.txt").read_text("utf-8")
    assert "Apache License" in apache
    for face in BUNDLED:
        assert face.path.name in (apache if face.family == "Open Sans" else open_font)


def test_training_faces_are_found_by_file_name_anywhere_under_the_folders(tmp_path: Path):
    deep = tmp_path / "truetype" / "anything"
    deep.mkdir(parents=True)
    shutil.copy(BUNDLED[0].path, deep / "Lato-Regular.ttf")
    shutil.copy(BUNDLED[0].path, deep / "OpenSans-Regular.ttf")
    found = faces(TextSplit.TRAIN, (tmp_path,))
    assert found == (Face(family="Lato", path=deep / "Lato-Regular.ttf"),)


def test_the_first_folder_wins_when_two_hold_the_same_file(tmp_path: Path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        shutil.copy(BUNDLED[0].path, tmp_path / name / "Hack-Bold.ttf")
    (face,) = faces(TextSplit.TRAIN, (tmp_path / "second", tmp_path / "first"))
    assert face.path.parent.name == "second"


def test_without_a_training_font_the_error_lists_the_packages_to_install(tmp_path: Path):
    with pytest.raises(DataError, match=r"apt-get install fonts-liberation2 fonts-lato") as caught:
        faces(TextSplit.TRAIN, (tmp_path, tmp_path / "absent"))
    message = str(caught.value)
    assert str(tmp_path) in message
    assert all(family.package in message for family in TRAINING)
    assert not any(family.package in message for family in HELD_OUT)


def test_a_font_is_opened_once_per_file_and_size():
    path = BUNDLED[0].path
    assert font(path, 17) is font(path, 17)
    assert font(path, 17) is not font(path, 18)
    assert font(path, 17).size == 17


def test_the_folders_follow_the_user_and_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path}/shared")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    folders = font_folders()
    assert folders[:3] == (
        tmp_path / ".fonts",
        tmp_path / ".local/share/fonts",
        tmp_path / "shared/fonts",
    )
    monkeypatch.setattr(sys, "platform", "darwin")
    assert font_folders()[0] == tmp_path / "Library/Fonts"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("WINDIR", f"{tmp_path}/windows")
    assert font_folders()[1] == tmp_path / "windows/Fonts"


def test_streams_of_the_splits_and_of_purposes_never_meet():
    drawn = {
        int(split.rng(index, purpose).integers(2**63))
        for split in TextSplit
        for index in range(200)
        for purpose in (0, 1)
    }
    assert len(drawn) == 2 * 200 * 2
    assert TextSplit.TEST.rng(7).integers(2**63) == TextSplit.TEST.rng(7).integers(2**63)
    with pytest.raises(ValueError, match="negative"):
        TextSplit.TRAIN.rng(-1)


def test_importing_the_fonts_looks_into_no_folder():
    code = (
        "import pathlib, sys\n"
        "def fail(*a, **k): raise SystemExit('a folder was read')\n"
        "pathlib.Path.iterdir = pathlib.Path.rglob = fail\n"
        "import heliodor.teach.data.fonts\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_text_is_laid_out_without_a_shaping_engine():
    assert font(BUNDLED[0].path, 20).layout_engine == ImageFont.Layout.BASIC
    assert np.isclose(font(fonts.faces(TextSplit.TEST)[4].path, 100).getlength("il"), 120)
