"""Sources to a dataset: its contract, and which sources and outputs are refused."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from ingested import ROW, counts, summary_of

from fer.data.dataset import example_schema, open_dataset
from fer.data.emotions import EMOTIONS, SPLITS
from fer.data.items import SourceItem
from fer.data.parsing import Rules
from fer.errors import JobError
from ray_jobs import ingest
from ray_jobs.pipeline import stages


def test_a_dataset_keeps_its_contract(dataset, sources, drawn):
    table = pq.read_table(dataset / "examples")
    assert table.schema.metadata[b"schema_version"] == b"1"
    assert json.loads(table.schema.metadata[b"class_names"]) == list(EMOTIONS)
    assert {field.name: str(field.type) for field in table.schema} == {
        "image": "fixed_size_list<element: uint8>[2304]",
        "label": "int8",
        "split": "string",
        "source": "string",
        "sha256": "string",
    }
    rows = {row.pop("source"): row for row in table.to_pylist()}
    assert rows == {
        f"{sources}/fer2013.csv#{number}": {
            "image": image.ravel().tolist(),
            "label": label,
            "split": split,
            "sha256": hashlib.sha256(image.tobytes()).hexdigest(),
        }
        for number, (image, label, split) in enumerate(drawn, start=1)
    }


def test_summary_and_pictures(dataset, expected_counts):
    summary = summary_of(dataset)
    assert counts(dataset) == expected_counts
    assert (summary["rejects"], summary["split_from"]) == (0, {"usage": 280})
    assert summary["official_fer2013"]["complete"] is False
    assert summary["official_fer2013"]["differences"]["val"]["happy"] < -800
    for name in ("class_counts.png", "samples.png"):
        assert (dataset / name).read_bytes().startswith(b"\x89PNG")


def test_several_sources_and_the_duplicates_among_them(fer, sources, tmp_path):
    source = ("--source", sources / "fer2013.csv", sources / "faces.zip")
    run = fer("ingest", *source, "--output", tmp_path / "data")
    assert run.result["examples"] == 560
    duplicates = summary_of(tmp_path / "data")["duplicates"]
    assert duplicates == {
        "images": 280,
        "within_splits": 280,
        "across_splits": 0,
        "conflicting_labels": 0,
    }


def test_a_split_from_pixels_keeps_duplicates_together(fer, sources, tmp_path):
    source = ("--source", sources / "fer2013.csv", sources / "faces.zip")
    assert fer("ingest", *source, "--split-from", "hash", "--output", tmp_path / "d").code == 0
    summary = summary_of(tmp_path / "d")
    assert summary["split_from"] == {"hash": 560}
    assert summary["duplicates"]["across_splits"] == 0
    assert all(sum(of_split) > 20 for of_split in counts(tmp_path / "d").values())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none.csv", "does not exist: expected a file or a folder"),
        ("empty", "is empty: expected a folder of images, CSV files or archives"),
        ("notes.txt", "is not a supported source: expected a folder, an image, or a file"),
    ],
)
def test_a_source_that_is_none(fer, tmp_path, name, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    run = fer("ingest", "--source", tmp_path / name, "--output", tmp_path / "data")
    assert (run.code, sentence in run.sentence) == (2, True)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("", "--source {0} is given twice; give it once."),
        ("/inner.zip", "--source {1} is part of --source {0}; give only one of them."),
    ],
)
def test_a_source_that_is_part_of_another(fer, tmp_path, part, sentence):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "inner.zip").write_bytes(b"")
    sources = (tmp_path / "faces", f"{tmp_path}/faces{part}")
    run = fer("ingest", "--source", *sources, "--output", tmp_path / "data")
    assert (run.code, run.sentence) == (2, sentence.format(*sources))


def test_an_output_inside_a_source(fer, tmp_path):
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy" / "1.png").write_bytes(b"")
    output = tmp_path / "data"
    run = fer("ingest", "--source", tmp_path, "--output", output)
    assert (run.code, run.sentence) == (
        2,
        f"--output {output} lies inside --source {tmp_path} and would be read with it; choose "
        "another --output.",
    )
    assert not output.exists()


def test_an_output_that_can_no_longer_be_written(tmp_path):
    (tmp_path / "examples").write_text("in the way")
    item = SourceItem("rows", "a.csv", "a.csv", f"emotion,pixels\n3,{ROW}".encode(), first_row=1)
    rows = ingest.parse(stages.to_table([item]), Rules(), None)
    with pytest.raises(JobError) as caught:
        ingest.write(rows, str(tmp_path), example_schema(EMOTIONS))
    assert str(caught.value) == (
        f"{tmp_path} can't be written to: File exists: '{tmp_path}/examples'; fix that and run the "
        "same command again."
    )


def test_a_source_without_examples(fer, tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "README.md").write_text("Nothing here.")
    run = fer("ingest", "--source", tmp_path / "faces", "--output", tmp_path / "data")
    assert run.code == 1
    assert run.sentence == (
        f"No example was found in {tmp_path}/faces among its files (1 .md); give --all-files to "
        "tell images by their content."
    )
    assert not (tmp_path / "data" / "summary.json").exists()


def test_an_output_that_exists(fer, sources, dataset, tmp_path):
    before = summary_of(dataset)
    run = fer("ingest", "--source", sources / "fer2013.csv", "--output", dataset)
    assert run.code == 2
    assert run.sentence == (
        f"{dataset} already holds a result; choose another --output, or replace it with "
        "--overwrite."
    )
    (tmp_path / "mine.txt").write_text("mine")
    run = fer("ingest", "--source", sources / "fer2013.csv", "--output", tmp_path, "--overwrite")
    assert "contains mine.txt, which fer did not create" in run.sentence
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert summary_of(dataset) == before


def test_overwrite_leaves_nothing_of_what_was_there(fer, sources, tmp_path):
    output = tmp_path / "data"
    assert fer("ingest", "--source", sources / "fer2013.csv", "--output", output).code == 0
    source = ("--source", sources / "faces.zip")
    assert fer("ingest", *source, "--output", output, "--overwrite").code == 0
    data = open_dataset(str(output))
    assert sum(len(data.read_split(split)) for split in SPLITS) == 280


def test_a_dataset_reads_its_splits_in_one_order(dataset, drawn):
    data = open_dataset(str(dataset))
    val = data.read_split("val")
    assert val.images.shape == (drawn.splits.count("val"), 48, 48)
    assert np.array_equal(np.bincount(val.labels), np.array(list(data.counts("val").values())))
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in val.images]
    assert digests == sorted(digests)
    assert np.array_equal(data.read_images(digests[:3]), val.images[:3])
