"""A proxy for an object store that injects the faults of object stores on demand."""

import re
import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

REFUSAL = "<Error><Code>{code}</Code><Message>As the test asked for.</Message></Error>"
CONNECTION_HEADERS = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass
class Fault:
    """A fault that the proxy injects into matching requests.

    Attributes:
        match: Regular expression to search for in the request's text: ``METHOD /path?query``, then
            one line for each header, as ``name: value``.
        kind: ``refuse`` answers with an error, ``reset`` closes the connection, ``truncate`` closes
            it in the middle of the response, ``slow`` delays the response.
        status: HTTP status of the error.
        code: Code of the error, as object stores name it.
        after: Number of matching requests to let through first.
        then: Regular expression that replaces ``match`` after the first fault: expired credentials,
            for example, then fail every request.
        times: Number of requests that the fault is still injected into.
        share: Share of the matching requests to fail, from 0 to 1, spread evenly.
        seconds: Delay of a slow response.
        hits: Number of requests that the fault was injected into.
        owed: Fraction of the next fault that has accumulated from ``share``. Counting, unlike a
            random choice, also gives few requests their share.
    """

    match: str
    kind: str = "refuse"
    status: int = 503
    code: str = "SlowDown"
    after: int = 0
    then: str | None = None
    times: int = 10**9
    share: float = 1.0
    seconds: float = 0.2
    hits: int = 0
    owed: float = 0.5

    def is_due(self, request):
        if not self.times or not re.search(self.match, request):
            return False
        self.owed += self.share
        if self.owed < 1:
            return False
        self.owed -= 1
        return True


@dataclass
class FaultProxy:
    """The proxy's address, the faults that it injects, and its log of requests.

    ``requests`` holds ``METHOD /path?query`` of each request.
    """

    endpoint: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_of(self, request):
        with self._lock:
            self.requests.append(request.splitlines()[0])
            for fault in self.faults:
                if not fault.is_due(request):
                    continue
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times -= 1
                fault.hits += 1
                fault.match = fault.match if fault.then is None else fault.then
                return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """Forwards each request unchanged, and returns the response, unless a fault is due."""

    protocol_version = "HTTP/1.1"

    def handle_one_request(self):
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.answer(self.read_body())

    def request_text(self):
        headers = [f"{name.lower()}: {value}" for name, value in self.headers.items()]
        return "\n".join([f"{self.command} {self.path}", *headers])

    def read_body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while True:
            line = self.rfile.readline()
            chunk = self.rfile.read(int(line.split(b";")[0], 16) + 2)
            body += line + chunk
            if chunk == b"\r\n":
                return body

    def answer(self, body):
        fault = self.server.proxy.fault_of(self.request_text())
        if fault and fault.kind == "slow":
            time.sleep(fault.seconds)
        if fault and fault.kind == "refuse":
            refusal = REFUSAL.format(code=fault.code).encode()
            return self.write(fault.status, [("Content-Type", "application/xml")], refusal)
        if fault and fault.kind == "reset":
            return self.hang_up()
        try:
            status, headers, content = self.forward(body)
        except OSError:
            return self.hang_up()
        self.write(status, headers, content, cut=fault is not None and fault.kind == "truncate")
        return None

    def forward(self, body):
        connection = HTTPConnection(*self.server.backend)
        # Forward all headers unchanged, Host included, because the request is signed.
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "expect":
                connection.putheader(name, value)
        connection.endheaders(body or None)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, response.getheaders(), content

    def write(self, status, headers, content, cut=False):
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else None
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in CONNECTION_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.hang_up()

    def hang_up(self):
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def fault_proxy(store):
    """Run a proxy in front of the store at ``http://host:port``, and yield it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.backend = (urlsplit(store).hostname, urlsplit(store).port)
        server.proxy = FaultProxy(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.proxy
        server.shutdown()
