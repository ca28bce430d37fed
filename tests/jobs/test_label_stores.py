"""Labeling from and to object stores that fail, refuse, or want to be asked in their own way."""

import io
import itertools
import tarfile
import time
import zipfile
from collections import Counter

import pyarrow.parquet as pq
import pytest
import ray
from fault_proxy import Fault

from fer import storage
from fer.data.readers import read_items
from fer.errors import InputError, JobError, StoreError
from fer.storage import listing
from fer.storage import s3 as s3_store
from ray_jobs.pipeline import stages

EXPIRED = "s3://open can't be used: the session token has expired; fetch new credentials."
READS = r"^(GET|HEAD) /open/"


@pytest.fixture(scope="module")
def shared_buckets(s3):
    """A bucket that anyone may read, and one that stands for those whose reader pays."""
    for name in ("public", "paid"):
        s3.create_bucket(Bucket=name)


@pytest.fixture
def upload(s3, shared_buckets, png, faces):
    """Put faces under keys of a bucket."""

    def put(bucket, keys):
        for key, face in zip(keys, itertools.cycle(faces[0])):
            s3.put_object(Bucket=bucket, Key=key, Body=png(face))

    return put


def rows_of(output):
    store, path = storage.filesystem(f"{output}/faces")
    return pq.read_table(path, filesystem=store).to_pylist()


def zip_of(png, images):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, image in enumerate(images):
            archive.writestr(f"{number}.png", png(image))
    return packed.getvalue()


# What one request tells.


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (400, "ExpiredToken", "the session token has expired"),
        (403, "InvalidAccessKeyId", "the store does not know the access key"),
        (403, "SignatureDoesNotMatch", "the secret key is wrong"),
        (403, "AccessDenied", "these credentials may not list it"),
    ],
)
def test_credentials_that_die_are_told_from_an_object_that_is_refused(
    s3, faults, status, code, reason
):
    for key in ("one", "other"):
        s3.put_object(Bucket="open", Key=f"dying/{key}", Body=b"x")
    assert storage.read_bytes("s3://open/dying/one") == b"x"
    faults.append(Fault(f"{READS}dying/one", status=403, code="AccessDenied"))
    with pytest.raises(PermissionError, match="the store denies access to these credentials"):
        storage.read_bytes("s3://open/dying/one")
    assert storage.read_bytes("s3://open/dying/other") == b"x"
    faults.append(Fault("/open", status=status, code=code))
    for read in (
        lambda: storage.read_bytes("s3://open/dying/other"),
        lambda: [*listing.walk("s3://open/dying")],
        lambda: listing.children("s3://open/dying"),
        lambda: storage.exists("s3://open/dying/other"),
        lambda: listing.describe("s3://open/dying/other"),
    ):
        with pytest.raises(StoreError, match=f"s3://open can't be used: {reason}"):
            read()


def test_an_object_that_is_deleted_or_archived_after_it_was_listed(s3, faults):
    s3.put_object(Bucket="open", Key="gone/one", Body=b"x")
    faults.append(Fault("^GET /open/gone/one", status=404, code="NoSuchKey"))
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("s3://open/gone/one")
    faults[:] = [Fault("^GET /open/gone/one", status=403, code="InvalidObjectState")]
    with pytest.raises(OSError, match="the store answered InvalidObjectState"):
        storage.read_bytes("s3://open/gone/one")


def test_an_archive_whose_reading_is_refused_is_not_taken_for_a_broken_one(s3, faults, faces):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(4):
            archive.writestr(f"{number}.png", bytes(3 * 2**20))
    s3.put_object(Bucket="open", Key="archives/large.zip", Body=packed.getvalue())
    items = read_items("s3://open/archives/large.zip")
    assert next(items).kind == "image"
    faults.append(Fault("/open", status=400, code="ExpiredToken"))
    with pytest.raises(StoreError, match="the session token has expired"):
        list(items)


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (507, "InsufficientStorage"), (403, "QuotaExceeded")],
)
def test_a_refused_write_names_the_output(s3_server, faults, status, code):
    faults.append(Fault("^(PUT|POST) /open/full/", status=status, code=code))
    with pytest.raises(JobError) as caught, stages.explain_write_errors("s3://open/full"):
        storage.write_bytes("s3://open/full/x", b"x")
    told = "ACCESS_DENIED" if code == "AccessDenied" else code
    assert str(caught.value) == (
        f"s3://open/full can't be written to: the store answered {told} to CreateMultipartUpload; "
        "fix that and continue with --resume."
    )


