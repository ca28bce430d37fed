"""Memory stays bounded, whatever size a file has or claims: measured in a process of its own."""

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from fer.vision.loading import MAX_IMAGE_BYTES

MIB = 2**20
CHILD = """
import json, sys
from pathlib import Path
from fer.vision.decode import ImageError, decode_image, decode_photo
from fer.data.readers import read_items

def peak_bytes():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])

def used(path):
    try:
        image = (decode_image if sys.argv[2] == "face" else decode_photo)(Path(path).read_bytes())
    except ImageError as error:
        return error.status
    return [image.width, image.height]

def read(path):
    return [[item.kind, len(item.data or b""), item.reason] for item in read_items(path)]

before = peak_bytes()
result = read(sys.argv[1]) if sys.argv[2] == "archive" else used(sys.argv[1])
print(json.dumps([result, peak_bytes() - before]))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")


def run(path, how):
    """Return what became of a file, and how many bytes more than before it took at most."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), how], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def png_header(width, height):
    """A PNG file that claims a size, and ends before its pixels do."""
    fields = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(each) - 4) + each for each in (fields, pixels)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        each + struct.pack(">I", zlib.crc32(each[4:])) for each in chunks
    )


def jpeg_that_claims(width, height):
    """A JPEG file of 16 pixels whose header tells of another size."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    start_of_frame = data.index(b"\xff\xc0")
    data[start_of_frame + 5 : start_of_frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_that_claims(width, height):
    """A GIF file of 16 pixels whose header tells of another size."""
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, "GIF")
    return b"GIF89a" + struct.pack("<HH", width, height) + buffer.getvalue()[10:]


@pytest.mark.parametrize("how", ["face", "photo"])
@pytest.mark.parametrize(
    "data",
    [png_header(60_000, 60_000), jpeg_that_claims(65_000, 65_000), gif_that_claims(60_000, 60_000)],
    ids=["png", "jpeg", "gif"],
)
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, data, how):
    (tmp_path / "bomb").write_bytes(data)
    status, peak_bytes = run(tmp_path / "bomb", how)
    assert status == "too_large"
    assert peak_bytes < 32 * MIB


@pytest.mark.parametrize("how", ["face", "photo"])
@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_a_panorama_takes_little_more_than_its_pixels(tmp_path, mode, how):
    size = (30_000, 1_000)
    gray = np.zeros(size[::-1], np.uint16)
    image = Image.fromarray(gray) if mode == "I;16" else Image.new(mode, size)
    image.save(tmp_path / "panorama.png", compress_level=1)
    found, peak_bytes = run(tmp_path / "panorama.png", how)
    assert found == list(size)
    # Converted as a whole it would take four times its pixels and more.
    own_bytes = size[0] * size[1] * {"RGBA": 4, "I;16": 2}[mode]
    assert peak_bytes < own_bytes + 160 * MIB


def test_a_panorama_in_jpeg_is_decoded_at_a_fraction(tmp_path):
    Image.new("RGB", (30_000, 2_900)).save(tmp_path / "panorama.jpg")
    found, peak_bytes = run(tmp_path / "panorama.jpg", "photo")
    assert found == [30_000, 2_900]
    assert peak_bytes < 64 * MIB


def test_members_that_unpack_to_more_than_is_taken(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("huge.png", "w") as member:
            for _ in range(70):
                member.write(bytes(MIB))
        archive.writestr("liar.png", bytes(200 * MIB))
        # Its directory tells of less than comes out of it.
        archive.getinfo("liar.png").file_size = 1000
        archive.writestr("small.png", b"here")
    (huge, liar, small), peak_bytes = run(tmp_path / "bomb.zip", "archive")
    # Refused as any file of that size when it is asked for.
    assert huge == ["image", 0, ""]
    assert liar[1] <= 1000
    assert small == ["image", 4, ""]
    assert peak_bytes < 2.5 * MAX_IMAGE_BYTES
