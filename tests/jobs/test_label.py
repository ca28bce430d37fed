"""Images to labels: a row an image, whatever it holds."""

import io
import json
import shutil
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer import Predictor
from fer.labels.schema import LABEL_SCHEMA, STATUSES
from fer.models.checkpoint import read_config
from fer.vision.detector import detector_id
from ray_jobs import label as label_job
from ray_jobs.config import LabelConfig


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


def test_a_manifest_and_the_failures_of_its_labels(
    fer, photographs, checkpoint, faces, png, tmp_path
):
    lines = [
        "a/0.png,7",
        "none.png,",
        "https://host/a.png,",
        "more.zip,",
        "a/0.png,7",
        "empty.png,",
    ]
    (tmp_path / "list.csv").write_text("\n".join(["image,size_bytes", *lines]))
    (tmp_path / "a").symlink_to(photographs / "a")
    (tmp_path / "empty.png").touch()
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("x.png", png(faces[0][7]))
    flags = ("--exclude", "empty.png")
    run = label(fer, tmp_path / "list.csv", checkpoint, tmp_path / "labels", *flags)
    # Named twice, though not in a row, is labeled twice.
    assert (run.result["images"], run.result["failed"]) == (5, 2)
    rows = rows_of(tmp_path / "labels")
    good = rows[f"{tmp_path}/a/0.png"]
    assert (good["status"], good["size_bytes"]) == ("ok", (photographs / "a/0.png").stat().st_size)
    assert rows[f"{tmp_path}/more.zip!/x.png"]["status"] == "ok"
    assert rows[f"{tmp_path}/none.png"]["status"] == "missing"
    web = rows["https://host/a.png"]
    assert (web["status"], "https:// locations cannot be opened" in web["error"]) == (
        "unreadable",
        True,
    )
    failed = pq.read_table(tmp_path / "labels" / "faces", filters=[("status", "=", "missing")])
    pq.write_table(failed, tmp_path / "failed.parquet")
    (tmp_path / "none.png").write_bytes(png(faces[0][0]))
    run = label(fer, tmp_path / "failed.parquet", checkpoint, tmp_path / "again")
    assert (run.result["images"], run.result["failed"]) == (1, 0)
    assert set(rows_of(tmp_path / "again")) == {f"{tmp_path}/none.png"}


def test_globs_and_formats_are_those_of_the_run_that_goes_on(
    fer, photographs, checkpoint, save_network, sources, tmp_path
):
    output = tmp_path / "labels"
    flags = ("--include", "*.png", "*.jpg", "--exclude", "bomb.png", "b/", "--limit", "5")
    kinds = ("--format", "csv", "jsonl")
    run = label(fer, photographs, checkpoint, output, *flags, *kinds)
    assert (run.result["images"], run.result["failed"]) == (5, 0)
    some = {f"a/{number}.png" for number in range(5)}
    assert set(rows_of(output)) == {f"{photographs}/{name}" for name in some}
    assert json.loads((output / "summary.json").read_text())["ignored_files"] == 0
    rows, names = rows_of(output), {file.stem for file in (output / "faces").iterdir()}
    (output / "summary.json").unlink()
    lost = names.pop()
    (output / "faces" / f"{lost}.parquet").unlink()
    (output / "csv" / f"{lost}.csv").write_text("cut sho")
    (output / "jsonl" / "vain.jsonl").touch()
    for other, sentence in (
        ((checkpoint, *flags[3:], *kinds), "was started with --include "),
        (
            (checkpoint, *flags, *kinds, "--min-confidence", "0.9"),
            "0.0 (now 0.9); ",
        ),
        ((tmp_path / "other", *flags, *kinds), "was started with another model (conv2-"),
    ):
        save_network(tmp_path / "other", "conv2", seed=8)
        run = label(fer, photographs, other[0], output, *other[1:], "--resume")
        assert (run.code, sentence in run.sentence) == (2, True)
    same = (*flags, *kinds, "--resume")
    assert label(fer, photographs, checkpoint, output, *same).result["images"] == 5
    assert set(rows_of(output)) == set(rows)
    for kind in ("csv", "jsonl"):
        assert {file.name for file in (output / kind).iterdir()} == {
            f"{name}.{kind}" for name in (*names, lost)
        }
    check_formats(output, rows)
    happy = ("--include", "val/happy/", "--exclude", "*.jpg", "--overwrite")
    run = label(fer, sources / "faces.zip", checkpoint, output, *happy)
    assert run.result["images"] > 0
    assert all("!/val/happy/" in image for image in rows_of(output))
    assert not (output / "csv").exists()
    run = label(fer, photographs, checkpoint, tmp_path / "none", "--include", "*.tiff")
    assert (run.code, run.sentence.endswith("matches --include and --exclude.")) == (1, True)


def check_formats(output, rows):
    """Other formats say what the rows say."""
    table = pd.concat(map(pd.read_csv, (output / "csv").iterdir())).set_index("image")
    texts = [file.read_text() for file in (output / "jsonl").iterdir()]
    lines = {line["image"]: line for line in map(json.loads, "".join(texts).splitlines())}
    assert sorted(table.index) == sorted(lines) == sorted(rows)
    for image, row in rows.items():
        assert lines[image]["status"] == table.status[image] == row["status"]
        if row["status"] == "ok":
            named = f"probability_{row['emotion']}"
            assert table[named][image] == pytest.approx(row["confidence"])
            assert lines[image]["probabilities"][row["emotion"]] == table[named][image]


@pytest.mark.slow
def test_manifests_in_a_bucket(fer, s3, checkpoint, faces, png, tmp_path):
    s3.put_object(Bucket="open", Key="lists/a b#%.png", Body=png(faces[0][0]))
    named = [["s3://open/lists/a b#%.png", "s3://open/lists/none.png"], ["../a b#%.png"]]
    for number, uris in enumerate(named):
        table = io.BytesIO()
        pq.write_table(pa.table({"uri": uris}), table)
        key = f"lists/rows/{number}.parquet"
        s3.put_object(Bucket="open", Key=key, Body=table.getvalue())
    output = "s3://open/lists-labels"
    run = label(fer, "s3://open/lists/rows", checkpoint, output, "--format", "jsonl")
    assert (run.result["images"], run.result["faces"], run.result["failed"]) == (3, 2, 1)
    listed = s3.list_objects_v2(Bucket="open", Prefix="lists-labels/jsonl/")["Contents"]
    bodies = [s3.get_object(Bucket="open", Key=item["Key"])["Body"].read() for item in listed]
    rows = [json.loads(line) for body in bodies for line in body.splitlines()]
    assert sorted((row["image"].rpartition("/")[2], row["status"]) for row in rows) == [
        ("a b#%.png", "ok"),
        ("a b#%.png", "ok"),
        ("none.png", "missing"),
    ]
    (tmp_path / "typo.csv").write_text("uri\ns3://open/lists/a b#%.png\ns3://opne/a.png\n")
    run = label(fer, tmp_path / "typo.csv", checkpoint, tmp_path / "labels")
    assert (run.code, "s3://opne can't be used: the bucket does not" in run.sentence) == (2, True)
