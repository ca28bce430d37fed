"""What the web page does when its server is out of reach, busy, refuses or fails."""

import asyncio

from fastapi import HTTPException
from pages import articles, choose_crops, serving, upload
from playwright.sync_api import expect

from fer.serving.app import build_api
from fer.serving.inference import InferenceService
from fer.serving.uploads import Limits

TOKEN = "s3cret-of-the-tests"


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
