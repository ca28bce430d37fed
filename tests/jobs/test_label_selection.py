"""Which images are labeled: those of a manifest, and those that globs match."""

import io
import json
import zipfile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelings import label, rows_of


def test_a_manifest_and_the_failures_of_its_labels(
    fer, photographs, checkpoint, faces, png, tmp_path
):
    lines = [
        "a/0.png,7",
        "none.png,",
        "https://host/a.png,",
        "more.zip,",
        "a/0.png,7",
        "empty.png,",
    ]
    (tmp_path / "list.csv").write_text("\n".join(["image,size_bytes", *lines]))
    (tmp_path / "a").symlink_to(photographs / "a")
    (tmp_path / "empty.png").touch()
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("x.png", png(faces[0][7]))
    flags = ("--exclude", "empty.png")
    run = label(fer, tmp_path / "list.csv", checkpoint, tmp_path / "labels", *flags)
    # Named twice, though not in a row, is labeled twice.
    assert (run.result["images"], run.result["failed"]) == (5, 2)
    rows = rows_of(tmp_path / "labels")
    good = rows[f"{tmp_path}/a/0.png"]
    assert (good["status"], good["size_bytes"]) == ("ok", (photographs / "a/0.png").stat().st_size)
    assert rows[f"{tmp_path}/more.zip!/x.png"]["status"] == "ok"
    assert rows[f"{tmp_path}/none.png"]["status"] == "missing"
    web = rows["https://host/a.png"]
    assert (web["status"], "https:// locations cannot be opened" in web["error"]) == (
        "unreadable",
        True,
    )
    failed = pq.read_table(tmp_path / "labels" / "faces", filters=[("status", "=", "missing")])
    pq.write_table(failed, tmp_path / "failed.parquet")
    (tmp_path / "none.png").write_bytes(png(faces[0][0]))
    run = label(fer, tmp_path / "failed.parquet", checkpoint, tmp_path / "again")
    assert (run.result["images"], run.result["failed"]) == (1, 0)
    assert set(rows_of(tmp_path / "again")) == {f"{tmp_path}/none.png"}


def test_globs_and_formats_are_those_of_the_run_that_goes_on(
    fer, photographs, checkpoint, save_network, sources, tmp_path
):
    output = tmp_path / "labels"
    flags = ("--include", "*.png", "*.jpg", "--exclude", "bomb.png", "b/", "--limit", "5")
    kinds = ("--format", "csv", "jsonl")
    run = label(fer, photographs, checkpoint, output, *flags, *kinds)
    assert (run.result["images"], run.result["failed"]) == (5, 0)
    some = {f"a/{number}.png" for number in range(5)}
    assert set(rows_of(output)) == {f"{photographs}/{name}" for name in some}
    assert json.loads((output / "summary.json").read_text())["ignored_files"] == 0
    rows, names = rows_of(output), {file.stem for file in (output / "faces").iterdir()}
    (output / "summary.json").unlink()
    lost = names.pop()
    (output / "faces" / f"{lost}.parquet").unlink()
    (output / "csv" / f"{lost}.csv").write_text("cut sho")
    (output / "jsonl" / "vain.jsonl").touch()
    for other, sentence in (
        ((checkpoint, *flags[3:], *kinds), "was started with --include "),
        (
            (checkpoint, *flags, *kinds, "--min-confidence", "0.9"),
            "0.0 (now 0.9); ",
        ),
        ((tmp_path / "other", *flags, *kinds), "was started with another model (conv2-"),
    ):
        save_network(tmp_path / "other", "conv2", seed=8)
        run = label(fer, photographs, other[0], output, *other[1:], "--resume")
        assert (run.code, sentence in run.sentence) == (2, True)
    same = (*flags, *kinds, "--resume")
    assert label(fer, photographs, checkpoint, output, *same).result["images"] == 5
    assert set(rows_of(output)) == set(rows)
    for kind in ("csv", "jsonl"):
        assert {file.name for file in (output / kind).iterdir()} == {
            f"{name}.{kind}" for name in (*names, lost)
        }
    check_formats(output, rows)
    happy = ("--include", "val/happy/", "--exclude", "*.jpg", "--overwrite")
    run = label(fer, sources / "faces.zip", checkpoint, output, *happy)
    assert run.result["images"] > 0
    assert all("!/val/happy/" in image for image in rows_of(output))
    assert not (output / "csv").exists()
    run = label(fer, photographs, checkpoint, tmp_path / "none", "--include", "*.tiff")
    assert (run.code, run.sentence.endswith("matches --include and --exclude.")) == (1, True)


def check_formats(output, rows):
    """Other formats say what the rows say."""
    table = pd.concat(map(pd.read_csv, (output / "csv").iterdir())).set_index("image")
    texts = [file.read_text() for file in (output / "jsonl").iterdir()]
    lines = {line["image"]: line for line in map(json.loads, "".join(texts).splitlines())}
    assert sorted(table.index) == sorted(lines) == sorted(rows)
    for image, row in rows.items():
        assert lines[image]["status"] == table.status[image] == row["status"]
        if row["status"] == "ok":
            named = f"probability_{row['emotion']}"
            assert table[named][image] == pytest.approx(row["confidence"])
            assert lines[image]["probabilities"][row["emotion"]] == table[named][image]


@pytest.mark.slow
def test_manifests_in_a_bucket(fer, s3, checkpoint, faces, png, tmp_path):
    s3.put_object(Bucket="open", Key="lists/a b#%.png", Body=png(faces[0][0]))
    named = [["s3://open/lists/a b#%.png", "s3://open/lists/none.png"], ["../a b#%.png"]]
    for number, uris in enumerate(named):
        table = io.BytesIO()
        pq.write_table(pa.table({"uri": uris}), table)
        key = f"lists/rows/{number}.parquet"
        s3.put_object(Bucket="open", Key=key, Body=table.getvalue())
    output = "s3://open/lists-labels"
    run = label(fer, "s3://open/lists/rows", checkpoint, output, "--format", "jsonl")
    assert (run.result["images"], run.result["faces"], run.result["failed"]) == (3, 2, 1)
    listed = s3.list_objects_v2(Bucket="open", Prefix="lists-labels/jsonl/")["Contents"]
    bodies = [s3.get_object(Bucket="open", Key=item["Key"])["Body"].read() for item in listed]
    rows = [json.loads(line) for body in bodies for line in body.splitlines()]
    assert sorted((row["image"].rpartition("/")[2], row["status"]) for row in rows) == [
        ("a b#%.png", "ok"),
        ("a b#%.png", "ok"),
        ("none.png", "missing"),
    ]
    (tmp_path / "typo.csv").write_text("uri\ns3://open/lists/a b#%.png\ns3://opne/a.png\n")
    run = label(fer, tmp_path / "typo.csv", checkpoint, tmp_path / "labels")
    assert (run.code, "s3://opne can't be used: the bucket does not" in run.sentence) == (2, True)
