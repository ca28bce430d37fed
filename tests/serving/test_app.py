"""The HTTP API, called without a server."""

import asyncio
import base64
import io
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from fer.models.predictor import Predictor
from fer.serving.app import build_api
from fer.serving.inference import InferenceService
from fer.serving.middleware import DOCS_PATH
from fer.serving.uploads import Limits
from fer.vision.faces import Face


@pytest.fixture(scope="module")
def predictor(tmp_path_factory, save_network):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_network(folder)
    return Predictor.load(str(folder), engine="float32")


@pytest.fixture(scope="module")
def serve(predictor):
    """Return a function that builds a client of an API with given limits, token and settings."""

    def serve_with(limits=None, token=None, weights=None, **settings):
        service = InferenceService(predictor, weights, **settings)
        return TestClient(build_api(service, limits or Limits(), token))

    return serve_with


@pytest.fixture(scope="module")
def client(serve):
    return serve()


@pytest.fixture(scope="module")
def crop(faces, png):
    return png(faces[0][0])


def form(*contents):
    return [("images", (f"{number}.png", content)) for number, content in enumerate(contents)]


def encoded(*contents):
    images = [{"name": "a", "data": base64.b64encode(content).decode()} for content in contents]
    return {"images": images}


def test_a_single_image_gets_the_predictions_of_the_predictor(client, crop, predictor):
    answer = client.post("/v1/predict", content=crop).json()
    (result,) = answer["results"]
    (face,) = result.pop("faces")
    assert (answer["model"], answer["detector"]) == (predictor.id, "none")
    assert result == {
        "name": "image",
        "width": 48,
        "height": 48,
        "status": "ok",
        "error": None,
    }
    expected = predictor.predict([crop])[0]
    assert (face["box"], face["detection_score"]) == (None, None)
    assert face["emotion"] == expected.emotion
    assert face["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert sum(face["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["form", "json"])
def test_each_image_in_a_request_gets_its_own_result_or_error(client, crop, kind):
    contents = [crop, b"junk", crop[:200], crop]
    sent = {"files": form(*contents)} if kind == "form" else {"json": encoded(*contents)}
    results = client.post("/v1/predict", **sent).json()["results"]
    assert [result["status"] for result in results] == ["ok", "unreadable", "unreadable", "ok"]
    assert results[1]["error"] == "The image can't be decoded: its format is not supported."
    assert results[0]["faces"] == results[3]["faces"]
    if kind == "form":
        assert [result["name"] for result in results] == ["0.png", "1.png", "2.png", "3.png"]


def test_faces_of_a_photograph(serve, crowd):
    client = serve(weights=crowd.weights)
    assert client.get("/v1/model").json()["detector"] == "yunet"
    (result,) = client.post("/v1/predict", content=crowd.file).json()["results"]
    assert (result["status"], len(result["faces"])) == ("ok", 3)
    for face in result["faces"]:
        box = face["box"]
        assert 0 < box["x"] < box["x"] + box["width"] < result["width"]
        assert face["detection_score"] > 0.7
    (crop,) = client.post("/v1/predict", params={"detector": "none"}, content=crowd.file).json()[
        "results"
    ]
    assert [face["box"] for face in crop["faces"]] == [None]
    blank = io.BytesIO()
    Image.new("RGB", (64, 64)).save(blank, "JPEG")
    (empty,) = client.post("/v1/predict", content=blank.getvalue()).json()["results"]
    assert (empty["status"], empty["faces"]) == ("no_face", [])


def test_each_of_five_hundred_faces_is_answered(serve, crowd, faces, predictor, monkeypatch):
    crops = np.tile(faces[0][:50], (10, 1, 1))
    box = np.array([1, 2, 30, 40], np.float32)
    found = [Face(box, 0.8, crop) for crop in crops]
    monkeypatch.setattr("fer.vision.detector.FaceDetector.detect", lambda _detector, _photo: found)
    client = serve(weights=crowd.weights)
    (result,) = client.post("/v1/predict", content=crowd.file).json()["results"]
    probs = [list(face["probabilities"].values()) for face in result["faces"]]
    np.testing.assert_allclose(probs, predictor.predict_probs(crops), atol=1e-6)


