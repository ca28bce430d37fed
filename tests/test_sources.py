import io
import zipfile

import pytest

from fer.emotions import SEVEN_EMOTIONS
from fer.errors import InputError
from fer.parsing import Example, Reject, parse_piece
from fer.sources import check_source, read_pieces

GOOD = " ".join(["7"] * 2304)


def outcomes(path):
    return [
        each
        for piece in read_pieces(str(path))
        for each in parse_piece(piece, SEVEN_EMOTIONS, "auto")
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"0,{GOOD[:-2]},Training", "2,303 pixels"),
        (f"0,{GOOD[:-1]}256,Training", "'256'"),
        (f"0,{GOOD[:-1]}abc,Training", "'abc'"),
        (f"9,{GOOD},Training", "unknown class"),
    ],
)
def test_bad_rows_are_rejected_and_the_rest_kept(tmp_path, row, reason):
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


def test_a_member_that_climbs_out(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../happy/x.png", b"x")
    path = tmp_path / "faces.zip"
    path.write_bytes(buffer.getvalue())
    (reject,) = outcomes(path)
    assert "climbs out" in reject.reason


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        check_source(str(tmp_path / "none.csv"))
