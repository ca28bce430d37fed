"""Videos to labels: a row a face of each sampled frame, with its track."""

import csv
import zipfile

import pyarrow.parquet as pq
import pytest
from PIL import Image
from plates import draw_plates, plate_detector
from videos import make_video

from fer import storage
from fer.labels.schema import LABEL_SCHEMA
from fer.labels.video_tables import table_path
from ray_jobs.labeling import videos

SIZE = (640, 480)


def draw_crossing(number):
    """Two plates that cross within eight seconds of five frames, one above the other."""
    plates = [(80 + 12 * number, 120, 60, 70, 0), (560 - 12 * number, 360, 80, 90, 0)]
    return draw_plates(SIZE, plates)


@pytest.fixture(scope="module")
def crossing():
    return make_video(num_frames=40, rate=5, draw=draw_crossing, g=10, sc_threshold=0, crf=10)


@pytest.fixture(scope="module")
def clips(crossing, s3, tmp_path_factory):
    """A bucket of one scene: as a clip, as a long video, in an archive, as an animated image."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "faces.mp4").write_bytes(crossing)
    (folder / "long.mp4").write_bytes(crossing + bytes(videos.CLIP_BYTES))
    Image.fromarray(draw_crossing(0)).save(folder / "photo.png")
    (folder / "broken.mov").write_bytes(b"junk")
    (folder / "app.ts").write_text("const answer: number = 42;\n")
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("packed.mp4", crossing)
    stills = [Image.fromarray(draw_crossing(number)) for number in range(40)]
    stills[0].save(folder / "moving.webp", save_all=True, append_images=stills[1:], duration=200)
    for file in folder.iterdir():
        s3.put_object(Bucket="open", Key=f"clips/{file.name}", Body=file.read_bytes())
    return "s3://open/clips"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("detector") / "plates.onnx"
    file.write_bytes(plate_detector())
    return file


@pytest.fixture
def label_clips(fer, checkpoint, weights):
    """Return a function that labels videos, and returns the result and the rows of each file."""

    def run(images, output, *flags):
        named = ("--detector-weights", weights, "--engine", "float32", "--checkpoint", checkpoint)
        done = fer("label", "--images", images, *named, "--output", output, *flags)
        assert done.code == 0, done.errors
        store, path = storage.filesystem(f"{output}/faces")
        table = pq.read_table(path, filesystem=store)
        assert table.schema.equals(LABEL_SCHEMA)
        rows = {}
        for row in table.to_pylist():
            rows.setdefault(storage.base_name(row["image"]), []).append(row)
        return done.result, rows

    return run


def test_every_face_of_every_sampled_frame_has_a_row_and_a_track(clips, label_clips, tmp_path):
    result, rows = label_clips(clips, tmp_path / "labels", "--fps", 2.5, "--format", "csv")
    assert (result["images"], result["frames"]) == (2 + 4 * 20, 4 * 20)
    assert (result["faces"], result["failed"], result["ignored"]) == (2 + 4 * 40, 1, {".ts": 1})
    assert rows["broken.mov"][0]["status"] == "unreadable"
    assert [row["frame"] for row in rows["photo.png"]] == [None, None]
    for name in ("faces.mp4", "long.mp4", "packed.mp4", "moving.webp"):
        assert [row["frame"] for row in rows[name]] == [n for n in range(0, 40, 2) for _ in "ab"]
        seconds = [row["time_seconds"] for row in rows[name]]
        assert seconds == pytest.approx([row["frame"] / 5 for row in rows[name]])
        for row in rows[name]:
            is_upper = row["box"]["y"] < 200
            middle = row["box"]["x"] + row["box"]["width"] / 2
            expected = 80 + 12 * row["frame"] if is_upper else 560 - 12 * row["frame"]
            assert middle == pytest.approx(expected, abs=4)
        tracks = {(row["box"]["y"] < 200, row["track"]) for row in rows[name]}
        assert len(tracks) == len({track for _, track in tracks}) == 2
    files = [*(tmp_path / "labels" / "csv").iterdir()]
    table = [row for file in files for row in csv.DictReader(file.read_text().splitlines())]
    assert sorted(row["track"] for row in table if row["frame"]) == sorted(["0", "1"] * 80)
    videos = [row for row in table if row["frame"] or row["image"].endswith(".mov")]
    tables = [*(tmp_path / "labels" / "videos").iterdir()]
    assert {f"videos/{file.name}" for file in tables} == {
        table_path(row["image"]) for row in videos
    }
    separate = [row for file in tables for row in csv.DictReader(file.read_text().splitlines())]
    assert sorted(map(repr, separate)) == sorted(map(repr, videos))


@pytest.mark.slow
def test_updates_label_videos_that_are_new_or_changed(crossing, label_clips, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("same.mp4", "other.mp4"):
        (folder / name).write_bytes(crossing)
    output = tmp_path / "labels"
    label_clips(folder, output, "--start", 1, "--end", 3)
    short = make_video(num_frames=20, rate=5, draw=draw_crossing)
    (folder / "other.mp4").write_bytes(short)
    (folder / "new.mp4").write_bytes(short)
    result, rows = label_clips(folder, output, "--start", 1, "--end", 3, "--update")
    assert result["labeled"] == 4
    assert {name: [row["frame"] for row in rows[name]] for name in rows} == {
        name: [5, 5, 10, 10] for name in ("same.mp4", "other.mp4", "new.mp4")
    }
    assert all(row["track"] is not None for name in rows for row in rows[name])


def test_a_manifest_and_a_single_file_name_videos(crossing, label_clips, tmp_path):
    (tmp_path / "a.mp4").write_bytes(crossing)
    (tmp_path / "list.csv").write_text("image\na.mp4\n")
    for number, images in enumerate((tmp_path / "a.mp4", tmp_path / "list.csv")):
        result, rows = label_clips(images, tmp_path / f"labels{number}", "--fps", "all")
        assert (result["frames"], result["faces"]) == (40, 80)
        assert {row["image"] for row in rows["a.mp4"]} == {str(tmp_path / "a.mp4")}
