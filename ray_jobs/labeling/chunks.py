"""The stage that opens the worklist: it yields chunks, and cuts archives and videos into such."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from fer import storage
from fer.data.items import SourceItem, containing_file
from fer.data.readers import read_items
from fer.labels.chunks import MAX_IMAGES, UNREAD, Chunk, name_chunk, split_into_chunks
from fer.labels.files import read_rows
from fer.labels.globs import Selection
from fer.storage import listing
from fer.vision.sampling import Sampling
from ray_jobs.cluster import session
from ray_jobs.labeling import update, videos, worklist
from ray_jobs.labeling.write import file_of_chunk
from ray_jobs.pipeline import stages

LONG = (worklist.ARCHIVE_PREFIX, videos.VIDEO_PREFIX)
"""Prefixes of the worklist's files that name an archive or a video, of which chunks are made."""

OPENED_SCHEMA = pa.schema([("chunk", pa.string()), ("table", pa.large_binary())])
"""Chunks: their names, and their packed items; null for those that the worklist holds."""


MAX_TOGETHER, TASKS_PER_CPU = 512, 8
"""A task takes several small chunks, of about as many images in all. But each CPU gets at least as
many tasks, so that none waits long for the last one."""

NUM_READ_TOGETHER = 32
"""Label files that a task reads at the same time."""


def open_chunks(
    output: str,
    done: Collection[str],
    selection: Selection,
    sampling: Sampling,
    max_images: int = MAX_IMAGES,
) -> ray.data.Dataset:
    """Return the chunks of a worklist as rows of ``OPENED_SCHEMA``.

    Args:
        output: Folder of the labels.
        done: Names of the chunks to leave out.
        selection: Which images of each archive to label.
        sampling: Which frames of each video to label.
        max_images: Most images in a chunk of an archive.
    """
    listed = worklist.read(output)
    # Archives and videos come first, because each is read by one task from beginning to end.
    names = sorted({*listed.files} - {*done}, key=lambda name: (not name.startswith(LONG), name))
    if not any(name.startswith(LONG) for name in names):
        return _in_blocks(names, _num_together(listed, len(names)))
    return _in_blocks(names, 1).map_batches(
        _read_chunks,
        fn_kwargs={
            "output": output,
            # Those of archives and videos: the worklist holds no others of their chunks.
            "done": frozenset(done) - {*listed.files},
            "selection": selection,
            "sampling": sampling,
            "salt": listed.salt,
            "max_images": max_images,
        },
        batch_format="pyarrow",
        batch_size=1,
        # Reading mostly waits. A reservation that differs from that of the next stage also keeps
        # Ray Data from fusing the two.
        num_cpus=0,
        # Without a limit, Ray would start a task and a process for each chunk at once.
        compute=ray.data.TaskPoolStrategy(min(len(names), session.num_reader_tasks())),
        **session.avoid_head(),
    )


def _in_blocks(names: Sequence[str], size: int) -> ray.data.Dataset:
    """Return names as rows of ``OPENED_SCHEMA``, in blocks of ``size``, each for one task.

    The blocks are made here: tasks that split a block would reserve a whole CPU, and from_arrow
    would run a task for each block only to count its rows.
    """
    starts = range(0, max(1, len(names)), size)
    chunks = ray.data.from_blocks([_unread(names[start : start + size]) for start in starts])
    # Each chunk leaves a task in its own block: otherwise the next task would take all chunks of an
    # archive, and a chunk that is written would count only with the last one of its task.
    chunks.context.target_max_block_size = 1
    return chunks


