"""The catalog: what each run added to labels, and which images' rows it removed.

``catalog.json`` lists the generations of labels. A generation is what one run committed: the label
files that it added, and files of ``changes`` that name the images whose earlier rows it removed. A
run that changes nothing adds no generation. The catalog is written when all of them are in place,
so a generation that it lists is complete.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from fer import storage
from fer.errors import InputError
from fer.labels.schema import LABEL_SCHEMA
from fer.storage import listing, parquet

CATALOG, CHANGES = "catalog.json", "changes"
"""The catalog in the folder of labels, and the folder of the records of removed rows."""

SCHEMA_VERSION = 1

REMOVED_SCHEMA = pa.schema(
    [pa.field("image", pa.string(), nullable=False), pa.field("file", pa.string(), nullable=False)]
)
"""Images, and the label file that held their rows."""

CHANGED_SCHEMA = LABEL_SCHEMA.append(pa.field("change", pa.string(), nullable=False))
"""Rows of labels, and ``added``, or ``replaced`` if the image had other rows before."""


@dataclass(frozen=True)
class Generation:
    """What one run committed.

    Attributes:
        generation: Its number, from 1.
        committed_at: When it was committed, by the clock of the machine that ran the job. It is
            later than that of the generation before.
        files: Names of the label files that it added.
        removed: Names of the files, of ``REMOVED_SCHEMA``, that tell whose rows it removed.
    """

    generation: int
    committed_at: datetime
    files: tuple[str, ...]
    removed: tuple[str, ...]

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Generation":
        """Return the generation that an entry of the catalog describes."""
        time = datetime.fromisoformat(content["committed_at"])
        files, removed = (tuple(content[name]) for name in ("files", "removed"))
        return cls(content["generation"], time, files, removed)


@dataclass(frozen=True)
class Catalog:
    """The generations of labels, oldest first."""

    generations: tuple[Generation, ...] = ()

    @classmethod
    def read(cls, labels: str) -> "Catalog":
        """Read the catalog in a folder of labels; it is empty where there is none.

        Raises:
            InputError: It was written by a later version.
        """
        location = storage.join(labels, CATALOG)
        if not storage.exists(location):
            return cls()
        content = json.loads(storage.read_bytes(location))
        if content["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"{location} has schema version {content['schema_version']}, but this version of "
                f"fer reads {SCHEMA_VERSION}; update fer."
            )
        return cls(tuple(map(Generation.from_dict, content["generations"])))

    @property
    def files(self) -> set[str]:
        """Names of the label files of all generations."""
        return {file for generation in self.generations for file in generation.files}

    @property
    def next_number(self) -> int:
        """Number of the generation that is committed next."""
        return len(self.generations) + 1

    def extended(
        self, files: Collection[str], removed: Collection[str], now: datetime
    ) -> "Catalog":
        """Return the catalog with the generation of a run, if the run changed anything.

        Label files that somebody has deleted are no longer listed.

        Args:
            files: Names of all label files that now exist.
            removed: Names of the files that tell whose rows the run removed.
            now: The time, with a time zone.
        """
        existing = {*files}
        added = tuple(sorted(existing - self.files))
        kept = tuple(
            replace(old, files=tuple(file for file in old.files if file in existing))
            for old in self.generations
        )
        if not (added or removed):
            return Catalog(kept)
        # The clock of this machine may be behind that of the machine before.
        after = [old.committed_at + timedelta(microseconds=1) for old in self.generations[-1:]]
        time = max([now, *after])
        newest = Generation(self.next_number, time, added, tuple(sorted(removed)))
        return Catalog((*kept, newest))

    def since(self, time: datetime | None) -> "Catalog":
        """Return the generations that were committed after a time; None returns all."""
        is_later = [time is None or old.committed_at > time for old in self.generations]
        pairs = zip(self.generations, is_later, strict=True)
        return Catalog(tuple(generation for generation, later in pairs if later))

    def to_json(self) -> bytes:
        """Return the content of ``catalog.json``."""
        generations = [
            {
                **asdict(generation),
                # All of one length, so that texts compare as times do.
                "committed_at": generation.committed_at.isoformat(timespec="microseconds"),
            }
            for generation in self.generations
        ]
        content = {"schema_version": SCHEMA_VERSION, "generations": generations}
        return json.dumps(content, indent=1).encode()


def record_removed(labels: str, generation: int, file: str, images: Collection[str]) -> None:
    """Record the images whose rows are about to be removed from a label file.

    A repeated removal, which finds no row left, must not write an empty record over the first.

    Args:
        labels: Folder of the labels.
        generation: Number of the generation that the removal belongs to.
        file: Name of the label file.
        images: Locations of the images, at least one.
    """
    rows = [{"image": image, "file": file} for image in sorted(images)]
    name = f"{CHANGES}/{generation:06d}-{storage.base_name(file)}"
    parquet.write_table(storage.join(labels, name), pa.Table.from_pylist(rows, REMOVED_SCHEMA))


def removed_in(labels: str, generation: int) -> list[str]:
    """Return the names of a generation's records of removed rows."""
    names = listing.child_names(storage.join(labels, CHANGES))
    return [f"{CHANGES}/{name}" for name in names if name.startswith(f"{generation:06d}-")]