def test_without_credentials_requests_are_not_signed(
    s3, upload, faults, fresh_client, monkeypatch, tmp_path
):
    upload("public", ["none/0.png"])
    s3.put_object(Bucket="open", Key="none/0.png", Body=b"x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    faults.append(Fault(r"\nauthorization: ", status=403, code="AccessDenied"))
    (entry,) = listing.walk("s3://public/none")
    assert storage.read_bytes(entry.location).startswith(b"\x89PNG")
    with pytest.raises(InputError, match="it is not public and no credentials were used"):
        storage.read_bytes("s3://open/none/0.png")


@pytest.mark.parametrize("opener", [storage.open_stream, storage.open_seekable])
def test_a_file_that_is_replaced_while_it_is_read_is_not_mixed_with_its_successor(s3, opener):
    old, new = bytes(9 * 2**20), bytes([1]) * (9 * 2**20)
    s3.put_object(Bucket="open", Key="replaced/one", Body=old)
    with opener("s3://open/replaced/one") as file:
        assert file.read(2**20) == old[: 2**20]
        s3.put_object(Bucket="open", Key="replaced/one", Body=new)
        with pytest.raises(OSError, match="^it was replaced while it was read$"):
            file.read()
    with opener("s3://open/replaced/one") as file:
        assert file.read() == new


def test_an_archive_that_is_replaced_while_it_is_read_is_rejected(s3):
    for suffix, pack in (("zip", zip_of_blobs), ("tar", tar_of_blobs)):
        s3.put_object(Bucket="open", Key=f"replaced/x.{suffix}", Body=pack(b"0"))
        items = read_items(f"s3://open/replaced/x.{suffix}")
        assert next(items).kind == "image"
        s3.put_object(Bucket="open", Key=f"replaced/x.{suffix}", Body=pack(b"1"))
        read = [*items]
        contents = {item.data[:1] for item in read if item.kind == "image"}
        assert contents <= {b"0"}
        # Without an ETag, so that an update reads it again.
        reasons = [(item.etag, item.reason) for item in read if item.kind == "rejected"]
        assert reasons
        assert all(
            etag is None and reason.endswith("it was replaced while it was read")
            for etag, reason in reasons
        )


BLOBS = {f"{number}.png": 3 * 2**20 for number in range(4)}


def zip_of_blobs(byte):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, size in BLOBS.items():
            archive.writestr(name, byte * size)
    return packed.getvalue()


def tar_of_blobs(byte):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, size in BLOBS.items():
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(byte * size))
    return packed.getvalue()


def test_a_key_with_an_empty_part(s3):
    s3.put_object(Bucket="open", Key="empty/part.bin", Body=b"x")
    # Of the stores only this one takes it for the other.
    assert storage.read_bytes("s3://open/empty//part.bin") == b"x"
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("s3://open/empty//none.bin")


def test_folders_without_a_name_are_not_their_parents(s3_server):
    from botocore.stub import Stubber

    # SeaweedFS has no such folders.
    with Stubber(s3_store.client("open")) as answers:
        page = {"IsTruncated": False, "CommonPrefixes": [{"Prefix": "a//"}, {"Prefix": "a/b/"}]}
        answers.add_response("list_objects_v2", page)
        assert listing.children("s3://open/a") == (["s3://open/a/", "s3://open/a/b"], [])


# What a job makes of it.


def test_files_that_may_be_listed_and_not_read(label, upload, faults, tmp_path):
    upload("open", [f"unread/{number}.png" for number in range(10)])
    faults.append(Fault("^GET /open/unread/", status=403, code="AccessDenied"))
    run = label("s3://open/unread", tmp_path / "labels")
    assert (run.code, "s3://open/unread can be listed, but its first files" in run.sentence) == (
        *(2, True),
    )
    assert not (tmp_path / "labels").exists()


