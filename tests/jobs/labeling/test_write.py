"""What a resumed job remembers of the chunks that earlier runs labeled."""

import time
import tracemalloc
from collections import Counter

import numpy as np

from fer.labels.files import write_labels
from fer.labels.tally import LabelTally, SampleFace
from ray_jobs.labeling import write
from ray_jobs.labeling.write import Labeled

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
