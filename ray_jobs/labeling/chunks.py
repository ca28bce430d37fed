"""The stage that opens the worklist: it yields chunks, and cuts archives and videos into such."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from fer import storage
from fer.data.items import SourceItem
from fer.data.readers import read_items
from fer.labels.chunks import Chunk, split_into_chunks
from fer.labels.globs import Selection
from fer.storage import listing
from fer.vision.sampling import Sampling
from ray_jobs.cluster import session
from ray_jobs.labeling import videos, worklist
from ray_jobs.pipeline import stages


def open_chunks(
    output: str, done: Collection[str], selection: Selection, sampling: Sampling
) -> ray.data.Dataset:
    """Return the chunks of a worklist as rows of ``chunk``, a name, and ``table``, its items.

    Args:
        output: Folder of the labels.
        done: Names of the chunks to leave out.
        selection: Which images of each archive to label.
        sampling: Which frames of each video to label.
    """
    listed = worklist.read(output)
    # Archives and videos come first, because each is read by one task from beginning to end.
    long = (worklist.ARCHIVE_PREFIX, videos.VIDEO_PREFIX)
    names = sorted({*listed.files} - {*done}, key=lambda name: (not name.startswith(long), name))
    # One block for each file from the start: tasks that split a block would reserve a whole CPU,
    # and a cluster with one CPU never has that free while the network holds a share of it.
    blocks = [pa.table({"file": [name]}) for name in names]
    blocks = blocks or [pa.table({"file": pa.array([], pa.string())})]
    files = ray.data.from_arrow(blocks)
    # Each chunk becomes its own block: otherwise one task would take all chunks of an archive.
    files.context.target_max_block_size = 1
    return files.map_batches(
        _read_chunks,
        fn_kwargs={
            "output": output,
            "done": frozenset(done),
            "selection": selection,
            "sampling": sampling,
            "salt": listed.salt,
        },
        batch_format="numpy",
        batch_size=1,
        # Reading mostly waits. A reservation that differs from that of the next stage also keeps
        # Ray Data from fusing the two.
        num_cpus=0,
        # Without a limit, Ray would start a task and a process for each chunk at once.
        compute=ray.data.TaskPoolStrategy(min(len(blocks), session.num_reader_tasks())),
        **session.avoid_head(),
    )


def _read_chunks(
    file: dict[str, np.ndarray],
    output: str,
    done: frozenset[str],
    selection: Selection,
    sampling: Sampling,
    salt: str,
) -> Iterator[dict[str, list[Any]]]:
    """Yield the chunk in a file of the worklist, or those of the archive or video that it names."""
    name = str(file["file"][0])
    store, path = storage.filesystem(storage.join(output, worklist.FOLDER, name + worklist.SUFFIX))
    table = pq.read_table(path, filesystem=store)
    if not name.startswith((worklist.ARCHIVE_PREFIX, videos.VIDEO_PREFIX)):
        yield {"chunk": [name], "table": [stages.pack(table)]}
        return
    item = SourceItem(**table.to_pylist()[0])
    if item.kind == "archive":
        found = _split_archive(item, selection, salt)
    else:
        found = videos.cut(item, sampling, name)
    for chunk in found:
        if chunk.name not in done:
            yield {"chunk": [chunk.name], "table": [stages.pack(stages.to_table(chunk.items))]}


def _split_archive(archive: SourceItem, selection: Selection, salt: str) -> Iterator[Chunk]:
    members = selection.select(_members(archive, all_files=selection.all_files))
    if salt:
        # The first run has already counted the archive's files that are not images.
        members = (member for member in members if member.kind != "ignored")
    return split_into_chunks(members, salt)


def _members(archive: SourceItem, *, all_files: bool) -> Iterator[SourceItem]:
    if not storage.exists(archive.source):
        yield _rejected(archive, "is gone since it was listed")
    # Chunks of its earlier content may be labeled already.
    elif archive.etag not in (None, listing.describe(archive.source).etag):
        yield _rejected(archive, "has changed since it was listed")
    else:
        yield from read_items(
            archive.source, with_tables=False, with_videos=True, all_files=all_files
        )


def _rejected(archive: SourceItem, reason: str) -> SourceItem:
    """Return an archive that is not opened, without its ETag, so that an update tries it again."""
    return SourceItem("rejected", archive.source, reason=f"{reason}; label it with --update")
