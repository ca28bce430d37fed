import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from fer import storage
from fer.storage import listing


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


def test_walk_lists_names_that_are_not_utf8_and_unreadable_folders(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "x.png").write_bytes(b"x")
    Path(tmp_path, os.fsdecode(b"caf\xe9.png")).write_bytes(b"y")
    (tmp_path / "closed").mkdir(mode=0)
    names = [entry.name for entry in listing.walk(str(tmp_path))]
    # Root can read every folder.
    closed = [] if os.getuid() == 0 else ["closed"]
    assert names == ["caf\ufffd.png", *closed, "open/x.png"]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(str(tmp_path / names[0]))


def test_walk_lists_an_unreadable_subfolder_as_a_file(tmp_path, monkeypatch):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "x.png").write_bytes(b"x")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [entry.name for entry in listing.walk(str(tmp_path))] == ["x.png", "lost+found"]
    with pytest.raises(PermissionError):
        list(listing.walk(str(tmp_path / "lost+found")))


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
    assert [entry.name for entry in listing.walk(str(tmp_path))] == ["itself", "x.png"]
    assert [entry.name for entry in listing.child_files(str(tmp_path))] == ["itself", "x.png"]


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
