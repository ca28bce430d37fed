"""A proxy in front of an object store that fails as object stores do, when it is told to."""

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
OF_A_CONNECTION = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass
class Fault:
    """What happens to requests.

    Attributes:
        match: Regular expression that is searched for in ``METHOD /path?query`` and, on a line
            each, the headers as ``name: value``.
        kind: ``refuse`` answers an error, ``reset`` hangs up, ``truncate`` hangs up within the
            answer, ``slow`` answers late.
        status: Of the error.
        code: Of the error, as object stores name it.
        after: How many requests that match it lets through first.
        then: What is searched for once it has happened: credentials that expire do so for all.
        times: How many requests it still happens to.
        share: Of the requests that match, from 0 to 1, spread evenly over them.
        seconds: How late.
        hits: How many it happened to.
        owed: How much of the next one it is due for; drawn by chance, few requests might have none.
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
    """Where the proxy listens, the faults that it injects from now on, and what it was asked.

    ``asked`` holds ``METHOD /path?query`` of each request.
    """

    endpoint: str
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_of(self, request):
        with self._lock:
            self.asked.append(request.splitlines()[0])
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
    """Hands a request on as it came and its answer back, unless a fault is due."""

    protocol_version = "HTTP/1.1"

    def handle_one_request(self):
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.answer(self.read_body())

    def told(self):
        headers = [f"{name.lower()}: {value}" for name, value in self.headers.items()]
        return "\n".join([f"{self.command} {self.path}", *headers])

    def read_body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while True:
            line = self.rfile.readline()
            part = self.rfile.read(int(line.split(b";")[0], 16) + 2)
            body += line + part
            if part == b"\r\n":
                return body

    def answer(self, body):
        fault = self.server.proxy.fault_of(self.told())
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
        # As it came, Host and all: the request is signed.
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
            if name.lower() not in OF_A_CONNECTION:
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
    """Yield a proxy in front of a store at ``http://host:port``."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.backend = (urlsplit(store).hostname, urlsplit(store).port)
        server.proxy = FaultProxy(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.proxy
        server.shutdown()
