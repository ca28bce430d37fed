"""The web page, in Chromium and with the real API."""

import base64
import io
import re

import pytest
from pages import articles, choose_crops, percents, serving, upload
from PIL import ExifTags, Image
from playwright.sync_api import expect

from fer.data.emotions import EMOTIONS
from fer.serving.app import build_api
from fer.serving.inference import InferenceService
from fer.serving.uploads import Limits


def test_an_upload_shows_probabilities_that_sum_to_100(page, crop):
    choose_crops(page)
    upload(page, crop)
    card = page.locator(".face")
    expect(card).to_have_count(1)
    assert card.locator(".bars .name").all_inner_texts() == list(EMOTIONS)
    shares = percents(card)
    best = shares.index(max(shares))
    assert sum(shares) == 100
    expect(card.locator(".emotion")).to_have_text(EMOTIONS[best])
    expect(card.locator(".confidence")).to_have_text(f"{shares[best]} %")
    expect(card.locator(".fill").nth(best)).to_have_attribute("style", f"width: {shares[best]}%;")
    expect(articles(page)).to_contain_text("48 × 48")
    expect(page.get_by_role("log")).to_contain_text(f"face.png: One face: {EMOTIONS[best]}")


def test_whole_percents_sum_to_100(page):
    sums = page.evaluate(
        """async () => {
            const { wholePercents } = await import("/static/faces.js");
            const sums = [];
            for (let round = 0; round < 500; round += 1) {
                const draws = Array.from({ length: 7 }, () => Math.random() ** 4);
                const total = draws.reduce((sum, draw) => sum + draw);
                const percents = wholePercents(draws.map((draw) => draw / total));
                sums.push(percents.reduce((sum, percent) => sum + percent));
            }
            return sums;
        }"""
    )
    assert sums == [100] * 500


def test_each_file_gets_its_own_result_or_error(page, crop):
    choose_crops(page)
    junk = {"name": "junk.jpg", "mimeType": "image/jpeg", "buffer": b"not an image"}
    upload(page, crop, junk, {**crop, "name": "again.png"})
    expect(page.get_by_text("3 of 3 done")).to_be_visible()
    names = articles(page).locator("h3 .name")
    expect(names).to_have_text(["face.png", "junk.jpg", "again.png"])
    expect(page.locator(".face")).to_have_count(2)
    expect(articles(page).nth(1)).to_contain_text("can't be decoded")
    expect(page.get_by_role("log")).to_contain_text("junk.jpg: The image can't be decoded")
    page.get_by_role("button", name="Clear").click()
    expect(articles(page)).to_have_count(0)


def test_a_file_that_lacks_its_end_shows_its_face_and_says_so(page, faces):
    choose_crops(page)
    buffer = io.BytesIO()
    Image.fromarray(faces[0][0]).save(buffer, "JPEG")
    cut = {"name": "cut.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()[:-2]}
    upload(page, cut)
    note = "The JPEG file ends early, but all its pixels are there."
    expect(page.locator(".face")).to_have_count(1)
    expect(articles(page)).to_contain_text(note)
    expect(articles(page).locator(".error")).to_have_count(0)
    expect(page.get_by_role("log")).to_contain_text(note)


def paste_or_drop(page, kind, file):
    """Paste a file, or drop it on the page."""
    page.evaluate(
        """([kind, name, content]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const files = new DataTransfer();
            files.items.add(new File([bytes], name, { type: "image/png" }));
            const event = kind === "paste"
                ? new ClipboardEvent("paste", { clipboardData: files, bubbles: true })
                : new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }""",
        [kind, file["name"], base64.b64encode(file["buffer"]).decode()],
    )


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_an_image_can_be_pasted_or_dropped(page, crop, kind):
    choose_crops(page)
    paste_or_drop(page, kind, crop)
    expect(page.locator(".face")).to_have_count(1)


def test_a_server_without_a_detector_takes_crops(open_page, browser, predictor, crop):
    with serving(build_api(InferenceService(predictor, None), Limits())) as url:
        page = open_page(url)
        expect(page.get_by_text("This server can't detect faces.")).to_be_visible()
        expect(page.get_by_role("radio", name="photographs")).to_be_disabled()
        upload(page, crop)
        expect(page.locator(".face")).to_have_count(1)


def rotated(photograph):
    """Return a JPEG file stored sideways, with its orientation in EXIF."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(io.BytesIO(photograph)) as image:
        image.rotate(90, expand=True).save(buffer, "JPEG", exif=exif)
    return {"name": "rotated.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()}


def drawn(page, points):
    """Return whether a box is drawn over each point, given in pixels of the upright image."""
    return page.locator("#results .boxes").evaluate(
        """(canvas, points) => {
            const scale = canvas.width / canvas.previousElementSibling.naturalWidth;
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return points.map((point) => {
                const [left, top] = point.map((side) => Math.round(side * scale));
                return pixels.data[4 * (top * canvas.width + left) + 3] > 200;
            });
        }""",
        points,
    )


def test_boxes_lie_on_the_faces_of_a_photograph(open_page, browser, predictor, crowd):
    photograph = rotated(crowd.file)
    with serving(build_api(InferenceService(predictor, crowd.weights), Limits())) as url:
        page = open_page(url)
        with page.expect_response("**/v1/predict*") as answered:
            upload(page, photograph)
        faces = answered.value.json()["results"][0]["faces"]
        assert len(faces) == 3
        expect(page.locator(".face")).to_have_count(len(faces))
        expect(articles(page)).to_contain_text("500 × 375")
        expect(articles(page)).to_contain_text(f"{len(faces)} faces: ")
        points = []
        for left, top, width, height in (face["box"].values() for face in faces):
            points += [[left, top + height / 2], [left + width / 2, top + height]]
            points += [[left + width / 2, top + height / 2]]
        assert drawn(page, points) == [True, True, False] * len(faces)


def test_the_webcam_sends_one_frame_at_a_time(open_page, site):
    page, log = open_page(site, permissions=["camera"]), []
    is_frame = lambda request: "predict" in request.url  # noqa: E731
    page.on("request", lambda request: log.append(1) if is_frame(request) else None)
    page.on("requestfinished", lambda request: log.append(-1) if is_frame(request) else None)
    choose_crops(page)
    page.get_by_role("button", name="Use the webcam").click()
    expect(page.locator("#webcam .face .emotion")).to_have_text(re.compile("|".join(EMOTIONS)))
    assert sum(percents(page.locator("#webcam .face"))) == 100
    expect(page.get_by_text("response in")).to_be_visible()
    while log.count(-1) < 5:
        page.wait_for_timeout(20)
    assert log == [1, -1] * (len(log) // 2) + [1] * (len(log) % 2)
    track = page.evaluate_handle("document.querySelector('video').srcObject.getTracks()[0]")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#webcam")).to_be_hidden()
    page.wait_for_function("track => track.readyState === 'ended'", arg=track)
    asked = log.count(1)
    page.wait_for_timeout(300)
    assert log.count(1) == asked
    expect(page.get_by_role("button", name="Use the webcam")).to_be_focused()


def test_the_page_explains_that_webcam_access_was_denied(page):
    page.get_by_role("button", name="Use the webcam").click()
    expect(page.locator("#webcam")).to_contain_text("The browser denied access to the webcam.")
    expect(page.get_by_role("button", name="Use the webcam")).to_be_visible()
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden()


def test_the_page_says_what_a_label_does_not_mean(page):
    expect(page.get_by_text("never what the person feels")).to_be_visible()
    expect(page.get_by_text("not what the person in the image feels")).to_be_visible()
    expect(page.get_by_text("sent to this server only")).to_be_visible()
