"""What an update labels again, and which rows it replaces, without a cluster."""

import pyarrow as pa
import pytest

from fer.labels.files import read_rows
from fer.storage import listing
from ray_jobs.labeling import update, videos


@pytest.fixture
def compare(tmp_path):
    """Return a function that compares a listing with labels.

    It returns the locations that are labeled again, and those whose rows are replaced.
    """

    def run(listed, labeled, lost=()):
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
