"""Updates of labels: only new and changed images are labeled."""

import io
import os
import shutil
import zipfile
from collections import Counter, defaultdict

import pyarrow.parquet as pq
import pytest

from fer.data.items import containing_file
from fer.data.synthetic import draw_faces
from fer.errors import InputError, JobError
from fer.labels.catalog import Catalog, changes_since
from ray_jobs.labeling import update

COUNTS = ("images", "labeled", "faces", "failed")


@pytest.fixture(scope="module")
def drawings(png):
    """Contents of different PNG files."""
    images, _ = draw_faces(100, seed=7)
    return [png(image) for image in images]


@pytest.fixture
def folder(tmp_path, drawings):
    """Forty images in two folders, an archive of ten more, and a file that is not an image."""
    source = tmp_path / "photos"
    for number in range(40):
        file = source / "ab"[number % 2] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(drawings[number])
    pack(source / "more.zip", drawings[40:50])
    (source / "README.md").write_text("Not an image.")
    return source


def pack(location, members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, content in enumerate(members):
            archive.writestr(f"{number:02d}.png", content)
    location.write_bytes(packed.getvalue())


@pytest.fixture
def label(fer, folder, checkpoint, tmp_path):
    def run(*flags):
        common = ("--detector", "none", "--engine", "float32", "--checkpoint", checkpoint)
        return fer("label", "--images", folder, "--output", tmp_path / "labels", *common, *flags)

    return run


def counts_of(run):
    return [run.result[name] for name in COUNTS]


def rows_of(tmp_path):
    """Return the only row of each image, by the image's path below the folder."""
    rows = pq.read_table(tmp_path / "labels" / "faces").to_pylist()
    assert max(Counter(row["image"] for row in rows).values()) == 1
    return {row["image"].removeprefix(f"{tmp_path}/photos/"): row for row in rows}


def grow(folder, drawings):
    """Change an image and an archive, delete an image, add two."""
    (folder / "a" / "00.png").write_bytes(drawings[60])
    pack(folder / "more.zip", drawings[61:64])
    (folder / "b" / "01.png").unlink()
    (folder / "new").mkdir()
    (folder / "new" / "70.png").write_bytes(drawings[70])
    (folder / "a" / "02 junk.png").write_bytes(b"junk")


def changes_of(tmp_path, time=None):
    """Return what is told of each image, by its path below the folder, and the time."""
    changes = changes_since(str(tmp_path / "labels"), time)
    prefix = f"{tmp_path}/photos/"
    told = {row["image"].removeprefix(prefix): row for row in changes.rows.to_pylist()}
    assert len(told) == len(changes.rows)
    told |= {image.removeprefix(prefix): {"change": "gone"} for image in changes.gone}
    return told, changes.until


def check_told(told, rows, gone=frozenset()):
    """Check what is told of the update that ``grow`` asks for, and of other rows that are gone."""
    by_change = defaultdict(set)
    for image, row in told.items():
        by_change[row.pop("change")].add(image)
        assert row == ({} if image in by_change["gone"] else rows[image])
    assert by_change == {
        "added": {"new/70.png", "a/02 junk.png"},
        "replaced": {"a/00.png", *(f"more.zip!/{number:02d}.png" for number in range(3))},
        "gone": {f"more.zip!/{number:02d}.png" for number in range(3, 10)} | gone,
    }


def check_grown(rows, before):
    assert len(rows) == 40 + 2 + 3
    changed = {"a/00.png", *(f"more.zip!/{number:02d}.png" for number in range(3))}
    assert rows.keys() - before.keys() == {"new/70.png", "a/02 junk.png"}
    assert before.keys() - rows.keys() == {f"more.zip!/{number:02d}.png" for number in range(3, 10)}
    assert rows["a/02 junk.png"]["status"] == "unreadable"
    for name in rows.keys() & before.keys():
        assert (rows[name] == before[name]) == (name not in changed), name
    assert rows["a/00.png"]["etag"] != before["a/00.png"]["etag"]


@pytest.mark.slow
def test_new_and_changed_images_are_labeled(label, folder, drawings, tmp_path):
    assert counts_of(label()) == [50, 50, 50, 0]
    before = rows_of(tmp_path)
    told, first = changes_of(tmp_path)
    assert told == {image: {**row, "change": "added"} for image, row in before.items()}
    grow(folder, drawings)
    assert counts_of(label("--update")) == [45, 6, 44, 1]
    check_grown(rows_of(tmp_path), before)
    told, second = changes_of(tmp_path, first)
    check_told(told, rows_of(tmp_path))
    assert changes_of(tmp_path, second) == ({}, second)
    assert not (tmp_path / "labels" / update.REPLACED).exists()
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "labels/faces").iterdir()}
    assert counts_of(label("--update")) == [45, 0, 44, 1]
    assert after == {
        file.name: file.stat().st_mtime_ns for file in (tmp_path / "labels/faces").iterdir()
    }
    assert changes_of(tmp_path, second) == ({}, second)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--resume", "--update"])
def test_an_interrupted_update_is_completed(label, folder, drawings, tmp_path, monkeypatch, flag):
    label()
    before, (_, first) = rows_of(tmp_path), changes_of(tmp_path)
    grow(folder, drawings)
    with monkeypatch.context() as patch:
        # New rows are written, and outdated ones are still there.
        patch.setattr(update, "drop_replaced", _fail)
        assert label("--update").code == 1
    again = label(flag)
    assert counts_of(again) == [45, 0, 44, 1]
    is_said = "labels are not complete; they are finished first." in again.errors
    assert is_said == (flag == "--update")
    check_grown(rows_of(tmp_path), before)
    check_told(changes_of(tmp_path, first)[0], rows_of(tmp_path))