@dataclass(frozen=True)
class Changes:
    """What changed in labels since a time.

    Attributes:
        rows: The rows that are new, a table of ``CHANGED_SCHEMA``.
        gone: Images that have no rows any more, such as members that an archive has lost.
        until: When the newest generation was committed: the time to ask from the next time. None
            if there is none.
    """

    rows: pa.Table
    gone: tuple[str, ...]
    until: datetime | None


def changes_since(labels: str, time: datetime | None = None) -> Changes:
    """Return the rows of labels that are new since a time, and the images that are gone.

    Applied one after the other, in any division of the time, changes build the same table: delete
    the rows of the images in ``rows`` and ``gone``, then insert ``rows``.

    Args:
        labels: Folder or URI that ``fer label`` wrote.
        time: Changes that were committed after it are returned; None returns all.

    Raises:
        InputError: The folder has no catalog, or the time has no time zone.
    """
    labels = storage.resolve(labels)
    if time is not None and time.tzinfo is None:
        raise InputError(
            f"The time must have a time zone, but {time} has none; take datetime.now(UTC), or the "
            "until of earlier changes."
        )
    catalog = Catalog.read(labels)
    if not catalog.generations:
        raise InputError(f"{labels} holds no {CATALOG}; expected the output of a finished label.")
    newer = catalog.since(time).generations
    files = [file for generation in newer for file in generation.files]
    rows = _read(labels, files, LABEL_SCHEMA)
    removed = _read(labels, [name for later in newer for name in later.removed], REMOVED_SCHEMA)
    # Rows that came and went since the time were never there for the one who asks.
    removed = removed.filter(pc.invert(pc.is_in(removed["file"], pa.array(files, pa.string()))))
    is_replaced = pc.is_in(rows["image"], removed["image"])
    change = pc.if_else(is_replaced, "replaced", "added")
    gone = pc.unique(removed["image"]).to_pylist()
    images = {*pc.unique(rows["image"]).to_pylist()}
    return Changes(
        rows.append_column(CHANGED_SCHEMA.field("change"), change).cast(CHANGED_SCHEMA),
        tuple(sorted(image for image in gone if image not in images)),
        catalog.generations[-1].committed_at,
    )


def _read(labels: str, names: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Read Parquet files in the folder of labels as one table.

    Columns that a file of an earlier version lacks are null.
    """
    if not names:
        return schema.empty_table()
    store, folder = storage.filesystem(labels)
    files = [f"{folder}/{name}" for name in names]
    return pads.dataset(files, schema=schema, format="parquet", filesystem=store).to_table()
