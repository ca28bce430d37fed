"""What an update labels again, and which rows it replaces, without a cluster."""

import zipfile

import pyarrow as pa
import pytest

from fer import storage
from fer.data.items import SourceItem
from fer.labels.files import read_rows
from fer.labels.globs import Selection
from fer.storage import listing
from ray_jobs.labeling import chunks, update, videos


@pytest.fixture
def compare(tmp_path):
    """Return a function that compares a listing with labels.

    It returns the locations that are labeled again, and those whose rows are replaced.
    """

    def run(listed, labeled, lost=()):
        storage.delete(f"{tmp_path}/{update.REPLACED}")
        rows = [*(listed_row(*item) for item in listed), *(labeled_row(*item) for item in labeled)]
        both = pa.Table.from_pylist(rows, update.COMPARED_SCHEMA)
        again = update._compare(both, str(tmp_path), {videos.part_of(file) for file in lost})
        replaced = [
            row["file"]
            for name in listing.child_names(f"{tmp_path}/{update.REPLACED}")
            for row in read_rows(f"{tmp_path}/{update.REPLACED}/{name}")
        ]
        return again["source"].to_pylist(), sorted(replaced)

    return run


def listed_row(kind, source, etag="1"):
    return {"kind": kind, "source": source, "file": source, "etag": etag}


def labeled_row(file, labeled_in="faces/a.parquet", kind="image", etag="1"):
    return {"kind": kind, "file": file, "labeled_in": labeled_in, "etag": etag}


PART = "faces/video-{}-{:06}.parquet".format
"""Name of a label file of a long video."""


@pytest.mark.parametrize(
    ("lost", "again"),
    [
        ((), []),
        # An image has all its rows in one file. An archive may have some in the lost one.
        (("faces/b.parquet",), ["/a.zip"]),
        ((PART("x", 2),), ["/x.mp4"]),
        ((PART("z", 1),), []),
    ],
)
def test_what_may_lack_rows_is_labeled_again(compare, lost, again):
    listed = [("image", "/a.png"), ("archive", "/a.zip")]
    listed += [("video", f"/{name}.mp4") for name in ("clip", "x", "y")]
    labeled = [("/a.png",), ("/a.zip",), ("/clip.mp4",)]
    labeled += [(f"/{name}.mp4", PART(name, 1)) for name in "xy"]
    assert compare(listed, labeled, lost) == (again, again)


def test_what_has_got_another_name_loses_its_rows(compare):
    gone = ("/photos/raw/", "/lists/m.csv#17", "/lists/m.jsonl.gz#2", "https://a.org/a.png")
    kept = ("/photos/b.png", "/photos/closed/", "/lists/m.csv#3", "s3://b/a.png", "/photos/a#7.png")
    labeled = [(file, "faces/a.parquet", "rejected", None) for file in (*gone, *kept)]
    listed = [("image", "/photos/raw/1.png"), ("image", "/lists/17.png")]
    again = [("rejected", kept[1], None), ("rejected", kept[2], None)]
    new = [source for _, source, *_ in (*listed, *again)]
    assert compare([*listed, *again], labeled) == (new, sorted([*gone, *kept[1:3]]))
    # One that was labeled is kept, as any image that is gone from the source.
    assert compare([], [("/photos/raw/", "faces/a.parquet", "image", "1")]) == ([], [])


PROGRAM = b"const size: number = 42;\n" * 10


def test_what_turns_out_to_be_no_image_is_not_new_again_and_again(compare, tmp_path):
    contents = {
        "app.ts": PROGRAM,
        "notes": b"none",
        "film.ts": b"G\0junk",
        "photo": b"\xff\xd8\xff",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    kinds = {"app.ts": "video", "notes": "unknown", "film.ts": "video", "photo": "unknown"}
    kinds["gone.ts"] = "video"
    listed = [(kind, f"{tmp_path}/{name}") for name, kind in kinds.items()]
    new = [f"{tmp_path}/{name}" for name in ("film.ts", "photo", "gone.ts")]
    assert compare(listed, []) == (new, [])
    # Rows that say that it could not be read, or that it was an image, are outdated.
    labeled = [(f"{tmp_path}/app.ts", "faces/a.parquet", "rejected", None)]
    labeled.append((f"{tmp_path}/notes", "faces/a.parquet", "image", "0"))
    assert compare(listed, labeled) == (new, [f"{tmp_path}/{name}" for name in ("app.ts", "notes")])


def test_programs_in_an_archive_count_once(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("app.ts", PROGRAM)
        archive.writestr("notes.txt", "none")
    packed = SourceItem("archive", str(tmp_path / "a.zip"))
    selection = Selection(str(tmp_path))
    first = [item for chunk in chunks._split_archive(packed, selection, "") for item in chunk.items]
    assert [item.kind for item in first] == ["video", "ignored"]
    assert list(chunks._split_archive(packed, selection, "salt")) == []
