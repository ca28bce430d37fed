"""Pictures to answers: whose turn it is, and what becomes of one that holds its replica."""

import asyncio
import threading
import time

import pytest

from fer.models.predictor import Predictor
from fer.serving import inference
from fer.serving.inference import Answerer
from fer.serving.uploads import Upload
from fer.vision.decode import decode_image


@pytest.fixture
def answerer():
    return Answerer(Predictor.load(), None)


@pytest.fixture
def face(faces, png):
    return png(faces[0][0])


def test_a_request_of_many_pictures_lets_others_come_between(answerer, face, monkeypatch):
    looked_at = []

    def decode(data):
        looked_at.append(data[0])
        return decode_image(data[1])

    monkeypatch.setattr(inference, "decode_image", decode)

    def ask(name, number):
        return answerer.answer([Upload(str(at), (name, face)) for at in range(number)], "none")

    async def both():
        await asyncio.gather(ask("many", 8), ask("one", 1))

    asyncio.run(both())
    assert sorted(looked_at) == ["many"] * 8 + ["one"]
    assert looked_at.index("one") <= 2


def test_a_picture_that_holds_its_replica_fails_the_check(answerer, face, monkeypatch):
    hanging, ended = threading.Event(), threading.Event()

    def decode(data):
        hanging.set()
        assert ended.wait(30)
        return decode_image(data)

    monkeypatch.setattr(inference, "decode_image", decode)

    async def run():
        answer = asyncio.create_task(answerer.answer([Upload("face", face)], "none"))
        await asyncio.to_thread(hanging.wait, 30)
        await answerer.check()  # it has only begun
        monkeypatch.setattr(inference, "MAX_LOOK_SECONDS", 0.05)
        time.sleep(0.1)
        with pytest.raises(TimeoutError, match="looked at for over 0.05 s"):
            await answerer.check()
        ended.set()
        (result,) = (await answer).results
        await answerer.check()
        return result

    assert asyncio.run(run()).error is None
