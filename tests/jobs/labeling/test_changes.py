"""Whoever applies the changes of labels, whenever they ask, has the labels: a model of updates."""

import random
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer import storage
from fer.data.items import containing_file
from fer.labels.catalog import Catalog, changes_since, removed_in
from fer.labels.files import write_labels
from fer.labels.tally import LabelTally
from ray_jobs.labeling import update

START = datetime(2026, 11, 26, tzinfo=UTC)


class Store:
    """A source whose images come, change and go, and its labels, updated by runs that may crash.

    Attributes:
        images: State of each image by its location, as the labels should have it.
    """

    def __init__(self, labels, seed):
        self.labels, self.chance = str(labels), random.Random(seed)
        self.images, self.num_files = {}, 0

    def run(self):
        """Change the source and update the labels; each step may happen twice."""
        changed = self._changed()
        replaced = self._replaced(changed)
        for image in [*self.images]:
            if containing_file(image) in {containing_file(one) for one in changed}:
                del self.images[image]
        self.images |= changed
        self._label(changed)
        generation = Catalog.read(self.labels).next_number
        while replaced is not None:
            try:
                list(update._rewrite(replaced, self.labels, generation, ["happy"], ()))
            except _CrashError:
                continue
            replaced = replaced if self.chance.random() < 0.3 else None
        self.commit()
        if self.chance.random() < 0.3:
            self.commit()

    def _changed(self):
        """Return images that are new or changed: files, and archives with other members."""
        changed = {}
        for _ in range(self.chance.randrange(4)):
            state = str(self.chance.random())
            if self.chance.random() < 0.5:
                changed[f"/{self.chance.randrange(8)}.png"] = state
            else:
                archive = f"/{self.chance.randrange(3)}.zip"
                changed = {name: at for name, at in changed.items() if archive not in name}
                members = self.chance.sample(range(5), self.chance.randrange(1, 5))
                changed |= {f"{archive}!/{member}.png": state for member in members}
        return changed

    def _replaced(self, changed):
        """Return the record of outdated rows, as ``select_unlabeled`` makes it."""
        files = {containing_file(image) for image in changed}
        rows = [
            {"file": containing_file(image), "labeled_in": f"faces/{file.name}"}
            for file in Path(self.labels, "faces").glob("*")
            for image in pq.read_table(file)["image"].to_pylist()
            if containing_file(image) in files
        ]
        return pa.Table.from_pylist(rows) if rows else None

    def _label(self, changed):
        groups = defaultdict(list)
        for image, state in changed.items():
            groups[self.chance.randrange(2)].append(_row(image, state))
        for rows in groups.values():
            self.num_files += 1
            name = f"faces/{self.num_files:03d}.parquet"
            write_labels(self.labels, name, rows, LabelTally(), ["happy"])

    def commit(self):
        catalog = Catalog.read(self.labels)
        files = {f"faces/{file.name}" for file in Path(self.labels, "faces").glob("*")}
        removed = removed_in(self.labels, catalog.next_number)
        extended = catalog.extended(files, removed, START)
        storage.write_bytes(f"{self.labels}/catalog.json", extended.to_json())


def _row(image, state):
    return {"image": image, "etag": state, "status": "no_face", "model": "m", "detector": "d"}


class _CrashError(Exception):
    pass


class Consumer:
    """Keeps a table up to date by what it is told."""

    def __init__(self):
        self.images, self.until = {}, None

    def ask(self, labels):
        changes = changes_since(labels, self.until)
        for row in changes.rows.to_pylist():
            assert (row["image"] in self.images) == (row["change"] == "replaced"), row
        # Nobody is told of an image that they never had.
        assert set(changes.gone) <= self.images.keys()
        told = {row["image"]: row["etag"] for row in changes.rows.to_pylist()}
        assert len(told) == len(changes.rows)
        self.images = {
            **{name: at for name, at in self.images.items() if name not in changes.gone},
            **told,
        }
        self.until = changes.until


@pytest.mark.parametrize("seed", range(25))
def test_applied_changes_are_the_labels(tmp_path, monkeypatch, seed):
    store, consumers = Store(tmp_path, seed), [Consumer() for _ in range(3)]
    write = update.write_labels

    def crash_sometimes(*arguments):
        if store.chance.random() < 0.3:
            raise _CrashError
        write(*arguments)
        if store.chance.random() < 0.3:
            raise _CrashError

    monkeypatch.setattr(update, "write_labels", crash_sometimes)
    while not store.images:
        store.run()
    for _ in range(12):
        store.run()
        for consumer in consumers:
            if store.chance.random() < 0.4:
                consumer.ask(store.labels)
                assert consumer.images == store.images
    late = Consumer()
    late.ask(store.labels)
    assert late.images == store.images
