"""The catalog: who asks what changed since a time is told of exactly these rows."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas
import pyarrow.parquet as pq
import pytest

from fer.errors import InputError
from fer.labels.catalog import Catalog, changes_since, record_removed, removed_in
from fer.labels.files import write_labels
from fer.labels.tally import LabelTally

DOCS = Path(__file__).parents[2] / "docs" / "schedule.md"

START = datetime(2026, 11, 26, 2, tzinfo=UTC)


def row(image, etag="1"):
    return {"image": image, "etag": etag, "status": "no_face", "model": "m", "detector": "d"}


class Labels:
    """A folder of labels that grows by whole runs."""

    def __init__(self, folder):
        self.folder, self.now = str(folder), START

    def write(self, file, *rows):
        write_labels(self.folder, f"faces/{file}.parquet", rows, LabelTally(), ["happy"])

    def remove(self, file, *images):
        """Remove rows as an update does: the record first."""
        catalog, name = Catalog.read(self.folder), f"faces/{file}.parquet"
        rows = pq.read_table(f"{self.folder}/{name}").to_pylist()
        record_removed(self.folder, catalog.next_number, name, images)
        self.write(file, *(old for old in rows if old["image"] not in images))

    def commit(self):
        """Commit the run as the job does, an hour after the one before; return the time."""
        catalog, faces = Catalog.read(self.folder), Path(self.folder, "faces")
        self.now += timedelta(hours=1)
        removed = removed_in(self.folder, catalog.next_number)
        files = {f"faces/{file.name}" for file in faces.iterdir()}
        Path(self.folder, "catalog.json").write_bytes(
            catalog.extended(files, removed, self.now).to_json()
        )
        return self.now

    def changes(self, time=None):
        changes = changes_since(self.folder, time)
        told = {(one["image"], one["etag"], one["change"]) for one in changes.rows.to_pylist()}
        assert len(told) == len(changes.rows)
        return told, changes.gone


@pytest.fixture
def labels(tmp_path):
    return Labels(tmp_path)


def test_each_run_tells_its_rows(labels):
    labels.write("one", row("a"), row("b"), row("z.zip!/1"), row("z.zip!/2"))
    first = labels.commit()
    labels.write("two", row("b", "2"), row("c"), row("z.zip!/1", "2"))
    labels.remove("one", "b", "z.zip!/1", "z.zip!/2")
    second = labels.commit()
    assert labels.changes(first) == (
        {("b", "2", "replaced"), ("c", "1", "added"), ("z.zip!/1", "2", "replaced")},
        ("z.zip!/2",),
    )
    # Who asks from the start gets the table as it is, and hears of nothing that was never told.
    images = {("a", "1"), ("b", "2"), ("c", "1"), ("z.zip!/1", "2")}
    assert labels.changes() == ({(*image, "added") for image in images}, ())
    assert labels.changes(second) == (set(), ())
    assert changes_since(labels.folder, second).until == second
    # A moment before counts as before.
    assert labels.changes(second - timedelta(microseconds=1)) == labels.changes(first)


def test_what_came_and_went_is_not_told(labels):
    labels.write("one", row("a"))
    first = labels.commit()
    labels.write("two", row("b"), row("c"))
    second = labels.commit()
    labels.remove("two", "b", "c")
    labels.write("three", row("c", "2"))
    labels.commit()
    assert labels.changes(first) == ({("c", "2", "added")}, ())
    assert labels.changes(second) == ({("c", "2", "replaced")}, ("b",))


def test_what_is_not_committed_is_not_told(labels):
    labels.write("one", row("a"))
    first = labels.commit()
    labels.write("two", row("b"))
    labels.remove("one", "a")
    assert labels.changes(first) == (set(), ())
    assert labels.changes() == (set(), ())
    labels.commit()
    assert labels.changes(first) == ({("b", "1", "added")}, ("a",))


def test_a_run_without_changes_adds_no_generation(labels):
    labels.write("one", row("a"))
    labels.commit()
    before = Catalog.read(labels.folder)
    labels.commit()
    assert Catalog.read(labels.folder) == before


def test_a_repeated_commit_adds_no_generation(labels):
    """The catalog was written, and the summary was not: a resumed run commits once more."""
    labels.write("one", row("a"))
    labels.commit()
    labels.write("two", row("b"))
    labels.remove("one", "a")
    labels.commit()
    labels.commit()
    assert [generation.generation for generation in Catalog.read(labels.folder).generations] == [
        1,
        2,
    ]


def test_label_files_that_somebody_deletes_are_not_missed(labels):
    labels.write("1", row("a"))
    labels.write("2", row("b"))
    first = labels.commit()
    Path(labels.folder, "faces", "1.parquet").unlink()
    labels.commit()
    assert labels.changes() == ({("b", "1", "added")}, ())
    # Its images are labeled again, into a file of another name.
    labels.write("3", row("a"))
    labels.commit()
    assert labels.changes() == ({("a", "1", "added"), ("b", "1", "added")}, ())
    assert labels.changes(first) == ({("a", "1", "added")}, ())


def test_a_clock_that_is_behind_does_not_hide_a_generation(labels):
    labels.write("one", row("a"))
    first = labels.commit()
    labels.now -= timedelta(days=1)
    labels.write("two", row("b"))
    labels.commit()
    assert labels.changes(first) == ({("b", "1", "added")}, ())


def test_times_compare_as_texts(labels):
    labels.now = START.replace(microsecond=0)
    for number in range(3):
        labels.write(str(number), row(str(number)))
        labels.commit()
        labels.now -= timedelta(hours=1)
    content = json.loads(Path(labels.folder, "catalog.json").read_text())
    times = [entry["committed_at"] for entry in content["generations"]]
    assert times == sorted(times)
    assert times[0] == "2026-11-26T03:00:00.000000+00:00"
    assert len({len(time) for time in times}) == 1


def test_files_of_an_earlier_version_are_read(labels):
    labels.write("one", row("a"))
    file = Path(labels.folder, "faces", "one.parquet")
    pq.write_table(pq.read_table(file).drop_columns("engine"), file)
    labels.write("two", row("b"))
    labels.commit()
    assert labels.changes() == ({("a", "1", "added"), ("b", "1", "added")}, ())


def test_misuse_is_explained(labels, tmp_path):
    with pytest.raises(
        InputError, match="holds no catalog.json; expected the output of a finished"
    ):
        changes_since(labels.folder)
    labels.write("one", row("a"))
    labels.commit()
    with pytest.raises(InputError, match="must have a time zone, but 2026-11-26 00:00:00 has none"):
        changes_since(labels.folder, datetime(2026, 11, 26))
    (tmp_path / "catalog.json").write_text('{"schema_version": 2}')
    with pytest.raises(InputError, match="has schema version 2, but this version of fer reads 1"):
        changes_since(labels.folder)


def test_the_catalog_is_read_with_pandas_as_documented(tmp_path, monkeypatch):
    labels = Labels(tmp_path / "runs" / "labels")
    labels.now = datetime(2026, 11, 24, 23, tzinfo=UTC)
    labels.write("one", row("a"), row("b"))
    labels.commit()
    labels.now = datetime(2026, 11, 26, tzinfo=UTC)
    labels.write("two", row("b", "2"), row("c"))
    labels.remove("one", "b")
    labels.commit()
    snippet = re.search(r"```python\n(import json\n.*?)```", DOCS.read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(snippet, names)
    (rows,), (removed,) = names["rows"], names["removed"]
    assert isinstance(rows, pandas.DataFrame)
    assert [*rows.image] == ["b", "c"]
    assert [*removed.image] == ["b"]
