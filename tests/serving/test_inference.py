"""The inference service: fairness between requests, and health checks."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from videos import make_video

from fer.models.predictor import Predictor
from fer.serving import inference
from fer.serving.inference import InferenceService
from fer.serving.uploads import Upload
from fer.serving.videos import VideoOptions
from fer.vision.containers import OpenVideo
from fer.vision.decode import crop_center, decode_image


@pytest.fixture
def service():
    return InferenceService(Predictor.load(), None)


@pytest.fixture
def face(faces, png):
    return png(faces[0][0])


def test_a_request_with_many_images_does_not_delay_others(service, face, monkeypatch):
    decoded = []

    def decode(data, shape):
        name, _, content = data.partition(b":")
        decoded.append(name.decode())
        return decode_image(content, shape)

    monkeypatch.setattr(inference, "decode_image", decode)

    def predict(name, number):
        return service.predict_images(
            [Upload(str(at), name.encode() + b":" + face) for at in range(number)], "none"
        )

    async def both():
        await asyncio.gather(predict("many", 8), predict("one", 1))

    asyncio.run(both())
    assert sorted(decoded) == ["many"] * 8 + ["one"]
    assert decoded.index("one") <= 2


def test_an_image_that_blocks_the_service_fails_the_health_check(service, face, monkeypatch):
    is_decoding, may_end = threading.Event(), threading.Event()

    def decode(data, shape):
        is_decoding.set()
        assert may_end.wait(30)
        return decode_image(data, shape)

    monkeypatch.setattr(inference, "decode_image", decode)

    async def run():
        response = asyncio.create_task(service.predict_images([Upload("face", face)], "none"))
        await asyncio.to_thread(is_decoding.wait, 30)
        await service.check_health()  # it has only started
        monkeypatch.setattr(inference, "MAX_DETECTION_SECONDS", 0.05)
        time.sleep(0.1)
        with pytest.raises(TimeoutError, match="longer than 0.05 s"):
            await service.check_health()
        may_end.set()
        (result,) = (await response).results
        await service.check_health()
        return result

    assert asyncio.run(run()).error is None


@pytest.fixture
def on_packet(monkeypatch):
    """Return a function that sets what is called with the number of each packet of a video."""

    def set_call(call):
        read = OpenVideo.packets

        def read_and_call(opened):
            for number, packet in enumerate(read(opened)):
                call(number)
                yield packet

        monkeypatch.setattr(OpenVideo, "packets", read_and_call)

    return set_call


def test_a_video_of_which_many_frames_lie_between_two_samples_is_healthy(
    service, on_packet, monkeypatch
):
    seconds = 0.0
    monkeypatch.setattr(inference, "time", SimpleNamespace(monotonic=lambda: seconds))

    def take_seconds(_number):
        nonlocal seconds
        seconds += inference.MAX_DETECTION_SECONDS / 4
        asyncio.run(service.check_health())  # in the thread that decodes

    on_packet(take_seconds)
    content = make_video(num_frames=60, rate=10)
    predicted = service.predict_images([Upload("v", content)], "none", VideoOptions(fps=0.1))
    (result,) = asyncio.run(predicted).results
    assert (result.status, [frame.frame for frame in result.frames]) == ("ok", [0])


@pytest.mark.parametrize("container", ["avi", "mp4"])
def test_a_request_that_is_given_up_decodes_no_more(service, on_packet, container):
    numbers, is_decoding, may_go_on = [], threading.Event(), threading.Event()

    def wait_at_ten(number):
        numbers.append(number)
        if number == 10:
            is_decoding.set()
            assert may_go_on.wait(30)

    on_packet(wait_at_ten)

    async def run():
        upload = Upload("v", make_video(container, num_frames=100, rate=10))
        predicted = asyncio.create_task(service.predict_images([upload], "none"))
        await asyncio.to_thread(is_decoding.wait, 30)
        predicted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await predicted
        may_go_on.set()
        await service.predict_images([Upload("junk", b"junk")], "none")  # after the video

    asyncio.run(run())
    assert numbers == list(range(11))


def test_a_video_does_not_delay_others(service, face, monkeypatch):
    found, content = [], make_video(num_frames=12, rate=1)

    def decode(data, shape):
        found.append("image")
        return decode_image(data, shape)

    def crop(photo, shape):
        found.append("frame")
        return crop_center(photo, shape)

    monkeypatch.setattr(inference, "decode_image", decode)
    monkeypatch.setattr(inference, "crop_center", crop)

    async def both():
        video = asyncio.create_task(service.predict_images([Upload("v", content)], "none"))
        while not found:
            await asyncio.sleep(0.001)
        await service.predict_images([Upload("i", face)], "none")
        return found.index("image"), (await video).results[0]

    at, result = asyncio.run(both())
    assert len(result.frames) == 12
    assert at < 12
