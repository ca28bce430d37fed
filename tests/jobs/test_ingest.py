"""Sources to a dataset: what is kept, what is rejected, what is refused."""

import gzip
import hashlib
import io
import json
import tarfile
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from fer.data.dataset import example_schema, open_dataset
from fer.data.emotions import EMOTIONS, SPLITS
from fer.data.ferplus import VOTE_COLUMNS
from fer.data.items import SourceItem
from fer.data.parsing import Rules
from fer.data.synthetic import USAGES
from fer.errors import JobError
from ray_jobs import ingest
from ray_jobs.pipeline import stages

ROW = " ".join(["7"] * 2304)


def summary_of(output):
    return json.loads((output / "summary.json").read_text())


def counts(output):
    by_split = summary_of(output)["counts"]
    return {split: list(by_split[split].values()) for split in SPLITS}


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


def as_gzip(table):
    return "fer2013.csv.gz", gzip.compress(table)


def as_zip(table):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("icml/fer2013.csv", table)
        archive.writestr("icml/README", "This is Kaggle's.")
    return "fer2013.zip", buffer.getvalue()


def as_tar(table):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("fer2013/fer2013.csv")
        info.size = len(table)
        archive.addfile(info, io.BytesIO(table))
    return "fer2013.tar.gz", buffer.getvalue()


@pytest.mark.parametrize("pack", [as_gzip, as_zip, as_tar])
def test_packed_tables_give_the_same_dataset(fer, sources, dataset, tmp_path, pack):
    name, content = pack((sources / "fer2013.csv").read_bytes())
    (tmp_path / name).write_bytes(content)
    run = fer("ingest", "--source", tmp_path / name, "--output", tmp_path / "data")
    assert run.code == 0
    assert summary_of(tmp_path / "data")["fingerprint"] == summary_of(dataset)["fingerprint"]


def test_images_give_the_same_dataset(fer, sources, dataset, tmp_path):
    """From an archive and from a folder: their splits are those of the folders' names."""
    with zipfile.ZipFile(sources / "faces.zip") as archive:
        archive.extractall(tmp_path / "faces")
    for name, source in (("a", sources / "faces.zip"), ("b", tmp_path / "faces")):
        assert fer("ingest", "--source", source, "--output", tmp_path / name).code == 0
        summary = summary_of(tmp_path / name)
        assert summary["fingerprint"] == summary_of(dataset)["fingerprint"]
        assert summary["split_from"] == {"folder": 280}


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


def test_rejects_are_counted_and_kept_with_their_reason(fer, tmp_path):
    rows = [f"{number % 7},{ROW[:-1]}{number % 10},Training" for number in range(40)]
    rows[3] = f"3,{ROW} 7,Training"
    rows[20] = f"8,{ROW},Training"
    table = "\n".join(["emotion,pixels,Usage", *rows])
    (tmp_path / "fer2013.csv").write_text(table)
    output = tmp_path / "data"
    run = fer("ingest", "--source", tmp_path / "fer2013.csv", "--output", output)
    assert (run.result["examples"], run.result["rejects"]) == (38, 2)
    rejects = pq.read_table(output / "rejects").to_pylist()
    count, unknown = (
        {"source": f"{tmp_path}/fer2013.csv#4", "reason": "has 2,305 pixels: expected 2,304"},
        {"source": f"{tmp_path}/fer2013.csv#21", "reason": "unknown class '8'"},
    )
    assert sorted(rejects, key=lambda row: row["code"]) == [
        {**count, "code": "pixel_count"},
        {**unknown, "code": "unknown_class"},
    ]
    assert summary_of(output)["rejects"] == 2
    assert summary_of(output)["rejects_by_reason"] == {
        "pixel_count": {"count": 1, "example": count},
        "unknown_class": {"count": 1, "example": unknown},
    }


def test_too_many_rejects_leave_no_dataset(fer, tmp_path):
    rows = [f"{number % 7},{ROW},Training" for number in range(18)]
    (tmp_path / "a.csv").write_text("\n".join(["emotion,pixels,Usage", *rows, "0,x,Training"]))
    arguments = ("ingest", "--source", tmp_path / "a.csv", "--output", tmp_path / "data")
    run = fer(*arguments)
    assert run.code == 1
    assert run.sentence == (
        "1 of 19 examples were rejected, more than --max-reject-fraction 0.05 allows: pixel count "
        f"(1); for example, {tmp_path}/a.csv#19: has 1 pixels: expected 2,304; see "
        f"{tmp_path}/data/rejects."
    )
    assert not (tmp_path / "data" / "summary.json").exists()
    assert fer(*arguments, "--max-reject-fraction", "0.1").result["rejects"] == 1


