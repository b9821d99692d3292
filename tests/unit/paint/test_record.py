"""Settings and PNG metadata there and back, and hostile files."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

import heliodor
from heliodor.errors import ImageError, InputError
from heliodor.models.nextdit_rope import TimeAware, Unscaled, Watershed
from heliodor.paint.guidance import Guidance
from heliodor.paint.record import FIELD, Record, read_record, save_png
from heliodor.paint.schedule import DiffusersGrid, OfficialGrid, Times
from heliodor.paint.settings import DIFFUSERS, OFFICIAL, Settings
from heliodor.paint.sheet import contact_sheet
from heliodor.paint.skipping import StepSkipping
from heliodor.paint.solver import RK4, Euler, Midpoint

PROMPT = 'a "red" apple, 红苹果 \\ \n🍎'
ALL = [
    OFFICIAL,
    Settings.choose(**DIFFUSERS),
    Settings(
        steps=7,
        solver=RK4(),
        grid=OfficialGrid(shift=2.5),
        guidance=Guidance(scale=0.1, channels=None, interval=(0.1, 0.9)),
        scaling=Watershed(threshold=0.4, factor=1.5),
        proportional=False,
        skipping=StepSkipping(0.15),
        strength=0.7,
    ),
    Settings(grid=Times((0.0, 0.1, 1.0)), scaling=TimeAware(factor=2.0)),
    Settings(scaling=TimeAware(), solver=Euler(), grid=DiffusersGrid(shift=3.0)),
    Settings(scaling=Unscaled()),
]


def record(settings: Settings = OFFICIAL, **others: Any) -> Record:
    return Record(
        **{
            "prompt": PROMPT,
            "negative": "blurry",
            "seed": 2**63 - 1,
            "size": (32, 16),
            "settings": settings,
            "model": "small",
            "dtype": "float32",
            **others,
        }
    )


@pytest.mark.parametrize("settings", ALL)
def test_settings_come_back_equal_through_json(settings):
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize("settings", ALL)
def test_a_record_comes_back_equal_from_a_png(tmp_path, settings):
    picture = Image.linear_gradient("L").resize((32, 16)).convert("RGB")
    save_png(picture, record(settings), tmp_path / "a.png")
    assert read_record(tmp_path / "a.png") == record(settings)
    with Image.open(tmp_path / "a.png") as again:
        assert again.tobytes() == picture.tobytes()
        assert again.info["Description"] == PROMPT
        assert again.info["Software"] == f"heliodor {heliodor.__version__}"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_defaults_are_those_of_the_published_demos():
    assert OFFICIAL.to_dict() == {
        "steps": 30,
        "solver": "midpoint",
        "grid": "official",
        "shift": 4.0,
        "guidance": 4.0,
        "guided_channels": 3,
        "guidance_interval": [0.0, 1.0],
        "scaling": "released",
        "proportional": True,
        "skipping": None,
        "strength": None,
    }
    assert Settings.choose() == OFFICIAL


def test_names_numbers_and_objects_say_the_same():
    chosen = Settings.choose(solver="midpoint", grid="official", shift=4, guidance=4, skipping=0.2)
    assert chosen == Settings(solver=Midpoint(), skipping=StepSkipping(0.2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "steps is 1"),
        ({"solver": "ddim"}, "solver is 'ddim'"),
        ({"grid": "linear"}, "grid is 'linear'"),
        ({"scaling": "ntk"}, "scaling is 'ntk'"),
        ({"guidance": "high"}, "guidance is 'high'"),
        ({"skipping": -1.0}, "threshold is -1.0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Settings.choose(**options)


@pytest.mark.parametrize("name", ["picture.jpg", "picture", "picture.webp"])
def test_only_png_keeps_the_record(tmp_path, name):
    with pytest.raises(InputError, match=r"does not end in \.png"):
        save_png(Image.new("RGB", (32, 16)), record(), tmp_path / name)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        save_png(Image.new("RGB", (32, 16)), record(), tmp_path / "none" / "a.png")


def with_field(path, text: str | None):
    info = PngImagePlugin.PngInfo()
    if text is not None:
        info.add_itxt(FIELD, text)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


VALUES = record().to_dict()
SIGNATURE = b"\x89PNG\r\n\x1a\n"
BROKEN: list[str | None] = [
    None,
    "",
    "no json",
    "[1]",
    "{}",
    '{"a": 1, "a": 2}',
    json.dumps({**VALUES, "solver": "warp"}),
    json.dumps({**VALUES, "size": [1, 2, 3]}),
    json.dumps({**VALUES, "size": 4}),
    json.dumps({**VALUES, "size": ["a", "b"]}),
    json.dumps({**VALUES, "seed": "1"}),
    json.dumps({**VALUES, "prompt": None}),
    json.dumps({**VALUES, "steps": None}),
    json.dumps({**VALUES, "steps": "30"}),
    json.dumps({**VALUES, "grid": [0.0, "x"]}),
    json.dumps({**VALUES, "grid": 7}),
    json.dumps({**VALUES, "guidance": "x"}),
    json.dumps({**VALUES, "guided_channels": "three"}),
    json.dumps({**VALUES, "guidance_interval": [0.1]}),
    json.dumps({**VALUES, "scaling": {"rule": "Nothing"}}),
    json.dumps({**VALUES, "scaling": {"rule": "Watershed", "colour": 1}}),
    json.dumps({**VALUES, "scaling": 5}),
    json.dumps({**VALUES, "skipping": "much"}),
    json.dumps({**VALUES, "strength": "much"}),
    json.dumps({key: value for key, value in VALUES.items() if key != "prompt"}),
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_record_that_cannot_be_used_is_refused(tmp_path, text):
    with pytest.raises(InputError):
        read_record(with_field(tmp_path / "a.png", text))


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\nxxxxx"]
)
def test_what_is_no_png_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match="expected a PNG"):
        read_record(tmp_path / "a.png")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ImageError):
        read_record(tmp_path / "none.png")


def test_a_sheet_holds_every_picture_in_reading_order():
    colours = ["red", "lime", "blue", "yellow", "black"]
    pictures = [Image.new("RGB", (20, 10), colour) for colour in colours]
    pictures[4] = Image.new("RGB", (10, 10), "black")
    sheet = contact_sheet(pictures, gap=2)
    assert sheet.size == (3 * 22 + 2, 2 * 12 + 2)
    centres = [(12, 7), (34, 7), (56, 7), (12, 19), (34, 19)]
    assert [sheet.getpixel(at) for at in centres] == [p.getpixel((0, 0)) for p in pictures]
    assert sheet.getpixel((56, 19)) == (255, 255, 255)
    assert sheet.getpixel((25, 19)) == (255, 255, 255)  # the narrow one stands in its cell's middle


def test_a_sheet_can_be_one_row():
    sheet = contact_sheet([Image.new("RGB", (4, 4))] * 3, columns=9, gap=0)
    assert sheet.size == (12, 4)


@pytest.mark.parametrize(("pictures", "columns", "gap"), [(0, None, 8), (1, 0, 8), (1, 1, -1)])
def test_a_sheet_of_nothing_is_refused(pictures, columns, gap):
    with pytest.raises(InputError):
        contact_sheet([Image.new("RGB", (4, 4))] * pictures, columns=columns, gap=gap)
