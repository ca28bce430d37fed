"""Manifests: what their rows become, and which files are refused."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer.data.items import MAX_IMAGE_BYTES, SourceItem, fetch_image
from fer.errors import InputError
from fer.labels.manifests import _read_file, _start_of, check_manifest, is_manifest, read_manifest
from fer.labels.schema import LABEL_SCHEMA
from fer.storage import listing


def items(path):
    check_manifest(str(path))
    return [*read_manifest(str(path))]


def test_rows_of_a_csv_file(tmp_path):
    path = tmp_path / "list.csv.gz"
    lines = [
        "\ufeffsize_bytes,image,etag,remark",
        '12,a.png,"""x""",good',
        "13.0,sub/./../b c#%.png,,",
        ",file:///data/c%20d.png,y,",
        '1,"new\nline, ""quoted"".png",,',
        ",more.zip,,",
    ]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert items(path) == [
        SourceItem("image", f"{tmp_path}/a.png", size_bytes=12, etag="x"),
        SourceItem("image", f"{tmp_path}/b c#%.png", size_bytes=13),
        SourceItem("image", "/data/c d.png", etag="y"),
        SourceItem("image", f'{tmp_path}/new\nline, "quoted".png', size_bytes=1),
        SourceItem("archive", f"{tmp_path}/more.zip"),
    ]


def test_an_image_that_gzip_compressed_is_opened_like_an_archive(tmp_path):
    (tmp_path / "list.csv").write_text("image\na.jpg.gz\nb.csv.gz\n")
    kinds = [item.kind for item in read_manifest(f"{tmp_path}/list.csv")]
    assert kinds == ["archive", "image"]


@pytest.mark.parametrize(
    ("row", "source", "reason"),
    [
        ("https://host/a.png", "https://host/a.png", "https:// locations cannot be opened"),
        ("hf://datasets/a.png", "hf://datasets/a.png", "hf:// locations cannot be opened"),
        ("", "{folder}/list.parquet#1", "names no image: its uri is empty"),
        ("a\0b.png", "{folder}/list.parquet#1", "contains a zero byte"),
        ("a.zip!/b.png", "{folder}/a.zip!/b.png", "name the archive instead"),
    ],
)
def test_rows_without_a_usable_location_are_rejected(tmp_path, row, source, reason):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"uri": [row, "good.png"]}), path)
    rejected, good = items(path)
    assert (rejected.kind, rejected.source) == ("rejected", source.format(folder=tmp_path))
    assert reason in rejected.reason
    assert good == SourceItem("image", f"{tmp_path}/good.png")


def test_names_with_surrogates(tmp_path):
    path = tmp_path / "list.jsonl"
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"image")
    names = [name for name in os.listdir(tmp_path) if name.endswith(".jpg")]
    names += [
        f"file://{tmp_path}/{names[0]}",
        f"https://{names[0]}",
        "\ud800.jpg",
        "\U0001f600.jpg",
    ]
    rows = [json.dumps({"image": name, "etag": name}) for name in names]
    path.write_text("\n".join(rows))
    listed, uri, web, half, whole = [*_read_file(str(path))]
    assert listed.source == rf"{tmp_path}/caf\xe9.jpg"
    assert (listed.kind, listed.etag, fetch_image(listed)) == ("image", None, b"image")
    assert uri.source == listed.source
    assert (web.kind, web.source) == ("rejected", r"https://caf\xe9.jpg")
    assert (half.kind, half.source) == ("rejected", f"{path}#4")
    assert half.reason == "names no image: its image contains '\\ud800', which is half a character"
    assert (whole.source, whole.etag) == (f"{tmp_path}/\U0001f600.jpg", "\U0001f600.jpg")


def test_a_table_of_labels_names_each_image_once(tmp_path):
    known = {"status": "ok", "model": "m", "detector": "d"}
    rows = [{"image": f"/x/{name}.png", "size_bytes": 5, **known} for name in "aaabccd"]
    for number in range(2):
        pq.write_table(
            pa.Table.from_pylist(rows, LABEL_SCHEMA),
            tmp_path / f"{number}.parquet",
            row_group_size=2,
        )
    (tmp_path / "_SUCCESS").touch()
    assert is_manifest(str(tmp_path))
    named = [item.source for item in items(tmp_path)]
    assert named == [f"/x/{name}.png" for name in "abcdabcd"]


def test_a_folder_of_images_with_a_table_is_not_a_manifest(tmp_path):
    (tmp_path / "metadata.parquet").touch()
    (tmp_path / "a.png").touch()
    (tmp_path / "empty.d").mkdir()
    assert not is_manifest(str(tmp_path))
    assert not is_manifest(str(tmp_path / "a.png"))
    assert is_manifest(str(tmp_path / "metadata.parquet"))
    assert not is_manifest(str(tmp_path / "empty.d"))


def test_images_after_thousands_of_tables_are_seen(tmp_path):
    (tmp_path / "annotations").mkdir()
    for number in range(listing.PAGE_SIZE + 1):
        (tmp_path / "annotations" / f"{number}.csv").touch()
    assert is_manifest(str(tmp_path))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    assert not is_manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"emotion,pixels,Usage\n0,1 2,Training\n", "which `fer ingest` reads"),
        ("a.csv", b"s3://bucket/a.png\n", "has the columns s3://bucket/a.png"),
        ("a.csv", b"", "has the columns (none)"),
        ("a.csv", b"image,x\na,b,c.png,1\n", "Expected 2 columns, got 4"),
        (
            "a.csv",
            b"image\n\xff.png\n",
            "line 2 has the byte 0xFF, '\u00ff' in Latin-1; save it as",
        ),
        ("a.csv", "image\na.png\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (
            "a.csv",
            b"n,image\n" + b"1,a.png\n" * 200_000 + b"2,\xe4.png\n",
            "line 200002 has the byte",
        ),
        ("a.jsonl", b'{"image": "a.png"}\n{"image": "\xe4.png"}\n', "line 2 has the byte 0xE4"),
        ("a.jsonl", b'{"image": "a.png"}\n["b.png"]\n', "line 2 is '[\"b.png\"]'; expected an"),
        ("a.ndjson", b'{"image": "a.png"\n', "can't be read as JSON Lines: line 1 is"),
        ("a.jsonl", b'{"text": "a.png"}\n', "has the columns text (string); expected a text"),
        ("a.jsonl", b"", "has the columns (none)"),
        ("a.csv", b"image,size_bytes\na.png,12KB\n", "invalid value '12KB'"),
        ("a.parquet", b"junk", "can't be read as a manifest"),
    ],
)
def test_files_that_are_not_manifests_are_refused(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        items(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert sentence in str(caught.value)


def test_tables_that_contain_the_images_are_refused(tmp_path):
    path = tmp_path / "hugging_face.parquet"
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": "a.png"}]}), path)
    with pytest.raises(InputError, match="image \\(struct<.*expected a text column"):
        check_manifest(str(path))


@pytest.mark.parametrize("size_bytes", [None, 10, MAX_IMAGE_BYTES + 1])
def test_an_unknown_or_wrong_size_does_not_fill_the_memory(tmp_path, size_bytes):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 10)
    with pytest.raises(ValueError, match="more than 67,108,864 bytes"):
        fetch_image(SourceItem("image", str(path), size_bytes=size_bytes))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_are_streamed(tmp_path, kind):
    path = tmp_path / f"long.{kind}"
    folder, number = "/" + "x" * 1000, 100_000
    if kind == "csv":
        with path.open("w") as file:
            file.write("path\n")
            file.writelines(f"{folder}/{row}.jpg\n" for row in range(number))
    else:
        names = pa.array([f"{folder}/{row}.jpg" for row in range(number)])
        pq.write_table(pa.table({"path": names}), path, row_group_size=10_000, use_dictionary=False)
        del names
    before, most_bytes, sources = pa.total_allocated_bytes(), 0, 0
    for item in read_manifest(str(path)):
        sources += item.source == f"{folder}/{sources}.jpg"
        if sources % 1000 == 0:
            most_bytes = max(most_bytes, pa.total_allocated_bytes() - before)
    assert sources == number
    assert most_bytes < 64 * 2**20


@pytest.mark.parametrize(
    "column",
    ["Image", " PATH ", "file", "FileName", "file_name", "Image_Path", "url", "Uri", "key"],
)
def test_usual_names_of_the_column(tmp_path, column):
    path = tmp_path / "list.csv"
    path.write_text(f"number,{column},Size_Bytes\n1,a.png,7\n")
    assert items(path) == [SourceItem("image", f"{tmp_path}/a.png", size_bytes=7)]


def test_the_first_of_several_columns_that_is_text_counts(tmp_path):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": ["p.png"], "Image": [1], "uri": ["u.png"]}), path)
    assert items(path) == [SourceItem("image", f"{tmp_path}/u.png")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "image,etag\nj\u00e4n.png,x\n"),
        ("list.csv", "image;etag\r\nj\u00e4n.png;x\r\n"),
        ("list.jsonl", '{"image": "j\u00e4n.png", "etag": "x"}\n\n'),
    ],
)
def test_byte_order_marks_tell_the_encoding(tmp_path, encoding, name, text):
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert items(tmp_path / name) == [SourceItem("image", f"{tmp_path}/j\u00e4n.png", etag="x")]


@pytest.mark.parametrize("name", ["list.jsonl", "list.NDJSON", "list.jsonl.gz"])
def test_rows_of_json_lines(tmp_path, name):
    lines = [
        '{"image": "a.png", "size_bytes": 12, "etag": "x", "label": {"id": 1}}',
        '{"etag": null, "image": "new\\nline.png", "size_bytes": null}',
        '{"size_bytes": 3}',
        '{"image": 7}',
        '{"image": "more.zip"}',
    ]
    content = "\n".join(lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert is_manifest(str(tmp_path / name))
    assert is_manifest(str(tmp_path))
    first, second, third, fourth, last = items(tmp_path / name)
    assert first == SourceItem("image", f"{tmp_path}/a.png", size_bytes=12, etag="x")
    assert second == SourceItem("image", f"{tmp_path}/new\nline.png")
    assert (third.source, third.reason) == (
        *(f"{tmp_path}/{name}#3", "names no image: its image is empty"),
    )
    assert (fourth.kind, fourth.reason) == ("rejected", "names no image: its image is not text")
    assert last.kind == "archive"


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"j\xe4n.png")
    (tmp_path / name).write_bytes(b"x")
    path = tmp_path / "list.csv"
    path.write_text(f"image\nj\\xe4n.png\nfile://{tmp_path}/j%E4n.png\n")
    (item,) = items(path)
    assert item.source == f"{tmp_path}/j\\xe4n.png"
    assert fetch_image(item) == b"x"


def test_keys_start_in_their_bucket():
    assert _start_of("Key", "s3://bucket/lists/a.csv") == "s3://bucket"
    assert _start_of("image", "s3://bucket/lists/a.csv") == "s3://bucket/lists"
    assert _start_of("key", "/lists/a.csv") == "/lists"