@pytest.mark.slow
def test_an_update_completes_labels_that_were_never_finished(
    label, folder, drawings, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(update, "drop_replaced", _fail)
        assert label().code == 1
    before = rows_of(tmp_path)
    assert len(before) == 50
    with pytest.raises(InputError, match="holds no catalog"):
        changes_of(tmp_path)
    grow(folder, drawings)
    # The seventh row is that of the archive, which has changed since it was listed.
    assert counts_of(label("--update")) == [45, 7, 44, 1]
    check_grown(rows_of(tmp_path), before)
    first, _ = Catalog.read(str(tmp_path / "labels")).generations
    told, _ = changes_of(tmp_path, first.committed_at)
    check_told(told, rows_of(tmp_path), gone={"more.zip"})


@pytest.mark.slow
def test_label_files_that_somebody_deletes_after_an_update_are_written_again(
    label, folder, drawings, tmp_path
):
    label()
    grow(folder, drawings)
    label("--update")
    before = rows_of(tmp_path)
    files = sorted((tmp_path / "labels" / "faces").iterdir())
    for file in (*files[::2], tmp_path / "labels" / "summary.json"):
        file.unlink()
    assert label("--resume").code == 0
    rows = rows_of(tmp_path)
    # It is gone from the folder.
    for known in (rows, before):
        known.pop("b/01.png", None)
    assert rows == before
    # What the archive has lost is told to be gone, or was never told: as the deleted files had it.
    told = {image for image, row in changes_of(tmp_path)[0].items() if row["change"] != "gone"}
    assert told - {"b/01.png"} == before.keys()
    assert counts_of(label("--update"))[1] == 0


@pytest.mark.slow
def test_what_a_killed_run_could_not_read_is_forgotten(label, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(update, "drop_replaced", _fail)
        assert label().code == 1
    file = next((tmp_path / "labels" / "faces").iterdir())
    shutil.copy(file, file.with_name("a-unread.parquet"))
    assert counts_of(label("--resume"))[0] == len(rows_of(tmp_path)) == 50


def _fail(*_):
    raise JobError("The machine was lost.")


@pytest.mark.slow
def test_images_that_could_not_be_fetched_are_tried_again(label, folder, drawings, tmp_path):
    hidden = folder / "a" / "00.png"
    hidden.unlink()
    hidden.symlink_to(folder / "gone")
    os.utime(hidden, follow_symlinks=False)
    first = label()
    hidden.unlink()
    hidden.write_bytes(drawings[0])
    assert counts_of(label("--update"))[0] == 50
    assert rows_of(tmp_path)["a/00.png"]["status"] == "ok"
    assert first.result["images"] in (49, 50)


@pytest.mark.slow
def test_images_that_always_fail_keep_their_rows(fer, checkpoint, folder, drawings, tmp_path):
    """A manifest without ETags names a damaged image and one that does not exist."""
    (folder / "list.csv").write_text("image\na/00.png\ndamaged.png\nnowhere.png\n")
    (folder / "damaged.png").write_bytes(b"junk")
    run = ("label", "--images", folder / "list.csv", "--output", tmp_path / "labels")
    common = ("--detector", "none", "--engine", "float32", "--checkpoint", checkpoint)
    assert fer(*run, *common).code == 0
    for _ in range(3):
        assert counts_of(fer(*run, *common, "--update")) == [3, 2, 1, 2]
        statuses = {name: row["status"] for name, row in rows_of(tmp_path).items()}
        assert statuses == {"a/00.png": "ok", "damaged.png": "unreadable", "nowhere.png": "missing"}
    (folder / "damaged.png").write_bytes(drawings[1])
    assert counts_of(fer(*run, *common, "--update")) == [3, 2, 2, 1]
    assert rows_of(tmp_path)["damaged.png"]["status"] == "ok"


@pytest.mark.slow
def test_an_archive_that_changes_before_it_is_read_is_labeled_by_an_update(
    label, folder, drawings, tmp_path, monkeypatch
):
    from ray_jobs.labeling import worklist

    make = worklist.make

    def make_and_change(*arguments):
        make(*arguments)
        pack(folder / "more.zip", drawings[80:84])

    with monkeypatch.context() as patch:
        patch.setattr(worklist, "make", make_and_change)
        assert counts_of(label()) == [41, 41, 40, 1]
    row = rows_of(tmp_path)["more.zip"]
    assert (row["status"], row["etag"]) == ("unreadable", None)
    assert "has changed since it was listed; label it with --update" in row["error"]
    assert counts_of(label("--update")) == [44, 4, 44, 0]


def test_an_update_without_labels_begins(label, folder, drawings, tmp_path):
    run = label("--update")
    assert counts_of(run) == [50, 50, 50, 0]
    assert f"{tmp_path}/labels holds no run to update; starting a new one." in run.errors
    (folder / "later.png").write_bytes(drawings[70])
    assert counts_of(label("--update")) == [51, 1, 51, 0]


def test_the_file_that_contains_an_item():
    assert containing_file("s3://b/x.zip!/a/b.png") == "s3://b/x.zip"
    assert containing_file("s3://b/hey!/b.png") == "s3://b/hey!/b.png"
    assert containing_file("s3://b/b.png") == "s3://b/b.png"
    assert containing_file("s3://b/Party!/more.zip!/00.png") == "s3://b/Party!/more.zip"
    assert containing_file("s3://b/x.zip!/y.tar!/b.png") == "s3://b/x.zip"
