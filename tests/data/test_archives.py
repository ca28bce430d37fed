"""Archives that are damaged, that lack their end, or that hold a name twice."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from fer.data.readers import read_items

HEADER = 5 * 2 * tarfile.BLOCKSIZE
"""Offset of the sixth of the members, each of which has a header and one block of data."""


def pack_tar(members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def read(path):
    """Return the content of an archive's images by name, and the reasons of its rejects."""
    items = [*read_items(str(path))]
    images = [(item.path.partition("!/")[2], item.data) for item in items if item.kind == "image"]
    assert len(dict(images)) == len(images)
    rejects = [(item.source, item.reason) for item in items if item.kind == "rejected"]
    ends = [item for item in items if item.reason.startswith("can't be read to its end")]
    assert {item.code for item in ends} <= {"incomplete"}
    assert len(dict(rejects)) == len(rejects)
    return dict(images), dict(rejects)


IMAGES = {f"happy/{number}.png": b"%d" % number for number in range(20)}
WHOLE = pack_tar(IMAGES.items())
FLIPPED = bytearray(WHOLE)
FLIPPED[HEADER + 3] ^= 1
END = len(IMAGES) * 2 * tarfile.BLOCKSIZE


@pytest.mark.parametrize(
    ("content", "num_images", "reason"),
    [
        (bytes(FLIPPED), 5, "the header of a member is damaged (bad checksum)"),
        (WHOLE[: HEADER + 100], 5, "the header of a member is damaged (truncated header)"),
        (WHOLE[:HEADER], 5, "it lacks the blocks of zeros that end a tar archive"),
        (WHOLE[:END], 20, "it lacks the blocks of zeros that end a tar archive"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_tar_archive_that_ends_early_says_so(tmp_path, content, num_images, reason, pack):
    path = tmp_path / ("faces.tar" if pack is bytes else "faces.tar.gz")
    path.write_bytes(pack(content))
    images, rejects = read(path)
    assert images == dict([*IMAGES.items()][:num_images])
    assert rejects[str(path)].startswith(f"can't be read to its end: {reason}")


@pytest.mark.parametrize("content", [WHOLE, WHOLE[: END + tarfile.BLOCKSIZE]])
def test_one_block_of_zeros_ends_a_tar_archive(tmp_path, content):
    path = tmp_path / "faces.tar"
    path.write_bytes(content)
    assert read(path) == (IMAGES, {})


def in_streams(compress, content=WHOLE, size=3000):
    """Compress a file in several streams, as pbzip2, bgzip and pixz do."""
    starts = range(0, len(content), size)
    return b"".join(compress(content[start : start + size]) for start in starts)


FIRST, SECOND = pack_tar([*IMAGES.items()][:8]), pack_tar([*IMAGES.items()][8:])
JOINED = FIRST + SECOND
PADDING = bytes(10240)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("faces.tar", JOINED),
        ("faces.tar", JOINED + b"\n"),
        ("faces.tar.gz", gzip.compress(JOINED)),
        *[
            (f"faces.tar.{name}", content)
            for name, compress in (
                ("gz", gzip.compress),
                ("bz2", bz2.compress),
                ("xz", lzma.compress),
            )
            for content in (
                in_streams(compress),
                in_streams(compress) + PADDING,
                in_streams(compress, JOINED, 512),
            )
        ],
        ("faces.tar.xz", lzma.compress(WHOLE, lzma.FORMAT_ALONE)),
        ("faces.tgz", WHOLE),
        ("faces.tar.gz", bz2.compress(WHOLE)),
    ],
)
def test_all_streams_and_all_archives_in_a_file_are_read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert read(path) == (IMAGES, {})
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr(name, content)
    images, rejects = read(tmp_path / "outer.zip")
    assert (images, rejects) == ({f"{name}!/{key}": data for key, data in IMAGES.items()}, {})


CUT = gzip.compress(WHOLE, mtime=0)
CUT_BZ2 = in_streams(bz2.compress)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("faces.tar.gz", CUT[:-30], "its compressed data ends early"),
        ("faces.tar.bz2", CUT_BZ2[: len(CUT_BZ2) // 2], "its compressed data ends early"),
        ("faces.tar.gz", CUT[:-8] + b"sum!" + CUT[-4:], "its compressed data is damaged (CRC"),
        ("faces.tar.gz", CUT + b"junk", "its compressed data is damaged (Not a gzipped file"),
        ("faces.tar", WHOLE + b"x" * 512, "its end is followed by something that is no member, so"),
        (
            "faces.tar",
            FIRST + SECOND[:HEADER],
            "it lacks the blocks of zeros that end a tar archive",
        ),
    ],
)
def test_a_file_whose_last_archive_is_damaged_says_so(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    images, rejects = read(path)
    assert len(images) >= (8 if name == "faces.tar" else 1)
    assert rejects[str(path)].startswith(f"can't be read to its end: {reason}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("inner.tar", bytes(FLIPPED)),
        ("inner.tar", WHOLE[:HEADER]),
        ("inner.tar", WHOLE[: HEADER + 600]),
        ("inner.tar.gz", gzip.compress(WHOLE, mtime=0)[:-30]),
        ("inner.tar.bz2", bz2.compress(WHOLE)[:20] + bytes(40)),
        ("inner.tar.xz", lzma.compress(WHOLE)[:40] + bytes(40)),
        ("inner.png.gz", b"junk"),
        ("inner.png.gz", gzip.compress(b"image", mtime=0)[:-9]),
    ],
    ids=["flipped", "no end", "cut", "cut gzip", "bzip2", "xz", "no gzip", "cut image"],
)
def test_a_damaged_file_in_a_tar_archive_costs_nothing_after_it(tmp_path, name, content):
    path = tmp_path / "faces.tar"
    path.write_bytes(pack_tar([("a.png", b"a"), (name, content), ("b.png", b"b")]))
    images, rejects = read(path)
    assert (images["a.png"], images["b.png"]) == (b"a", b"b")
    assert list(rejects) == [f"{path}!/{name}"]
    assert rejects[f"{path}!/{name}"].startswith("can't be unpacked: ")


def test_an_image_may_be_nested_in_two_archives(tmp_path):
    inner = pack_tar([("a.png", b"a")])
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        archive.writestr("two.tar", inner)
        archive.writestr("three.tar", pack_tar([("two.tar", inner)]))
    images, rejects = read(tmp_path / "faces.zip")
    assert images == {"two.tar!/a.png": b"a"}
    assert rejects == {
        f"{tmp_path}/faces.zip!/three.tar!/two.tar!/a.png": "is nested in more than 2 archives: "
        "unpack the outer ones first"
    }


TWICE = [("a.png", b"old"), ("b.png", b"b"), ("README", b""), ("./a.png", b"new"), ("README", b"")]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_last_member_of_a_name_in_a_zip_archive_counts(tmp_path):
    path = tmp_path / "faces.zip"
    for name, content in TWICE:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, content)
    assert read(path) == ({"a.png": b"new", "b.png": b"b"}, {})


