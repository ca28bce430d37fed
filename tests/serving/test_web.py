"""The web page, in Chromium and with the real API."""

import asyncio
import base64
import io
import re

import pytest
from fastapi import HTTPException
from pages import articles, serving, upload
from PIL import ExifTags, Image
from playwright.sync_api import expect

from fer.data.emotions import EMOTIONS
from fer.serving.app import WEB, build_api
from fer.serving.inference import InferenceService
from fer.serving.uploads import Limits

STYLE = WEB.joinpath("style.css").read_text()
TOKEN = "s3cret-of-the-tests"


@pytest.fixture(scope="module")
def site(browser, predictor):
    """A server whose detector is never used, because it gets only crops."""
    with serving(build_api(InferenceService(predictor, b"YuNet"), Limits())) as url:
        yield url


@pytest.fixture
def page(open_page, site):
    return open_page(site)


@pytest.fixture(scope="module")
def crop(faces, png):
    """A drawn face as a file to upload."""
    return {"name": "face.png", "mimeType": "image/png", "buffer": png(faces[0][0])}


def choose_crops(page):
    page.get_by_text("face crops", exact=True).click()


def percents(card):
    texts = card.locator(".bars .percent").all_inner_texts()
    return [int(text.removesuffix(" %")) for text in texts]


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


def tab_to(page, selector):
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached by Tab")


def outline(page, selector):
    return page.locator(selector).evaluate("element => getComputedStyle(element).outlineStyle")


def test_the_page_works_with_the_keyboard_alone(page, crop):
    page.on("filechooser", lambda _: None)  # the test selects the files itself
    tab_to(page, "input[name=detector]")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_text("Each image is taken as one face")).to_be_visible()
    assert outline(page, "input[value=none] + span") == "solid"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    assert outline(page, "#files + label") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([crop])
    expect(page.locator(".face")).to_have_count(1)
    tab_to(page, "#clear")
    page.keyboard.press("Enter")
    expect(articles(page)).to_have_count(0)


def test_the_user_can_retry_an_unreachable_server(open_page, site, crop):
    page = open_page(site)
    choose_crops(page)
    page.context.set_offline(True)
    upload(page, crop)
    expect(articles(page)).to_contain_text("The server can't be reached")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".face")).to_have_count(1)


def test_the_page_asks_for_the_token_and_stores_it(open_page, browser, predictor, crop):
    with serving(build_api(InferenceService(predictor, None), Limits(), TOKEN)) as url:
        page = open_page(url)
        upload(page, crop)
        box = page.get_by_label("This server requires an access token")
        expect(box).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_text("The server did not accept the last token.")).to_be_visible()
        box.fill(TOKEN)
        page.get_by_role("button", name="Use token").click()
        expect(page.locator(".face")).to_have_count(1)
        expect(page.locator("#model")).to_have_text(predictor.id)
        expect(box).to_be_hidden()
        page.reload()
        expect(page.locator("#model")).to_have_text(predictor.id)
        expect(box).to_be_hidden()


def test_the_page_waits_for_a_busy_server(open_page, browser, predictor, crop):
    refusals = [HTTPException(503, "Busy.", {"Retry-After": "1"})] * 5

    async def classify(crops):
        if refusals:
            raise refusals.pop()
        return predictor.predict_probs(crops)

    service = InferenceService(predictor, None, classify=classify)
    with serving(build_api(service, Limits())) as url:
        page = open_page(url)
        upload(page, crop)
        expect(articles(page)).to_contain_text("The server is busy. Retrying in 1 s.")
        expect(page.locator(".face")).to_have_count(1)


def test_the_user_can_retry_after_a_transient_error(open_page, browser, predictor, crop):
    """The server responds with 500 if a replica is lost during the request."""
    failures = [HTTPException(500, "Lost."), HTTPException(502, "Lost.")]

    async def classify(crops):
        if failures:
            raise failures.pop()
        return predictor.predict_probs(crops)

    service = InferenceService(predictor, None, classify=classify)
    with serving(build_api(service, Limits())) as url:
        page = open_page(url)
        upload(page, crop)
        for _ in range(2):
            page.get_by_role("button", name="Try again").click()
        expect(page.locator(".face")).to_have_count(1)
        assert failures == []


def test_a_request_that_takes_too_long_is_not_repeated(open_page, browser, predictor, crop):
    asked = []

    async def classify(crops):
        asked.append(len(crops))
        await asyncio.sleep(20)

    service = InferenceService(predictor, None, classify=classify)
    with serving(build_api(service, Limits(timeout_seconds=1.0))) as url:
        page = open_page(url)
        upload(page, crop)
        expect(articles(page)).to_contain_text("The request took longer than 1 s")
        assert asked == [1]


def test_the_page_shows_the_error_of_the_server(open_page, browser, predictor, crop):
    limits = Limits(max_body_bytes=len(crop["buffer"]))
    with serving(build_api(InferenceService(predictor, None), limits)) as url:
        page = open_page(url)
        upload(page, crop, {**crop, "buffer": crop["buffer"] + bytes(2_000_000)})
        expect(page.locator(".face")).to_have_count(1)
        expect(articles(page).nth(1)).to_contain_text("send smaller or fewer images")


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


def test_a_dark_page_on_a_phone(open_page, site, crop):
    page = open_page(
        site,
        viewport={"width": 360, "height": 740},
        color_scheme="dark",
        reduced_motion="reduce",
    )
    choose_crops(page)
    upload(page, {**crop, "name": "a_name_that_is_much_longer_than_a_phone_is_wide_and_more.png"})
    expect(page.locator(".face")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    style = "getComputedStyle(document.querySelector('.fill')).transitionProperty"
    assert page.evaluate(style) == "none"
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(18, 19, 22)"


def test_the_page_says_what_a_label_does_not_mean(page):
    expect(page.get_by_text("never what the person feels")).to_be_visible()
    expect(page.get_by_text("not what the person in the image feels")).to_be_visible()
    expect(page.get_by_text("sent to this server only")).to_be_visible()


def luminance(color):
    """Relative luminance of a color as WCAG 2.2 defines it."""
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in channels
    ]
    return sum(
        weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
    )


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def palettes():
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[:2]
    read = [dict(re.findall(r"--([\w-]+): ([^;]+);", block)) for block in (light, dark)]
    colors = read[0] | read[1]
    for palette in (read[0], colors):
        yield {
            name: palette.get(value[6:-1], value) if value.startswith("var(") else value
            for name, value in palette.items()
        }


def test_every_text_has_enough_contrast():
    for palette in palettes():
        for text in ("ink", "soft", "alarm", *EMOTIONS):
            for ground in ("ground", "panel", "sunken"):
                assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
        for ground in ("ground", "panel"):
            assert contrast(palette["edge"], palette[ground]) >= 3
