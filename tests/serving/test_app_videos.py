"""Videos in the HTTP API, called without a server."""

import base64

import pytest
from fastapi.testclient import TestClient
from plates import draw_plates, plate_detector
from videos import draw_frame, make_sound, make_video

from fer.models.predictor import Predictor
from fer.serving.app import build_api
from fer.serving.inference import InferenceService
from fer.serving.uploads import Limits
from fer.serving.videos import UploadedVideo, VideoOptions
from fer.vision.decode import ImageError


def draw_crossing(number):
    plates = [(80 + 12 * number, 120, 60, 70, 0), (560 - 12 * number, 360, 80, 90, 0)]
    return draw_plates((640, 480), plates)


@pytest.fixture(scope="module")
def crossing():
    """Two plates that cross, for eight seconds of five frames."""
    return make_video(num_frames=40, rate=5, draw=draw_crossing, crf=10)


@pytest.fixture(scope="module")
def client(tmp_path_factory, save_network):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_network(folder)
    service = InferenceService(Predictor.load(str(folder), engine="float32"), plate_detector())
    return TestClient(build_api(service, Limits(max_frames=20)))


def predict(client, content, query="", **headers):
    return client.post(f"/v1/predict{query}", content=content, headers=headers)


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "video/mp4"}])
def test_a_video_gets_the_faces_of_its_sampled_frames(client, crossing, headers):
    (result,) = predict(client, crossing, "?fps=2.5", **headers).json()["results"]
    assert (result["status"], result["error"], result["faces"]) == ("ok", None, [])
    assert (result["width"], result["height"]) == (640, 480)
    assert [frame["frame"] for frame in result["frames"]] == list(range(0, 40, 2))
    times = [frame["time_seconds"] for frame in result["frames"]]
    assert times == pytest.approx([number / 5 for number in range(0, 40, 2)])
    tracks = set()
    for frame in result["frames"]:
        assert (frame["status"], len(frame["faces"])) == ("ok", 2)
        for face in frame["faces"]:
            tracks.add((face["box"]["y"] < 200, face["track"]))
            assert sum(face["probabilities"].values()) == pytest.approx(1)
    assert len(tracks) == len({track for _, track in tracks}) == 2


def test_frames_are_whole_faces_without_a_detector(client):
    content = make_video(num_frames=30, rate=10)
    (result,) = predict(client, content, "?detector=none").json()["results"]
    assert [frame["frame"] for frame in result["frames"]] == [0, 10, 20]
    for frame in result["frames"]:
        (face,) = frame["faces"]
        assert (face["box"], face["track"]) == (None, 0)


def test_images_and_videos_share_a_request(client, crossing, png):
    files = {"still.png": png(draw_crossing(0)), "clip.mp4": crossing}
    form = [("images", item) for item in files.items()]
    sent = {
        "images": [
            {"name": name, "data": base64.b64encode(content).decode()}
            for name, content in files.items()
        ]
    }
    for answer in (client.post("/v1/predict", files=form), client.post("/v1/predict", json=sent)):
        still, clip = answer.json()["results"]
        assert (still["name"], len(still["faces"]), "frames" in still) == ("still.png", 2, False)
        assert (clip["name"], len(clip["frames"])) == ("clip.mp4", 8)


def test_a_video_of_too_many_frames_is_refused_with_what_to_do(client, crossing):
    answer = predict(client, crossing, "?fps=5")
    assert answer.status_code == 413
    assert answer.json()["detail"] == (
        "The video has more than 20 frames at 5 a second; send a shorter one, lower fps (to 0.1 at "
        "least), or label the file with fer label --images FILE."
    )


@pytest.mark.parametrize("fps", ["0", "0.05", "-1", "nan", "1e9", "x"])
def test_rates_that_make_no_sense_are_refused(client, crossing, fps):
    answer = predict(client, crossing, f"?fps={fps}")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("query.fps: Input should be")


def test_a_rate_that_would_decode_hours_for_one_frame_is_refused(client, crossing):
    answer = predict(client, crossing, "?fps=1e-9")
    sentence = "query.fps: Input should be greater than or equal to 0.1."
    assert (answer.status_code, answer.json()["detail"]) == (422, sentence)
    assert predict(client, crossing, "?fps=0.1").status_code == 200


@pytest.mark.parametrize("container", ["avi", "mpegts", "mp4"])
def test_what_follows_too_many_frames_is_not_decoded(container):
    content, packets = make_video(container, num_frames=300, g=25, sc_threshold=0, bf=0), []
    uploaded = UploadedVideo(content, VideoOptions(fps=25, max_frames=20))
    with pytest.raises(ImageError, match="more than 20 frames at 25 a second"):
        list(uploaded.frames(lambda: packets.append(None)))
    # The decoder holds some frames back.
    assert len(packets) < 50
    exact = UploadedVideo(content, VideoOptions(fps=1, max_frames=12))
    assert [chosen.number for chosen, _ in exact.frames()] == list(range(0, 300, 25))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (make_sound(), "The file holds sound or text, but no pictures."),
        (make_video(num_frames=5)[:300], "The file is not a video that FFmpeg reads: "),
    ],
)
def test_a_file_without_pictures_is_unreadable(client, content, error):
    answer = predict(client, content)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(error)


def test_a_video_that_is_cut_says_so_beside_its_frames(client):
    content = make_video("matroska", num_frames=100, g=25)
    (result,) = predict(client, content[: len(content) // 2], "?detector=none").json()["results"]
    assert result["status"] == "ok"
    assert 1 <= len(result["frames"]) < 4
    assert result["error"].endswith("although its header promises 4.0 s.")


def test_a_frame_that_cannot_be_decoded_has_a_result_of_its_own(client, monkeypatch):
    from fer.serving import videos
    from fer.vision.video import decode_frames

    def decode_all_but_one(file, chunk, on_packet):
        for chosen, photo in decode_frames(file, chunk, on_packet):
            broken = ImageError("unreadable", "The frame can't be decoded.")
            yield chosen, broken if chosen.number == 10 else photo

    monkeypatch.setattr(videos, "decode_frames", decode_all_but_one)
    content = make_video(num_frames=30, rate=10, draw=draw_frame)
    (result,) = predict(client, content, "?detector=none").json()["results"]
    assert [frame["status"] for frame in result["frames"]] == ["ok", "unreadable", "ok"]
    assert result["frames"][1]["error"] == "The frame can't be decoded."
    assert (result["status"], result["width"]) == ("ok", 192)
