"""Each file that people bring is a row, an example, a reject, or of a kind that is named."""

import io
import json
import os
import tarfile
import zipfile

import pyarrow.parquet as pq
import pytest
from videos import make_video

from fer.storage import listing
from ray_jobs.labeling.videos import CLIP_BYTES

LATIN = os.fsdecode(b"j\xe4nner")
ESCAPED = "j\\xe4nner"
ODD = (
    *("IMG.JPG", "new\nline.png", "back\\slash.png", "a\\xe4.png", "s3:/x.png", "50%.png"),
    *("e\u0301.png", "\u00e9.png", "hey!/x.png", "x.zip!/y.png", " .png", "#1/'\"<&>.png"),
)


def statuses(output, root):
    """Return the status of each image by its path below a folder."""
    rows = pq.read_table(output / "faces").to_pylist()
    names = [row["image"].removeprefix(f"{root}/") for row in rows]
    assert len(names) == len(set(names))
    return {name: row["status"] for name, row in zip(names, rows, strict=True)}


def put(root, names, content):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def encrypt(path):
    """Flag the members of a zip archive as encrypted."""
    content = path.read_bytes()
    for signature, offset in ((b"PK\x03\x04", 2), (b"PK\x01\x02", 4)):
        first, *parts = content.split(signature)
        parts = [part[:offset] + b"\1" + part[offset + 1 :] for part in parts]
        content = signature.join([first, *parts])
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path, faces, png):
    """A folder of all kinds of names and files."""
    root, image = tmp_path / "photos", png(faces[0][0])
    put(root, (f"{LATIN}/x.png", os.fsdecode(b"m\xfcde.png"), *ODD), image)
    put(root, ("a.jxl", "b.JXL", "c.rar", "README"), b"other")
    put(root, ("8f3c-0",), image)
    with zipfile.ZipFile(root / "windows.zip", "w") as archive:
        archive.writestr("raw\\0.png", image)
        archive.writestr("ok\\1.png", image)
    with zipfile.ZipFile(root / "secret.zip", "w") as archive:
        archive.writestr("2.png", image)
    encrypt(root / "secret.zip")
    options = {"format": tarfile.GNU_FORMAT, "encoding": "latin-1"}
    with tarfile.open(root / "latin.tar", "w", **options) as archive:
        info = tarfile.TarInfo("j\u00e4nner/3.png")
        info.size = len(image)
        archive.addfile(info, io.BytesIO(image))
    (root / "gone.png").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe.png")
    return root


GOOD = {
    *(f"{ESCAPED}/x.png", "m\\xfcde.png", "windows.zip!/ok/1.png", f"latin.tar!/{ESCAPED}/3.png"),
    *(name.replace("\\xe4", "\\x5cxe4") for name in ODD),
}
BAD = {"secret.zip!/2.png": "unreadable", "gone.png": "missing", "pipe.png": "unreadable"}


def test_every_file_of_a_folder(label, folder, tmp_path, faces, png):
    output = tmp_path / "labels"
    run = label(folder, output, "--exclude", "raw/")
    expected = {**dict.fromkeys(GOOD, "ok"), **BAD}
    assert statuses(output, folder) == expected
    assert (run.result["images"], run.result["failed"]) == (len(expected), len(BAD))
    assert run.result["ignored"] == {".jxl": 2, "no ending": 2, ".rar": 1}
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["ignored_files"], summary["ignored"]) == (5, run.result["ignored"])
    assert "2 .jxl, 2 no ending, 1 .rar" in (output / "report.html").read_text()
    # An update tries what could not be fetched, and knows all others again.
    put(folder, (f"{LATIN}/new.png",), png(faces[0][1]))
    again = label(folder, output, "--exclude", "raw/", "--update")
    assert again.result["labeled"] == 1 + len(BAD) - 1
    assert statuses(output, folder) == {**expected, f"{ESCAPED}/new.png": "ok"}
    # What has no row, an interrupted run labels as well.
    (output / "summary.json").unlink()
    for file in (output / "faces").iterdir():
        file.unlink()
    label(folder, output, "--exclude", "raw/", "--resume")


def test_all_files(label, folder, tmp_path):
    output = tmp_path / "labels"
    flags = ("--include", "8f3c*", "README", "--all-files")
    run = label(folder, output, *flags)
    good = {name: status for name, status in statuses(output, folder).items() if status == "ok"}
    assert good == {"8f3c-0": "ok"}
    assert run.result["ignored"] == {"no ending": 1}
    again = label(folder, output, *flags, "--update")
    assert (again.result["labeled"], again.result["ignored"]) == (0, {"no ending": 1})


