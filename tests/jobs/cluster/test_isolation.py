"""Files that crash or hang the process that decodes them, as a flaw in a decoder could allow."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from videos import draw_frame, make_video

from fer import storage
from fer.data.synthetic import draw_faces
from ray_jobs.labeling.videos import CLIP_BYTES

# Each test starts its own cluster, because its processes are patched before they start.
pytestmark = pytest.mark.slow

REASON = "it crashes or hangs the process that reads it"

POISON = b"poison"
SITE = """
import os, signal
import PIL.Image

open_image = PIL.Image.open

def open_or_die(file, *arguments, **named):
    if file.getvalue().endswith(b"poison"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return open_image(file, *arguments, **named)

PIL.Image.open = open_or_die
"""
VIDEO_SITE = """
import os, signal
from fer.vision import sampling, video
from ray_jobs.cluster import watchdog

watchdog.MAX_SECONDS = 2.0
to_photo, add = video._Decoded.to_photo, sampling._Planner.add

def decode_or_hang(self):
    while self.time == 12_000:
        pass
    return to_photo(self)

def plan_or_die(self, packet):
    if self._num_frames == 4200:
        os.kill(os.getpid(), signal.SIGSEGV)
    yield from add(self, packet)

video._Decoded.to_photo, sampling._Planner.add = decode_or_hang, plan_or_die
"""


@pytest.fixture
def faces_with_a_poison_image(tmp_path, png):
    images, labels = draw_faces(20, seed=9)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = tmp_path / "faces" / str(label) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(image) + (POISON if number == 7 else b""))
    return tmp_path / "faces"


def run(tmp_path, *arguments, site=SITE):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(site)
    path = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "ray_jobs", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=200,
    )
    # Ray's own lines about lost processes come before the last line.
    return json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))


def test_label_isolates_a_poison_image(tmp_path, faces_with_a_poison_image, save_network):
    save_network(tmp_path / "network", "conv1")
    flags = ("--detector", "none", "--checkpoint", tmp_path / "network")
    output = tmp_path / "labels"
    result = run(
        tmp_path, "label", "--images", faces_with_a_poison_image, "--output", output, *flags
    )
    assert (result["images"], result["failed"]) == (20, 1)
    rows = pq.read_table(output / "faces").to_pylist()
    (row,) = [row for row in rows if row["status"] == "unreadable"]
    assert row["image"].endswith("/7.png")
    assert row["error"] == f"The file can't be read: {REASON}."


def test_ingest_isolates_a_poison_image(tmp_path, faces_with_a_poison_image):
    output = tmp_path / "data"
    result = run(tmp_path, "ingest", "--source", faces_with_a_poison_image, "--output", output)
    assert (result["examples"], result["rejects"]) == (19, 1)
    (row,) = pq.read_table(output / "rejects").to_pylist()
    assert row["reason"] == REASON


def draw_small(number):
    return draw_frame(number, 96, 48)


@pytest.fixture
def videos_that_hang_and_crash(tmp_path):
    """A video whose frame at 12 s hangs its decoder, one that crashes what plans it, and others."""
    folder = tmp_path / "videos"
    folder.mkdir()
    clip = make_video(num_frames=50)
    hanging = make_video("matroska", num_frames=700, draw=draw_small, g=25, sc_threshold=0)
    crashing = make_video("avi", "mjpeg", num_frames=4500, draw=draw_small, pixels="yuvj420p")
    (folder / "clip.mp4").write_bytes(clip)
    (folder / "hanging.mkv").write_bytes(hanging + bytes(CLIP_BYTES))
    (folder / "crashing.avi").write_bytes(crashing + bytes(CLIP_BYTES))
    return folder


def test_label_gives_up_only_the_chunks_of_videos_that_hang_or_crash(
    tmp_path, videos_that_hang_and_crash, save_network
):
    save_network(tmp_path / "network", "conv1", with_graph=True)
    flags = ("--detector", "none", "--checkpoint", tmp_path / "network", "--fps", "all")
    output = tmp_path / "labels"
    images = ("--images", videos_that_hang_and_crash)
    run(tmp_path, "label", *images, "--output", output, *flags, site=VIDEO_SITE)
    rows = {}
    for row in pq.read_table(output / "faces").to_pylist():
        frames, errors = rows.setdefault(storage.base_name(row["image"]), (set(), []))
        if row["frame"] is None:
            assert (row["status"], row["etag"]) == ("unreadable", None)
            errors.append(row["error"])
        else:
            frames.add(row["frame"])
    assert rows == {
        "clip.mp4": ({*range(50)}, []),
        "hanging.mkv": (
            {*range(700)} - {*range(275, 550)},
            [f"The frames from 11.0 s to 22.0 s can't be decoded: {REASON}."],
        ),
        "crashing.avi": (
            {*range(4096)},
            [f"The rest of the video can't be read: {REASON}."],
        ),
    }
