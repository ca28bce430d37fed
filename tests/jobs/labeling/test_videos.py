"""Videos in a label job: how they are cut, and what rows they give, without a cluster."""

import io
import os
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from fault_proxy import Fault
from PIL import Image
from videos import draw_frame, make_video

from fer import storage
from fer.data.items import SourceItem
from fer.storage import listing
from fer.storage.paths import READ_AHEAD_BYTES
from fer.vision import sampling
from fer.vision.sampling import Sampling
from ray_jobs.labeling import chunks as opening
from ray_jobs.labeling import videos, worklist
from ray_jobs.labeling.detect import detect_in_items
from ray_jobs.labeling.images import Detection
from ray_jobs.labeling.worklist import Worklist
from ray_jobs.pipeline import stages

ALL = Sampling(None)
EVERY_FRAME = Detection(None, sampling=ALL)


@pytest.fixture(scope="module")
def clip():
    return make_video(num_frames=60, g=10, sc_threshold=0)


def save(folder, name, content):
    (folder / name).write_bytes(content)
    entry = listing.describe(str(folder / name))
    return SourceItem("video", entry.location, size_bytes=entry.size_bytes, etag=entry.etag)


def detect(items, detection=EVERY_FRAME):
    return detect_in_items(stages.to_table(items), detection).to_pylist()


def cut(item, wanted=ALL):
    return list(videos.cut(item, wanted, "video-1"))


def test_a_clip_gives_a_row_for_each_sampled_frame(tmp_path, clip):
    rows = detect([save(tmp_path, "a.mp4", clip)], Detection(None, sampling=Sampling(5.0)))
    assert [row["frame"] for row in rows] == list(range(0, 60, 5))
    assert [row["time_seconds"] for row in rows] == pytest.approx([n / 5 for n in range(12)])
    assert {(row["width"], row["height"], len(row["crops"])) for row in rows} == {(192, 96, 1)}
    assert {row["image"] for row in rows} == {str(tmp_path / "a.mp4")}
    assert all(row["seconds"] > 0 for row in rows)


def test_the_chunks_of_a_video_give_the_rows_of_the_whole(tmp_path, clip, monkeypatch):
    item = save(tmp_path, "a.mp4", clip)
    whole = detect([item])
    monkeypatch.setattr(sampling, "CHUNK_SAMPLES", 10)
    chunks = cut(item)
    assert [chunk.name for chunk in chunks] == [f"video-1-{number:06}" for number in range(1, 7)]
    rows = [row for chunk in chunks for row in detect(chunk.items)]
    same = ("image", "etag", "frame", "time_seconds", "crops", "status", "error")
    assert [[row[name] for name in same] for row in rows] == [
        [row[name] for name in same] for row in whole
    ]


def test_small_videos_share_chunks_and_long_ones_have_their_own(tmp_path, clip, monkeypatch):
    monkeypatch.setattr(videos, "CLIPS_PER_CHUNK", 2)
    items = [save(tmp_path, f"{number}.mp4", clip) for number in range(3)]
    long = save(tmp_path, "long.mp4", clip + bytes(videos.CLIP_BYTES))
    image = SourceItem("image", "/a.jpg", size_bytes=1)
    share = Worklist()
    chunks = list(worklist._split(stages.to_table([long, *items, image]), share, 1))
    assert [len(chunk.items) for chunk in chunks] == [1, 2, 1, 1]
    assert [chunk.name.startswith("video-") for chunk in chunks] == [False, False, False, True]
    assert share.kinds == {"video": 4, "image": 1}


def test_thousands_of_tiny_clips_share_chunks_and_all_have_their_rows(tmp_path):
    tiny = make_video(num_frames=2, draw=lambda number: draw_frame(number, 48, 24))
    first = save(tmp_path, "0.mp4", tiny)
    items = [replace(first, source=str(tmp_path / f"{number}.mp4")) for number in range(4000)]
    chunks = list(worklist._split(stages.to_table(items), Worklist(), 1))
    assert len(chunks) == len({chunk.name for chunk in chunks}) == 4000 / videos.CLIPS_PER_CHUNK
    assert [item.source for chunk in chunks for item in chunk.items] == [i.source for i in items]
    for number in range(1, videos.CLIPS_PER_CHUNK):
        os.link(tmp_path / "0.mp4", tmp_path / f"{number}.mp4")
    rows = detect(chunks[0].items)
    expected = [(item.source, frame) for item in chunks[0].items for frame in (0, 1)]
    assert [(row["image"], row["frame"]) for row in rows] == expected


