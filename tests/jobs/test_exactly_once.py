"""Labeling that is killed, and goes on: every image once, and nothing done twice."""

import csv
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chaos import ChaoticNodes, run_under_faults
from fault_proxy import Fault
from videos import draw_frame, make_video

from fer import storage
from fer.data.synthetic import draw_faces
from fer.storage import listing
from ray_jobs.labeling.videos import CLIP_BYTES

ENVIRONMENT = {"RAY_AUTH_MODE": "disabled"}


NUM_FACES = 420 + 3 + 152
"""Faces of the collection: images, and a frame for each second of a short and of a long video."""


def draw_small(number):
    return draw_frame(number, 96, 48)


@pytest.fixture(scope="module")
def collection(s3, png, tmp_path_factory):
    """A bucket of faces in folders, an archive and videos among them, and some that are none."""
    import io
    import zipfile

    images, _ = draw_faces(420, seed=3)
    for number, image in enumerate(images[:320]):
        folder = ("", "a/", "a/deep/", "b é/")[number % 4]
        s3.put_object(Bucket="open", Key=f"once/{folder}{number:03d}.png", Body=png(image))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, image in enumerate(images[320:]):
            archive.writestr(f"{number:03d}.png", png(image))
    s3.put_object(Bucket="open", Key="once/b é/more.zip", Body=packed.getvalue())
    s3.put_object(Bucket="open", Key="once/a/broken.jpg", Body=b"junk")
    clip, long = (make_video(num_frames=number, draw=draw_small) for number in (60, 3800))
    s3.put_object(Bucket="open", Key="once/clip.mp4", Body=clip)
    s3.put_object(Bucket="open", Key="once/a/long.mp4", Body=long + bytes(CLIP_BYTES))
    return "s3://open/once"


def command(collection, checkpoint, output, *flags):
    job = [sys.executable, "-m", "ray_jobs", "label", "--images", collection]
    named = ["--detector", "none", "--engine", "float32", "--checkpoint", str(checkpoint)]
    return [*job, *named, "--output", output, *flags]


def rows_of(output):
    store, path = storage.filesystem(f"{output}/faces")
    rows = pq.read_table(path, filesystem=store).to_pylist()
    return sorted(rows, key=lambda row: (row["image"], row["frame"] or 0))


def check_rows(rows, expected):
    assert Counter(row["image"] for row in rows) == Counter(row["image"] for row in expected)
    for row, other in zip(rows, expected, strict=True):
        same = row.keys() - {"confidence", "probabilities"}
        assert {name: row[name] for name in same} == {name: other[name] for name in same}
        assert row["confidence"] == pytest.approx(other["confidence"], abs=1e-5)


@pytest.fixture(scope="module")
def undisturbed(cluster, collection, checkpoint):
    from ray_jobs.__main__ import main

    output = "s3://open/once-undisturbed"
    assert main(command(collection, checkpoint, output)[3:]) == 0
    return output


@pytest.mark.slow
def test_every_image_is_listed_and_labeled_once(undisturbed):
    rows = rows_of(undisturbed)
    assert len(rows) == len({(row["image"], row["frame"]) for row in rows}) == NUM_FACES + 1
    assert Counter(row["status"] for row in rows) == {"ok": NUM_FACES, "unreadable": 1}
    assert {row["track"] for row in rows if row["frame"] is not None} == {0}
    assert sum("!/" in row["image"] for row in rows) == 100
    # Chunks of at most a few dozen, divided among the folders.
    assert len(listing.child_names(f"{undisturbed}/faces")) > 10


def kill_three_times(job, output):
    """Run a labeling, each time until another chunk is written, and kill all its processes."""
    chance, flags = random.Random(5), ()
    for _ in range(3):
        before = len(listing.child_names(f"{output}/faces"))
        with subprocess.Popen(
            [*job, *flags],
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            while process.poll() is None and (
                len(listing.child_names(f"{output}/faces")) <= before
            ):
                time.sleep(0.01)
            time.sleep(chance.random() / 2)
            os.killpg(process.pid, signal.SIGKILL)
        assert not storage.exists(f"{output}/summary.json")
        flags = ("--resume",)


def resume(job):
    """Continue a labeling to its end, and return what the RESULT line says."""
    done = subprocess.run(
        [*job, "--resume"],
        env={**os.environ, **ENVIRONMENT},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))


