"""Chunks that one process labels: the same labels as from stages of their own."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from fer.data.items import SourceItem
from fer.data.synthetic import draw_faces
from fer.labels.files import read_tally
from fer.labels.schema import Labeler
from fer.models.checkpoint import load_checkpoint
from fer.storage import parquet
from ray_jobs.cluster import session
from ray_jobs.labeling import chunks, on_cpus, on_gpus, worklist
from ray_jobs.labeling.images import Detection
from ray_jobs.labeling.labeling import Labeling
from ray_jobs.labeling.worklist import Worklist
from ray_jobs.pipeline import stages
from ray_jobs.pipeline.classify import Inference

NUM_CHUNKS, NUM_IMAGES = 5, 3
TIMES = ("slowest", "files")


@pytest.fixture
def images(tmp_path, png):
    """Chunks of drawn faces, the last of which is damaged."""
    drawn, _ = draw_faces(NUM_CHUNKS * NUM_IMAGES, seed=4)
    items = []
    for number, image in enumerate(drawn):
        file = tmp_path / f"{number:02d}.png"
        file.write_bytes(png(image)[: 60 if number == len(drawn) - 1 else None])
        items.append(SourceItem("image", str(file), size_bytes=file.stat().st_size))
    return [items[start : start + NUM_IMAGES] for start in range(0, len(items), NUM_IMAGES)]


@pytest.fixture
def prepare(images, checkpoint, tmp_path):
    """Return a function that writes the worklist of an output, and returns what a stage needs."""
    network = load_checkpoint(str(checkpoint))
    labeler = Labeler(network.class_names, network.id, "none", 0.3)

    def run(output):
        for number, items in enumerate(images):
            location = tmp_path / output / worklist.FOLDER / f"{number}.parquet"
            location.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(str(location), stages.to_table(items))
        labeling = Labeling(str(tmp_path / output), Detection(None), labeler, ("jsonl",))
        return labeling, Inference((network,), network.shape, engine="float32")

    return run


def unread(*numbers):
    table = {"chunk": [str(number) for number in numbers], "table": [None] * len(numbers)}
    return pa.table(table, chunks.OPENED_SCHEMA)


def labeled(output):
    """Return the rows and the tally of each label file, without what differs from run to run."""
    found = {}
    for file in sorted((output / "faces").iterdir()):
        tally = vars(read_tally(str(file)))
        kept = {name: value for name, value in tally.items() if name not in TIMES}
        found[file.name] = (pq.read_table(file).to_pylist(), kept | {"confidences": 0})
    return found


@pytest.mark.slow
def test_both_ways_give_the_same_labels(cluster, prepare, tmp_path):
    for output, way in (("one", on_cpus), ("several", on_gpus)):
        # A chunk whose items a reader has, and some that the worklist holds.
        labeling, inference = prepare(output)
        packed = stages.pack(chunks.items_of({"chunk": "0", "table": None}, labeling.output))
        read = pa.table({"chunk": ["0"], "table": [packed]}, chunks.OPENED_SCHEMA)
        opened = ray.data.from_arrow([read, unread(1, 2), unread(3, 4)])
        opened.context.target_max_block_size = 1
        written = list(stages.tallies(way.label_chunks(opened, labeling, inference)))
        assert len(written) == NUM_CHUNKS
        assert sum(chunk.tally.images for chunk in written) == NUM_CHUNKS * NUM_IMAGES
        assert sum(chunk.tally.failed for chunk in written) == 1
    one, several = (labeled(tmp_path / output) for output in ("one", "several"))
    assert len(one) == NUM_CHUNKS
    assert one == several
    for number in range(NUM_CHUNKS):
        copies = [tmp_path / output / "jsonl" / f"{number}.jsonl" for output in ("one", "several")]
        assert copies[0].read_bytes() == copies[1].read_bytes()


def test_a_process_keeps_its_network(cluster, prepare):
    labeling, inference = prepare("kept")
    network = {"checkpoints": ray.put(inference.checkpoints), "shape": inference.shape}
    classifier = {**network, "engine": "float32", "tta": False}
    on_cpus._classifier.cache_clear()
    for numbers in ((0, 1), (2,)):
        assert len([*on_cpus._label_chunks(unread(*numbers), labeling, classifier)]) == len(numbers)
    assert on_cpus._classifier.cache_info().misses == 1


@pytest.mark.parametrize(
    ("num_files", "num_images", "num_chunks", "expected"),
    [
        (320, 320 * 32, 320, 16),  # small chunks: together 512 images
        (320, 320 * 32, 64, 4),  # few are left: each CPU gets 8 tasks
        (320, 320 * 4096, 320, 1),
        (3, 96, 3, 1),
        (0, 0, 0, 1),  # an update that finds nothing new
    ],
)
def test_small_chunks_share_a_task(monkeypatch, num_files, num_images, num_chunks, expected):
    monkeypatch.setattr(session, "num_cpus", lambda: 2)
    listed = Worklist(files=[str(number) for number in range(num_files)])
    listed.kinds["image"] = num_images
    assert chunks._num_together(listed, num_chunks) == expected
    listed.kinds["video"] = 1
    assert chunks._num_together(listed, num_chunks) == 1
