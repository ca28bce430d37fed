"""Serving the page to a browser, and finding what it shows."""

import threading
import time
from contextlib import contextmanager

import uvicorn
from playwright.sync_api import expect

expect.set_options(timeout=15_000)


@contextmanager
def serving(app):
    """Run an app and yield its URL."""
    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(5)


def upload(page, *files):
    page.set_input_files("#files", list(files))


def articles(page):
    return page.locator("#results > article")


def choose_crops(page):
    page.get_by_text("face crops", exact=True).click()


def percents(card):
    texts = card.locator(".bars .percent").all_inner_texts()
    return [int(text.removesuffix(" %")) for text in texts]