def test_a_face_below_the_minimum_confidence_is_uncertain(serve, crop):
    client = serve(min_confidence=1.0)
    (result,) = client.post("/v1/predict", content=crop).json()["results"]
    (face,) = result["faces"]
    assert (result["status"], face["emotion"]) == ("uncertain", None)
    assert 0 < face["confidence"] < 1


def bomb():
    """Return a PNG file of 40,000 by 40,000 pixels in a few kilobytes."""

    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = (40_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    pixels = zlib.compress(bytes(10**6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


def hundred_megapixels():
    buffer = io.BytesIO()
    Image.new("L", (10_000, 10_000)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        (b"", 422, "The request contains no image; send at least one."),
        (b"junk", 422, "The image can't be decoded: its format is not supported."),
        (bomb, 413, "The image has more than 89,478,485 pixels."),
        (hundred_megapixels, 413, "The image has more than 89,478,485 pixels."),
    ],
)
def test_a_single_image_that_fails_determines_the_status_code(client, body, code, detail):
    response = client.post("/v1/predict", content=body() if callable(body) else body)
    assert (response.status_code, response.json()) == (code, {"detail": detail})


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        ({"json": {"images": []}}, "The request contains no image; send at least one."),
        ({"json": {"image": "x"}}, "The JSON body is invalid: images: Field required."),
        ({"json": {"images": [{"data": 3}]}}, "images.0.data: Input should be a valid string."),
        ({"json": {"images": [0, 0]}}, "images.0: Input should be an object or a string."),
        ({"json": {"images": [{}]}}, "images.0.data: Field required."),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, "Invalid JSON"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "The form"),
        (
            {
                "content": b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n\r\n--b--\r\n",
                "headers": {"content-type": "multipart/form-data; charset=undefined; boundary=b"},
            },
            "its charset 'undefined' is not supported; send names in UTF-8",
        ),
        ({"content": b"x", "params": {"detector": "haar"}}, "query.detector: Input should be"),
        ({"content": b"x", "params": {"detector": "yunet"}}, "This server has no detector"),
    ],
)
def test_invalid_requests_are_refused_in_one_sentence(client, sent, detail):
    response = client.post("/v1/predict", **sent)
    assert response.status_code == 422
    assert detail in response.json()["detail"]
    assert "\n" not in response.json()["detail"]


def test_invalid_base64_is_an_error_of_its_image(client, crop):
    body = {"images": [{"name": "a", "data": "?"}, *encoded(crop)["images"]]}
    results = client.post("/v1/predict", json=body).json()["results"]
    assert [result["status"] for result in results] == ["unreadable", "ok"]
    assert results[0]["error"].startswith("The data is not valid base64: ")


def forms_of_base64(content):
    text = base64.b64encode(content).decode()
    safe = base64.urlsafe_b64encode(content).decode()
    return {
        "data URL": f"data:image/png;base64,{text}",
        "data URL without a type": f"DATA:;base64,{text}",
        "76 columns": base64.encodebytes(content).decode(),
        "lines of Windows": base64.encodebytes(content).decode().replace("\n", "\r\n"),
        "safe in URLs": safe,
        "without padding": safe.rstrip("="),
        "all": f"data:image/png;base64,\n{safe[:76]}\n{safe[76:].rstrip('=')}\n",
    }


def test_an_image_in_json_may_be_its_base64_alone(client, crop):
    texts = [encoded(crop)["images"][0]["data"], forms_of_base64(crop)["data URL"], "?"]
    body = {"images": [*texts, {"name": "a", "data": texts[0]}]}
    results = client.post("/v1/predict", json=body).json()["results"]
    found = [(result["name"], result["status"]) for result in results]
    assert found == [("image", "ok")] * 2 + [("image", "unreadable"), ("a", "ok")]
    assert results[0]["faces"] == results[1]["faces"] == results[3]["faces"]


