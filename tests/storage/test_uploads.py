"""Objects that are written to a store: whatever happens, the old content or all of the new."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow.fs as pafs
import pytest

from fer.storage import paths

XML = '<?xml version="1.0"?><{0} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{1}</{0}>'
PATH, OLD, NEW = "/bucket/summary.json", b"old", b"new" * 4_000_000

WRITER = """
import signal, sys
from test_uploads import NEW, connect
from fer.storage import paths

# Whoever runs the tests in the background may have turned this off.
signal.signal(signal.SIGINT, signal.default_int_handler)
paths.filesystem = connect(sys.argv[1])
try:
    paths.write_bytes("s3://bucket/summary.json", NEW)
except KeyboardInterrupt:
    print("interrupted")
"""


def connect(address):
    """Return what stands for ``paths.filesystem``: a store that needs no listing of its bucket."""
    store = pafs.S3FileSystem(
        access_key="id", secret_key="secret", region="us-east-1", endpoint_override=address
    )
    return lambda location: (store, location.removeprefix("s3://"))


class Source(io.BytesIO):
    """A file that can't be read to its end."""

    def read(self, size=-1):
        if self.tell() >= len(NEW) // 2:
            raise OSError("the source failed")
        return super().read(size)


class Store(ThreadingHTTPServer):
    """Plays the requests of S3 by which pyarrow writes an object in parts.

    Attributes:
        objects: Content by path.
        parts: Parts of the upload that is not complete.
        allow: Called with the query of each request, and returns whether the request succeeds.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects, self.parts = {PATH: OLD}, {}
        self.allow = lambda _: True
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def respond(self, body="", status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body.encode())

    def act(self):
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        content = self.read_body()
        if not self.server.allow(query):
            self.respond(XML.format("Error", "<Code>AccessDenied</Code>"), 403)
        elif "uploads" in query:
            body = "<Bucket>bucket</Bucket><Key>summary.json</Key><UploadId>1</UploadId>"
            self.respond(XML.format("InitiateMultipartUploadResult", body))
        elif "partNumber" in query:
            self.server.parts[int(query["partNumber"][0])] = content
            self.respond(ETag='"part"')
        elif "uploadId" in query:
            numbers = re.findall(rb"<PartNumber>(\d+)<", content)
            parts = [self.server.parts[int(number)] for number in numbers]
            self.server.objects[url.path] = b"".join(parts)
            self.respond(XML.format("CompleteMultipartUploadResult", "<ETag>whole</ETag>"))
        else:
            self.respond(status=404)

    do_HEAD = do_PUT = do_POST = do_DELETE = act  # noqa: N815 - named by http.server

    def read_body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = read_chunks(self.rfile)
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            content = read_chunks(io.BytesIO(content))
        return content


def read_chunks(file):
    chunks = []
    while size := int(file.readline().partition(b";")[0], 16):
        chunks.append(file.read(size))
        file.readline()
    while file.readline().strip():
        pass
    return b"".join(chunks)


@pytest.fixture
def store(monkeypatch):
    with Store() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(paths, "filesystem", connect(server.address))
        yield server
        server.shutdown()


def write(content=None):
    paths.write_file(f"s3:/{PATH}", content or io.BytesIO(NEW))


def test_an_object_is_written_in_parts(store):
    write()
    assert len(store.parts) > 1
    assert store.objects == {PATH: NEW}


@pytest.mark.parametrize("request_key", ["uploads", "partNumber"])
def test_a_signal_never_leaves_a_part_of_an_object(store, request_key):
    def interrupt(query):
        if request_key in query:
            store.allow = lambda _: True
            writer.send_signal(signal.SIGINT)
            time.sleep(0.2)
        return True

    store.allow = interrupt
    # In this process, pyarrow's destructor would hold the lock that the store needs to answer.
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, store.address],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.communicate()[0].split() == ["interrupted"]
    assert store.objects == {PATH: NEW}


def test_a_source_that_fails_leaves_the_old_object(store):
    with pytest.raises(OSError, match="the source failed"):
        write(Source(NEW))
    assert store.objects == {PATH: OLD}


@pytest.mark.parametrize("refused", ["1", "2"])
def test_a_store_that_refuses_a_part_keeps_the_old_object(store, refused):
    store.allow = lambda query: query.get("partNumber") != [refused]
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        write()
    assert store.objects == {PATH: OLD}