def test_the_names_of_chunks_depend_on_what_the_video_is(tmp_path, clip):
    item = save(tmp_path, "a.mp4", clip)
    names = {videos.name_video(item, ""), videos.name_video(item, "salt")}
    names.add(videos.name_video(save(tmp_path, "a.mp4", clip + b"\0"), ""))
    assert len(names) == 3


# What is wrong with a video.


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.mp4", b"junk", "The file is not a video that FFmpeg reads: invalid data"),
        ("a.mkv", b"", "The file is not a video that FFmpeg reads: invalid data"),
    ],
)
def test_what_is_no_video_is_one_row(tmp_path, name, content, error):
    item = save(tmp_path, name, content)
    (chunk,) = cut(item)
    assert chunk.name == "video-1-unread"
    for items in ([item], chunk.items):
        (row,) = detect(items)
        assert (row["status"], row["frame"], row["faces"]) == ("unreadable", None, None)
        assert row["error"].startswith(error)


def test_a_program_in_typescript_is_ignored(tmp_path):
    program = "Get: const größe: number = 42;\n".encode() * 200
    item = save(tmp_path, "app.ts", program)
    (chunk,) = cut(item)
    assert [row["status"] for row in detect(chunk.items)] == ["ignored"]
    packed = SourceItem("video", "/a.zip!/app.ts", data=program)
    assert [row["status"] for row in detect([packed])] == ["ignored"]


@pytest.mark.parametrize("content", [b"", b"G\0junk" * 1000])
def test_a_damaged_transport_stream_is_not_taken_for_a_program(tmp_path, content):
    (row,) = detect([save(tmp_path, "a.ts", content)])
    assert row["status"] == "unreadable"


def test_a_video_that_is_gone_is_missing(tmp_path, clip):
    item = save(tmp_path, "a.mp4", clip)
    (tmp_path / "a.mp4").unlink()
    (chunk,) = cut(item)
    (row,) = detect(chunk.items)
    assert (row["status"], row["etag"]) == ("missing", None)
    assert row["error"] == "The file no longer exists, although it was listed."


def test_a_video_that_changed_since_it_was_listed_is_not_mixed_with_what_it_was(tmp_path, clip):
    item = save(tmp_path, "a.mp4", clip)
    chunks = cut(item)
    (tmp_path / "a.mp4").write_bytes(clip + b"\0")
    (row,) = detect(chunks[0].items)
    assert (row["status"], row["etag"]) == ("unreadable", None)
    reason = "it has changed since it was listed; label it with --update"
    assert row["error"] == f"The file can't be read: {reason}."


def test_times_that_hold_no_frame_are_said_in_one_row(tmp_path, clip):
    late = Sampling(1.0, start=100.0)
    item = save(tmp_path, "a.mp4", clip)
    for items in ([item], cut(item, late)[0].items):
        (row,) = detect(items, Detection(None, sampling=late))
        assert (row["status"], row["faces"], row["frame"]) == (None, [], None)
        assert row["error"] == "No frame is shown in the time that --start and --end give."


