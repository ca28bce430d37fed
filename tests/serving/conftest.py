"""A browser, and pages in it that must not log an error or contact another host."""

import os
import re
import shutil
from urllib.parse import urlsplit

import pytest
from pages import serving
from playwright.sync_api import sync_playwright

from fer.models.predictor import Predictor
from fer.serving.app import build_api
from fer.serving.inference import InferenceService
from fer.serving.uploads import Limits

EXPECTED_LOG = re.compile(
    "Failed to load resource: "
    "(.* status of (401|413|422|500|502|503)|net::ERR_INTERNET_DISCONNECTED)"
)
"""What Chromium logs for errors that the page explains to the user."""


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    arguments = ["--use-fake-device-for-media-stream"]
    arguments += ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def predictor(save_network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    save_network(folder)
    return Predictor.load(str(folder), engine="float32")


@pytest.fixture
def open_page(browser):
    """Open pages; afterwards, check that none logged an error or contacted another host."""
    contexts, errors, hosts = [], [], set()

    def note(message):
        if message.type in ("error", "warning") and not EXPECTED_LOG.match(message.text):
            errors.append(message.text)

    def open_page(url, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert hosts - {None} == {"127.0.0.1"}


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
