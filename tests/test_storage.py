import os
from pathlib import Path

import pytest

from fer import storage
from fer.errors import InputError


def test_resolve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert storage.resolve("a/b/") == str(tmp_path / "a" / "b")
    assert storage.resolve("~/c") == str(tmp_path / "home" / "c")
    assert storage.resolve("file:///x%20y/") == "/x y"


def test_a_scheme_that_is_unknown():
    with pytest.raises(InputError, match=r"ftp:// is not a location .* use a local path or s3://"):
        storage.resolve("ftp://host/file")


def test_walk_is_in_order_and_passes_hidden_files_over(tmp_path):
    for name in ("b/2.txt", "b/1.txt", "a.txt", ".hidden/x", "__MACOSX/x", "c/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    entries = list(storage.walk(str(tmp_path)))
    assert [entry.name for entry in entries] == ["a.txt", "b/1.txt", "b/2.txt"]
    assert entries[1].location == str(tmp_path / "b" / "1.txt")
    assert entries[1].size_bytes == 7
    assert storage.names(str(tmp_path)) == {"a.txt", "b", "c"}


def test_an_etag_changes_with_the_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("1")
    before = storage.describe(str(path)).etag
    os.utime(path, ns=(1, 1))
    assert storage.describe(str(path)).etag != before


def test_a_name_is_taken_as_it_stands(tmp_path):
    location = str(tmp_path / "50% #1 ?.bin")
    storage.write_bytes(location, b"x")
    assert storage.read_bytes(location) == b"x"
    assert [entry.location for entry in storage.walk(str(tmp_path))] == [location]


def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch):
    location = str(tmp_path / "x")
    storage.write_bytes(location, b"before")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(location, b"after")
    assert os.listdir(tmp_path) == ["x"]
    assert storage.read_bytes(location) == b"before"


def test_what_is_not_there(tmp_path):
    nowhere = str(tmp_path / "none")
    assert not storage.exists(nowhere)
    assert storage.is_empty(nowhere)
    assert storage.names(nowhere) == set()
    storage.delete(nowhere)
    with pytest.raises(InputError, match="does not exist: expected a file or a folder"):
        storage.describe(nowhere)


def test_delete_takes_a_folder_with_all_in_it(tmp_path):
    storage.write_bytes(str(tmp_path / "a" / "b" / "x"), b"x")
    storage.delete(str(tmp_path / "a"))
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_no_utf8_and_a_folder_that_is_closed(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "x.png").write_bytes(b"x")
    Path(tmp_path, os.fsdecode(b"caf\xe9.png")).write_bytes(b"y")
    (tmp_path / "closed").mkdir(mode=0)
    names = [entry.name for entry in storage.walk(str(tmp_path))]
    # Root may look everywhere.
    closed = [] if os.getuid() == 0 else ["closed"]
    assert names == ["caf\ufffd.png", *closed, "open/x.png"]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(str(tmp_path / names[0]))


def test_a_folder_that_may_not_be_listed_is_what_is_no_image(tmp_path, monkeypatch):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "x.png").write_bytes(b"x")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [entry.name for entry in storage.walk(str(tmp_path))] == ["x.png", "lost+found"]
    with pytest.raises(PermissionError):
        list(storage.walk(str(tmp_path / "lost+found")))