@pytest.mark.slow
def test_killed_three_times_and_resumed(undisturbed, collection, checkpoint, faults, tmp_path):
    # Or all is labeled before the third time.
    faults.append(Fault("^GET /open/once/", "slow", seconds=0.05))
    output, faces = str(tmp_path / "labels"), tmp_path / "labels" / "faces"
    job = command(collection, checkpoint, output)
    kill_three_times(job, output)
    # Files of videos are written again when their faces get their tracks.
    images = [file for file in faces.glob("*.parquet") if "-" not in file.name]
    kept = {file.name: file.stat().st_mtime_ns for file in images}
    result = resume(job)
    assert (result["images"], result["faces"], result["failed"]) == (NUM_FACES + 1, NUM_FACES, 1)
    check_rows(rows_of(output), rows_of(undisturbed))
    now = {file.name: file.stat().st_mtime_ns for file in faces.glob("*.parquet")}
    assert kept.items() <= now.items()


@pytest.fixture(scope="module")
def clips(s3):
    """A bucket of videos: clips of the same names in several folders, long ones, a broken one."""
    clip, long = (make_video(num_frames=number, draw=draw_small) for number in (60, 3800))
    for number in range(40):
        s3.put_object(Bucket="open", Key=f"clips-once/{number % 8}/{number // 8}.mp4", Body=clip)
    for number in range(6):
        key = f"clips-once/{number}/long.mp4"
        s3.put_object(Bucket="open", Key=key, Body=long + bytes(CLIP_BYTES))
    s3.put_object(Bucket="open", Key="clips-once/broken.mov", Body=b"junk")
    return "s3://open/clips-once"


def tables_of(output):
    """Return what the tables of videos say, but for numbers that differ in their last digits."""
    tables = {}
    for name in listing.child_names(f"{output}/videos"):
        lines = storage.read_bytes(f"{output}/videos/{name}").decode().splitlines()
        tables[name] = [
            tuple(row[column] for column in ("image", "frame", "track", "emotion", "status"))
            for row in csv.DictReader(lines)
        ]
    return tables


@pytest.mark.nightly
@pytest.mark.slow
def test_videos_killed_three_times_and_resumed(fer, clips, checkpoint, faults):
    job = command(clips, checkpoint, "s3://open/clips-labels", "--fps", "2", "--format", "csv")
    whole = fer(*command(clips, checkpoint, "s3://open/clips-whole", *job[-4:])[3:]).result
    # Or all is labeled before the third time.
    faults.append(Fault("^GET /open/clips-once/", "slow", seconds=0.3))
    kill_three_times(job, "s3://open/clips-labels")
    result = resume(job)
    assert (result["frames"], result["failed"]) == (40 * 5 + 6 * 304, 1)
    counts = ("images", "frames", "faces", "failed")
    assert [result[name] for name in counts] == [whole[name] for name in counts]
    check_rows(rows_of("s3://open/clips-labels"), rows_of("s3://open/clips-whole"))
    tables = tables_of("s3://open/clips-labels")
    assert len(tables) == 40 + 6 + 1
    assert tables == tables_of("s3://open/clips-whole")


@pytest.mark.nightly
@pytest.mark.slow
def test_a_lost_process_and_then_a_lost_machine_lose_no_rows(
    undisturbed, collection, checkpoint, faults, tmp_path
):
    # Or all is labeled before the second loss.
    faults.append(Fault("^GET /open/once/", "slow", seconds=0.5))
    script, output = Path(__file__).with_name("lost_node.py"), tmp_path / "labels"
    flags = command(collection, checkpoint, str(output))[4:-2]
    done = subprocess.run(
        [sys.executable, str(script), "3", "process,node", "label", str(output), *flags],
        env={**os.environ, **ENVIRONMENT},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"killed a (\w+)", done.stderr) == ["process", "node"]
    check_rows(rows_of(str(output)), rows_of(undisturbed))


