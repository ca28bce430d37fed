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
    assert storage.resolve("file://localhost/%231/a#b?c%.png") == "/#1/a#b?c%.png"
    # Names that are not valid UTF-8: see fer.storage.local.
    assert storage.resolve("file:///j%E4nner") == storage.resolve("/j\udce4nner") == "/j\\xe4nner"


def test_rejects_an_unknown_scheme():
    with pytest.raises(
        InputError, match=r"ftp:// locations cannot be opened: use a local path or s3://"
    ):
        storage.resolve("ftp://host/file")


@pytest.mark.parametrize(
    ("name", "start"), [("talk.mp4", "talk.mp4"), ("x" * 101, "x" * 100), ("xあ" * 80, "xあ" * 25)]
)
def test_names_are_shortened_by_their_bytes(name, start):
    assert storage.shorten(name) == start


def test_special_characters_in_names_are_kept(tmp_path):
    location = str(tmp_path / "50% #1 ?.bin")
    storage.write_bytes(location, b"x")
    assert storage.read_bytes(location) == b"x"
    assert [entry.location for entry in listing.walk(str(tmp_path))] == [location]


def test_an_interrupted_write_keeps_the_old_content(tmp_path, monkeypatch):
    location = str(tmp_path / "x")
    storage.write_bytes(location, b"before")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(location, b"after")
    assert os.listdir(tmp_path) == ["x"]
    assert storage.read_bytes(location) == b"before"


def test_a_missing_location(tmp_path):
    nowhere = str(tmp_path / "none")
    assert not storage.exists(nowhere)
    assert listing.is_empty(nowhere)
    assert listing.child_names(nowhere) == set()
    storage.delete(nowhere)
    with pytest.raises(InputError, match="does not exist: expected a file or a folder"):
        listing.describe(nowhere)


def test_delete_removes_a_folder_and_its_contents(tmp_path):
    storage.write_bytes(str(tmp_path / "a" / "b" / "x"), b"x")
    storage.delete(str(tmp_path / "a"))
    assert os.listdir(tmp_path) == []


def test_an_error_of_the_operating_system_is_described_in_words(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        storage.read_bytes(str(tmp_path / "none"))
    reason = storage.describe_error(caught.value)
    assert "No such file or directory" in reason
    assert "errno" not in reason.lower()
    full = OSError(28, "No space left on device")
    assert storage.describe_error(full) == "No space left on device"