@pytest.mark.parametrize("extra", [b"", b"\xfb", b"\xff\xfe"])
def test_base64_is_accepted_as_others_write_it(client, crop, extra):
    # What follows an image's end is ignored, and makes for other letters and padding.
    forms = forms_of_base64(crop + extra)
    body = {"images": [{"name": name, "data": text} for name, text in forms.items()]}
    results = client.post("/v1/predict", json=body).json()["results"]
    assert [result["name"] for result in results if result["status"] != "ok"] == []
    assert [result["faces"] for result in results] == [results[0]["faces"]] * len(forms)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a", "number of data characters"),
        ("aaaa=", "Incorrect padding"),
        ("aa==aa==", "Excess data after padding"),
        ("aaaa*aaa", "Only base64 data is allowed"),
        ("é", "Only base64 data is allowed"),
        ("data:image/png,abc", "a data URL must start like data:image/jpeg;base64, to be decoded"),
        ("data:image/png;base64", "a data URL must start like data:image/jpeg;base64, to be"),
    ],
)
def test_other_text_than_base64_is_refused_in_one_sentence(client, text, reason):
    body = {"images": [{"name": "a", "data": text}]}
    (result,) = client.post("/v1/predict", json=body).json()["results"]
    assert result["status"] == "unreadable"
    assert result["error"].startswith("The data is not valid base64: ")
    assert reason in result["error"]
    assert result["error"].count(".") == 1


@pytest.mark.parametrize("detector", ["yunet", "none"])
def test_what_a_file_lacks_is_said_beside_its_faces(serve, crowd, detector):
    client = serve(weights=crowd.weights)
    params = {"detector": detector}
    (whole,) = client.post("/v1/predict", params=params, content=crowd.file).json()["results"]
    cut = crowd.file[: crowd.file.rindex(b"\xff\xd9")]
    (result,) = client.post("/v1/predict", params=params, content=cut).json()["results"]
    assert whole["error"] is None
    assert result.pop("error") == "The JPEG file ends early, but all its pixels are there."
    assert result == {name: value for name, value in whole.items() if name != "error"}


def test_faces_are_found_in_any_orientation(serve, crowd):
    with Image.open(io.BytesIO(crowd.file)) as image:
        sideways = image.transpose(Image.Transpose.ROTATE_90)
    buffer = io.BytesIO()
    sideways.save(buffer, "PNG")
    client = serve(weights=crowd.weights, any_orientation=True)
    (result,) = client.post("/v1/predict", content=buffer.getvalue()).json()["results"]
    (upright,) = client.post("/v1/predict", content=crowd.file).json()["results"]
    assert len(result["faces"]) == len(upright["faces"]) == 3
    # What was on the right is on top.
    tops = sorted(face["box"]["y"] for face in result["faces"])
    boxes = [face["box"] for face in upright["faces"]]
    rights = sorted(image.width - box["x"] - box["width"] for box in boxes)
    assert tops == pytest.approx(rights, abs=4)


def test_too_many_images_are_refused(serve, crop):
    client = serve(Limits(max_images=2))
    assert client.post("/v1/predict", files=form(crop, crop)).status_code == 200
    for sent in ({"files": form(*[crop] * 9)}, {"json": encoded(*[crop] * 9)}):
        response = client.post("/v1/predict", **sent)
        assert response.status_code == 413
        assert response.json()["detail"] == "The request contains more than 2 images; send fewer."


def test_bodies_that_are_too_large_are_refused(serve, crop):
    client = serve(Limits(max_body_bytes=len(crop)))
    assert client.post("/v1/predict", content=crop).status_code == 200
    detail = f"The request's body is larger than {len(crop):,} bytes; send smaller or fewer images."
    announced = {"content": crop + b"x"}
    streamed = {"content": iter([crop, b"x"])}
    for sent in (announced, streamed, {"files": form(crop)}):
        response = client.post("/v1/predict", **sent)
        assert (response.status_code, response.json()) == (413, {"detail": detail})


