"""Globs and limits: which pieces of a source are asked for."""

import pytest

from fer.data.sources import Piece
from fer.errors import InputError
from fer.labels.globs import Selection

NAMES = ("a.jpg", "2024/b.jpg", "2024/raw/c.JPG", "2024/raw/d.png", "more.zip", "wow!/e.jpg")


def asked_for(names=NAMES, root="s3://b/photos", **asked):
    listed = [
        Piece("archive" if name.endswith(".zip") else "image", f"{root}/{name}") for name in names
    ]
    return [piece.source.removeprefix(f"{root}/") for piece in Selection(root, **asked).of(listed)]


@pytest.mark.parametrize(
    ("glob", "matched"),
    [
        ("*.jpg", ["a.jpg", "2024/b.jpg", "wow!/e.jpg"]),
        ("*.JPG", ["2024/raw/c.JPG"]),
        ("/*.jpg", ["a.jpg"]),
        ("2024/*.jpg", ["2024/b.jpg"]),
        ("2024/**/*.[jJ]*", ["2024/b.jpg", "2024/raw/c.JPG"]),
        ("raw/", ["2024/raw/c.JPG", "2024/raw/d.png"]),
        ("2024", ["2024/b.jpg", "2024/raw/c.JPG", "2024/raw/d.png"]),
        ("**/?.png", ["2024/raw/d.png"]),
        ("wow!/", ["wow!/e.jpg"]),
        ("b", []),
    ],
)
def test_globs(glob, matched):
    included = [*asked_for(include=(glob,))]
    assert [name for name in included if name != "more.zip"] == matched
    assert "more.zip" in included  # what it holds is seen when it is opened
    assert asked_for(exclude=(glob,)) == [name for name in NAMES if name not in matched]


def test_what_is_excluded_is_not_included_and_counts_towards_no_limit():
    both = {"include": ("*.jpg", "*.png"), "exclude": ("2024/b*", "*.zip")}
    assert asked_for(**both) == ["a.jpg", "2024/raw/d.png", "wow!/e.jpg"]
    assert asked_for(**both, limit=2) == ["a.jpg", "2024/raw/d.png"]


@pytest.mark.parametrize("root", ["/photos", "/photos/more.zip"])
def test_an_archive_is_a_folder(root):
    members = [
        Piece("image", f"/photos/more.zip!/{name}")
        for name in ("train/a.png", "train/b.jpg", "c.png")
    ]
    names = lambda **asked: [  # noqa: E731
        piece.source.rpartition("/")[2] for piece in Selection(root, **asked).of(members)
    ]
    below = "" if root.endswith(".zip") else "more.zip/"
    assert names(include=("*.png",)) == ["a.png", "c.png"]
    assert names(include=(f"{below}train/*",)) == ["a.png", "b.jpg"]
    assert names(include=("train/*.png",)) == (["a.png"] if not below else [])
    assert names(exclude=("train/",)) == ["c.png"]
    broken = Piece("rejected", "/photos/more.zip", reason="can't be read to its end")
    assert [*Selection(root, include=("*.png",)).of([broken])] == [broken]


def test_odd_names():
    names = ("new\nline/a\nb.jpg", "sp ace.jpg", "#1.jpg", "é%.jpg")
    assert asked_for(names, include=("*.jpg",)) == [*names]
    assert asked_for(names, include=("a?b.jpg", "\\#1*", "é*")) == [names[0], *names[2:]]


def test_a_location_elsewhere_is_matched_as_a_whole():
    listed = [Piece("image", "s3://other/2024/a.jpg"), Piece("image", "s3://b/lists2/a.jpg")]
    select = lambda glob: [*Selection("s3://b/lists", (glob,)).of(listed)]  # noqa: E731
    assert select("*.jpg") == listed
    assert select("s3://other/2024/*") == listed[:1]
    assert select("**/lists2/") == listed[1:]


def test_a_single_file_is_matched_by_its_name():
    alone = Piece("image", "/photos/a.jpg")
    assert [*Selection("/photos/a.jpg", ("*.jpg",)).of([alone])] == [alone]
    assert [*Selection("/photos/a.jpg", ("*.png",)).of([alone])] == []


@pytest.mark.parametrize("glob", ["", " ", "#x", "!", "\\", "[", "/"])
def test_what_is_no_glob_is_refused(glob):
    with pytest.raises(InputError, match="is no glob"):
        Selection("/x", exclude=("*.png", glob)).check()
    Selection("/x", ("*.jpg", "!keep.jpg"), ("\\#x",)).check()