def _num_together(listed: worklist.Worklist, num_chunks: int) -> int:
    """Return how many chunks a task takes: several if they are small, but each CPU gets tasks."""
    if listed.kinds["video"]:
        # A clip takes as long as hundreds of images.
        return 1
    enough = MAX_TOGETHER * len(listed.files) // max(1, listed.kinds.total())
    return max(1, min(enough, num_chunks // (TASKS_PER_CPU * session.num_cpus())))


def _unread(names: Sequence[str]) -> pa.Table:
    return pa.table({"chunk": names, "table": [None] * len(names)}, OPENED_SCHEMA)


def items_of(opened: Mapping[str, Any], output: str) -> pa.Table:
    """Return the items of a chunk, a table of ``stages.ITEM_SCHEMA``.

    Args:
        opened: A row of ``OPENED_SCHEMA``.
        output: Folder of the labels, which has the worklist.
    """
    if opened["table"] is not None:
        return stages.unpack(opened["table"])
    return _read_file(opened["chunk"], output)


def _read_file(name: str, output: str) -> pa.Table:
    store, path = storage.filesystem(storage.join(output, worklist.FOLDER, name + worklist.SUFFIX))
    return pq.read_table(path, filesystem=store)


def _read_chunks(
    unread: pa.Table,
    output: str,
    done: frozenset[str],
    selection: Selection,
    sampling: Sampling,
    salt: str,
    max_images: int = MAX_IMAGES,
) -> Iterator[pa.Table]:
    """Yield the chunks of the archive or video that the worklist names; others stay unread."""
    name = unread["chunk"][0].as_py()
    if not name.startswith(LONG):
        yield unread
        return
    item = SourceItem(**_read_file(name, output).to_pylist()[0])
    if item.kind == "archive":
        found = _split_archive(item, selection, salt, max_images)
        found = _unlabeled(found, item, output, done, salt)
    else:
        found = videos.cut(item, sampling, name)
    for chunk in found:
        if chunk.name not in done:
            packed = stages.pack(stages.to_table(chunk.items))
            yield pa.table({"chunk": [chunk.name], "table": [packed]}, OPENED_SCHEMA)


def _split_archive(
    archive: SourceItem, selection: Selection, salt: str, max_images: int = MAX_IMAGES
) -> Iterator[Chunk]:
    members = selection.select(_members(archive, all_files=selection.all_files))
    if salt:
        # The first run has already counted the archive's files that are not images.
        members = (member for member in members if not _is_ignored(member))
    return split_into_chunks(members, salt, max_images=max_images)


def _is_ignored(member: SourceItem) -> bool:
    return member.kind == "ignored" or (member.kind == "video" and videos.is_program(member))


def _unlabeled(
    chunks: Iterator[Chunk], archive: SourceItem, output: str, done: frozenset[str], salt: str
) -> Iterator[Chunk]:
    """Yield the chunks of an archive, and those after an I/O error under names of their own.

    The members that can't be read change where these chunks end. So those that an earlier run has
    labeled are left out, and a run that resumes this one labels them again.
    """
    labeled = None
    for chunk in chunks:
        if labeled is None and any(map(_is_unread, chunk.items)):
            labeled = _labeled_members(storage.strip_access_mode(archive.source), output, done)
        if labeled is None:
            yield chunk
            continue
        items = [
            item for item in chunk.items if storage.strip_access_mode(item.source) not in labeled
        ]
        if items:
            named = name_chunk(items, salt)
            yield Chunk(named.name + UNREAD, named.items)


def _is_unread(item: SourceItem) -> bool:
    """Tell whether an item of an archive could not be read, and perhaps can be later."""
    return item.kind == "rejected" and item.etag is None


def _labeled_members(archive: str, output: str, done: frozenset[str]) -> set[str]:
    """Return the items of an archive that have rows which no update replaces."""
    records = listing.child_names(storage.join(output, update.REPLACED))
    replaced = {
        row["labeled_in"]
        for name in records
        for row in read_rows(storage.join(output, update.REPLACED, name))
        if row["file"] == archive
    }
    files = {*_files_by_archive(output, done).get(archive, ())} - replaced
    return {image for file in files for image in _images_in(output, file)}


@lru_cache(maxsize=1)
def _files_by_archive(output: str, done: frozenset[str]) -> Mapping[str, list[str]]:
    """Return the label files of each archive, of which alone such a file holds rows."""
    by_archive = defaultdict(list)
    files = [file_of_chunk(name) for name in done if not name.startswith(videos.VIDEO_PREFIX)]
    with ThreadPoolExecutor(NUM_READ_TOGETHER) as threads:
        first = threads.map(lambda file: _images_in(output, file)[:1], files)
        for file, images in zip(files, first, strict=True):
            for image in images:
                by_archive[containing_file(image)].append(file)
    return by_archive


def _images_in(output: str, file: str) -> list[str]:
    return [row["image"] for row in read_rows(storage.join(output, file), ["image"])]


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
