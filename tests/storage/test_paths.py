import os

import pytest

from fer import storage
from fer.errors import InputError
from fer.storage import listing


def test_resolve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert storage.resolve("a/b/") == str(tmp_path / "a" / "b")
    assert storage.resolve("~/c") == str(tmp_path / "home" / "c")
    assert storage.resolve("file:///x%20y/") == "/x y"


def test_a_scheme_that_is_unknown():
    with pytest.raises(InputError, match=r"ftp:// is not a location .* use a local path or s3://"):
        storage.resolve("ftp://host/file")


def test_a_name_is_taken_as_it_stands(tmp_path):
    location = str(tmp_path / "50% #1 ?.bin")
    storage.write_bytes(location, b"x")
    assert storage.read_bytes(location) == b"x"
    assert [entry.location for entry in listing.walk(str(tmp_path))] == [location]


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
    assert listing.is_empty(nowhere)
    assert listing.names(nowhere) == set()
    storage.delete(nowhere)
    with pytest.raises(InputError, match="does not exist: expected a file or a folder"):
        listing.describe(nowhere)


def test_delete_takes_a_folder_with_all_in_it(tmp_path):
    storage.write_bytes(str(tmp_path / "a" / "b" / "x"), b"x")
    storage.delete(str(tmp_path / "a"))
    assert os.listdir(tmp_path) == []
