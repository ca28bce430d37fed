"""A CSV file for each video."""

import csv

import pytest

from fer.labels import video_tables
from fer.labels.video_tables import VideoTable, table_path

EMOTIONS = ("sad", "happy")


def row_of(frame, video="/clips/talk.mp4"):
    return {
        "image": video,
        "frame": frame,
        "time_seconds": frame / 2,
        "track": 0,
        "face": 0,
        "emotion": "happy",
        "probabilities": [0.25, 0.75],
        "status": "ok",
        "model": "m-1",
        "detector": "yunet",
    }


def test_tables_are_named_by_their_videos_and_never_collide():
    videos = ["/a/talk.mp4", "/b/talk.mp4", "s3://bucket/talk.mp4", "/a.zip!/talk.mp4"]
    paths = [table_path(video) for video in videos]
    assert len(set(paths)) == len(videos)
    assert all(path.startswith("videos/talk.mp4-") and path.endswith(".csv") for path in paths)


@pytest.mark.parametrize(
    "video",
    [
        "/a/" + "é" * 250,
        "/a/" + "あ" * 80 + ".mp4",
        "/a/" + "\U0001f600あ" * 30 + ".mp4",
        r"/a/\xe4: *?.mp4",
        "/a/=cmd|' /C calc'!A0",
        "/a/日本\n.mp4",
    ],
)
def test_the_name_of_a_table_is_one_that_every_disk_takes(video):
    folder, name = table_path(video).split("/")
    assert (folder, name[-4:]) == ("videos", ".csv")
    assert len(name.encode()) <= 255
    assert not set(name) & set("\\:*?|'\n =!")


@pytest.mark.parametrize("bytes_in_memory", [2**20, 100])
def test_rows_that_come_in_parts_are_one_table(tmp_path, bytes_in_memory, monkeypatch):
    monkeypatch.setattr(video_tables, "MAX_BYTES_IN_MEMORY", bytes_in_memory)
    with VideoTable("/clips/talk.mp4", EMOTIONS) as table:
        for first in (0, 3, 6):
            table.add([row_of(frame) for frame in range(first, first + 3)])
        assert not (tmp_path / "videos").exists()
        path = table.write(str(tmp_path))
    assert path == table_path("/clips/talk.mp4")
    lines = (tmp_path / path).read_text().splitlines()
    assert len(lines) == 1 + 9
    rows = [*csv.DictReader(lines)]
    assert [row["frame"] for row in rows] == [str(number) for number in range(9)]
    assert {row["probability_happy"] for row in rows} == {"0.75"}


def test_a_table_replaces_itself(tmp_path):
    for num_rows in (3, 2):
        with VideoTable("/clips/talk.mp4", EMOTIONS) as table:
            table.add([row_of(frame) for frame in range(num_rows)])
            path = table.write(str(tmp_path))
    assert [file.name for file in (tmp_path / "videos").iterdir()] == [path.split("/")[1]]
    assert len((tmp_path / path).read_text().splitlines()) == 1 + 2
