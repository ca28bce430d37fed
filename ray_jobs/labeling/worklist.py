"""The worklist: what is still to be labeled, as chunks in the output, made by the whole cluster.

Each file of the worklist holds one chunk, or names one archive or video, which is split into chunks
when it is read. If labels exist already, the worklist holds only what is new or has changed since.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import ray.data

from fer import storage
from fer.data.items import SourceItem, kind_by_content
from fer.data.kinds import ending
from fer.labels.chunks import MAX_IMAGES, Chunk, name_chunk, split_into_chunks
from fer.labels.globs import Selection
from fer.storage import listing, parquet
from ray_jobs.labeling import update, videos
from ray_jobs.labeling.sections import Section, SectionKind, divide
from ray_jobs.pipeline import stages

FOLDER, COMPLETE = "worklist", "worklist.json"
"""The folder of the worklist in the output, and the file that is written when it is complete."""

ARCHIVE_PREFIX = "archive-"
"""Prefix of a file's name in the worklist if the file names an archive."""

SUFFIX = ".parquet"

MAX_LISTING_TASKS = 256
"""Largest number of tasks that share the sections.

Each task makes chunks of its own. More tasks would turn every small folder into a small chunk.
"""


MAX_ITEMS_HERE, MAX_SECTIONS_HERE = 1000, 16
"""Most items, and most sections, of a source that the driver lists itself: a request or two."""


NUM_IDENTIFIED_TOGETHER = 32
"""Files of unknown kind whose first bytes a task reads at the same time."""


@dataclass
class Worklist:
    """The result of listing a source.

    Attributes:
        kinds: Number of items by kind.
        ignored: Number of ignored files by the ends of their names.
        files: Names of the worklist's files, without suffix.
        salt: Part of the digests that name the chunks: a digest of the label files that existed
            before, or empty. An image that is labeled again without a change must get a file of
            another name than the outdated one.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)
    salt: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing that could be an image."""
        return not set(self.kinds) - {"ignored"}

    @property
    def is_partial(self) -> bool:
        """Whether it names only what had no labels when it was made."""
        return bool(self.salt)

    def count(self, item: SourceItem) -> None:
        """Count an item."""
        self.kinds[item.kind] += 1
        if item.kind == "ignored":
            self.ignored[ending(item.source)] += 1


def make(
    images: str,
    output: str,
    selection: Selection,
    done: Mapping[str, int],
    lost: Collection[str] = (),
    max_images: int = MAX_IMAGES,
) -> None:
    """List what is still to be labeled and write the worklist, unless it is complete already.

    Args:
        images: Location of a folder, an archive, an image or a manifest.
        output: Folder of the labels.
        selection: Which images to label. A limit counts them in the order of their names.
        done: Number of images in each chunk that has a label file, by the name of the chunk.
        lost: Names of label files that were there and are gone.
        max_images: Most images in a chunk.
    """
    if is_made(output):
        return
    # A new listing may meet the files in another order than an interrupted one, so start over.
    for folder in (FOLDER, update.REPLACED):
        storage.delete(storage.join(output, folder))
    sections = divide(images, whole=selection.limit is not None)
    few = None if done else _list_few(sections, selection)
    if few is not None:
        worklist = _write_items(few, output, salt="", num_tasks=1, max_images=max_images)
    else:
        worklist = _make_with_tasks(sections, output, selection, done, lost, max_images)
    with stages.explain_write_errors(output):
        storage.write_bytes(storage.join(output, COMPLETE), json.dumps(vars(worklist)).encode())


def is_made(output: str) -> bool:
    """Tell whether an output has a complete worklist."""
    return storage.exists(storage.join(output, COMPLETE))


def retire(output: str) -> None:
    """Let whoever resumes these labels list the source anew: compare it with what has labels."""
    storage.delete(storage.join(output, COMPLETE))


def _make_salt(done: Collection[str]) -> str:
    return hashlib.sha256("\n".join(sorted(done)).encode()).hexdigest()[:16] if done else ""


def read(output: str) -> Worklist:
    """Read what is known about a complete worklist; its chunks stay in their files."""
    content = json.loads(storage.read_bytes(storage.join(output, COMPLETE)))
    kinds, ignored = (Counter(content[name]) for name in ("kinds", "ignored"))
    return Worklist(kinds, ignored, content["files"], content["salt"])


# List.


def _make_with_tasks(
    sections: Sequence[Section],
    output: str,
    selection: Selection,
    done: Mapping[str, int],
    lost: Collection[str],
    max_images: int,
) -> Worklist:
    num_tasks = min(len(sections), MAX_LISTING_TASKS)
    items = _list_items(sections, num_tasks, selection)
    if done:
        items = update.select_unlabeled(items, output, done, lost)
    worklist = Worklist(salt=_make_salt(done))
    written = items.map_batches(
        _write,
        fn_kwargs={
            "output": output,
            "salt": worklist.salt,
            "num_tasks": 1 if done else num_tasks,
            "max_images": max_images,
        },
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=0.25,
    )
    for share in stages.tallies(written):
        worklist.kinds.update(share.kinds)
        worklist.ignored.update(share.ignored)
        worklist.files.extend(share.files)
    return worklist