@pytest.mark.slow
def test_what_is_done_is_not_done_again(fer, undisturbed, collection, checkpoint, tmp_path):
    output = str(tmp_path / "labels")
    arguments = command(collection, checkpoint, output)[3:]
    whole = fer(*arguments)
    faces = tmp_path / "labels" / "faces"
    files = sorted(faces.iterdir())
    lost = random.Random(0).sample(files, len(files) // 2)
    for file in (*lost, tmp_path / "labels" / "summary.json"):
        file.unlink()
    kept = {file.name: file.stat().st_mtime_ns for file in faces.iterdir()}
    run = fer(*arguments)
    assert (run.code, "already holds a run; continue it with --resume" in run.sentence) == (2, True)
    run = fer(*arguments, "--resume")
    counts = ("images", "faces", "failed")
    assert [run.result[name] for name in counts] == [whole.result[name] for name in counts]
    now = {file.name: file.stat().st_mtime_ns for file in faces.iterdir()}
    assert kept.items() <= now.items()
    assert now.keys() - kept.keys() == {file.name for file in lost}
    check_rows(rows_of(output), rows_of(undisturbed))
    page = (tmp_path / "labels" / "report.html").read_text()
    assert f"Apparent expressions of {NUM_FACES} faces" in page
    assert fer(*arguments, "--resume").result == run.result


def run_with_own_mounts(script):
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        env={**os.environ, **ENVIRONMENT},
        check=False,
        capture_output=True,
        text=True,
    )


needs_mounts = pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode != 0,
    reason="this machine lets no user mount a disk of their own",
)


@pytest.mark.slow
@needs_mounts
def test_a_full_disk_loses_nothing(undisturbed, collection, checkpoint, tmp_path):
    """A disk that holds some chunks and not all, and is then made larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    job = shlex.join(command(collection, checkpoint, str(disk / "labels")))
    # Room for what comes before the rows, and for half of them.
    sizes = [entry.size_bytes for entry in listing.walk(f"{undisturbed}/faces")]
    num_bytes = 2**16 + sum(sizes) // 2
    script = f"""
        mount -t tmpfs -o size={num_bytes} none {disk}
        {job}; echo "code $?"; ls {disk}/labels/faces | wc -l
        mount -o remount,size=100m {disk}
        {job} --resume && cp -r {disk}/labels {tmp_path}
    """
    done = run_with_own_mounts(script)
    assert done.returncode == 0, done.stderr[-3000:]
    code, num_files = done.stdout.splitlines()[:2]
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("fer: ")]
    assert "No space left on device" in sentence
    assert "Traceback" not in done.stderr
    assert code == "code 1"
    assert 0 < int(num_files) < len(sizes)
    check_rows(rows_of(str(tmp_path / "labels")), rows_of(undisturbed))


@pytest.mark.slow
@needs_mounts
def test_containers_with_little_shared_memory_are_enough(
    undisturbed, collection, checkpoint, tmp_path
):
    """Docker gives a container 64 MiB, and Ray wants to keep its objects there."""
    output = tmp_path / "labels"
    job = shlex.join(command(collection, checkpoint, str(output)))
    done = run_with_own_mounts(f"mount -t tmpfs -o size=64m none /dev/shm && {job}")
    assert done.returncode == 0, done.stderr[-3000:]
    check_rows(rows_of(str(output)), rows_of(undisturbed))


STORE_FAULTS = (
    Fault("^GET /open/once/", "refuse", share=0.1),
    Fault("^GET /open/once/", "truncate", share=0.1),
    Fault("^GET /open/once/", "reset", share=0.1),
    Fault("^(PUT|POST) /open/chaos", "refuse", status=500, code="InternalError", share=0.2),
)
"""Faults of a store that jobs bear without a word."""


@pytest.fixture(scope="module")
def chaotic_nodes(s3_proxy, tmp_path_factory):
    with ChaoticNodes(tmp_path_factory.mktemp("chaos"), with_rpc_failures=True) as nodes:
        yield nodes


@pytest.mark.slow
def test_whatever_fails_every_image_has_one_row(
    labeling_seed, undisturbed, collection, checkpoint, chaotic_nodes, faults
):
    chance = random.Random(labeling_seed)
    faults.append(Fault("^GET /open/once/", "slow", seconds=0.2))
    faults += [replace(fault) for fault in chance.sample(STORE_FAULTS, 2)]
    output = f"s3://open/chaos-{labeling_seed}"

    def files():
        return set(listing.child_names(f"{output}/faces"))

    job = command(collection, checkpoint, output)[3:]
    story = run_under_faults(chaotic_nodes, chance, lambda: len(files()), *job)
    print(labeling_seed, story.events)
    assert (story.result["images"], story.result["faces"], story.result["failed"]) == (
        NUM_FACES + 1,
        NUM_FACES,
        1,
    )
    check_rows(rows_of(output), rows_of(undisturbed))
