import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer.data.annotations import read_labeled_items
from fer.data.emotions import ClassList
from fer.data.parsing import Example, Reject, Rules, parse_item
from fer.data.sources import names_of
from fer.data.splits import is_held_out

PIXELS = " ".join(["7"] * 2304)


RULES = Rules()


def outcomes(path, rules=RULES, name=None):
    return [
        outcome
        for item in read_labeled_items(str(path), name=name)
        for outcome in parse_item(item, rules)
        if isinstance(outcome, Example | Reject)
    ]


def write_rows(path, *rows, header="emotion,pixels", encoding="utf-8"):
    path.write_bytes("\n".join([header, *rows]).encode(encoding))
    return path


@pytest.mark.parametrize(
    ("label", "expected"), [("3.0", 3), (" 3 ", 3), ("3.00", 3), ("happy", 3), ("HAPPINESS", 3)]
)
def test_ways_to_write_a_label(tmp_path, label, expected):
    (example,) = outcomes(write_rows(tmp_path / "a.csv", f"{label},{PIXELS}"))
    assert (example.label, example.format) == (expected, "csv")
    assert example.number == (None if label.strip().isalpha() else 3)


@pytest.mark.parametrize(
    ("label", "number"), [("7", 7), ("8.0", 8), ("3.5", None), ("-1", None), ("", None)]
)
def test_labels_that_are_not_understood_are_rejected_with_their_value(tmp_path, label, number):
    (reject,) = outcomes(write_rows(tmp_path / "a.csv", f"{label},{PIXELS}"))
    assert reject.reason == (f"unknown class {label!r}" if label else "has no class")
    assert (reject.code, reject.number) == ("unknown_class", number)


@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-8"), (",", "utf-16")]
)
def test_tables_as_spreadsheets_write_them(tmp_path, delimiter, encoding):
    fields = (["emotion", "pixels", "Usage"], ["3", PIXELS, "PublicTest"], ['"4"', PIXELS, ""])
    header, *rows = map(delimiter.join, fields)
    path = write_rows(tmp_path / "a.csv", *rows, header=header, encoding=encoding)
    first, second = outcomes(path)
    assert (first.label, first.split, first.has_usage) == (3, "val", True)
    assert (second.label, second.split_from, second.has_usage) == (4, "hash", False)


@pytest.mark.parametrize(("name", "split"), [("train.csv", "train"), ("Test Set.csv", "test")])
def test_a_table_whose_name_tells_the_split(tmp_path, name, split):
    (example,) = outcomes(write_rows(tmp_path / name, f"3,{PIXELS}"))
    assert (example.split, example.split_from) == (split, "filename")


@pytest.mark.parametrize(
    ("name", "split", "split_from", "by_name"),
    [
        ("train/sad/test1.png", "train", "folder", "test"),
        ("faces/sad/test1.png", "test", "filename", "test"),
        ("test/sad/PublicTest_1.png", "val", "filename", "val"),
        ("test/sad/train_00001.png", "test", "folder", "train"),
    ],
)
def test_an_image_whose_name_and_folder_tell_splits(
    tmp_path, png, faces, name, split, split_from, by_name
):
    path = write_zip(tmp_path / "x.zip", png, faces[0], [name])
    (example,) = outcomes(path)
    assert (example.split, example.split_from) == (split, split_from)
    (example,) = outcomes(path, Rules(split_from="filename"))
    assert example.split == by_name


def test_a_name_that_may_tell_the_split(tmp_path):
    path = write_rows(tmp_path / "celebrities_train.csv", f"3,{PIXELS}")
    (example,) = outcomes(path)
    assert (example.split_from, example.unclear_name) == ("hash", path.name)
    (example,) = outcomes(path, Rules(split_from="hash"))
    assert (example.split_from, example.unclear_name) == ("hash", None)


@pytest.mark.parametrize("column", ["split", "Subset", "partition", " Set "])
def test_a_column_that_tells_the_split_by_another_name(tmp_path, png, faces, column):
    path = write_rows(tmp_path / "a.csv", f"3,{PIXELS},dev,", header=f"emotion,pixels,{column},")
    (example,) = outcomes(path)
    assert (example.split, example.split_from, example.has_usage) == ("val", "usage", True)
    images = [png(image) for image in faces[0][:3]]
    splits = ["Test", None, "other"]
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": images, "label": [3] * 3, column: splits}), path)
    first, *others = outcomes(path)
    assert (first.split, first.split_from, first.unclear_name) == ("test", "usage", None)
    assert [example.unclear_name for example in others] == ["null", "other"]