def without_usage(table, usage):
    """The rows of a table that have a usage, without that column."""
    header, *rows = table.decode().splitlines()
    kept = [row.rpartition(",")[0] for row in rows if row.endswith(usage)]
    return "\n".join([header.rpartition(",")[0], *kept])


def test_the_tables_of_kaggles_archive_are_one_dataset(fer, sources, dataset, drawn, tmp_path):
    """All of FER2013 twice, and a part of it again without Usage, which a hash would divide."""
    table = (sources / "fer2013.csv").read_bytes()
    with zipfile.ZipFile(tmp_path / "kaggle.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fer2013.tar.gz", as_tar(table)[1])
        archive.writestr("icml_face_data.csv", table.replace(b"pixels,Usage", b" pixels, Usage"))
        archive.writestr("train.csv", without_usage(table, "Training"))
        archive.writestr("rest.csv", without_usage(table, "PrivateTest"))
    output = tmp_path / "data"
    run = fer("ingest", "--source", tmp_path / "kaggle.zip", "--output", output)
    copies = 280 + drawn.splits.count("train") + drawn.splits.count("test")
    assert run.result["copies_dropped"] == copies
    assert f"{copies} rows were left out, because they repeat rows of another table" in run.errors
    summary = summary_of(output)
    assert summary["fingerprint"] == summary_of(dataset)["fingerprint"]
    assert (summary["split_from"], summary["formats"]) == ({"usage": 280}, {"csv": 280})
    assert sorted(pq.read_table(output / "examples")["sha256"].to_pylist()) == sorted(
        pq.read_table(dataset / "examples")["sha256"].to_pylist()
    )


