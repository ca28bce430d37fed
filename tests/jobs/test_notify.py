"""--notify of a whole job: the RESULT line arrives, and its URL is written nowhere."""

import pytest
from receiver import receiving

from fer.data.synthetic import draw_faces


@pytest.mark.slow
def test_the_result_arrives_and_the_url_stays(label, png, tmp_path):
    images, _ = draw_faces(5, seed=9)
    photos, output = tmp_path / "photos", tmp_path / "labels"
    photos.mkdir()
    for number, image in enumerate(images):
        (photos / f"{number}.png").write_bytes(png(image))
    with receiving() as receiver:
        url = receiver.url.replace("://", "://user:pass-1@") + "/?key=token-2"
        done = label(photos, output, "--notify", url)
        (message,) = receiver.messages
    assert message["result"] == done.result
    assert (message["job"], message["code"]) == ("label", 0)
    written = [file for file in output.rglob("*") if file.is_file()]
    assert {"job.json", "summary.json"} < {file.name for file in written}
    for file in written:
        assert b"pass-1" not in file.read_bytes(), file
        assert b"token-2" not in file.read_bytes(), file
    # Another receiver is no other run.
    assert label(photos, output, "--resume", "--notify", "http://127.0.0.1:1").result["images"] == 5
