"""Images that are fetched while those before them are processed."""

import threading
import time

import pytest

from fer.data import fetching
from fer.data.fetching import MAX_AHEAD_BYTES, NUM_FETCHED_AHEAD, fetch_ahead
from fer.data.items import SourceItem
from fer.errors import StoreError


def remote(number, **changes):
    return SourceItem(**{"kind": "image", "source": f"s3://b/{number}", "size_bytes": 9, **changes})


@pytest.fixture
def store(monkeypatch):
    """A store whose images are their own names, and the names that were asked for."""
    asked = []

    def fetch(item):
        asked.append(item.source)
        if item.source.endswith("gone"):
            raise FileNotFoundError(item.source)
        if item.source.endswith("refused"):
            raise StoreError("no")
        return item.source.encode()

    monkeypatch.setattr(fetching, "fetch_image", fetch)
    return asked


def test_images_come_in_order_with_their_data(store):
    fetched = list(fetch_ahead(remote(number) for number in range(50)))
    assert [item.data for item in fetched] == [f"s3://b/{number}".encode() for number in range(50)]


def test_few_images_are_held(store):
    items = fetch_ahead(remote(number) for number in range(50))
    next(items)
    time.sleep(0.1)
    assert len(store) == NUM_FETCHED_AHEAD + 1
    items.close()


def test_images_are_fetched_at_the_same_time(monkeypatch):
    together = threading.Barrier(NUM_FETCHED_AHEAD, timeout=10)

    def fetch(item):
        together.wait()
        return b""

    monkeypatch.setattr(fetching, "fetch_image", fetch)
    assert len(list(fetch_ahead(remote(number) for number in range(NUM_FETCHED_AHEAD)))) == 8


def test_what_is_not_worth_it_is_left_to_its_turn(store):
    items = [
        remote(0, source="/local.jpg"),
        remote(1, size_bytes=MAX_AHEAD_BYTES + 1),
        remote(2, size_bytes=None),
        remote(3, kind="video"),
        remote(4, kind="rejected"),
        remote(5, data=b"member"),
    ]
    assert list(fetch_ahead(items)) == items
    assert store == []


def test_whoever_detects_meets_the_error(store):
    gone = remote("gone")
    assert next(iter(fetch_ahead([gone, remote(1)]))) == gone


def test_a_store_that_refuses_everything_ends_the_job(store):
    with pytest.raises(StoreError):
        list(fetch_ahead([remote("refused")]))
