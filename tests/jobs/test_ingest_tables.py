"""Tables to a dataset: packed ones, rows that are rejected, rows that repeat others."""

import gzip
import io
import tarfile
import zipfile

import pyarrow.parquet as pq
import pytest
from ingested import ROW, summary_of

from fer.data.dataset import open_dataset


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


def test_a_second_val_is_refused(fer, sources, drawn, tmp_path):
    source = ("--source", sources / "fer2013.csv", "--val-fraction", "0.1")
    run = fer("ingest", *source, "--output", tmp_path / "data")
    assert run.code == 2
    number = drawn.splits.count("val")
    assert f"have {number} val examples of their own, which --val-fraction would" in run.sentence
