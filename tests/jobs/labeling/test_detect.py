"""The stage that detects faces, called without a cluster."""

import pyarrow as pa
import pytest

from fer.labels.schema import LABEL_SCHEMA, Labeler
from ray_jobs.labeling.detect import Detection, detect_in_items
from ray_jobs.pipeline.stages import ITEM_SCHEMA

LABELER = Labeler(("sad", "happy"), "network", "detector", 0.0)


def rows_of(data, detection):
    """Return the rows of labels of one image."""
    item = {"kind": "image", "source": "/a.jpg", "path": "a.jpg", "data": data, "size_bytes": 1}
    items = pa.Table.from_pylist([item], ITEM_SCHEMA)
    (image,) = detect_in_items(items, detection).to_pylist()
    image = {name: image[name] for name in (*LABEL_SCHEMA.names, "faces") if name in image}
    faces = [{name: face[name] for name in ("box",)} for face in image["faces"] or ()]
    image["faces"] = None if image["faces"] is None else faces
    return LABELER.rows(image, [[0.25, 0.75]] * len(faces))


@pytest.mark.parametrize("detects", [True, False])
def test_what_a_file_lacks_is_said_beside_its_faces(crowd, detects):
    detection = Detection(crowd.weights if detects else None)
    cut = crowd.file[: crowd.file.rindex(b"\xff\xd9")]
    rows, whole = rows_of(cut, detection), rows_of(crowd.file, detection)
    assert len(rows) == (3 if detects else 1)
    note = "The JPEG file ends early, but all its pixels are there."
    assert {(row["status"], row["error"]) for row in rows} == {("ok", note)}
    assert {(row["status"], row["error"]) for row in whole} == {("ok", None)}
    assert [row["box"] for row in rows] == [row["box"] for row in whole]


def test_a_file_that_is_cut_in_the_middle_is_unreadable(crowd):
    (row,) = rows_of(crowd.file[: len(crowd.file) // 2], Detection(crowd.weights))
    assert row["status"] == "unreadable"
    assert "the JPEG file ends early, and" in row["error"]
