"""Splitting a source into chunks, and listing what it contains."""

import pytest

from fer.data.items import SourceItem
from fer.data.sources import list_items, take
from fer.labels.chunks import MAX_IMAGES, MIN_IMAGES, most_images, split_into_chunks
from fer.storage import listing
from fer.vision.shape import FER2013_SHAPE, ImageShape


def items(number, data=None):
    return [SourceItem("image", f"s3://b/{row}.png", data=data) for row in range(number)]


def test_every_piece_is_in_one_chunk_in_order():
    whole = items(5000)
    chunks = list(split_into_chunks(whole))
    assert [item for chunk in chunks for item in chunk.items] == whole
    assert len({chunk.name for chunk in chunks}) == len(chunks)
    assert list(split_into_chunks(whole)) == chunks


def test_a_changed_image_changes_the_name_of_its_chunk():
    one, other = (
        [SourceItem("image", "s3://b/0.png", etag=etag), *items(3)] for etag in ("before", "after")
    )
    assert next(split_into_chunks(one)).name != next(split_into_chunks(other)).name
    assert next(split_into_chunks(one)).name != next(split_into_chunks(one, "again")).name


def test_chunks_grow_with_the_source():
    assert [len(chunk.items) for chunk in split_into_chunks(items(100))] == [32, 32, 32, 4]
    sizes = [len(chunk.items) for chunk in split_into_chunks(items(200_000))]
    assert (sizes[0], max(sizes)) == (MIN_IMAGES, MAX_IMAGES)
    assert len(sizes) < 150


def test_chunks_of_a_share_are_as_large_as_those_of_the_whole_source():
    sizes = [len(chunk.items) for chunk in split_into_chunks(items(1000), num_shares=500)]
    assert sizes == [32, 32, 32, 48, 72, 108, 162, 243, 271]
    assert [len(chunk.items) for chunk in split_into_chunks(items(100), num_shares=2)] == [
        32,
        32,
        32,
        4,
    ]


def test_the_bytes_in_a_chunk_are_limited(monkeypatch):
    monkeypatch.setattr("fer.labels.chunks.MAX_BYTES", 100)
    sizes = [len(chunk.items) for chunk in split_into_chunks(items(20, data=b"x" * 30))]
    assert sizes == [4, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (ImageShape(48, 1), 4096),
        (ImageShape(128, 1), 4096),
        (ImageShape(128, 3), 1365),
        (ImageShape(224, 3), 445),
    ],
)
def test_chunks_of_large_crops_have_fewer_images(shape, expected):
    assert most_images(shape) == expected
    sizes = [
        len(chunk.items)
        for chunk in split_into_chunks(items(80_000), max_images=most_images(shape))
    ]
    assert max(sizes) == expected
    assert sum(sizes) == 80_000


def test_the_names_of_chunks_stay_as_they_are():
    """Or an older run could not be resumed."""
    names = [chunk.name for chunk in split_into_chunks(items(100))]
    assert names[0] == "0207444985e261192d343d1c"
    shaped = split_into_chunks(items(100), max_images=most_images(FER2013_SHAPE))
    assert [chunk.name for chunk in shaped] == names


def test_ignored_files_do_not_count_toward_a_limit():
    mixed = [SourceItem("ignored", "a"), *items(3), SourceItem("ignored", "b")]
    assert [item.source for item in take(mixed, 2)] == ["a", "s3://b/0.png", "s3://b/1.png"]
    assert len([*take(mixed, None)]) == 5


def test_a_listing_opens_no_file(tmp_path):
    for name in ("a.png", "b.zip", "c.tar.gz", "d.txt", "e.csv", ".hidden.png"):
        (tmp_path / name).write_bytes(b"junk")
    kinds = {item.source: item.kind for item in list_items(listing.walk(str(tmp_path)))}
    assert {source.rpartition("/")[2]: kind for source, kind in kinds.items()} == {
        "a.png": "image",
        "b.zip": "archive",
        "c.tar.gz": "archive",
        "d.txt": "ignored",
        "e.csv": "ignored",
    }


@pytest.mark.parametrize("files", [2, 10])
def test_a_listing_of_a_folder_returns_its_folders_and_files(tmp_path, files, monkeypatch):
    monkeypatch.setattr(listing, "MAX_CHILDREN", 10)
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for number in range(files):
        (tmp_path / f"{number:04d}.png").write_bytes(b"x")
    inside = listing.children(str(tmp_path))
    if files == 10:
        assert inside is None
        return
    folders, entries = inside
    assert folders == [f"{tmp_path}/b"]
    assert [entry.name for entry in entries] == ["0000.png", "0001.png"]
