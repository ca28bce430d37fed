"""The object store instead of the disk: sources, outputs, and what a store refuses."""

import io
import time

import pyarrow.parquet as pq
import pytest
from fault_proxy import Fault

from fer import storage
from fer.data.dataset import open_dataset
from fer.storage import listing


@pytest.fixture(scope="module")
def bucket(s3, sources):
    for name in ("fer2013.csv", "faces.zip"):
        s3.upload_file(str(sources / name), "open", f"in/{name}")
    return "s3://open"


@pytest.mark.parametrize("name", ["fer2013.csv", "faces.zip"])
def test_ingest_from_and_to_a_bucket(fer, bucket, dataset, name):
    output = f"{bucket}/out/{name}"
    assert fer("ingest", "--source", f"{bucket}/in/{name}", "--output", output).code == 0
    ingested = open_dataset(output)
    assert ingested.summary["fingerprint"] == open_dataset(str(dataset)).summary["fingerprint"]
    assert listing.child_names(output) == {
        *("job.json", "summary.json", "class_counts.png", "samples.png", "examples"),
    }
    assert len(ingested.read_split("val")) == sum(ingested.counts("val").values())


def test_label_from_and_to_a_bucket(fer, bucket, s3, sources, checkpoint):
    with storage.open_seekable(f"{bucket}/in/faces.zip") as stream:
        assert stream.seekable()
    s3.put_object(Bucket="open", Key="faces/a #1%.png", Body=png_of(sources))
    s3.put_object(Bucket="open", Key="faces/b/broken.png", Body=b"junk")
    s3.put_object(Bucket="open", Key="facesless/c.png", Body=b"junk")
    output = f"{bucket}/labels"
    arguments = ("--detector", "none", "--checkpoint", checkpoint, "--output", output)
    assert fer("label", "--images", f"{bucket}/faces", *arguments).result["images"] == 2
    store, path = storage.filesystem(f"{output}/faces")
    rows = {row["image"]: row for row in pq.read_table(path, filesystem=store).to_pylist()}
    assert set(rows) == {"s3://open/faces/a #1%.png", "s3://open/faces/b/broken.png"}
    good, bad = rows["s3://open/faces/a #1%.png"], rows["s3://open/faces/b/broken.png"]
    head = s3.head_object(Bucket="open", Key="faces/a #1%.png")
    assert (good["status"], good["etag"]) == ("ok", head["ETag"].strip('"'))
    assert (good["size_bytes"], good["width"]) == (head["ContentLength"], 48)
    assert (bad["status"], bad["emotion"]) == ("unreadable", None)


def png_of(sources):
    import zipfile

    with zipfile.ZipFile(io.BytesIO((sources / "faces.zip").read_bytes())) as archive:
        return archive.read(archive.namelist()[0])


@pytest.mark.slow
def test_train_and_evaluate_on_a_bucket(fer, bucket):
    data, network = f"{bucket}/runs/data", f"{bucket}/runs/shallow"
    fer("ingest", "--source", f"{bucket}/in/fer2013.csv", "--output", data)
    train = ("--model", "conv2", "--num-epochs", "1", "--batch-size", "32")
    run = fer("train", "--dataset", data, *train, "--output", network)
    assert run.result["best_epoch"] == 1
    assert {
        "config.json",
        "model.safetensors",
        "metrics.jsonl",
        "curves.png",
    } <= listing.child_names(network)
    report = f"{bucket}/report"
    run = fer("evaluate", "--dataset", data, "--checkpoint", network, "--output", report)
    assert run.result["report"] == f"{report}/index.html"
    assert storage.read_bytes(run.result["report"]).startswith(b"<!doctype html>")


def test_a_bucket_that_is_not_there(fer, tmp_path):
    run = fer("ingest", "--source", "s3://nowhere/x.csv", "--output", tmp_path / "data")
    assert run.code == 2
    assert run.sentence == (
        "s3://nowhere can't be used: the bucket does not exist; check its name, region and "
        "endpoint."
    )


def test_an_object_that_is_not_there(fer, bucket, tmp_path):
    run = fer("ingest", "--source", f"{bucket}/none.csv", "--output", tmp_path / "data")
    assert (run.code, "s3://open/none.csv does not exist" in run.sentence) == (2, True)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("AWS_ACCESS_KEY_ID", "WRONG", "the store does not know the access key"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", "the secret key is wrong"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "Could not connect"),
    ],
)
def test_a_store_that_refuses(
    fer, bucket, monkeypatch, fresh_client, tmp_path, name, value, sentence
):
    monkeypatch.setenv(name, value)
    # An address where nobody is is asked again each time.
    monkeypatch.setattr("fer.storage.s3.MAX_ATTEMPTS", 2)
    run = fer("ingest", "--source", f"{bucket}/in/fer2013.csv", "--output", tmp_path / "data")
    assert run.code == 2
    assert run.sentence.startswith("s3://open can't be used: ")
    assert sentence in run.sentence


def test_a_key_that_may_only_read(fer, bucket, monkeypatch, fresh_client, sources):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "READERKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "reader-secret")
    run = fer("ingest", "--source", sources / "fer2013.csv", "--output", f"{bucket}/denied")
    assert run.code == 2
    assert "s3://open/denied can't be written to: " in run.sentence


@pytest.mark.parametrize("kind", ["refuse", "reset", "truncate"])
def test_a_store_that_fails_one_time_in_five_loses_nothing(faults, s3, kind):
    contents = {f"faults/{kind}/{number}": bytes([number]) * 50_000 for number in range(20)}
    for key, content in contents.items():
        s3.put_object(Bucket="open", Key=key, Body=content)
    faults.append(Fault(r"^(GET|HEAD) ", kind, share=0.2))
    entries = [*listing.walk(f"s3://open/faults/{kind}")]
    assert len(entries) == 20
    for entry in entries:
        assert storage.read_bytes(entry.location) == contents[f"faults/{kind}/{entry.name}"]
    assert faults[0].hits > 3


def test_writes_are_repeated_too(faults):
    faults.append(Fault(r"^(PUT|POST) ", share=0.3))
    for number in range(8):
        storage.write_bytes(f"s3://open/faults/written/{number}", b"x" * number)
    assert faults[0].hits > 1
    sizes = {entry.name: entry.size_bytes for entry in listing.walk("s3://open/faults/written")}
    assert sizes == {str(number): number for number in range(8)}


def test_a_request_that_hangs_is_made_again(faults, fresh_client, monkeypatch):
    monkeypatch.setattr("fer.storage.s3.TIMEOUT_SECONDS", 1.0)
    storage.write_bytes("s3://open/faults/hanging", b"here")
    faults.append(Fault("GET /open/faults/hanging", "slow", times=1, seconds=60))
    start = time.monotonic()
    assert storage.read_bytes("s3://open/faults/hanging") == b"here"
    assert time.monotonic() - start < 40
    assert faults[0].hits == 1
