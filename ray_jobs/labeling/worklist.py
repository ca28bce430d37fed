"""The list of what is to be labeled, as chunks in an output: made once, by the whole cluster.

A file of the manifest is a chunk, or names an archive, whose chunks are cut when it is read. Where
there are labels already, it has what they are without.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from fer import storage
from fer.data.sources import SourceItem, list_items, read_items
from fer.labels.chunks import Chunk, split_into_chunks
from fer.labels.globs import Selection
from fer.labels.manifests import is_manifest, list_manifest_files, read_manifest
from fer.labels.tally import LabelTally
from fer.storage import listing, parquet
from ray_jobs.cluster import session
from ray_jobs.labeling import update
from ray_jobs.pipeline import stages

FOLDER, COMPLETE = "worklist", "worklist.json"

ARCHIVE = "archive-"
"""Begins the name of a file that names an archive."""

SUFFIX = ".parquet"

ENOUGH_PARTS = 64
"""Parts that a listing is divided into, if the source has so many folders."""

MOST_LISTERS = 256
"""Tasks that the parts are shared out among: a folder of a few images is no chunk of its own."""


@dataclass
class Worklist:
    """What a listing found.

    Attributes:
        kinds: Number of items by kind.
        files: Names of its files.
        salt: Of the names of chunks, a digest of the files of labels that there were. What is
            labeled again as it was must have a file of another name than the stale one.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)
    salt: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that could be an image."""
        return not set(self.kinds) - {"ignored"}


def make(images: str, output: str, selection: Selection, held: Mapping[str, LabelTally]) -> None:
    """List what of a source is to be labeled, unless that is done.

    Args:
        images: Location of a folder, an archive, an image or a manifest of them.
        output: Where the manifest is written.
        selection: What is asked for of it; a limit counts in the order of names.
        held: What was counted of each file of labels that is there already.
    """
    if storage.exists(storage.join(output, COMPLETE)):
        return
    # A listing that was cut short may have found another order of things than the next will.
    for folder in (FOLDER, update.REPLACED):
        storage.delete(storage.join(output, folder))
    divided = divide(images, whole=selection.limit is not None)
    num_tasks = min(len(divided), MOST_LISTERS)
    listed = _listed(divided, num_tasks, selection)
    if held:
        listed = update.select_unlabeled(listed, output, held)
    whole = Worklist(salt=_salt(held))
    written = listed.map_batches(
        _write,
        fn_kwargs={"output": output, "salt": whole.salt, "num_tasks": 1 if held else num_tasks},
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=0.25,
    )
    for part in stages.tallies(written):
        whole.kinds.update(part.kinds)
        whole.files.extend(part.files)
    with stages.explain_write_errors(output):
        storage.write_bytes(storage.join(output, COMPLETE), json.dumps(vars(whole)).encode())


def _salt(held: Collection[str]) -> str:
    return hashlib.sha256("\n".join(sorted(held)).encode()).hexdigest()[:16] if held else ""


def read(output: str) -> Worklist:
    """Return what the listing of a manifest found."""
    told = json.loads(storage.read_bytes(storage.join(output, COMPLETE)))
    return Worklist(Counter(told["kinds"]), told["files"], told["salt"])


def divide(images: str, *, whole: bool = False) -> list[tuple[str, str]]:
    """Divide a source among those that list it, unless it is to be listed as a whole.

    Returns:
        Locations, each to ``walk`` through, or to look only for the ``files`` right inside, or a
        ``manifest`` to read.
    """
    if is_manifest(images):
        return [(each, "manifest") for each in ([images] if whole else list_manifest_files(images))]
    if whole:
        return [(images, "walk")]
    walks, files = deque([images]), []
    wide: list[str] = []
    while walks and len(walks) + len(wide) < ENOUGH_PARTS:
        location = walks.popleft()
        try:
            inside = listing.children(location) if storage.is_folder(location) else None
        except PermissionError:
            if location == images:
                raise
            inside = None
        if inside is None:
            wide.append(location)
            continue
        walks.extend(inside[0])
        files.append(location)
    return [*((each, "walk") for each in (*wide, *walks)), *((each, "files") for each in files)]


def _listed(
    divided: Sequence[tuple[str, str]], num_tasks: int, selection: Selection
) -> ray.data.Dataset:
    """Return the items of a source, unopened, as rows of ``stages.ITEM_SCHEMA``."""
    # Dealt out in turn: neighbors are alike, and the largest come first.
    dealt = [part for first in range(num_tasks) for part in divided[first::num_tasks]]
    rows = [{"location": where, "how": how} for where, how in dealt]
    return ray.data.from_items(rows, override_num_blocks=num_tasks).map_batches(
        _list,
        fn_kwargs={"selection": selection},
        batch_format="numpy",
        batch_size=None,
        # A lister waits more than it computes.
        num_cpus=0.25,
    )


def _list(parts: dict[str, np.ndarray], selection: Selection) -> Iterator[pa.Table]:
    each = zip(parts["location"].tolist(), parts["how"].tolist(), strict=True)
    found = chain.from_iterable(_items(location, how) for location, how in each)
    for items in stages.batch_items(selection.select(found)):
        yield stages.to_table(items)


def _items(location: str, how: str) -> Iterable[SourceItem]:
    return read_manifest(location) if how == "manifest" else list_items(_entries(location, how))


def _entries(location: str, how: str) -> Iterator[listing.Entry]:
    """Yield the files of a part of a source, which may be gone or closed by now."""
    try:
        if storage.is_folder(location):
            yield from listing.walk(location) if how == "walk" else listing.child_files(location)
        elif storage.exists(location):
            yield listing.describe(location)
    except PermissionError:
        # What a walk from above meets of the kind is no image either.
        yield listing.Entry(location, storage.base_name(location), 0, None)


def _write(items: pa.Table, output: str, salt: str, num_tasks: int) -> dict[str, np.ndarray]:
    """Cut items into chunks, write them down, and return what was written."""
    worklist = Worklist(salt=salt)
    for chunk in _chunks(items, worklist, num_tasks):
        worklist.files.append(chunk.name)
        location = storage.join(output, FOLDER, chunk.name + SUFFIX)
        with stages.explain_write_errors(output):
            parquet.write_table(location, stages.to_table(chunk.items))
    return stages.tally_batch(worklist)


def _chunks(items: pa.Table, worklist: Worklist, num_tasks: int) -> Iterator[Chunk]:
    """Yield chunks of all but the archives, then these one by one, and count them."""
    archives: list[SourceItem] = []
    yield from split_into_chunks(
        _without_archives(items, archives, worklist.kinds), worklist.salt, num_tasks
    )
    for archive in archives:
        digest = hashlib.sha256(archive.source.encode()).hexdigest()[:24]
        yield Chunk(ARCHIVE + digest, (_in_its_state(archive),))


def _without_archives(
    items: pa.Table, archives: list[SourceItem], kinds: Counter[str]
) -> Iterator[SourceItem]:
    """Yield items, some at a time made of their rows, and put the archives among them aside."""
    for batch in items.to_batches(max_chunksize=4096):
        for item in (SourceItem(**row) for row in batch.to_pylist()):
            kinds[item.kind] += 1
            if item.kind == "archive":
                archives.append(item)
            else:
                yield item


def _in_its_state(archive: SourceItem) -> SourceItem:
    """Return an archive with its ETag, which a manifest need not know: its chunks are cut later."""
    if archive.etag is not None or not storage.exists(archive.source):
        return archive
    return replace(archive, etag=listing.describe(archive.source).etag)


# What is to be done.


def chunks(output: str, done: Collection[str], selection: Selection) -> ray.data.Dataset:
    """Return the chunks of a manifest as rows of ``chunk``, a name, and ``table``, its items.

    Args:
        output: Where the manifest is.
        done: Names of chunks to leave out.
        selection: What is asked for of each archive.
    """
    worklist = read(output)
    # Archives first: each is read from one end to the other.
    left = sorted(
        {*worklist.files} - {*done}, key=lambda name: (not name.startswith(ARCHIVE), name)
    )
    # A block each from the beginning: tasks that divided one would ask for a whole CPU, which on a
    # cluster of one, of which the network has a share, is never free.
    blocks = [pa.table({"file": [name]}) for name in left]
    blocks = blocks or [pa.table({"file": pa.array([], pa.string())})]
    names = ray.data.from_arrow(blocks)
    # A chunk is a block, from here on: those of an archive would else be one task after another.
    names.context.target_max_block_size = 1
    return names.map_batches(
        _open,
        fn_kwargs={
            "output": output,
            "done": frozenset(done),
            "selection": selection,
            "salt": worklist.salt,
        },
        batch_format="numpy",
        batch_size=1,
        # A reader waits more than it computes, and another need keeps it apart from what follows.
        num_cpus=0,
        # Or as many would be started as there are chunks, each a process of its own.
        compute=ray.data.TaskPoolStrategy(min(len(blocks), session.num_reader_tasks())),
        **session.avoid_head(),
    )


def _open(
    file: dict[str, np.ndarray],
    output: str,
    done: frozenset[str],
    selection: Selection,
    salt: str,
) -> Iterator[dict[str, list[Any]]]:
    name = str(file["file"][0])
    store, path = storage.filesystem(storage.join(output, FOLDER, name + SUFFIX))
    table = pq.read_table(path, filesystem=store)
    if not name.startswith(ARCHIVE):
        yield {"chunk": [name], "table": [stages.pack(table)]}
        return
    members = selection.select(_members(SourceItem(**table.to_pylist()[0])))
    if salt:
        # What an archive holds besides images was counted when it was labeled first.
        members = (member for member in members if member.kind != "ignored")
    for chunk in split_into_chunks(members, salt):
        if chunk.name not in done:
            yield {"chunk": [chunk.name], "table": [stages.pack(stages.to_table(chunk.items))]}


def _members(archive: SourceItem) -> Iterator[SourceItem]:
    if not storage.exists(archive.source):
        yield _refused(archive, "was there when it was listed, and is gone")
    # Chunks of what it was before may be labeled already.
    elif archive.etag not in (None, listing.describe(archive.source).etag):
        yield _refused(archive, "has changed since it was listed")
    else:
        yield from read_items(archive.source, with_tables=False)


def _refused(archive: SourceItem, reason: str) -> SourceItem:
    """Return an archive that is not opened, without its ETag: an update tries it again."""
    return SourceItem("rejected", archive.source, reason=f"{reason}: --update labels it anew")
