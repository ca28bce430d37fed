"""Which items of a source globs and limits select."""

import pytest

from fer.data.items import SourceItem
from fer.errors import InputError
from fer.labels.globs import Selection

NAMES = ("a.jpg", "2024/b.jpg", "2024/raw/c.JPG", "2024/raw/d.png", "more.zip", "wow!/e.jpg")


def select(names=NAMES, root="s3://b/photos", **options):
    listed = [
        SourceItem("archive" if name.endswith(".zip") else "image", f"{root}/{name}")
        for name in names
    ]
    return [
        item.source.removeprefix(f"{root}/") for item in Selection(root, **options).select(listed)
    ]


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
    included = [*select(include=(glob,))]
    assert [name for name in included if name != "more.zip"] == matched
    assert "more.zip" in included  # its members are matched when it is opened
    assert select(exclude=(glob,)) == [name for name in NAMES if name not in matched]


def test_excluded_images_are_skipped_and_do_not_count_toward_the_limit():
    both = {"include": ("*.jpg", "*.png"), "exclude": ("2024/b*", "*.zip")}
    assert select(**both) == ["a.jpg", "2024/raw/d.png", "wow!/e.jpg"]
    assert select(**both, limit=2) == ["a.jpg", "2024/raw/d.png"]


@pytest.mark.parametrize("root", ["/photos", "/photos/more.zip"])
def test_globs_treat_an_archive_as_a_folder(root):
    members = [
        SourceItem("image", f"/photos/more.zip!/{name}")
        for name in ("train/a.png", "train/b.jpg", "c.png")
    ]
    names = lambda **options: [  # noqa: E731
        item.source.rpartition("/")[2] for item in Selection(root, **options).select(members)
    ]
    below = "" if root.endswith(".zip") else "more.zip/"
    assert names(include=("*.png",)) == ["a.png", "c.png"]
    assert names(include=(f"{below}train/*",)) == ["a.png", "b.jpg"]
    assert names(include=("train/*.png",)) == (["a.png"] if not below else [])
    assert names(exclude=("train/",)) == ["c.png"]
    broken = SourceItem("rejected", "/photos/more.zip", reason="can't be read to its end")
    assert [*Selection(root, include=("*.png",)).select([broken])] == [broken]


def test_unusual_names():
    names = ("new\nline/a\nb.jpg", "sp ace.jpg", "#1.jpg", "é%.jpg")
    assert select(names, include=("*.jpg",)) == [*names]
    assert select(names, include=("a?b.jpg", "\\#1*", "é*")) == [names[0], *names[2:]]


def test_a_location_outside_the_root_is_matched_as_a_whole():
    listed = [
        SourceItem("image", "s3://other/2024/a.jpg"),
        SourceItem("image", "s3://b/lists2/a.jpg"),
    ]
    matching = lambda glob: [*Selection("s3://b/lists", (glob,)).select(listed)]  # noqa: E731
    assert matching("*.jpg") == listed
    assert matching("s3://other/2024/*") == listed[:1]
    assert matching("**/lists2/") == listed[1:]


def test_a_single_file_is_matched_by_its_name():
    alone = SourceItem("image", "/photos/a.jpg")
    assert [*Selection("/photos/a.jpg", ("*.jpg",)).select([alone])] == [alone]
    assert [*Selection("/photos/a.jpg", ("*.png",)).select([alone])] == []


@pytest.mark.parametrize("glob", ["", " ", "#x", "!", "\\", "[", "/"])
def test_invalid_globs_are_refused(glob):
    with pytest.raises(InputError, match="is not a valid glob"):
        Selection("/x", exclude=("*.png", glob)).check()
    Selection("/x", ("*.jpg", "!keep.jpg"), ("\\#x",)).check()


def test_accents_match_however_they_are_composed():
    names = ("Ja\u0308nner/a.jpg", "J\u00e4nner/b.jpg")
    for glob in ("J\u00e4nner/", "Ja\u0308nner/"):
        assert select(names, include=(glob,)) == [*names]


def test_names_that_are_not_utf8_match_as_they_are_typed():
    names = ("j\\xe4nner/a.jpg", "a\\x5cxe4.jpg")
    typed = "j\udce4nner/"
    assert select(names, root="/photos", include=(typed,)) == [names[0]]
    assert select(names, root="/photos", include=("j?nner/",)) == [names[0]]
    assert select(names, root="/photos", exclude=("a\\\\xe4.jpg",)) == [names[0]]
    # Keys of buckets are UTF-8, so a backslash is one.
    assert select(names, exclude=(typed, "j?nner/")) == [*names]


def test_a_folder_that_can_not_be_listed_is_left_out_only_by_its_own_name():
    closed = SourceItem("rejected", "/photos/raw/", reason="is a folder that may not be read")
    assert [*Selection("/photos", include=("*.jpg",)).select([closed])] == [closed]
    assert [*Selection("/photos", exclude=("*.jpg",)).select([closed])] == [closed]
    for glob in ("raw/", "raw", "/raw/"):
        assert [*Selection("/photos", exclude=(glob,)).select([closed])] == []
