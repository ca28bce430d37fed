import io
import lzma
import tarfile
import zipfile

import pytest

from fer.data.parsing import Example, Reject, Rules, parse_item
from fer.data.readers import read_items
from fer.data.sources import check_source, names_of
from fer.errors import InputError

GOOD = " ".join(["7"] * 2304)


def outcomes(path):
    return [outcome for item in read_items(str(path)) for outcome in parse_item(item, Rules())]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"0,{GOOD[:-2]},Training", "2,303 pixels"),
        (f"0,{GOOD[:-1]}256,Training", "'256'"),
        (f"0,{GOOD[:-1]}abc,Training", "'abc'"),
        (f"9,{GOOD},Training", "unknown class"),
    ],
)
def test_bad_rows_are_rejected_alone(tmp_path, row, reason):
    path = tmp_path / "fer2013.csv"
    path.write_text(f"emotion,pixels,Usage\n3,{GOOD},PublicTest\n{row}\n")
    good, bad = outcomes(path)
    assert isinstance(good, Example)
    assert (good.label, good.split, good.pixels) == (3, "val", bytes([7] * 2304))
    assert isinstance(bad, Reject)
    assert reason in bad.reason
    assert bad.source.endswith("#2")


def test_stray_spaces_of_icml_face_data(tmp_path):
    path = tmp_path / "icml_face_data.csv"
    path.write_text(f"emotion, Usage, pixels\n6,PrivateTest, {GOOD}\n")
    (example,) = outcomes(path)
    assert (example.label, example.split) == (6, "test")


def test_rejects_a_member_whose_path_leads_out_of_the_archive(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../happy/x.png", b"x")
    path = tmp_path / "faces.zip"
    path.write_bytes(buffer.getvalue())
    (reject,) = outcomes(path)
    assert "leads out of its archive" in reject.reason


def test_an_archive_of_the_current_folder(tmp_path, png, faces):
    """As ``tar -czf faces.tgz .`` makes it."""
    path = tmp_path / "faces.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in (".", "./happy", "./happy/x.png", "./happy/._x.png"):
            data = png(faces[0][0]) if name.endswith(".png") else b""
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), tarfile.REGTYPE if data else tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(data))
    (example,) = outcomes(path)
    assert (example.source, example.label) == (f"{path}!/happy/x.png", 3)
    (item,) = read_items(str(path))
    assert item.kind == "image"


def test_csv_files_are_ignored_without_tables(tmp_path, png, faces):
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.csv", "name,label\n1.png,happy\n")
        archive.writestr("1.png", png(faces[0][0]))
    assert [item.kind for item in read_items(str(path))] == ["rejected", "image"]
    items = read_items(str(path), with_tables=False)
    assert [item.kind for item in items] == ["ignored", "image"]


def test_rejects_carriage_returns_as_line_ends(tmp_path):
    path = tmp_path / "fer2013.csv"
    path.write_text(f'emotion,"pixels",Usage\r3,{GOOD},Training\r', newline="")
    (reject,) = outcomes(path)
    assert "can't be read to its end: new-line character" in reject.reason
    path.write_text(f'emotion,pixels,Usage\n3,"{GOOD}"\r,Training\n3,{GOOD},Training\n', newline="")
    bad, good = outcomes(path)
    assert "has 1 of 3 fields" in bad.reason
    assert good.label == 3


def test_a_damaged_member_is_rejected_alone(tmp_path):
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("happy/x.png", bytes(1000))
        archive.writestr("happy/y.png", b"")
    content = bytearray(path.read_bytes())
    # After the member's header, its name and the properties of the compression.
    start = content.index(b"happy/x.png") + len("happy/x.png") + 9
    content[start : start + 16] = b"\xff" * 16
    path.write_bytes(content)
    with pytest.raises(lzma.LZMAError), zipfile.ZipFile(path) as archive:
        archive.read("happy/x.png")
    items = [*read_items(str(path))]
    assert [item.kind for item in items] == ["rejected", "image"]
    assert "can't be unpacked" in items[0].reason


def test_rejects_a_source_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        check_source(str(tmp_path / "none.csv"))


@pytest.mark.parametrize(
    ("locations", "names"),
    [
        (["/data/test/fer.zip"], ["fer.zip"]),
        (["/data/a", "/data/b.zip"], ["a", "b.zip"]),
        (["/data/test/a", "/data/test/b"], ["a", "b"]),
        (["/data/train/a", "/data/b.csv"], ["train/a", "b.csv"]),
        (["/train/a", "/test/a"], ["train/a", "test/a"]),
        (["s3://bucket/x/train", "s3://bucket/test/x"], ["x/train", "test/x"]),
        (["s3://test/faces", "/train/faces"], ["faces", "faces"]),
        (["s3://test/faces", "s3://train/faces"], ["faces", "faces"]),
        (["s3://bucket", "s3://train/faces"], ["bucket", "faces"]),
    ],
)
def test_sources_are_named_from_the_folder_that_they_share(locations, names):
    assert names_of(locations) == names
