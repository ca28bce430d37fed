"""Files by the ends of their names."""

import pytest

from fer.data.kinds import commonest, describe_ignored, ending, is_video


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/x/IMG.JXL", ".jxl"),
        ("s3://b/x.zip!/a.tar.7z", ".7z"),
        ("README", "no ending"),
        ("/v1.2/README", "no ending"),
        ("8f3c-0", "no ending"),
        ("8f3c.0017", "no ending"),
        ("a.php?id=3", "no ending"),
        ("a.jpg_original", ".jpg_original"),
        ("a.b c", "no ending"),
    ],
)
def test_endings(name, expected):
    assert ending(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.mpg", True), ("s3://b/A.MPEG", True), ("a.mp4", True), ("mpeg", False), ("a.jpeg", False)],
)
def test_videos_by_name(name, expected):
    assert is_video(name) == expected


def test_only_the_commonest_endings_are_counted_one_by_one():
    endings = {f".k{number}": 20 - number for number in range(13)}
    assert list(commonest(endings).items()) == [
        *((f".k{number}", 20 - number) for number in range(10)),
        ("other", 10 + 9 + 8),
    ]
    assert commonest({}) == {}


def test_files_that_are_ignored_are_described():
    endings = {".txt": 1200, "no ending": 3}
    told = " among its files (1,200 .txt, 3 with no ending)"
    assert describe_ignored(endings, all_files=True) == told
    advice = "; give --all-files to tell images by their content"
    assert describe_ignored(endings, all_files=False) == told + advice
    assert describe_ignored({}, all_files=False) == ""
