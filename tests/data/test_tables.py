import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer.data.rejects import RejectedError
from fer.data.tables import MAX_ROW_BYTES, parse_csv_header, read_csv_blocks, read_parquet_rows

ROWS = "emotion,pixels\n3,1 2 3\n4,4 5 6\n"


@pytest.mark.parametrize(
    ("header", "columns", "delimiter"),
    [
        (b"emotion,pixels,Usage\n", {"emotion": 0, "pixels": 1, "usage": 2}, ","),
        (b"emotion, Usage, pixels\r\n", {"emotion": 0, "usage": 1, "pixels": 2}, ","),
        ("\ufeffEmotion;Pixels".encode(), {"emotion": 0, "pixels": 1}, ";"),
        (b'"emotion"\t"pixels"', {"emotion": 0, "pixels": 1}, "\t"),
        (b",emotion,pixels,", {"": 0, "emotion": 1, "pixels": 2, " 4": 3}, ","),
    ],
)
def test_headers(header, columns, delimiter):
    assert parse_csv_header(header) == (columns, delimiter)


@pytest.mark.parametrize(
    ("header", "split"),
    [(b"emotion,pixels", None), (b"Split,emotion, Usage ", 2), (b"set,emotion,Subset", 2)],
)
def test_columns_that_tell_the_split(header, split):
    assert parse_csv_header(header).split == split


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
def test_encodings(encoding):
    bom = "\ufeff" if encoding == "utf-16-be" else ""
    (block,) = read_csv_blocks(io.BytesIO((bom + ROWS).encode(encoding)))
    assert block == (b"emotion,pixels\n3,1 2 3\n4,4 5 6", 1)


def test_a_long_table_in_utf_16_comes_in_blocks_of_whole_rows():
    pixels = " ".join(["200"] * 2304)
    text = "emotion,pixels\n" + f"3,{pixels}\n" * 100
    blocks = [*read_csv_blocks(io.BytesIO(text.encode("utf-16")))]
    assert len(blocks) > 2
    assert (
        b"".join(block.data.partition(b"\n")[2] + b"\n" for block in blocks).decode()
        == (text.partition("\n")[2])
    )
    assert blocks[1].first_row == blocks[0].data.count(b"\n") + 1


def test_rows_before_one_that_is_too_long_are_read():
    content = f"{ROWS}5,{'1 ' * 4 * MAX_ROW_BYTES}\n6,7 8 9\n"
    blocks = read_csv_blocks(io.BytesIO(content.encode()))
    assert next(blocks) == (b"emotion,pixels\n3,1 2 3\n4,4 5 6", 1)
    with pytest.raises(RejectedError, match=r"^row 3 is longer than 65,536 bytes: the rows "):
        next(blocks)


def test_a_table_in_utf_16_without_a_mark():
    with pytest.raises(RejectedError, match="seems to be in UTF-16 without a byte order mark"):
        next(read_csv_blocks(io.BytesIO(ROWS.encode("utf-16-le"))))


def test_a_table_without_the_columns():
    with pytest.raises(
        RejectedError, match=r"has the columns 'id, name': expected emotion"
    ) as caught:
        [*read_csv_blocks(io.BytesIO(b"id,name\n1,x\n"))]
    assert caught.value.code == "missing_column"


def parquet(columns, metadata=None):
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    sink.seek(0)
    return sink


IMAGES = [{"bytes": b"a", "path": "a.png"}, {"bytes": None, "path": "b.png"}]


@pytest.mark.parametrize(
    ("columns", "metadata", "labels"),
    [
        ({"image": IMAGES, "label": [3, 0]}, None, ["3", "0"]),
        (
            {"image": IMAGES, "label": [1, None]},
            {"info": {"features": {"label": {"names": ["sad", "happy"]}}}},
            ["happy", ""],
        ),
        (
            {"image": IMAGES, "label": [1.0, -1.0]},
            {"info": {"features": {"label": {"names": ["sad", "happy"]}}}},
            ["happy", "label -1"],
        ),
        (
            {"image": IMAGES, "label": [2, 6]},
            {"info": {"features": {"label": {"names": ["sad", "happy"]}}}},
            ["label 2", "label 6"],
        ),
        ({"image": IMAGES, "label": ["happy", "sad"]}, {"info": {}}, ["happy", "sad"]),
        ({"image": IMAGES, "label": [4, 0], "emotion": ["happy", "sad"]}, {}, ["happy", "sad"]),
        ({"Image": IMAGES, "Label": [4, 0]}, {}, ["4", "0"]),
        (
            {"image": IMAGES, "label": [1, 0]},
            {"info": {"features": {"label": {"names": {"1": "happy", "0": "sad"}}}}},
            ["happy", "sad"],
        ),
        (
            {"img": [b"a", None], "labels": pa.array(["x", "y"]).dictionary_encode()},
            None,
            ["x", "y"],
        ),
    ],
)
def test_parquet_files_of_hugging_face(columns, metadata, labels):
    rows = [*read_parquet_rows(parquet(columns, metadata))]
    assert [row.image for row in rows] == [b"a", None]
    assert [row.label for row in rows] == labels


@pytest.mark.parametrize("columns", [{"a": [1]}, {"image": [[1]], "label": [1]}, {"image": IMAGES}])
def test_other_parquet_files(columns):
    with pytest.raises(RejectedError, match=r"has the columns .*: expected image") as caught:
        [*read_parquet_rows(parquet(columns))]
    assert caught.value.code == "missing_column"


def test_a_parquet_file_with_a_column_for_the_split():
    columns = {"image": IMAGES, "label": [1, 2], "set": ["", ""], "Split": ["test", None]}
    rows = [*read_parquet_rows(parquet(columns))]
    assert [row.usage for row in rows] == ["test", "null"]