def pack_zip(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("before", "says_so"),
    [(pack_zip([("b.png", b"b")]), True), (b"MZ" + bytes(100), False), (b"", False)],
)
def test_zip_archives_that_were_joined(tmp_path, before, says_so):
    path = tmp_path / "faces.zip"
    path.write_bytes(before + pack_zip([("a.png", b"a")]))
    images, rejects = read(path)
    assert images == {"a.png": b"a"}
    reason = (
        "begins with members that its directory does not list, as when archives are joined: they "
        "are not read"
    )
    assert rejects == ({str(path): reason} if says_so else {})


def test_links_in_a_tar_archive_are_rejected_if_they_may_be_images(tmp_path):
    path = tmp_path / "faces.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("happy/a.png", "latest", "README"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "b.png"
            archive.addfile(info)
    images, rejects = read(path)
    assert images == {}
    assert rejects == {f"{path}!/happy/a.png": "is a link or a device: expected a regular file"}


def test_a_tar_archive_that_holds_a_name_twice_is_read_once_and_says_so(tmp_path):
    path = tmp_path / "faces.tar"
    path.write_bytes(pack_tar(TWICE))
    images, rejects = read(path)
    assert images == {"a.png": b"old", "b.png": b"b"}
    assert rejects == {
        str(path): "holds several members of one name, such as a.png; the first of each name was "
        "read and 1 left out: unpack it and pack it again"
    }