def _list_few(sections: Sequence[Section], selection: Selection) -> pa.Table | None:
    """Return the items of a source that has few, listed by this process; None if it has many.

    A person who tries a folder of photographs need not wait for processes that list it.
    """
    if len(sections) > MAX_SECTIONS_HERE:
        return None
    items = chain.from_iterable(
        section.items(all_files=selection.all_files) for section in sections
    )
    few = list(islice(items, MAX_ITEMS_HERE + 1))
    return stages.to_table(selection.select(few)) if len(few) <= MAX_ITEMS_HERE else None


def _list_items(
    sections: Sequence[Section], num_tasks: int, selection: Selection
) -> ray.data.Dataset:
    """Return the items of a source, with archives unopened, as rows of ``stages.ITEM_SCHEMA``."""
    # Tasks take sections in turn, because neighbors are alike and the largest come first.
    dealt = [section for first in range(num_tasks) for section in sections[first::num_tasks]]
    rows = [{"location": section.location, "kind": str(section.kind)} for section in dealt]
    return ray.data.from_items(rows, override_num_blocks=num_tasks).map_batches(
        _list_sections,
        fn_kwargs={"selection": selection},
        batch_format="numpy",
        batch_size=None,
        # Listing mostly waits for the store.
        num_cpus=0.25,
    )


def _list_sections(rows: dict[str, np.ndarray], selection: Selection) -> Iterator[pa.Table]:
    pairs = zip(rows["location"].tolist(), rows["kind"].tolist(), strict=True)
    sections = (Section(location, SectionKind(kind)) for location, kind in pairs)
    items = chain.from_iterable(
        section.items(all_files=selection.all_files) for section in sections
    )
    for batch in stages.batch_items(selection.select(items)):
        yield stages.to_table(batch)


# Write.


def _write(
    items: pa.Table, output: str, salt: str, num_tasks: int, max_images: int
) -> dict[str, np.ndarray]:
    """Split items into chunks, write each to a file, and return the share of the worklist."""
    return stages.tally_batch(_write_items(items, output, salt, num_tasks, max_images))


def _write_items(
    items: pa.Table, output: str, salt: str, num_tasks: int, max_images: int
) -> Worklist:
    share = Worklist(salt=salt)
    for chunk in _split(items, share, num_tasks, max_images):
        share.files.append(chunk.name)
        location = storage.join(output, FOLDER, chunk.name + SUFFIX)
        with stages.explain_write_errors(output):
            parquet.write_table(location, stages.to_table(chunk.items))
    return share


def _split(
    items: pa.Table, share: Worklist, num_tasks: int, max_images: int = MAX_IMAGES
) -> Iterator[Chunk]:
    """Yield chunks of images, then of clips, then each video and archive alone; count the items."""
    aside: dict[str, list[SourceItem]] = {"archive": [], "video": []}
    others = _set_aside(items, aside, share)
    yield from split_into_chunks(others, share.salt, num_tasks, max_images)
    clips = [video for video in aside["video"] if videos.is_clip(video)]
    for start in range(0, len(clips), videos.CLIPS_PER_CHUNK):
        together = clips[start : start + videos.CLIPS_PER_CHUNK]
        yield name_chunk(together, share.salt)
    for video in map(_with_etag, aside["video"]):
        if not videos.is_clip(video):
            yield Chunk(videos.name_video(video, share.salt), (video,))
    for archive in aside["archive"]:
        digest = hashlib.sha256(archive.source.encode()).hexdigest()[:24]
        yield Chunk(ARCHIVE_PREFIX + digest, (_with_etag(archive),))


def _set_aside(
    items: pa.Table, aside: Mapping[str, list[SourceItem]], share: Worklist
) -> Iterator[SourceItem]:
    """Yield the items of other kinds than those of ``aside``, add those to it, count all of them.

    Rows become items in batches, since all of them would not fit in memory as Python objects.
    """
    with ThreadPoolExecutor(NUM_IDENTIFIED_TOGETHER) as threads:
        for batch in items.to_batches(max_chunksize=4096):
            for item in _identify([SourceItem(**row) for row in batch.to_pylist()], threads):
                share.count(item)
                if item.kind in aside:
                    aside[item.kind].append(item)
                else:
                    yield item


def _identify(items: Sequence[SourceItem], threads: ThreadPoolExecutor) -> Iterator[SourceItem]:
    """Yield items, and say of those of unknown kind what their content says."""
    unknown = [item.source for item in items if item.kind == "unknown"]
    kinds = threads.map(kind_by_content, unknown)
    for item in items:
        yield replace(item, kind=next(kinds)) if item.kind == "unknown" else item


def _with_etag(item: SourceItem) -> SourceItem:
    """Return an archive or a video with its ETag, which a manifest need not give.

    The file is read later, and the ETag shows whether it has changed since.
    """
    if item.etag is not None or not storage.exists(item.source):
        return item
    return replace(item, etag=listing.describe(item.source).etag)
