"""CSV and JSON Lines hold the same labels as Parquet."""

import csv
import io
import json

import pandas as pd
import pyarrow as pa
import pytest

from fer.labels.export import to_csv, to_jsonl
from fer.labels.schema import LABEL_SCHEMA

KNOWN = {"model": "m-1", "detector": "yunet", "engine": "int8"}
BOX = {"x": 1.5, "y": -2.25, "width": 100.1, "height": 7.0}
ROWS = [
    {
        "image": "s3://b/ü \u2028#%.png",
        "etag": "0abc",
        "size_bytes": 12,
        "frame": 90_001,
        "time_seconds": 36_000.041667,
        "track": 3,
        "face": 0,
        "box": BOX,
        "detection_score": 0.9,
        "emotion": "happy",
        "confidence": 0.88,
        "probabilities": [0.12, 0.88],
        "width": 640,
        "height": 480,
        "status": "ok",
        **KNOWN,
    },
    {
        "image": '/new\nline, "quoted".png',
        "status": "unreadable",
        "error": 'The file\ncan\'t be "read".',
        **KNOWN,
    },
    {"image": "/c.png", "etag": "=cmd|' /C calc'!A0", "status": "missing", **KNOWN},
]
CLASSES = ("sad", "happy")


@pytest.fixture
def labels():
    return pa.Table.from_pylist(ROWS, LABEL_SCHEMA)


def test_csv(labels):
    first, second, _ = csv.DictReader(io.StringIO(to_csv(labels, CLASSES).decode(), newline=""))
    assert first == {
        "image": ROWS[0]["image"],
        "etag": "0abc",
        "size_bytes": "12",
        "frame": "90001",
        "time_seconds": "36000.041667",
        "track": "3",
        "face": "0",
        "box_x": "1.5",
        "box_y": "-2.25",
        "box_width": "100.1",
        "box_height": "7",
        "detection_score": "0.9",
        "emotion": "happy",
        "confidence": "0.88",
        "probability_sad": "0.12",
        "probability_happy": "0.88",
        "width": "640",
        "height": "480",
        "status": "ok",
        "error": "",
        **KNOWN,
    }
    assert (second["image"], second["error"]) == (ROWS[1]["image"], ROWS[1]["error"])
    assert (second["face"], second["box_x"], second["probability_sad"]) == ("", "", "")


def test_csv_escapes_formulas(labels):
    table = pd.read_csv(io.BytesIO(to_csv(labels, ("=a", "b"))))
    assert table["etag"][2] == "'=cmd|' /C calc'!A0"
    texts = [
        *table.columns,
        *(str(value) for name in LABEL_SCHEMA.names if name in table for value in table[name]),
    ]
    assert not [text for text in texts if text.startswith(tuple("=+-@\t\r\n"))]
    assert table["box_y"][0] == -2.25


def test_jsonl(labels):
    lines = to_jsonl(labels, CLASSES).decode("ascii").splitlines()
    first, second, third = map(json.loads, lines)
    assert first == {**ROWS[0], "probabilities": {"sad": 0.12, "happy": 0.88}, "error": None}
    assert set(second) == set(LABEL_SCHEMA.names)
    assert (second["image"], second["box"], second["probabilities"]) == (
        ROWS[1]["image"],
        None,
        None,
    )
    assert third["etag"] == ROWS[2]["etag"]


def test_chunks_without_faces(labels):
    failed = labels.slice(1)
    header = to_csv(labels, CLASSES).split(b"\n")[0]
    assert to_csv(failed, CLASSES).split(b"\n")[0] == header
    assert to_jsonl(failed, CLASSES).count(b"\n") == 2
    empty = labels.slice(0, 0)
    assert to_csv(empty, CLASSES) == header + b"\n"
    assert to_jsonl(empty, CLASSES) == b""
