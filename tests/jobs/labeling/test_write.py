"""What a resumed job remembers of the chunks that earlier runs labeled."""

import time
import tracemalloc
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from fer.labels.files import read_tally, write_labels
from fer.labels.schema import Labeler
from fer.labels.tally import LabelTally, SampleFace
from ray_jobs.cluster import metrics
from ray_jobs.labeling import write
from ray_jobs.labeling.detect import DETECTED_SCHEMA
from ray_jobs.labeling.write import Labeled
from ray_jobs.pipeline import stages

NUM_CHUNKS = 250_000


def tally_of_chunk(number):
    """A chunk's tally with everything that it can hold, some 12 kB of it thumbnails."""
    tally = LabelTally(4096, Counter(ok=4090, unreadable=6), Counter(happy=4090), np.ones(20, int))
    tally.failures = [(f"s3://bucket/{number}/{row}.jpg", "is damaged") for row in range(6)]
    tally.slowest = [(row / 7, f"s3://bucket/{number}/{row}.jpg") for row in range(20)]
    tally.samples = {"happy": [SampleFace(f"{number:06d}", "x.jpg", "happy", 0.5, bytes(12_000))]}
    return tally


def test_a_resumed_job_remembers_names_and_counts_of_250_000_chunks():
    per_block = write.NUM_READ_TOGETHER
    tally, labeled = tally_of_chunk(0), Labeled()
    start = time.monotonic()
    tracemalloc.start()
    for first in range(0, NUM_CHUNKS, per_block):
        numbers = range(first, min(first + per_block, NUM_CHUNKS))
        # As a task adds them up.
        labeled.add(Labeled({f"{number:024x}": 4096 for number in numbers}, tally))
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(labeled.images) == NUM_CHUNKS
    # Names of 24 characters and a dictionary: about 100 bytes a chunk.
    assert kept < 40 * 2**20
    assert most < 60 * 2**20
    assert time.monotonic() - start < 30


def test_earlier_chunks_are_read_as_one_tally(cluster, tmp_path):
    for number in range(3):
        tally = tally_of_chunk(number)
        tally.files = {write.file_of_chunk(f"chunk{number}")}
        write_labels(str(tmp_path), *tally.files, [], tally, ["happy"])
    labeled = write.read_labeled(str(tmp_path))
    assert labeled.images == {"chunk0": 4096, "chunk1": 4096, "chunk2": 4096}
    assert (labeled.tally.images, labeled.tally.failed, labeled.tally.files) == (12_288, 18, set())
    assert [face.digest for face in labeled.tally.samples["happy"]] == [
        "000000",
        "000001",
        "000002",
    ]
    some = write.read_labeled(str(tmp_path), {"chunk1"})
    assert (some.images, some.tally.images) == ({"chunk1": 4096}, 4096)
    assert write.read_labeled(str(tmp_path / "none")).images == {}


def classified(*images):
    """Return a chunk of images with their probabilities, as it comes from the network."""
    fields = [field for field in DETECTED_SCHEMA if field.name != "crops"]
    probs = pa.list_(pa.list_(pa.float32()))
    added = [("probs_0", probs), ("engine", pa.string()), ("classify_seconds", pa.float64())]
    table = pa.Table.from_pylist(list(images), pa.schema([*fields, *added]))
    return pa.table({"chunk": ["c"], "table": pa.array([stages.pack(table)], pa.large_binary())})


def test_a_written_chunk_says_what_it_took(tmp_path):
    shared = {"seconds": 0.5, "engine": "int8", "classify_seconds": 0.25}
    face = {"box": None, "detection_score": None, "thumbnail": None}
    faces = {"faces": [face, face], "probs_0": [[0.25, 0.75], [0.625, 0.375]], "size_bytes": 100}
    failed = {"status": "missing", "error": "It is gone.", "probs_0": []}
    chunk = classified(
        {"image": "a", **faces, **shared},
        {"image": "b", **failed, **shared},
        {"image": "c", "status": "ignored", "probs_0": [], **shared},
    )
    labeler = Labeler(("sad", "happy"), "m", "none", min_confidence=0.7)
    (written,) = write.write_chunk(chunk, str(tmp_path), labeler)["tally"]
    assert (written.tally.images, written.tally.faces, written.tally.failed) == (2, 2, 1)
    assert written.size_bytes == 100
    # Also of the face that is uncertain, and has no emotion.
    assert written.sample == [("happy", 0.75), ("sad", 0.625)]
    assert written.seconds.keys() == {"detect", "classify", "write"}
    assert (written.seconds["detect"], written.seconds["classify"]) == (1.5, 0.75)
    assert 0 < written.seconds["write"] < 5
    assert read_tally(str(tmp_path / "faces" / "c.parquet")).to_json() == written.tally.to_json()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("c", 1100), ("video-1-000001", 1100), ("video-1-000002", 0), ("video-1-unread", 0)],
)
def test_a_video_that_is_read_counts_once(tmp_path, name, expected):
    shared = {"faces": [], "probs_0": [], "seconds": 0.0, "classify_seconds": 0.0}
    frames = [
        {"image": image, "size_bytes": size, "frame": number, "time_seconds": number, **shared}
        for image, size in (("a.mp4", 1000), ("b.mp4", 100))
        for number in range(3)
    ]
    table = stages.unpack(classified(*frames)["table"][0].as_py())
    labeler = Labeler(("sad", "happy"), "m", "none", min_confidence=0.7)
    assert write.write_images(name, table, str(tmp_path), labeler).size_bytes == expected


def test_a_large_chunk_tells_some_of_its_faces(tmp_path):
    face = {"box": None, "detection_score": None, "thumbnail": None}
    image = {"faces": [face], "seconds": 0.0, "engine": "int8", "classify_seconds": 0.0}
    probs = np.linspace(0.5, 1, 1000)
    chunk = classified(
        *(
            {"image": str(number), "probs_0": [[1 - share, share]], **image}
            for number, share in enumerate(probs.tolist())
        )
    )
    labeler = Labeler(("sad", "happy"), "m", "none", min_confidence=0.0)
    (written,) = write.write_chunk(chunk, str(tmp_path), labeler)["tally"]
    confidences = [confidence for _, confidence in written.sample]
    assert metrics.MAX_OBSERVED / 2 <= len(confidences) <= metrics.MAX_OBSERVED
    assert np.median(confidences) == pytest.approx(0.75, abs=0.02)
