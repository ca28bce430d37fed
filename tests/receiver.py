"""A web server on this machine that keeps what it is told."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """A web server that keeps what it gets, and answers as it is told.

    Attributes:
        url: Where it listens.
        answers: Status and headers of the next answers; after them, 204.
        requests: Method, path, headers and body of each request.
        delay_seconds: How long it thinks before it answers.
    """

    def __init__(self):
        self.answers, self.requests, self.delay_seconds = [], [], 0.0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                receiver.requests.append((self.command, self.path, self.headers, body))
                time.sleep(receiver.delay_seconds)
                status, headers = receiver.answers.pop(0) if receiver.answers else (204, {})
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST = handle_any  # noqa: N815 - names of the standard library

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def messages(self):
        return [json.loads(body) for _, _, _, body in self.requests]


@contextmanager
def receiving():
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()
