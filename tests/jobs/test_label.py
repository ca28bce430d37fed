"""Images to labels: a row an image, whatever it holds."""

import io
import json
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer import Predictor
from fer.checkpoint import read_config
from fer.labels import LABEL_SCHEMA, STATUSES


@pytest.fixture(scope="module")
def photographs(faces, png, tmp_path_factory):
    """Good images and bad ones, at several depths."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "a" / "b").mkdir(parents=True)
    for number in range(6):
        (folder / "a" / f"{number}.png").write_bytes(png(faces[0][number]))
    (folder / "a" / "b" / "broken.jpg").write_bytes(b"junk")
    (folder / "empty.png").write_bytes(b"")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(bomb, "PNG")
    (folder / "bomb.png").write_bytes(bomb.getvalue())
    (folder / "README.md").write_text("Not an image.")
    return folder


def label(fer, images, checkpoint, output, *flags):
    named = ("--detector", "none", "--checkpoint", checkpoint, "--output", output)
    return fer("label", "--images", images, *named, *flags)


def rows_of(output):
    table = pq.read_table(output / "faces")
    assert table.schema.equals(LABEL_SCHEMA)
    return {row["image"]: row for row in table.to_pylist()}


def test_every_image_has_a_row(fer, photographs, checkpoint, faces, tmp_path):
    run = label(fer, photographs, checkpoint, tmp_path / "labels")
    assert (run.result["images"], run.result["faces"], run.result["failed"]) == (9, 6, 3)
    rows = rows_of(tmp_path / "labels")
    assert len(rows) == 9
    probs = Predictor.load(str(checkpoint), engine="float32").predict_probs(faces[0][:6])
    for number in range(6):
        row = rows[f"{photographs}/a/{number}.png"]
        np.testing.assert_allclose(row["probabilities"], probs[number], atol=5e-3)
        assert (row["face"], row["status"], row["error"]) == (0, "ok", None)
        assert (row["width"], row["height"], row["box"]) == (48, 48, None)
        assert row["confidence"] == pytest.approx(max(row["probabilities"]))
        assert row["size_bytes"] == (photographs / "a" / f"{number}.png").stat().st_size
        assert (row["model"], row["detector"]) == (read_config(str(checkpoint)).id, "none")
    bad = {
        name: rows[f"{photographs}/{name}"] for name in ("a/b/broken.jpg", "empty.png", "bomb.png")
    }
    assert [row["status"] for row in bad.values()] == ["unreadable", "unreadable", "too_large"]
    assert all(row["error"] and row["emotion"] is None for row in bad.values())


def test_summary(fer, photographs, checkpoint, tmp_path):
    label(fer, photographs, checkpoint, tmp_path / "labels")
    summary = json.loads((tmp_path / "labels" / "summary.json").read_text())
    assert summary["statuses"] == {
        **dict.fromkeys(STATUSES, 0),
        "ok": 6,
        "unreadable": 2,
        "too_large": 1,
    }
    assert sum(summary["emotions"].values()) == 6
    assert summary["ignored_files"] == 1
    assert (tmp_path / "labels" / "emotions.png").read_bytes().startswith(b"\x89PNG")


def test_an_unsure_network_abstains(fer, photographs, checkpoint, tmp_path):
    run = label(fer, photographs, checkpoint, tmp_path / "labels", "--min-confidence", "1")
    rows = rows_of(tmp_path / "labels")
    assert run.result["faces"] == 6
    uncertain = [row for row in rows.values() if row["status"] == "uncertain"]
    assert len(uncertain) == 6
    assert all(row["emotion"] is None and len(row["probabilities"]) == 7 for row in uncertain)


def test_limit_and_a_single_image(fer, photographs, checkpoint, tmp_path):
    assert label(fer, photographs, checkpoint, tmp_path / "a", "--limit", "4").result["images"] == 4
    image = photographs / "a" / "3.png"
    assert label(fer, image, checkpoint, tmp_path / "b").result["images"] == 1
    assert set(rows_of(tmp_path / "b")) == {str(image)}


def test_an_archive_with_a_bad_member(fer, checkpoint, sources, tmp_path):
    archive = tmp_path / "faces.zip"
    archive.write_bytes((sources / "faces.zip").read_bytes())
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("train/happy/broken.png", b"junk")
        opened.writestr("../climbs.png", b"junk")
    run = label(fer, archive, checkpoint, tmp_path / "labels")
    assert (run.result["images"], run.result["failed"]) == (282, 2)
    rows = rows_of(tmp_path / "labels")
    assert len(rows) == 282
    assert rows[f"{archive}!/../climbs.png"]["error"] == "climbs out of its archive."


def test_a_cut_archive_keeps_what_came_before(fer, checkpoint, tmp_path, faces, png):
    import tarfile

    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz", compresslevel=0) as archive:
        for number in range(20):
            data = png(faces[0][number])
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (tmp_path / "cut.tar.gz").write_bytes(whole.getvalue()[:30_000])
    run = label(fer, tmp_path / "cut.tar.gz", checkpoint, tmp_path / "labels")
    assert run.result["faces"] >= 5
    assert run.result["failed"] == 1
    (bad,) = [row for row in rows_of(tmp_path / "labels").values() if row["status"] != "ok"]
    assert (bad["image"], bad["status"]) == (f"{tmp_path}/cut.tar.gz", "unreadable")


def test_the_report_shows_faces_failures_and_what_took_longest(
    fer, photographs, checkpoint, tmp_path
):
    run = label(fer, photographs, checkpoint, tmp_path / "labels")
    page = (tmp_path / "labels" / "report.html").read_text()
    assert run.result["report"] == f"{tmp_path}/labels/report.html"
    assert 4 <= page.count("data:image/jpeg;base64,") <= 6
    assert "Apparent expressions of 6 faces" in page
    assert "the image has more than 89,478,485 pixels" in page.lower()
    assert f"{photographs}/a/0.png" in page


def test_every_face_of_a_photograph_has_a_row(
    fer, yunet, real_photographs, checkpoint, png, tmp_path
):
    crowd = (real_photographs / "dlib" / "examples_faces_2008_002506.jpg").read_bytes()
    images = tmp_path / "images"
    images.mkdir()
    (images / "crowd.jpg").write_bytes(crowd)
    (images / "wall.png").write_bytes(png(np.full((300, 400), 128, np.uint8)))
    sideways = io.BytesIO()
    with Image.open(io.BytesIO(crowd)) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: the right side of the pixels is the top
        image.transpose(Image.Transpose.ROTATE_90).save(sideways, "JPEG", quality=95, exif=exif)
    (images / "sideways.jpg").write_bytes(sideways.getvalue())
    (tmp_path / "yunet.onnx").write_bytes(yunet)
    flags = ("--detector-weights", tmp_path / "yunet.onnx", "--checkpoint", checkpoint)
    run = fer("label", "--images", images, "--output", tmp_path / "labels", *flags)
    assert (run.result["images"], run.result["faces"], run.result["failed"]) == (3, 6, 0)
    rows = pq.read_table(tmp_path / "labels" / "faces").to_pylist()
    by_image = {}
    for row in rows:
        by_image.setdefault(row["image"].rpartition("/")[2], []).append(row)
    assert [row["status"] for row in by_image["wall.png"]] == ["no_face"]
    upright, turned = by_image["crowd.jpg"], by_image["sideways.jpg"]
    assert [row["face"] for row in upright] == [row["face"] for row in turned] == [0, 1, 2]
    for one, other in zip(upright, turned, strict=True):
        assert one["detector"] == "yunet-2023mar"
        assert (one["width"], one["height"]) == (other["width"], other["height"]) == (500, 375)
        assert one["detection_score"] > 0.7
        for side in ("x", "y", "width", "height"):
            assert one["box"][side] == pytest.approx(other["box"][side], abs=10)
        assert sum(one["probabilities"]) == pytest.approx(1, abs=1e-5)


def test_what_is_refused(fer, photographs, sources, checkpoint, tmp_path):
    output = tmp_path / "labels"
    run = label(fer, tmp_path / "none", checkpoint, output)
    assert (run.code, "does not exist" in run.sentence) == (2, True)
    run = label(fer, sources / "fer2013.csv", checkpoint, output)
    assert (run.code, "is a table: expected a folder" in run.sentence) == (2, True)
    run = label(fer, photographs, photographs, output)
    assert (run.code, "is not a checkpoint" in run.sentence) == (2, True)
    assert not output.exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README").write_text("x")
    run = label(fer, tmp_path / "empty", checkpoint, output)
    assert (run.code, run.sentence) == (1, f"No image was found in {tmp_path}/empty.")
    assert not (output / "summary.json").exists()