def test_all_files_finds_videos(label, tmp_path):
    put(tmp_path / "uploads", ("8f3c", "a/clip.bin"), make_video(num_frames=50))
    put(tmp_path / "uploads", ("long",), make_video(num_frames=75) + bytes(CLIP_BYTES))
    put(tmp_path / "uploads", ("notes",), b"none")
    flags = ("--all-files", "--fps", 2)
    run = label(tmp_path / "uploads", tmp_path / "labels", *flags)
    assert (run.result["frames"], run.result["ignored"]) == (4 + 4 + 6, {"no ending": 1})
    put(tmp_path / "uploads", ("new",), make_video(num_frames=25))
    again = label(tmp_path / "uploads", tmp_path / "labels", *flags, "--update")
    assert (again.result["labeled"], again.result["frames"]) == (2, 16)


def test_a_folder_without_endings(label, fer, tmp_path, faces, png):
    images, output = tmp_path / "uploads", tmp_path / "labels"
    put(images, ("happy/8f3c-0", "happy/8f3c-1"), png(faces[0][0]))
    put(images, ("notes.txt",), b"notes")
    advice = " among its files (2 with no ending, 1 .txt); give --all-files to tell images by "
    run = label(images, output)
    assert run.code == 1
    assert run.sentence.startswith(f"No image was found in {images}{advice}")
    run = fer("ingest", "--source", images, "--output", tmp_path / "data")
    assert run.code == 1
    assert run.sentence.startswith(f"No example was found in {images}{advice}")
    result = label(images, output, "--all-files", "--overwrite").result
    assert (result["images"], result["ignored"]) == (2, {".txt": 1})
    run = fer("ingest", "--source", images, "--output", tmp_path / "data", "--all-files")
    assert (run.result["examples"], run.result["rejects"]) == (2, 0)
    assert run.result["ignored"] == {".txt": 1}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "image", "zip", "manifest"])
def test_names_that_are_not_utf8_as_arguments(label, tmp_path, faces, png, kind):
    root, image = tmp_path / LATIN, png(faces[0][0])
    put(root, ("x.png",), image)
    with zipfile.ZipFile(root / "x.zip", "w") as archive:
        archive.writestr("x.png", image)
    (root / "list.csv").write_text("image\nx.png\n")
    names = {"folder": "", "image": "x.png", "zip": "x.zip", "manifest": "list.csv"}
    run = label(root / names[kind], tmp_path / "labels")
    assert run.result["faces"] == run.result["images"] == (2 if kind == "folder" else 1)
    rows = pq.read_table(tmp_path / "labels" / "faces").to_pylist()
    assert all(row["image"].startswith(f"{tmp_path}/{ESCAPED}/x.") for row in rows)


def test_ingest_reads_names_that_are_not_utf8(fer, tmp_path, faces, png):
    root = tmp_path / LATIN
    put(root, (os.fsdecode(b"happy/\xe4.png"), "happy/b.png"), png(faces[0][0]))
    run = fer("ingest", "--source", root, "--output", tmp_path / "data")
    assert run.result["examples"] == 2
    table = pq.read_table(tmp_path / "data" / "examples")
    folder = f"{tmp_path}/{ESCAPED}/happy"
    assert set(table["source"].to_pylist()) == {f"{folder}/\\xe4.png", f"{folder}/b.png"}


@pytest.mark.parametrize("flag", ["--output", "--checkpoint"])
def test_other_locations_need_names_in_utf8(fer, tmp_path, flag):
    (tmp_path / "x.png").touch()
    others = {"--output": tmp_path / "labels", "--checkpoint": "bundled"} | {flag: tmp_path / LATIN}
    flags = [argument for pair in others.items() for argument in pair]
    run = fer("label", "--images", tmp_path / "x.png", "--detector", "none", *flags)
    assert (run.code, run.sentence) == (
        2,
        f"{flag} {tmp_path}/{ESCAPED} has a name that is not valid UTF-8, or looks like an escape "
        "of one; rename it, or choose another location.",
    )


def test_a_manifest_in_another_encoding(label, tmp_path):
    rows = ["image\n", *["a.png\n"] * 400_000, "j\u00e4nner.png\n"]
    (tmp_path / "list.csv").write_bytes("".join(rows).encode("latin-1"))
    run = label(tmp_path / "list.csv", tmp_path / "labels")
    assert (run.code, run.errors.strip()) == (
        2,
        f"fer: {tmp_path}/list.csv can't be read as a manifest, because it is not in UTF-8: line "
        "400002 has the byte 0xE4, '\u00e4' in Latin-1; save it as UTF-8.",
    )


def test_a_bucket_lists_in_the_order_of_a_folder(s3, tmp_path):
    # Nothing lies between a folder's name and its slash: SeaweedFS, unlike S3, sorts without it.
    names = ("A.png", "a0.png", "a/1.png", "a/b/2.png", "a/c.png", "b.png", "é.png", "日/本.png")
    put(tmp_path, names, b"x")
    for name in reversed(names):
        s3.put_object(Bucket="open", Key=f"order/{name}", Body=b"x")
    listed = [entry.name for entry in listing.walk("s3://open/order")]
    assert listed == [entry.name for entry in listing.walk(str(tmp_path))]
    assert listed == sorted(names, key=str.encode)
