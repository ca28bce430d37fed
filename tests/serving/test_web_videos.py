"""Videos on the web page, in Chromium and with the real API."""

import pytest
from pages import articles, serving, upload
from plates import draw_plates, plate_detector
from playwright.sync_api import expect
from videos import make_video

from fer.serving.app import build_api
from fer.serving.inference import InferenceService
from fer.serving.uploads import Limits

RATE, NUM_FRAMES = 5, 40


def draw_crossing(number):
    """Two plates that cross, one above the other: the upper one goes 60 pixels a second."""
    plates = [(80 + 12 * number, 120, 60, 70, 0), (560 - 12 * number, 360, 80, 90, 0)]
    return draw_plates((640, 480), plates)


@pytest.fixture(scope="module")
def site(browser, predictor):
    with serving(
        build_api(InferenceService(predictor, plate_detector()), Limits(max_frames=60))
    ) as url:
        yield url


@pytest.fixture
def page(open_page, site):
    return open_page(site, viewport={"width": 1100, "height": 900})


@pytest.fixture(scope="module")
def clip():
    options = {"codec": "libvpx-vp9", "deadline": "realtime", "g": RATE, "crf": 10, "b": 2_000_000}
    content = make_video("webm", num_frames=NUM_FRAMES, rate=RATE, draw=draw_crossing, **options)
    return {"name": "clip.webm", "mimeType": "video/webm", "buffer": content}


def seek(page, seconds):
    page.locator("#results video").evaluate(
        "(video, seconds) => new Promise((resolve) => {"
        "  video.addEventListener('seeked', resolve, { once: true });"
        "  video.currentTime = seconds;"
        "})",
        seconds,
    )


def has_edge_at(page, x):
    """Return whether a box's left edge is drawn at a place of the upper face, in video pixels."""
    return page.locator("#results .boxes").evaluate(
        "(canvas, x) => {"
        "  const copy = new OffscreenCanvas(canvas.width, canvas.height);"
        "  const context = copy.getContext('2d', { willReadFrequently: true });"
        "  context.drawImage(canvas, 0, 0);"
        "  const scale = canvas.width / 640;"
        "  const pixels = context.getImageData(scale * x - 6, scale * 120, 12, 1);"
        "  return pixels.data.filter((_, index) => index % 4 === 3).some((alpha) => alpha > 200);"
        "}",
        x,
    )


def test_a_video_plays_with_boxes_and_bars_that_follow(page, clip):
    upload(page, clip)
    article = articles(page)
    expect(article.locator(".message")).to_have_text("2 faces in 40 frames.")
    expect(article.locator(".size")).to_have_text("640 × 480")
    expect(article.locator(".face")).to_have_count(2)
    expect(article.locator(".face-number")).to_have_text(["face 1", "face 2"])
    expect(page.get_by_role("log")).to_contain_text("clip.webm: 2 faces in 40 frames.")
    for seconds in (1.0, 4.1, 7.0):
        seek(page, seconds)
        middle = 80 + 12 * RATE * seconds
        page.wait_for_timeout(200)
        assert has_edge_at(page, middle - 30)
        assert not has_edge_at(page, middle + 100)
    # The bars of a card are of the face that the box is around.
    expect(article.locator(".bars .percent")).to_have_count(14)


def test_boxes_move_between_frames(page):
    faces = page.evaluate(
        """async () => {
            const { facesAt } = await import("/static/gallery_video.js");
            const face = (track, x) => ({ track, box: { x, y: 0, width: 10, height: 10 } });
            const frames = [
                { time_seconds: 0.5, faces: [face(0, 0), face(1, 100)] },
                { time_seconds: 1.5, faces: [face(0, 20)] },
            ];
            const at = (seconds) => facesAt(frames, seconds).map(({ box }) => box.x);
            return [0, 0.5, 1, 1.5, 9].map(at).concat([facesAt([], 1)]);
        }"""
    )
    assert faces == [[0, 100], [0, 100], [10, 100], [20], [20], []]


def test_a_video_that_the_browser_cannot_play_shows_its_first_faces(page):
    content = make_video("matroska", "mpeg4", num_frames=6, rate=RATE, draw=draw_crossing)
    upload(page, {"name": "clip.mkv", "mimeType": "video/x-matroska", "buffer": content})
    message = articles(page).locator(".message")
    expect(message).to_contain_text("This browser can't play the video, but the server can read it")
    expect(articles(page).locator(".face")).to_have_count(2)


def test_a_file_that_is_no_video_says_so(page):
    upload(page, {"name": "clip.mp4", "mimeType": "video/mp4", "buffer": b"no video"})
    expect(articles(page).locator(".error")).to_contain_text("can't be decoded")


def test_a_long_video_is_sampled_less_often(page):
    content = make_video("webm", "libvpx-vp9", num_frames=60, rate=1, deadline="realtime")
    upload(page, {"name": "long.webm", "mimeType": "video/webm", "buffer": content})
    expect(articles(page).locator(".message")).to_contain_text("in 60 frames.")
