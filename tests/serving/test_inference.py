"""The inference service: fairness between requests, and health checks."""

import asyncio
import threading
import time

import pytest
from videos import make_video

from fer.models.predictor import Predictor
from fer.serving import inference
from fer.serving.inference import InferenceService
from fer.serving.uploads import Upload
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
