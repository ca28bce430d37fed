"""Tracks of a label job: they are numbered by video, whose table they complete."""

import csv
import shutil

import pyarrow as pa
from videos import rows_at

from fer.labels.files import write_labels
from fer.labels.tally import LabelTally
from fer.labels.video_tables import table_path
from ray_jobs.labeling import tracks
from ray_jobs.labeling.tracks import Tracked


def numbered(output, files, formats=("csv",)):
    """Number the tracks in label files, as a task does, and return what was made of them."""
    groups = pa.table({"files": tracks._group_by_video(files)})
    batches = tracks._number_tracks(groups, str(output), ["happy"], formats)
    made = Tracked()
    for batch in batches:
        made.add(batch["tally"][0])
    return made


def write_rows(output, name, rows):
    whole = [{"status": "ok", "model": "m-1", "detector": "none", **row} for row in rows]
    file = f"faces/{name}.parquet"
    write_labels(str(output), file, whole, LabelTally(len(rows), files={file}), ["happy"])
    return file


def test_each_video_has_a_table_and_photographs_are_in_none(tmp_path):
    def rows_of(video, first=0, **columns):
        rows = rows_at([[10.0, 90.0]] * 2, first)
        return [{**row, "image": video, "probabilities": [1.0], **columns} for row in rows]

    photo = {"image": "/photo.jpg", "frame": None, "track": None}
    broken = {"image": "/broken.mov", "frame": None, "track": None, "status": "unreadable"}
    cut = {"image": "/long.mp4", "frame": None, "track": None, "status": "unreadable"}
    files = [
        write_rows(tmp_path, "clips", [*rows_of("/a/x.mp4"), broken, *rows_of("/b/x.mp4")]),
        write_rows(tmp_path, "mixed", [photo, *rows_of("/moving.webp"), photo]),
        write_rows(tmp_path, "video-1-000002", rows_of("/long.mp4", 2)),
        write_rows(tmp_path, "video-1-000001", rows_of("/long.mp4")),
        write_rows(tmp_path, "video-1-unread", [cut]),
    ]
    made = numbered(tmp_path, files)
    tables = {}
    for path in made.tables:
        rows = [*csv.DictReader((tmp_path / path).read_text().splitlines())]
        (video,) = {row["image"] for row in rows}
        assert path == table_path(video)
        tables[video] = [(row["frame"], row["track"]) for row in rows]
    two_frames = [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert tables == {
        "/a/x.mp4": two_frames,
        "/b/x.mp4": two_frames,
        "/broken.mov": [("", "")],
        "/moving.webp": two_frames,
        "/long.mp4": [*two_frames, ("2", "0"), ("2", "1"), ("3", "0"), ("3", "1"), ("", "")],
    }
    assert [timeline.video for timeline in made.timelines] == [
        *("/a/x.mp4", "/b/x.mp4", "/long.mp4", "/moving.webp"),
    ]
    shutil.rmtree(tmp_path / "videos")
    assert numbered(tmp_path, files, ["jsonl"]).tables == set()
    assert not (tmp_path / "videos").exists()


def test_files_of_a_video_are_taken_in_the_order_of_its_frames():
    names = ["video-b-000002", "c", "video-b-000001", "video-a-000001"]
    assert tracks._group_by_video([f"faces/{name}.parquet" for name in names]) == [
        ["faces/c.parquet"],
        ["faces/video-a-000001.parquet"],
        ["faces/video-b-000001.parquet", "faces/video-b-000002.parquet"],
    ]