def test_requests_that_take_too_long_get_503(predictor, crop):
    async def never(_crops):
        await asyncio.sleep(60)

    service = InferenceService(predictor, None, classify=never)
    client = TestClient(build_api(service, Limits(timeout_seconds=0.2)))
    response = client.post("/v1/predict", content=crop)
    assert (response.status_code, response.headers.get("retry-after")) == (503, None)
    assert response.json()["detail"].startswith("The request took longer than 0.2 s; ")


@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-7", "PunyCode"])
def test_a_charset_that_takes_long_to_decode_is_refused(client, crop, charset):
    head = b'--b\r\nContent-Disposition: form-data; name="images"'
    parts = [head, b"\r\n\r\n", b"a" * 1000, b"-" + b"a" * 1000, b"\r\n"]
    parts += [head, b'; filename="a.png"\r\n\r\n', crop, b"\r\n--b--\r\n"]
    headers = {"content-type": f"multipart/form-data; charset={charset}; boundary=b"}
    response = client.post("/v1/predict", content=b"".join(parts), headers=headers)
    assert (response.status_code, response.json()["detail"]) == (
        422,
        f"The form can't be read: its charset '{charset.lower()}' is not supported; send names in "
        "UTF-8.",
    )


@pytest.mark.parametrize("charset", ["UTF-8", '"utf-8"', "ISO-8859-1"])
def test_a_form_may_name_its_charset(client, crop, charset):
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    headers = {"content-type": f"multipart/form-data; charset={charset}; boundary=b"}
    content = head + crop + b"\r\n--b--\r\n"
    (result,) = client.post("/v1/predict", content=content, headers=headers).json()["results"]
    assert (result["name"], result["status"]) == ("a.png", "ok")


@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", "Bearer ", "Basic c2VjcmV0", "secret"]
)
def test_requests_without_the_token_are_refused(serve, crop, authorization):
    client = serve(token="secret")
    headers = {"Authorization": authorization} if authorization else {}
    for response in (
        client.post("/v1/predict", content=crop, headers=headers),
        client.get("/v1/model", headers=headers),
    ):
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        assert response.json()["detail"].startswith("This server requires an access token; ")


def test_the_token_is_accepted_and_health_checks_and_the_page_need_none(serve, crop):
    client = serve(token="secret")
    headers = {"Authorization": "Bearer secret"}
    assert client.post("/v1/predict", content=crop, headers=headers).status_code == 200
    for path in ("/healthz", "/readyz", "/", DOCS_PATH, "/openapi.json", "/static/index.html"):
        assert client.get(path).status_code == 200, path


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_monitors_may_ask_with_head(client, path):
    head, get = client.head(path), client.get(path)
    assert (head.status_code, get.status_code) == (200, 200)
    assert head.headers == get.headers


def test_responses_carry_security_headers(client, crop):
    for response in (
        client.get("/"),
        client.post("/v1/predict", content=crop),
        client.post("/v1/predict", content=b"junk"),
        client.get("/none"),
    ):
        headers = response.headers
        assert (
            "default-src 'none'; script-src 'self'; style-src 'self'"
            in (headers["content-security-policy"])
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
    assert "unsafe-inline" in client.get(DOCS_PATH).headers["content-security-policy"]
    assert "http" not in client.get(DOCS_PATH).text.replace("http-equiv", "")


def test_the_model_is_described(client, predictor):
    model = client.get("/v1/model").json()
    assert (model["id"], model["detector"]) == (predictor.id, "none")
    assert model["members"][0]["parameters"] == predictor.checkpoint.configs[0].parameters
    assert model["card"] is None


def test_the_bundled_network_shows_its_card():
    client = TestClient(build_api(InferenceService(Predictor.load(), None), Limits()))
    assert client.get("/v1/model").json()["card"].startswith("# Model card: ")
