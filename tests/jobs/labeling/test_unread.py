"""Archives and videos that can't be read for the moment, in runs that are killed and resumed."""

import io
import json
import random
import tarfile
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer.data import readers
from fer.data.items import SourceItem
from fer.labels.files import write_labels
from fer.labels.globs import Selection
from fer.labels.tally import LabelTally
from fer.storage import listing, parquet
from fer.vision.sampling import FrameChunk, Sampling
from ray_jobs.labeling import chunks, update, videos, worklist, write
from ray_jobs.pipeline import stages

NAMES = [f"{number:02d}.png" for number in range(40)]
"""Members of an archive."""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of four images, or of fewer that are large."""
    for name, value in (("MIN_IMAGES", 4), ("MAX_BYTES", 100)):
        monkeypatch.setattr(f"fer.labels.chunks.{name}", value)


def pack(path):
    """Write an archive of a few large images and many small ones."""
    contents = {name: b"x" * (60 if name[1] == "7" else 10) for name in NAMES}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w") as archive:
            for name, content in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


class Labels:
    """Labels whose worklist is an archive or a video, labeled by runs that are killed."""

    def __init__(self, folder, item, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.name = "archive-1" if item.kind == "archive" else "video-1"
        listed = stages.to_table([item])
        parquet.write_table(f"{folder}/{worklist.FOLDER}/{self.name}.parquet", listed)

    def run(self, num_chunks=None, broken=None):
        """Label; die after some chunks. The store refuses an image, and after it a tar file."""
        write.delete_unread(str(self.folder), committed=())
        done = {name.removesuffix(".parquet") for name in listing.child_names(self.faces)}
        unread = pa.table({"chunk": [self.name], "table": [None]}, chunks.OPENED_SCHEMA)
        options = (Selection(str(self.folder)), Sampling(None), "")
        with self.monkeypatch.context() as patch:
            if broken:
                patch.setattr(readers, "_read_image", _refuse(broken))
            opened = chunks._read_chunks(unread, str(self.folder), frozenset(done), *options)
            for chunk in [*opened][:num_chunks]:
                row = chunk.to_pylist()[0]
                self._write(row["chunk"], stages.unpack(row["table"]).to_pylist())

    @property
    def faces(self):
        return f"{self.folder}/faces"

    def _write(self, name, items):
        rows = [
            {
                "image": item["source"],
                "etag": item["etag"],
                "status": "unreadable" if _is_failed(item) else "no_face",
                "model": "m",
                "detector": "d",
            }
            for item in items
        ]
        write_labels(str(self.folder), f"faces/{name}.parquet", rows, LabelTally(), ["happy"])

    @property
    def rows(self):
        names = listing.child_names(self.faces)
        rows = pq.read_table(self.faces).to_pylist() if names else []
        return Counter((row["image"].rpartition("!/")[2], row["status"]) for row in rows)


def _is_failed(item):
    return item["kind"] == "rejected" or (item["frames"] and json.loads(item["frames"])["problem"])


def _refuse(name):
    read = readers._read_image

    def refuse_one(stream, origin, start=b""):
        if origin.source.endswith(name):
            raise OSError("the store answered 503")
        return read(stream, origin, start)

    return refuse_one


@pytest.fixture(params=["zip", "tar"])
def archive(request, tmp_path, monkeypatch):
    path = tmp_path / f"a.{request.param}"
    pack(path)
    entry = listing.describe(str(path))
    item = SourceItem("archive", entry.location, size_bytes=entry.size_bytes, etag=entry.etag)
    return Labels(tmp_path / "labels", item, monkeypatch)


WHOLE = Counter({(name, "no_face"): 1 for name in NAMES})


def test_what_a_resumed_run_reads_replaces_what_could_not_be_read(archive):
    archive.run(broken="14.png", num_chunks=5)
    assert 1 in [number for (_, status), number in archive.rows.items() if status == "unreadable"]
    archive.run()
    assert archive.rows == WHOLE


def test_what_is_labeled_is_not_labeled_again_by_a_run_that_can_read_less(archive):
    archive.run(num_chunks=5)
    before = archive.rows
    archive.run(broken="09.png")
    after = archive.rows
    if archive.folder.parent.joinpath("a.zip").exists():
        # It has its row from the run before.
        assert after == WHOLE
    else:
        failed = (str(archive.folder.parent / "a.tar"), "unreadable")
        assert after == before + Counter([failed])
    archive.run()
    assert archive.rows == WHOLE


@pytest.mark.parametrize("seed", range(8))
def test_no_row_is_there_twice_whatever_can_be_read(archive, seed):
    chance = random.Random(seed)
    for _ in range(4):
        broken = chance.choice([None, *NAMES])
        archive.run(num_chunks=chance.choice([None, *range(5)]), broken=broken)
        assert not archive.rows or max(archive.rows.values()) == 1
    archive.run()
    assert archive.rows == WHOLE


def test_rows_that_an_update_replaces_do_not_count_as_labeled(archive):
    archive.run(num_chunks=3)
    path = next(archive.folder.parent.glob("a.*"))
    old = [f"faces/{name}" for name in listing.child_names(archive.faces)]
    done = frozenset(Path(name).stem for name in old)
    assert len(chunks._labeled_members(str(path), str(archive.folder), done)) == sum(
        archive.rows.values()
    )
    records = pa.table({"file": [str(path)] * 2, "labeled_in": old[:2]})
    parquet.write_keyed_table(str(archive.folder), update.REPLACED, records, key="file")
    left = chunks._labeled_members(str(path), str(archive.folder), done)
    kept = pq.read_table(archive.folder / old[2])["image"].to_pylist()
    assert left == {*kept}


def test_a_file_of_finished_labels_is_left_to_an_update(tmp_path):
    for name in ("a-unread", "video-b-unread", "c"):
        write_labels(str(tmp_path), f"faces/{name}.parquet", [], LabelTally(), ["happy"])
    write.delete_unread(str(tmp_path), committed={"faces/a-unread.parquet"})
    assert listing.child_names(f"{tmp_path}/faces") == {"a-unread.parquet", "c.parquet"}


def test_a_resumed_run_that_reads_a_video_forgets_that_it_could_not(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"video")
    entry = listing.describe(str(tmp_path / "a.mp4"))
    item = SourceItem("video", entry.location, size_bytes=entry.size_bytes, etag=entry.etag)
    labels, first = Labels(tmp_path / "labels", item, monkeypatch), FrameChunk(None, 0, ())

    def plan(broken):
        for number in range(4):
            if number == broken:
                raise OSError("the store answered 503")
            yield replace(first, first=number)

    for broken, failed in ((2, 1), (0, 1), (None, 0)):
        monkeypatch.setattr(videos, "plan", lambda *_, broken=broken: plan(broken))
        labels.run()
        assert labels.rows[str(tmp_path / "a.mp4"), "unreadable"] == failed
    assert labels.rows.total() == 4
