"""Names of files and of members of archives: what they say, and what they leave to the content."""

import gzip
import io
import os
import tarfile
import zipfile

import pytest

from fer.data.archives import UTF8_FLAG
from fer.data.emotions import FER2013_CLASSES
from fer.data.items import NotAnImageError, fetch_image, kind_by_content
from fer.data.readers import read_items
from fer.data.sources import check_source, list_items
from fer.errors import InputError
from fer.storage import listing
from fer.vision.loading import MAX_IMAGE_BYTES, ImageError


def write_zip(path, names, data=b"x"):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, data)
    return path


def write_tar(path, names, data=b"x", **options):
    with tarfile.open(path, "w", **options) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def members(path, kind="image", **options):
    items = [item for item in read_items(str(path), **options) if item.kind == kind]
    return [item.source.removeprefix(f"{path}!/") for item in items]


WINDOWS = ("fer\\train\\happy\\0.png", "fer\\raw\\", "fer\\.git\\1.png", "..\\2.png", "\\3.png")


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_names_of_members_have_slashes(tmp_path, write):
    path = write(tmp_path / "faces.any", WINDOWS).rename(
        tmp_path / f"faces.{write.__name__.removeprefix('write_')}"
    )
    image, *_ = items = [item for item in read_items(str(path)) if item.kind != "ignored"]
    assert image.source == f"{path}!/fer/train/happy/0.png"
    assert FER2013_CLASSES.label_from_folders(image.path) == 3
    assert [item.source for item in items[1:]] == [f"{path}!/../2.png", f"{path}!//3.png"]
    assert {item.code for item in items[1:]} == {"unsafe_path"}


def test_names_of_zip_members_are_utf8_wherever_they_are_valid_utf8(tmp_path):
    path = tmp_path / "faces.zip"
    # zipfile flags names that are not ASCII, so names of the same length stand for them.
    names = {b"macos_a.png": "ja\u0308nn.png".encode(), b"dos_a.png": b"j\x84nn.png"}
    names = {old: new.ljust(len(old), b"_") for old, new in names.items()}
    content = write_zip(path, [old.decode() for old in names]).read_bytes()
    for old, new in names.items():
        content = content.replace(old, new)
    path.write_bytes(content)
    assert members(path, "ignored") == ["ja\u0308nn.png".ljust(10, "_"), "jänn.png_"]


@pytest.mark.parametrize(
    ("signature", "offset"), [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)], ids=["member", "directory"]
)
def test_names_that_are_marked_as_utf8_in_one_place_only(tmp_path, signature, offset):
    path = write_zip(tmp_path / "faces.zip", ["j\u00e4nner.png"])
    content = bytearray(path.read_bytes())
    flags = content.index(signature) + offset
    content[flags + 1] ^= UTF8_FLAG >> 8
    path.write_bytes(content)
    (item,) = read_items(str(path))
    assert (item.kind, item.source, item.data) == ("image", f"{path}!/j\u00e4nner.png", b"x")


def test_an_archive_whose_names_are_falsely_marked_as_utf8_is_rejected(tmp_path):
    path = write_zip(tmp_path / "faces.zip", ["j\u00e4.png"])
    path.write_bytes(path.read_bytes().replace("\u00e4".encode(), b"\xe4_"))
    (item,) = read_items(str(path))
    assert (item.kind, item.source) == ("rejected", str(path))
    assert item.reason == "has names that are marked as UTF-8 and are not: pack it again"


def test_names_of_tar_members_that_are_not_utf8(tmp_path):
    names = ("jänner/x.png", "wütend/y.jpg")
    options = {"format": tarfile.GNU_FORMAT, "encoding": "latin-1"}
    path = write_tar(tmp_path / "faces.tar", names, **options)
    assert members(path) == ["j\\xe4nner/x.png", "w\\xfctend/y.jpg"]


def test_accents_of_folders_are_composed_for_their_classes(tmp_path):
    path = write_zip(tmp_path / "faces.zip", ["wu\u0308tend/x.png"])
    (item,) = read_items(str(path))
    assert item.source == f"{path}!/wu\u0308tend/x.png"
    assert item.path == "faces.zip!/wütend/x.png"