def test_blank_lines_are_no_rows(tmp_path):
    rows = (f"3,{PIXELS}", "", "\r", f"4,{PIXELS}\r", "", f"5,{PIXELS}", "", "\r\n")
    examples = outcomes(write_rows(tmp_path / "a.csv", *rows))
    assert [(example.label, example.row) for example in examples] == [(3, 1), (4, 2), (5, 3)]


def test_an_empty_table(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"")
    (reject,) = outcomes(tmp_path / "a.csv")
    assert reject.reason == "is empty: expected the columns emotion, pixels and perhaps Usage"


@pytest.mark.parametrize("content", [b"<html>", b"", b"PK" + bytes(5000)])
def test_a_zip_archive_that_is_none(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    (reject,) = outcomes(tmp_path / "a.zip")
    assert reject.reason == "is not a zip archive, or lacks its end: fetch it again"


@pytest.mark.parametrize("name", ["fer2013.csv", "train.csv"])
def test_a_usage_that_is_not_understood(tmp_path, name):
    path = write_rows(tmp_path / name, f"3,{PIXELS},holdout", header="emotion,pixels,Usage")
    (example,) = outcomes(path)
    assert example.unclear_name == "holdout"
    (example,) = outcomes(path, Rules(split_from="hash"))
    assert (example.split_from, example.unclear_name) == ("hash", None)


def write_zip(path, png, images, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in zip(names, images, strict=False):
            archive.writestr(name, png(image))
    return path


def test_an_archive_whose_name_tells_the_split(tmp_path, png, faces):
    (example,) = outcomes(write_zip(tmp_path / "test.zip", png, faces[0], ["sad/1.png"]))
    assert (example.split, example.split_from) == ("test", "folder")


def test_sources_that_are_folders_of_classes_in_folders_of_splits(tmp_path, png, faces):
    """As the shell makes them of ``--source train/* test/*``."""
    sources = [f"{tmp_path}/{split}/{name}" for split in ("train", "test") for name in ("sad", "x")]
    for number, source in enumerate(sources):
        Path(source).mkdir(parents=True)
        (Path(source) / "1.png").write_bytes(png(faces[0][number]))
    names = dict(zip(sources, names_of(sources), strict=True))
    assert [*names.values()] == ["train/sad", "train/x", "test/sad", "test/x"]
    splits = [outcomes(source, name=name)[0] for source, name in names.items()]
    assert [(splits[at].label, splits[at].split) for at in (0, 2)] == [(4, "train"), (4, "test")]
    assert splits[1].reason == "no folder of 'train/x' names a class"


@pytest.mark.parametrize(
    ("name", "label"),
    [("happy.zip", 3), ("Sadness.ZIP", 4), ("2.zip", 2), ("happy.faces.zip", None)],
)
def test_an_archive_whose_name_tells_the_class(tmp_path, png, faces, name, label):
    (outcome,) = outcomes(write_zip(tmp_path / name, png, faces[0], ["a/1.png"]))
    assert getattr(outcome, "label", None) == label


def test_folders_that_are_numbered(tmp_path, png, faces):
    names = ["train/0/1.png", "train/7/2.png", "train/010/3.png", "train/2024/4.png"]
    first, *rejects = outcomes(write_zip(tmp_path / "x.zip", png, faces[0], names))
    assert (first.label, first.number, first.format) == (0, 0, "class_folders")
    assert [reject.number for reject in rejects] == [7, 10, None]
    assert {reject.code for reject in rejects} == {"no_class_folder"}
    assert rejects[0].reason == "no folder of 'x.zip!/train/7' names a class"


def test_kdef_names_its_classes_in_file_names(tmp_path, png, faces):
    names = ["KDEF/AF01/AF01ANS.png", "KDEF/AF01/AF01SUS.png", "happy/AF01SUS.png", "0/AF01SUS.png"]
    path = write_zip(tmp_path / "x.zip", png, faces[0], names)
    assert [(example.label, example.format) for example in outcomes(path)] == [
        *[(0, "kdef"), (5, "kdef"), (3, "class_folders"), (5, "kdef")]
    ]
    few = Rules(ClassList.parse(["angry", "neutral"]))
    example, *rejects = outcomes(path, few)
    assert example.label == 0
    assert {reject.code for reject in rejects} == {"unknown_class"}


def test_parquet_files_of_hugging_face(tmp_path, png, faces):
    images = [{"bytes": png(image), "path": None} for image in faces[0][:2]]
    images += [{"bytes": None, "path": "x.png"}, {"bytes": b"x", "path": None}]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "test-00000-of-00001.parquet"
    pq.write_table(pa.table({"image": images, "label": [3, 9, 0, 0]}), path)
    for location in (path, tmp_path / "data"):
        example, *rejects = outcomes(location)
        assert (example.label, example.number, example.format) == (3, 3, "hugging_face")
        assert (example.split, example.source) == ("test", f"{path}#1")
        assert [reject.code for reject in rejects] == ["unknown_class", "no_image", "unreadable"]
        assert rejects[0].number == 9


def test_a_parquet_file_in_an_archive_is_rejected(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("train.parquet", b"PAR1")
    (reject,) = outcomes(tmp_path / "x.zip")
    assert (reject.code, "unpack the archive first" in reject.reason) == ("nested_archive", True)


def test_val_is_taken_out_of_train_by_the_pixels(tmp_path, faces):
    rows = [f"3,{' '.join(map(str, image.ravel()))}" for image in faces[0]]
    train, test = (
        outcomes(write_rows(tmp_path / name, *rows, *rows[:9]), Rules(val_fraction=0.3))
        for name in ("train.csv", "test.csv")
    )
    held_out = [is_held_out(example.sha256, 0.3) for example in train]
    assert 5 < sum(held_out) < 35
    assert [example.split == "val" for example in train] == held_out
    assert [example.split_from == "val_fraction" for example in train] == held_out
    assert {example.split for example in test} == {"test"}


def test_pixels_that_are_rejected_have_a_code(tmp_path):
    rows = ["3,1 2", f"3,{PIXELS[:-1]}256", "3", '3,"1 2', '3"', f"3,{PIXELS}"]
    *rejects, _ = outcomes(write_rows(tmp_path / "a.csv", *rows))
    assert [reject.code for reject in rejects] == [
        *("pixel_count", "pixel_range", "field_count", "pixel_count", "field_count")
    ]
    assert rejects[1].reason == "has the pixel '256': expected 0 to 255"
    assert rejects[2].reason == "has 1 of 2 fields"
    assert rejects[4].reason == "has a line break or a single quotation mark in a field"


def test_an_image_without_the_split_that_is_asked_for(tmp_path, png, faces):
    path = write_zip(tmp_path / "x.zip", png, faces[0], ["sad/1.png"])
    (reject,) = outcomes(path, Rules(split_from="folder"))
    assert reject.code == "no_split"
    assert reject.reason == "names no split in its folder: expected train, val or test"


def test_an_image_that_can_not_be_opened_says_why(tmp_path):
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy" / "x.png").symlink_to("gone.png")
    (reject,) = outcomes(tmp_path)
    assert "No such file or directory" in reject.reason
    assert "rrno" not in reject.reason


def test_every_kind_of_source_item_has_a_code(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("inner.zip", b"PK")
        archive.writestr("../happy/x.png", b"x")
        archive.writestr("happy/x.png", b"x")
    codes = [reject.code for reject in outcomes(tmp_path / "x.zip")]
    assert codes == ["nested_archive", "unsafe_path", "unreadable"]


def test_a_jpeg_that_lacks_only_its_end_is_an_example(tmp_path, faces):
    buffer = io.BytesIO()
    Image.fromarray(faces[0][0]).save(buffer, "JPEG")
    (tmp_path / "happy").mkdir()
    for name, data in (("whole", buffer.getvalue()), ("cut", buffer.getvalue()[:-2])):
        (tmp_path / "happy" / f"{name}.jpg").write_bytes(data)
    (tmp_path / "happy" / "half.jpg").write_bytes(buffer.getvalue()[:-300])
    cut, half, whole = outcomes(tmp_path)
    assert (cut.pixels, cut.label) == (whole.pixels, whole.label)
    assert "the JPEG file ends early, and " in half.reason
