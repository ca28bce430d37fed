"""Fetch the images of a store while those before them are processed."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from fer import storage
from fer.data.items import SourceItem, fetch_image
from fer.vision.decode import ImageError

NUM_FETCHED_AHEAD = 8
"""Most images that are fetched at the same time."""

MAX_AHEAD_BYTES = 4 * 2**20
"""Larger images are fetched when it is their turn, so that few bytes are held."""


def fetch_ahead(items: Iterable[SourceItem]) -> Iterator[SourceItem]:
    """Yield items in their order, with the data of those that are small images of a store.

    An image that can't be fetched is yielded without data. Who fetches it again meets the error.

    Raises:
        StoreError: The store refuses access to the whole bucket.
    """
    ahead: deque[SourceItem | Future[SourceItem]] = deque()
    with ThreadPoolExecutor(NUM_FETCHED_AHEAD) as threads:
        for item in items:
            ahead.append(threads.submit(_fetch, item) if _is_worth_it(item) else item)
            if len(ahead) > NUM_FETCHED_AHEAD:
                yield _wait(ahead.popleft())
        while ahead:
            yield _wait(ahead.popleft())


def _wait(item: SourceItem | Future[SourceItem]) -> SourceItem:
    return item.result() if isinstance(item, Future) else item


def _is_worth_it(item: SourceItem) -> bool:
    # A local disk keeps nobody waiting.
    is_small = item.size_bytes is not None and item.size_bytes <= MAX_AHEAD_BYTES
    return item.kind == "image" and item.data is None and is_small and storage.is_uri(item.source)


def _fetch(item: SourceItem) -> SourceItem:
    try:
        return replace(item, data=fetch_image(item))
    except (ImageError, OSError):
        return item
