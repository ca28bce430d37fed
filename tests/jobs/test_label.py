"""Images to labels: a row an image, whatever it holds."""

import io
import json
import shutil
import tarfile
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from labelings import label, rows_of
from PIL import Image

from fer import Predictor
from fer.labels.schema import STATUSES
from fer.models.checkpoint import read_config
from fer.vision.detector import detector_id
from ray_jobs import label as label_job
from ray_jobs.config import LabelConfig


@pytest.fixture(scope="module")
def everything(photographs, faces, png, tmp_path_factory):
    """The photographs, those of phones, an archive with bad members, and one that is cut short."""
    folder = tmp_path_factory.mktemp("everything")
    shutil.copytree(photographs, folder, dirs_exist_ok=True)
    phone = folder / "phone"
    phone.mkdir()
    # HEIC and AVIF by their names and by others, good and cut short.
    for name, kind in {
        "a.heic": "HEIF",
        "b.jpg": "HEIF",
        "c.avif": "AVIF",
        "d.heic": "JPEG",
    }.items():
        Image.fromarray(faces[0][0]).save(phone / name, kind)
    (phone / "cut.heic").write_bytes((phone / "a.heic").read_bytes()[:-20])
    with zipfile.ZipFile(folder / "faces.zip", "w") as archive:
        for number in range(10):
            archive.writestr(f"train/happy/{number}.png", png(faces[0][number]))
        archive.writestr("train/happy/broken.png", b"junk")
        archive.writestr("../climbs.png", b"junk")
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz", compresslevel=0) as archive:
        for number in range(20):
            data = png(faces[0][number])
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (folder / "cut.tar.gz").write_bytes(whole.getvalue()[:30_000])
    return folder


@pytest.fixture(scope="module")
def labeled(cluster, everything, checkpoint, tmp_path_factory):
    """The labels of all that, and what the command line said."""
    output = tmp_path_factory.mktemp("labeled") / "labels"
    flags = {"images": str(everything), "detector": "none", "checkpoint": str(checkpoint)}
    return output, label_job.run(LabelConfig(output=str(output), **flags))


def below(rows, folder):
    """Return the rows of what lies in a folder or an archive, by its name there."""
    return {name.removeprefix(folder): row for name, row in rows.items() if name.startswith(folder)}


def test_every_image_has_a_row(labeled, everything, checkpoint, faces):
    output, result = labeled
    rows = rows_of(output)
    # Some members of the archive that is cut short can be read, and then it has a row of its own.
    whole = len(below(rows, f"{everything}/cut.tar.gz!/"))
    assert len(rows) == result["images"] == 9 + 5 + 12 + whole + 1
    assert (result["faces"], result["failed"]) == (6 + 4 + 10 + whole, 3 + 1 + 2 + 1)
    probs = Predictor.load(str(checkpoint), engine="float32").predict_probs(faces[0][:6])
    for number in range(6):
        row = rows[f"{everything}/a/{number}.png"]
        np.testing.assert_allclose(row["probabilities"], probs[number], atol=5e-3)
        assert (row["face"], row["status"], row["error"]) == (0, "ok", None)
        assert (row["width"], row["height"], row["box"]) == (48, 48, None)
        assert row["confidence"] == pytest.approx(max(row["probabilities"]))
        assert row["size_bytes"] == (everything / "a" / f"{number}.png").stat().st_size
        assert (row["model"], row["detector"]) == (read_config(str(checkpoint)).id, "none")
    bad = {
        name: rows[f"{everything}/{name}"] for name in ("a/b/broken.jpg", "empty.png", "bomb.png")
    }
    assert [row["status"] for row in bad.values()] == ["unreadable", "unreadable", "too_large"]
    assert all(row["error"] and row["emotion"] is None for row in bad.values())


