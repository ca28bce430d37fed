"""The same source, cut whenever: the same chunks."""

import pytest

from fer.data.sources import Piece, first, list_pieces
from fer.labels.chunks import MAX_IMAGES, MIN_IMAGES, cut
from fer.storage import listing


def pieces(number, data=None):
    return [Piece("image", f"s3://b/{row}.png", data=data) for row in range(number)]


def test_every_piece_is_in_one_chunk_in_order():
    whole = pieces(5000)
    chunks = list(cut(whole))
    assert [piece for chunk in chunks for piece in chunk.pieces] == whole
    assert len({chunk.name for chunk in chunks}) == len(chunks)
    assert list(cut(whole)) == chunks


def test_a_chunk_of_an_image_that_changed_has_another_name():
    one, other = (
        [Piece("image", "s3://b/0.png", etag=etag), *pieces(3)] for etag in ("before", "after")
    )
    assert next(cut(one)).name != next(cut(other)).name
    assert next(cut(one)).name != next(cut(one, "again")).name


def test_chunks_grow_with_the_source():
    assert [len(chunk.pieces) for chunk in cut(pieces(100))] == [32, 32, 32, 4]
    sizes = [len(chunk.pieces) for chunk in cut(pieces(200_000))]
    assert (sizes[0], max(sizes)) == (MIN_IMAGES, MAX_IMAGES)
    assert len(sizes) < 150


def test_chunks_of_a_part_are_as_large_as_those_of_its_source():
    sizes = [len(chunk.pieces) for chunk in cut(pieces(1000), num_parts=500)]
    assert sizes == [32, 32, 32, 48, 72, 108, 162, 243, 271]
    assert [len(chunk.pieces) for chunk in cut(pieces(100), num_parts=2)] == [32, 32, 32, 4]


def test_a_chunk_carries_only_so_many_bytes(monkeypatch):
    monkeypatch.setattr("fer.labels.chunks.MAX_BYTES", 100)
    sizes = [len(chunk.pieces) for chunk in cut(pieces(20, data=b"x" * 30))]
    assert sizes == [4, 4, 4, 4, 4]


def test_what_is_ignored_does_not_count_towards_a_limit():
    mixed = [Piece("ignored", "a"), *pieces(3), Piece("ignored", "b")]
    assert [piece.source for piece in first(mixed, 2)] == ["a", "s3://b/0.png", "s3://b/1.png"]
    assert len([*first(mixed, None)]) == 5


def test_a_listing_opens_nothing(tmp_path):
    for name in ("a.png", "b.zip", "c.tar.gz", "d.txt", "e.csv", ".hidden.png"):
        (tmp_path / name).write_bytes(b"junk")
    kinds = {piece.source: piece.kind for piece in list_pieces(listing.walk(str(tmp_path)))}
    assert {source.rpartition("/")[2]: kind for source, kind in kinds.items()} == {
        "a.png": "image",
        "b.zip": "archive",
        "c.tar.gz": "archive",
        "d.txt": "ignored",
        "e.csv": "ignored",
    }


@pytest.mark.parametrize("files", [2, 10])
def test_children_of_a_folder(tmp_path, files, monkeypatch):
    monkeypatch.setattr(listing, "MANY", 10)
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