def test_copies_of_train_are_said_aloud(fer, tmp_path):
    rows = [f"{number % 7},{ROW[:-1]}{number % 10},Training" for number in range(9)]
    rows += [
        f"3,{ROW[:-1]}4,PublicTest",
        f"3,{ROW[:-2]} 99,PublicTest",
        f"0,{ROW[:-1]}5,PrivateTest",
    ]
    (tmp_path / "a.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]))
    run = fer("ingest", "--source", tmp_path / "a.csv", "--output", tmp_path / "data")
    assert run.result["copies_of_train"] == {"val": 1, "test": 1}
    assert "1 val and 1 test examples have the pixels of train examples" in run.errors
    data = open_dataset(str(tmp_path / "data"))
    (val,), (test,) = data.copies_of_train("val"), data.copies_of_train("test")
    assert data.read_images([val, test])[:, -1, -1].tolist() == [4, 5]


def write_folders(path, png, drawn, names):
    """An archive with the drawn faces in folders, which are named in turn."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(drawn.images[:60]):
            archive.writestr(f"{names[number % len(names)]}/{number}.png", png(image))
    return path


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        (range(8), "numbered 0-7, so they are not FER2013's, which are 0-6; say what each number"),
        (range(1, 8), "disgust=3 happy=4 sad=5 angry=6 neutral=7 if they are RAF-DB's."),
        ((0, 1, 2), "numbered 0-2, so they are not FER2013's"),
    ],
)
def test_numbered_folders_of_other_datasets_are_refused(fer, png, drawn, tmp_path, numbers, told):
    names = [f"train/{number}" for number in numbers]
    source = write_folders(tmp_path / "x.zip", png, drawn, names)
    run = fer("ingest", "--source", source, "--output", tmp_path / "data")
    assert (run.code, told in run.sentence) == (2, True)
    assert not (tmp_path / "data" / "summary.json").exists()


def test_what_numbers_were_taken_for_is_said(fer, png, drawn, tmp_path):
    source = write_folders(tmp_path / "x.zip", png, drawn, ["train/0", "train/1"])
    classes = ("--classes", "neutral=0", "happy=1")
    run = fer("ingest", "--source", source, *classes, "--output", tmp_path / "a")
    assert run.result["numbers_as"] == "--classes"
    source = write_folders(tmp_path / "y.zip", png, drawn, [f"train/{n}" for n in range(7)])
    run = fer("ingest", "--source", source, "--output", tmp_path / "b")
    assert run.result["numbers_as"] == "FER2013"
    assert summary_of(tmp_path / "b")["label_from"] == {"number": 60}
    source = write_folders(tmp_path / "z.zip", png, drawn, ["train/happy", "train/1 disgust"])
    run = fer("ingest", "--source", source, "--output", tmp_path / "c")
    assert run.result["numbers_as"] is None


def test_archives_that_are_named_by_their_split_are_not_mixed(fer, png, drawn, tmp_path):
    sources = [
        write_folders(tmp_path / name, png, drawn, ["happy", "sad"])
        for name in ("Train_Set.zip", "test.zip")
    ]
    run = fer("ingest", "--source", *sources, "--output", tmp_path / "data")
    assert run.result["counts"] == {"train": 60, "val": 0, "test": 60}
    assert run.result["split_from"] == {"folder": 120}


def test_names_that_may_mean_a_split_are_refused(fer, png, drawn, tmp_path):
    source = write_folders(tmp_path / "x.zip", png, drawn, ["my_test_v/happy", "train_v/sad"])
    arguments = ("ingest", "--source", source, "--output", tmp_path / "data")
    run = fer(*arguments)
    assert run.code == 2
    assert run.sentence == (
        "'my_test_v', 'train_v' may name a split, but which one is unclear: rename it to train, "
        "val or test, or give --split-from hash to mix all examples."
    )
    assert fer(*arguments, "--split-from", "hash").result["split_from"] == {"hash": 60}


def test_val_is_taken_out_of_train(fer, png, drawn, tmp_path):
    source = write_folders(tmp_path / "x.zip", png, drawn, ["train/happy", "train/sad", "test/sad"])
    arguments = ("ingest", "--source", source, "--val-fraction", "0.2", "--output")
    run = fer(*arguments, tmp_path / "data")
    counts = run.result["counts"]
    assert (counts["train"] + counts["val"], counts["test"]) == (40, 20)
    assert run.result["split_from"] == {"folder": 60 - counts["val"], "val_fraction": counts["val"]}
    assert 0 < counts["val"] < 20


def test_a_second_val_is_refused(fer, sources, drawn, tmp_path):
    source = ("--source", sources / "fer2013.csv", "--val-fraction", "0.1")
    run = fer("ingest", *source, "--output", tmp_path / "data")
    assert run.code == 2
    number = drawn.splits.count("val")
    assert f"have {number} val examples of their own, which --val-fraction would" in run.sentence


def write_votes(path, drawn, rows=None):
    lines = [
        f"{USAGES[split]},fer{number:07d}.png,{','.join(['0', '10', *'00000000'])}"
        for number, split in enumerate(drawn.splits[:rows])
    ]
    path.write_text("\n".join(["Usage,Image name," + ",".join(VOTE_COLUMNS), *lines]) + "\n")
    return path


def test_votes_join_the_rows_of_the_table(fer, sources, drawn, tmp_path):
    votes = write_votes(tmp_path / "fer2013new.csv", drawn)
    lines = votes.read_text().splitlines()
    lines[5] = lines[5].replace(",0,10,0,", ",3,6,1,")
    votes.write_text("\n".join(lines))
    source = ("--source", sources / "fer2013.csv", "--votes", votes)
    assert fer("ingest", *source, "--output", tmp_path / "data").code == 0
    table = pq.read_table(tmp_path / "data" / "examples").to_pylist()
    by_source = {row["source"].rpartition("#")[2]: row["votes"] for row in table}
    assert by_source["5"] == [3, 6, 1, 0, 0, 0, 0, 0, 0, 0]
    assert by_source["6"] == [0, 10, 0, 0, 0, 0, 0, 0, 0, 0]


def test_votes_of_other_rows_are_refused(fer, sources, drawn, tmp_path):
    def sentence(votes, source=sources / "fer2013.csv"):
        output = tmp_path / "data"
        arguments = ("--source", source, "--votes", votes, "--output", output, "--overwrite")
        run = fer("ingest", *arguments)
        assert run.code == 2
        assert not (output / "summary.json").exists()
        return run.sentence

    short = write_votes(tmp_path / "short.csv", drawn, rows=270)
    assert "votes end at row 270 but the CSV file goes on" in sentence(short)
    votes = write_votes(tmp_path / "votes.csv", drawn)
    content = votes.read_text()
    votes.write_text(content + content.splitlines()[-1] + "\n")
    assert "--votes has 281 rows and the CSV file has 280" in sentence(votes)
    votes.write_text(content.replace("PublicTest", "PrivateTest"))
    assert "is val in the CSV file and test in the votes" in sentence(votes)
    votes.write_text(content)
    assert "belong to the rows of FER2013's CSV file" in sentence(votes, sources / "faces.zip")
    assert "give that file" in sentence(votes, sources)


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