def test_an_archive_with_a_bad_member(labeled, everything):
    rows = below(rows_of(labeled[0]), f"{everything}/faces.zip!/")
    assert len(rows) == 12
    assert {name for name, row in rows.items() if row["status"] != "ok"} == {
        *("train/happy/broken.png", "../climbs.png"),
    }
    assert rows["../climbs.png"]["error"] == (
        "climbs.png has a path that leads out of its archive."
    )


def test_a_cut_archive_keeps_what_came_before(labeled, everything):
    rows = below(rows_of(labeled[0]), f"{everything}/cut.tar.gz")
    assert len(rows) >= 5 + 1
    (bad,) = [name for name, row in rows.items() if row["status"] != "ok"]
    assert (bad, rows[bad]["status"]) == ("", "unreadable")


def test_photographs_of_phones(labeled, everything):
    rows = below(rows_of(labeled[0]), f"{everything}/phone/")
    assert {name: row["status"] for name, row in rows.items()} == {
        **dict.fromkeys(("a.heic", "b.jpg", "c.avif", "d.heic"), "ok"),
        "cut.heic": "unreadable",
    }


def test_summary(labeled):
    output, result = labeled
    summary = json.loads((output / "summary.json").read_text())
    assert summary["statuses"] == {
        **dict.fromkeys(STATUSES, 0),
        "ok": result["faces"],
        "unreadable": 6,
        "too_large": 1,
    }
    assert sum(summary["emotions"].values()) == result["faces"]
    assert summary["ignored_files"] == 1
    assert (output / "emotions.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_shows_faces_failures_and_what_took_longest(labeled, everything):
    output, result = labeled
    page = (output / "report.html").read_text()
    assert result["report"] == f"{output}/report.html"
    assert page.count("data:image/jpeg;base64,") >= 4
    assert f"Apparent expressions of {result['faces']} faces" in page
    assert "the image has more than 89,478,485 pixels" in page.lower()
    assert f"{everything}/a/" in page


def test_a_single_image_of_which_the_network_is_unsure(fer, photographs, checkpoint, tmp_path):
    image = photographs / "a" / "3.png"
    run = label(fer, image, checkpoint, tmp_path / "labels", "--min-confidence", "1")
    assert (run.result["images"], run.result["faces"]) == (1, 1)
    ((location, row),) = rows_of(tmp_path / "labels").items()
    assert (location, row["status"], row["emotion"]) == (str(image), "uncertain", None)
    assert len(row["probabilities"]) == 7


def test_every_face_of_a_photograph_has_a_row(fer, crowd, checkpoint, png, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "crowd.jpg").write_bytes(crowd.file)
    (images / "wall.png").write_bytes(png(np.full((300, 400), 128, np.uint8)))
    sideways = io.BytesIO()
    with Image.open(io.BytesIO(crowd.file)) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: the right side of the pixels is the top
        image.transpose(Image.Transpose.ROTATE_90).save(sideways, "JPEG", quality=95, exif=exif)
    (images / "sideways.jpg").write_bytes(sideways.getvalue())
    (tmp_path / "yunet.onnx").write_bytes(crowd.weights)
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
        assert one["detector"] == detector_id(crowd.weights)
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
    assert (run.code, "which `fer ingest` reads" in run.sentence) == (2, True)
    run = label(fer, photographs, checkpoint, output, "--include", "*.png", "--exclude", "[")
    assert (run.code, "--exclude '[' is not a valid glob" in run.sentence) == (2, True)
    run = label(fer, photographs, photographs, output)
    assert (run.code, "is not a checkpoint" in run.sentence) == (2, True)
    assert not output.exists()
    run = label(fer, photographs, checkpoint, output, "--use-gpu")
    assert (run.code, "need 1 GPU in all, but the cluster has 0" in run.sentence) == (2, True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README").write_text("x")
    run = label(fer, tmp_path / "empty", checkpoint, output)
    assert (run.code, run.sentence) == (
        1,
        f"No image was found in {tmp_path}/empty among its files (1 with no ending); give "
        "--all-files to tell images by their content.",
    )
    assert not (output / "summary.json").exists()
