"""`heliodor classify` and `heliodor embed`, from the command line to what they print and write."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.sentences import pair_folder

from heliodor.cli import embed
from heliodor.cli.main import main
from heliodor.see.pair import load_siglip
from heliodor.see.vectors import read_vectors

LABELS = ["cat", "two dogs", "tulip"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(pair_folder(tmp_path_factory.mktemp("pair") / "tiny"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, one in a subfolder, a broken one, and a file that is none."""
    random = np.random.default_rng(1)
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "more/c.PNG"):
        noise = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("a cat\n\n  two dogs \n")
    return folder


def test_classify_prints_labels_best_first(model, photos, capsys):
    assert (
        main(
            ["classify", str(photos / "b.png"), "--labels", "cat,two dogs, tulip", "--model", model]
        )
        == 0
    )
    expected = load_siglip(model).classify(photos / "b.png", LABELS)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{item.label}\t{item.score:.4f}" for item in expected]


def test_classify_prints_json_with_a_template_and_the_best_alone(model, photos, capsys):
    words = ["classify", str(photos / "b.png"), str(photos / "a.jpg"), "--labels", "cat,tulip"]
    words += ["--template", "{}", "--top", "1", "--batch", "1", "--json", "--model", model]
    assert main(words) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    pair = load_siglip(model)
    for record, name in zip(records, ("b.png", "a.jpg"), strict=True):
        best = pair.classify(photos / name, ["cat", "tulip"], template=None).best
        assert record == {"image": str(photos / name), "labels": [best.to_dict()]}


def test_classify_reports_a_broken_picture_and_goes_on(model, photos, capsys):
    sources = [str(photos / "broken.png"), str(photos / "b.png")]
    assert main(["classify", *sources, "--labels", "cat", "--model", model]) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"{photos / 'b.png'}\tcat\t")
    assert "broken.png" in said.err


def test_classify_refuses_an_empty_label_and_a_bad_template(model, photos, capsys):
    with pytest.raises(SystemExit) as left:
        main(["classify", str(photos / "b.png"), "--labels", "cat,,tulip", "--model", model])
    assert left.value.code == 2
    words = ["classify", str(photos / "b.png"), "--labels", "cat", "--template", "photo"]
    assert main([*words, "--model", model]) == 1
    assert "must hold {} once" in capsys.readouterr().err


def test_embed_writes_a_folder_and_leaves_out_what_is_broken(model, photos, tmp_path, capsys):
    out = tmp_path / "x.npy"
    words = ["embed", str(photos), "--out", str(out), "--batch", "2", "--model", model]
    assert main([*words, "--json"]) == 1
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert facts["rows"] == 3
    assert facts["width"] == 24
    assert facts["kind"] == "image"
    assert [item["name"] for item in facts["skipped"]] == ["broken.png"]
    assert "broken.png" in said.err
    found = read_vectors(out)
    assert found.names == ("a.jpg", "b.png", "more/c.PNG")
    expected = load_siglip(model).embed_images([photos / name for name in found.names])
    np.testing.assert_allclose(found.values, expected.numpy(), atol=1e-6)


def test_embed_strict_stops_and_writes_nothing(model, photos, tmp_path, capsys):
    out = tmp_path / "x.npy"
    assert (
        main(
            ["embed", str(photos), "--out", str(out), "--strict", "--batch", "1", "--model", model]
        )
        == 1
    )
    assert "broken.png" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_embed_writes_the_lines_of_a_text(model, photos, tmp_path, capsys):
    out = tmp_path / "x.npy"
    assert main(["embed", str(photos / "notes.txt"), "--out", str(out), "--model", model]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "2 texts of 24 numbers" in said.err
    found = read_vectors(out)
    assert (found.kind, found.names) == ("text", ("a cat", "two dogs"))
    expected = load_siglip(model).embed_texts(found.names)
    np.testing.assert_allclose(found.values, expected.numpy(), atol=1e-6)


def test_embed_reads_stdin_and_writes_parquet(model, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    stream = io.TextIOWrapper(io.BytesIO("ein rotes Tülpchen\n".encode()))
    monkeypatch.setattr(sys, "stdin", stream)
    out = tmp_path / "x.parquet"
    assert main(["embed", "-", "--out", str(out), "--model", model]) == 0
    assert parquet.read_table(out)["name"].to_pylist() == ["ein rotes Tülpchen"]


@pytest.mark.parametrize(
    ("source", "out", "said"),
    [
        ("empty", "x.npy", "holds no pictures"),
        ("only", "x.npy", "none of 1 pictures can be used"),
        ("blank.txt", "x.npy", "holds no text"),
        ("bytes.bin", "x.npy", "no UTF-8 text"),
        ("none", "x.npy", "none"),
        ("empty", "x.csv", "must end in .npy or .parquet"),
        ("empty", "no/x.npy", "there is no folder"),
    ],
)
def test_embed_explains_what_cannot_be(model, tmp_path, capsys, source, out, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "bytes.bin").write_bytes(b"\xff\xfe\xfd")
    before = sorted(tmp_path.rglob("*"))
    words = ["embed", str(tmp_path / source), "--out", str(tmp_path / out), "--model", model]
    assert main(words) == 1
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_embed_tells_how_far_it_is(model, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(embed, "_EVERY", 0.0)
    out = tmp_path / "x.npy"
    main(["embed", str(photos / "notes.txt"), "--out", str(out), "--batch", "1", "--model", model])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("1 of 2 texts, ")
    assert lines[1].startswith("2 of 2 texts, ")


def test_a_model_that_does_not_ship_is_told(photos, capsys, monkeypatch, tmp_path):
    from heliodor.see import pair

    monkeypatch.setattr(pair, "TINY", tmp_path / "none")
    assert main(["classify", str(photos / "b.png"), "--labels", "cat"]) == 1
    assert "no SigLIP pair ships" in capsys.readouterr().err