@pytest.mark.slow
def test_a_run_that_is_refused_goes_on_where_it_was(label, upload, s3, faults, png, faces):
    """No room for labels, then credentials that expire, then an object that is gone."""
    keys = [f"withstand/{folder}/{number}.png" for folder in range(9) for number in range(12)]
    upload("open", keys)
    s3.put_object(Bucket="open", Key="withstand/x.zip", Body=zip_of(png, faces[0][:8]))
    images, output = "s3://open/withstand", "s3://open/withstood"
    # A file is written by three requests.
    put = "^(PUT|POST) /open/withstood/faces/"
    faults.append(Fault(put, status=507, code="InsufficientStorage", after=7))
    run = label(images, output)
    assert (
        run.code,
        f"{output} can't be written to: the store answered Insuf" in run.sentence,
    ) == (*(1, True),)
    assert "--resume" in run.sentence
    # What failed holds none of the cluster.
    until = time.monotonic() + 20
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < until, ray.available_resources()
        time.sleep(0.2)
    kept = {entry.name: entry.etag for entry in listing.walk(f"{output}/faces")}
    assert kept
    left = sorted({f"s3://open/{key}" for key in keys} - {row["image"] for row in rows_of(output)})

    expiry = Fault(f"{READS}withstand/", status=400, code="ExpiredToken", after=10, then="")
    faults[:] = [expiry]
    run = label(images, output, "--resume")
    assert (run.code in (1, 2), run.sentence) == (True, EXPIRED)
    assert expiry.hits < 200

    faults.clear()
    rows = {row["image"] for row in rows_of(output)}
    gone = next(image for image in left if image not in rows)
    s3.delete_object(Bucket="open", Key=gone.removeprefix("s3://open/"))
    assert label(images, output, "--resume").result["images"] == 116
    rows = rows_of(output)
    assert len(rows) == len({row["image"] for row in rows}) == 116
    assert Counter(row["status"] for row in rows) == {"ok": 115, "missing": 1}
    assert [row["image"] for row in rows if row["status"] == "missing"] == [gone]
    now = {entry.name: entry.etag for entry in listing.walk(f"{output}/faces")}
    assert kept.items() <= now.items()


NAMES = (
    *("a b.png", " lead.png", "é ü.png", "日本語.png", "e\u0301.png", "#1.png", "50%.png"),
    *("100%25.png", "new\nline.png", "tab\t.png", "q?x=1&y.png", "+.png", "'\"<>.png", "!/x.png"),
    *("{a}*[b].png", "sub dir#/%/deep.png", "😀.JPG", "a.b.png", "~.png", ";:@=$,.png"),
)


@pytest.mark.slow
def test_odd_names_from_a_store_that_often_fails(label, upload, faults, tmp_path):
    """A fifth of the requests fail in one way or another, and one object is refused for good."""
    upload("open", [f"odd/{name}" for name in NAMES])
    upload("open", ["odd/private.png"])
    often = [
        Fault(READS, "refuse", share=0.1),
        Fault(READS, "reset", share=0.05),
        Fault("^GET /open/odd/", "truncate", share=0.05),
    ]
    faults.append(Fault(f"{READS}odd/private", status=403, code="AccessDenied"))
    faults.extend(often)
    run = label("s3://open/odd", tmp_path / "labels")
    assert run.result["images"] == len(NAMES) + 1
    rows = {row["image"]: row for row in rows_of(tmp_path / "labels")}
    private = rows.pop("s3://open/odd/private.png")
    assert (private["status"], private["error"]) == (
        "unreadable",
        "The file can't be read: the store denies access to these credentials.",
    )
    assert set(rows) == {f"s3://open/odd/{name}" for name in NAMES}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert all(fault.hits for fault in often)


@pytest.mark.slow
def test_requests_that_hang_are_made_again(label, upload, faults, tmp_path):
    upload("open", [f"hanging/{number}.png" for number in range(8)])
    faults.append(Fault("^GET /open/hanging/", "slow", times=2, seconds=120))
    run = label("s3://open/hanging", tmp_path / "labels")
    assert (run.result["faces"], faults[0].hits) == (8, 2)
    assert run.result["seconds"] < 110


@pytest.mark.slow
@pytest.mark.parametrize(
    ("access", "bucket", "refused"),
    [
        ("anonymous@", "public", r"(?s)^\w+ /public.*\nauthorization: "),
        ("requester@", "paid", r"(?s)^\w+ /paid(?!.*\nx-amz-request-payer: requester)"),
    ],
)
def test_buckets_that_are_public_or_that_their_reader_pays_for(
    label, upload, s3, faults, png, faces, tmp_path, access, bucket, refused
):
    upload(bucket, [f"in/{number} é.png" for number in range(6)])
    s3.put_object(Bucket=bucket, Key="in/x.zip", Body=zip_of(png, faces[0][:5]))
    faults.append(Fault(refused, status=403, code="AccessDenied"))
    run = label(f"s3://{bucket}/in", tmp_path / "none")
    assert (run.code, f"s3://{access}… if" in run.sentence) == (2, True)
    faults.append(Fault(f"^GET /{bucket}/in/", "truncate", share=0.3))
    run = label(f"s3://{access}{bucket}/in", tmp_path / "labels")
    assert (run.result["faces"], run.result["failed"]) == (11, 0)
    rows = {row["image"] for row in rows_of(tmp_path / "labels")}
    # Rows name what other programs open too.
    assert {f"s3://{bucket}/in/0 é.png", f"s3://{bucket}/in/x.zip!/0.png"} <= rows