def test_a_cut_video_gives_its_frames_and_then_says_so(tmp_path):
    content = make_video("matroska", num_frames=100, g=25)
    rows = detect([save(tmp_path, "a.mkv", content[: len(content) // 2])])
    assert len(rows) > 10
    assert {row["status"] for row in rows[:-1]} == {None}
    assert rows[-1]["status"] == "unreadable"
    assert "although its header promises 4.0 s" in rows[-1]["error"]


def test_a_store_that_fails_in_the_middle_keeps_what_was_cut_and_tries_again(
    tmp_path, clip, monkeypatch
):
    monkeypatch.setattr(sampling, "CHUNK_SAMPLES", 10)
    item = save(tmp_path, "a.mp4", clip)

    def plan_and_fail(file, wanted):
        for number, chunk in enumerate(sampling.plan(file, wanted)):
            if number == 2:
                raise OSError("the store answered 503")
            yield chunk

    monkeypatch.setattr(videos, "plan", plan_and_fail)
    chunks = cut(item)
    assert [chunk.name[-6:] for chunk in chunks] == ["000001", "000002", "unread"]
    (row,) = detect(chunks[-1].items)
    # Without an ETag, an update labels the video again.
    assert (row["status"], row["etag"]) == ("unreadable", None)
    assert row["error"] == "The rest of the video can't be read: the store answered 503."


def test_a_video_of_which_the_store_refuses_a_range_gives_what_comes_before(s3, faults):
    noise = np.random.default_rng(0).integers(0, 256, (8, 160, 240, 3), np.uint8)
    content = make_video(
        "matroska", "mjpeg", num_frames=900, draw=lambda n: noise[n % 8], pixels="yuvj420p"
    )
    assert len(content) > 1.5 * READ_AHEAD_BYTES
    s3.put_object(Bucket="open", Key="refused/long.mkv", Body=content)
    later = r"^GET /open/refused/long[^\n]*\n(?s:.*)range: bytes=[4-9]\d{6}-"
    faults.append(Fault(later, status=403, code="AccessDenied"))
    entry = listing.describe("s3://open/refused/long.mkv")
    item = SourceItem("video", entry.location, size_bytes=entry.size_bytes, etag=entry.etag)
    first, last = cut(item)
    assert [row["frame"] for row in detect(first.items)] == list(range(256))
    (row,) = detect(last.items)
    assert (row["status"], row["etag"]) == ("unreadable", None)
    reason = "the store denies access to these credentials"
    assert row["error"] == f"The rest of the video can't be read: {reason}."


def test_a_video_that_the_store_refuses_is_not_read_as_a_whole_later(tmp_path, clip, monkeypatch):
    """Chunks of it may be labeled already."""
    item = save(tmp_path, "a.mp4", clip)

    def refuse(file, wanted):
        raise OSError("the store answered 503")

    with monkeypatch.context() as patch:
        patch.setattr(videos, "plan", refuse)
        (chunk,) = cut(item)
    (row,) = detect(chunk.items)
    assert (chunk.name, row["status"], row["etag"]) == ("video-1-unread", "unreadable", None)
    assert row["error"] == "The video can't be read: the store answered 503."


def test_what_crashes_without_frames_is_said_in_one_row(tmp_path, clip):
    item, crash = save(tmp_path, "a.mp4", clip), ChildProcessError("it ends its process")
    for problem, expected in (
        ("The video ends after 2.0 s.", "The video ends after 2.0 s."),
        (None, "The file can't be read: it ends its process."),
    ):
        last = replace(item, frames=sampling.FrameChunk(None, 0, (), problem).to_json())
        (row,) = videos.undecodable(last, crash)
        assert (row["status"], row["etag"], row["error"]) == ("unreadable", None, expected)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_video_in_an_archive_gives_the_rows_of_the_file(tmp_path, clip, kind):
    path, alone = tmp_path / f"a.{kind}", save(tmp_path, "alone.mp4", clip)
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("clip.mp4", clip)
            archive.writestr("notes.txt", "none")
    else:
        (tmp_path / "notes.txt").write_text("none")
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tmp_path / "alone.mp4", "clip.mp4")
            archive.add(tmp_path / "notes.txt", "notes.txt")
    entry = listing.describe(str(path))
    packed = SourceItem("archive", entry.location, etag=entry.etag)
    first, second = opening._members(packed, all_files=False)
    assert (first.kind, second.kind) == ("video", "ignored")
    rows, expected = detect([first]), detect([alone])
    assert {row["image"] for row in rows} == {f"{path}!/clip.mp4"}
    for name in ("frame", "time_seconds", "crops", "status", "size_bytes"):
        assert [row[name] for row in rows] == [row[name] for row in expected]


def allow_two_mib(monkeypatch):
    for module in ("readers", "archives", "origins"):
        monkeypatch.setattr(f"fer.data.{module}.MAX_IMAGE_BYTES", 2 * 2**20)


def test_a_large_video_in_an_archive_is_rejected_aloud(tmp_path, monkeypatch):
    allow_two_mib(monkeypatch)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clip.mp4", bytes(3 * 2**20))
    packed = SourceItem("archive", str(tmp_path / "a.zip"))
    (row,) = detect(opening._members(packed, all_files=False))
    assert row["error"] == "clip.mp4 is a video of more than 2 MiB: unpack the archive first."


# Names that do not say that a file is a video.


def test_videos_are_found_by_their_content_where_all_files_are_opened(tmp_path, clip, png, faces):
    contents = {"8f3c": clip, "a.upload": clip, "photo": png(faces[0][0]), "notes.txt": b"none"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "8f3d").write_bytes(clip + bytes(videos.CLIP_BYTES))
    names = [*contents, "8f3d", "gone"]
    items = [SourceItem("unknown", str(tmp_path / name), size_bytes=1) for name in names]
    items[-2] = replace(items[-2], size_bytes=videos.CLIP_BYTES + 1)
    share = Worklist()
    chunks = list(worklist._split(stages.to_table(items), share, 1))
    kinds = {storage.base_name(item.source): item.kind for chunk in chunks for item in chunk.items}
    assert kinds == {
        **dict.fromkeys(("8f3c", "a.upload", "8f3d"), "video"),
        "photo": "image",
        "notes.txt": "ignored",
        "gone": "unknown",
    }
    assert share.kinds == {"video": 3, "image": 1, "ignored": 1, "unknown": 1}
    assert [chunk.name.startswith("video-") for chunk in chunks] == [False, False, True]
    rows = detect([SourceItem("video", str(tmp_path / "8f3c"))])
    assert [row["frame"] for row in rows] == list(range(60))


def test_videos_in_archives_are_found_by_their_content(tmp_path, clip, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("8f3c", "a.upload"):
            archive.writestr(name, clip)
        archive.writestr("large", clip + bytes(3 * 2**20))
        archive.writestr("notes", "none")
    packed = SourceItem("archive", str(tmp_path / "a.zip"))
    assert {item.kind for item in opening._members(packed, all_files=False)} == {"ignored"}
    allow_two_mib(monkeypatch)
    found = [*opening._members(packed, all_files=True)]
    assert [item.kind for item in found] == ["video", "video", "rejected", "ignored"]
    assert found[2].reason == "is a video of more than 2 MiB: unpack the archive first"
    assert [row["frame"] for row in detect(found[:1])] == list(range(60))


# Animated images.


@pytest.fixture(scope="module", params=["GIF", "WEBP", "PNG"])
def animation(request):
    """An animated image of six frames, two a second, and the ending of its name."""
    frames = [Image.fromarray(draw_frame(number)) for number in range(6)]
    options = {"save_all": True, "append_images": frames[1:], "duration": 500, "lossless": True}
    file = io.BytesIO()
    frames[0].save(file, request.param, **options)
    return file.getvalue(), f".{request.param.lower()}"


def test_an_animation_is_a_still_unless_frames_are_asked_for(tmp_path, animation):
    content, ending = animation
    (tmp_path / f"a{ending}").write_bytes(content)
    item = SourceItem("image", str(tmp_path / f"a{ending}"))
    (still,) = detect([item], Detection(None, sampling=ALL))
    assert still["frame"] is None
    rows = detect([item], Detection(None, sampling=Sampling(1.0), animations=True))
    assert [(row["frame"], row["time_seconds"]) for row in rows] == [(0, 0), (2, 1), (4, 2)]
    assert {(row["width"], row["height"], row["size_bytes"]) for row in rows} == {
        (192, 96, len(content))
    }
    late = Detection(None, sampling=Sampling(1.0, start=9.0), animations=True)
    (row,) = detect([item], late)
    assert row["error"] == "No frame is shown in the time that --start and --end give."


def test_a_still_image_stays_one_where_frames_are_asked_for(tmp_path, png, faces):
    (tmp_path / "a.png").write_bytes(png(faces[0][0]))
    (tmp_path / "b.gif").write_bytes(b"junk")
    items = [SourceItem("image", str(tmp_path / name)) for name in ("a.png", "b.gif", "c.webp")]
    rows = detect(items, Detection(None, animations=True))
    assert [row["status"] for row in rows] == [None, "unreadable", "missing"]
    assert [row["frame"] for row in rows] == [None] * 3