def test_encrypted_members_are_rejected(tmp_path):
    path = write_zip(tmp_path / "faces.zip", ["happy/0.png", "README", "happy/1.png"])
    content = path.read_bytes()
    # Flags follow the signature and one or two versions of two bytes.
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        parts = content.split(signature)
        at = offset - len(signature)
        encrypted = [part[:at] + b"\1" + part[at + 1 :] for part in parts[1:]]
        content = signature.join([parts[0], *encrypted])
    path.write_bytes(content)
    assert members(path, "rejected") == ["happy/0.png", "happy/1.png"]
    assert members(path, "ignored") == ["README"]
    rejected = [item for item in read_items(str(path)) if item.kind == "rejected"]
    assert {(item.code, item.reason) for item in rejected} == {
        ("encrypted", "is encrypted: unpack the archive first")
    }


def test_all_files_are_told_by_their_content(tmp_path, png, faces):
    image = png(faces[0][0])
    for name in ("8f3c-0", "a.upload", "photo.CR2", "notes.txt"):
        (tmp_path / name).write_bytes(b"notes" if name == "notes.txt" else image)
    write_zip(tmp_path / "more.zip", ["8f3c-1", "raw.NEF"], image)
    write_tar(tmp_path / "more.tar", ["notes"])

    def kinds(items):
        return {item.source.removeprefix(f"{tmp_path}/"): item.kind for item in items}

    perhaps = dict.fromkeys(("8f3c-0", "a.upload", "notes.txt"), "unknown")
    assert kinds(read_items(str(tmp_path), all_files=True)) == {
        **perhaps,
        **dict.fromkeys(("photo.CR2", "more.zip!/raw.NEF", "more.tar!/notes"), "ignored"),
        "more.zip!/8f3c-1": "image",
    }
    assert set(kinds(read_items(str(tmp_path))).values()) == {"ignored"}
    listed = [*list_items(listing.walk(str(tmp_path)), all_files=True)]
    archives = dict.fromkeys(("more.zip", "more.tar"), "archive")
    assert kinds(listed) == {**perhaps, **archives, "photo.CR2": "ignored"}
    told = {item.source.rpartition("/")[2]: item for item in listed if item.kind == "unknown"}
    assert fetch_image(told["8f3c-0"]) == fetch_image(told["a.upload"]) == image
    with pytest.raises(NotAnImageError):
        fetch_image(told["notes.txt"])
    assert [kind_by_content(item.source) for item in told.values()] == ["image", "image", "ignored"]
    assert kind_by_content(f"{tmp_path}/gone") == "unknown"
    check_source(f"{tmp_path}/8f3c-0", all_files=True)
    with pytest.raises(InputError, match="give --all-files if it is an image"):
        check_source(f"{tmp_path}/8f3c-0")


@pytest.mark.parametrize(
    ("start", "error"), [(b"\xff\xd8\xff", ImageError), (b"", NotAnImageError)]
)
def test_of_a_large_file_only_the_start_is_read(tmp_path, start, error):
    path = tmp_path / "film"
    path.write_bytes(start)
    os.truncate(path, MAX_IMAGE_BYTES + 1)
    (item,) = read_items(str(path), all_files=True)
    with pytest.raises(error):
        fetch_image(item)


def test_an_image_that_gzip_compressed_is_opened_like_an_archive(tmp_path):
    (tmp_path / "x.jpg.gz").write_bytes(gzip.compress(b"junk"))
    (tmp_path / "x.txt.gz").touch()
    kinds = [item.kind for item in list_items(listing.walk(str(tmp_path)))]
    assert kinds == ["archive", "ignored"]
    (item,) = read_items(f"{tmp_path}/x.jpg.gz", with_tables=False)
    assert (item.kind, item.source, item.data) == ("image", f"{tmp_path}/x.jpg.gz", b"junk")


def test_what_can_not_be_listed_is_rejected(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    reason = "is neither a regular file nor a folder"
    for items in (read_items(str(tmp_path)), list_items(listing.walk(str(tmp_path)))):
        (item,) = items
        assert (item.kind, item.source, item.reason) == ("rejected", f"{tmp_path}/x.png", reason)
