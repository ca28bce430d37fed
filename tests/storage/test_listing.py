import os
from contextlib import contextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fer import storage
from fer.storage import listing, local


def test_walk_is_in_order_and_skips_hidden_files(tmp_path):
    for name in ("b/2.txt", "b/1.txt", "a.txt", ".hidden/x", "__MACOSX/x", "c/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    entries = list(listing.walk(str(tmp_path)))
    assert [entry.name for entry in entries] == ["a.txt", "b/1.txt", "b/2.txt"]
    assert entries[1].location == str(tmp_path / "b" / "1.txt")
    assert entries[1].size_bytes == 7
    assert listing.child_names(str(tmp_path)) == {"a.txt", "b", "c"}


def test_an_etag_changes_with_the_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("1")
    before = listing.describe(str(path)).etag
    os.utime(path, ns=(1, 1))
    assert listing.describe(str(path)).etag != before


KEYS = (
    *("a-b.jpg", "a.jpg", "a/1.jpg", "a/a.JPG", "a/b/2.jpg", "a/b.jpg", "a/b-c/3.jpg", "a0.jpg"),
    *("A.jpg", "Z/1.jpg", "é.jpg", "e\u0301.jpg", "日本/語.jpg", "😀.jpg", "\uffee.jpg"),
    *("new\nline/a.jpg", "tab\t.jpg", "s3:/x.jpg", "50%.jpg", "back\\slash.jpg", "hey!/x.jpg"),
)
"""Names of files in folders, and pairs whose order depends on whether a folder ends in a slash."""


def make_files(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def test_walk_is_in_the_order_of_keys(tmp_path):
    make_files(tmp_path, KEYS)
    names = [entry.name for entry in listing.walk(str(tmp_path))]
    assert names == sorted(KEYS, key=str.encode)


NOT_UTF8 = (
    b"j\xe4nner/x.jpg",
    b"m\xfcde.jpg",
    b"\xff\xfe/\xe4/y.JPG",
    b"a\\xe4.jpg",
    b"\xe4\\xe4.jpg",
)
"""Names in Latin-1, and names that look like their escapes."""


def test_names_that_are_not_utf8_are_listed_and_read(tmp_path):
    make_files(tmp_path, map(os.fsdecode, NOT_UTF8))
    entries = [*listing.walk(str(tmp_path))]
    assert {entry.name for entry in entries} == {
        *("j\\xe4nner/x.jpg", "m\\xfcde.jpg", "\\xff\\xfe/\\xe4/y.JPG"),
        *("a\\x5cxe4.jpg", "\\xe4\\x5cxe4.jpg"),
    }
    assert {storage.read_bytes(entry.location) for entry in entries} == {*NOT_UTF8}
    for entry in entries:
        assert entry.location.encode().decode() == entry.location
        assert entry.size_bytes == len(storage.read_bytes(entry.location))
        assert listing.describe(entry.location).etag == entry.etag
    folder = storage.resolve(str(tmp_path / os.fsdecode(b"j\xe4nner")))
    assert storage.is_folder(folder)
    assert [entry.location for entry in listing.child_files(folder)] == [f"{folder}/x.jpg"]
    assert listing.child_names(folder) == {"x.jpg"}
    with storage.open_seekable(f"{folder}/x.jpg") as file:
        assert file.seek(9) == 9
        assert file.read() == b"x.jpg"[2:]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{folder}/y.jpg")


@given(st.binary(min_size=1, max_size=9))
@example(b"\\x5cxe4\\xe4\xe4")
def test_locations_stand_for_one_path_each(name):
    location = local.location_of(os.fsdecode(name))
    assert location.encode().decode() == location
    assert os.fsencode(local.path_of(location)) == name


@pytest.mark.parametrize(
    ("error", "problem"),
    [(PermissionError, "is a folder that may not be read"), (FileNotFoundError, "is gone since")],
)
def test_a_subfolder_that_can_not_be_listed_is_an_entry(tmp_path, monkeypatch, error, problem):
    make_files(tmp_path, ("a.png", "b/c/x.png", "d.png"))
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("c"):
            raise error(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    first, folder, last = listing.walk(str(tmp_path))
    assert (first.name, last.name) == ("a.png", "d.png")
    assert (folder.location, folder.name) == (f"{tmp_path}/b/c/", "b/c/")
    assert problem in folder.problem
    with pytest.raises(error):
        list(listing.walk(str(tmp_path / "b" / "c")))


def test_what_is_neither_a_file_nor_a_folder_is_an_entry(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    for entries in (listing.walk(str(tmp_path)), listing.child_files(str(tmp_path))):
        (entry,) = entries
        assert (entry.name, entry.problem) == ("x.jpg", "is neither a regular file nor a folder")


def test_walk_does_not_follow_a_link_to_its_own_parent(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "x.png").write_bytes(b"x")
    (tmp_path / "inside" / "back").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again").symlink_to(tmp_path / "inside", target_is_directory=True)
    names = [entry.name for entry in listing.walk(str(tmp_path / "inside"))]
    assert names == ["x.png"]
    assert [entry.name for entry in listing.walk(str(tmp_path))] == ["again/x.png", "inside/x.png"]


def test_walk_follows_mutual_links_once(tmp_path):
    for here, there in (("a", "b"), ("b", "a")):
        (tmp_path / here).mkdir()
        (tmp_path / here / f"{here}.png").write_bytes(b"x")
        (tmp_path / here / "to").symlink_to(tmp_path / there, target_is_directory=True)
    names = [entry.name for entry in listing.walk(str(tmp_path))]
    assert names == ["a/a.png", "a/to/b.png", "b/b.png", "b/to/a.png"]


def test_files_next_to_a_broken_link_are_listed(tmp_path):
    (tmp_path / "x.png").write_bytes(b"x")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    # Nobody knows what the links stood for. Reading them says what is wrong.
    names = ["itself", "nowhere", "x.png"]
    assert [entry.name for entry in listing.walk(str(tmp_path))] == names
    assert [entry.name for entry in listing.child_files(str(tmp_path))] == names
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{tmp_path}/nowhere")


def test_walk_skips_a_file_deleted_during_the_listing(tmp_path, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"x")
    scandir = os.scandir

    @contextmanager
    def scan_and_lose(path):
        with scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        (tmp_path / "a.png").unlink(missing_ok=True)
        yield iter(entries)

    monkeypatch.setattr(os, "scandir", scan_and_lose)
    assert [entry.name for entry in listing.walk(str(tmp_path))] == ["b.png", "c.png"]


def test_children_returns_none_for_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "MAX_CHILDREN", 10)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "y.png").write_bytes(b"y")
    for number in range(11):
        (tmp_path / f"{number:04d}.png").touch()
    assert listing.children(str(tmp_path)) is None
    assert len([*listing.child_files(str(tmp_path))]) == 11
