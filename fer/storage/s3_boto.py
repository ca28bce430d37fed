"""S3 objects read through boto3, for what pyarrow can't do.

It reads Requester Pays buckets and keys with ``//``, and does not mix two versions of an object.
"""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

_NOT_FOUND_CODES = frozenset(("404", "NoSuchKey", "NoSuchBucket"))
_DENIED_CODES = frozenset(("403", "AccessDenied"))
_REPLACED_CODES = frozenset(("412", "PreconditionFailed"))
_REPLACED = "it was replaced while it was read"


class ReadOnlyHandler(pafs.FileSystemHandler):  # type: ignore[misc]
    """A handler for ``pyarrow.fs.PyFileSystem`` that reads a bucket's objects and writes none.

    It implements ``pyarrow.fs.FileSystemHandler``. Paths are ``bucket/key``, and a key may be any
    string.

    Args:
        connect: Returns a boto3 client of S3. It is pickled with the handler.
        max_attempts: How often to request an object whose transfer breaks off.
    """

    def __init__(self, connect: Callable[[], Any], max_attempts: int) -> None:
        self.connect = connect
        self.max_attempts = max_attempts

    def get_type_name(self) -> str:  # noqa: D102
        return "s3-read-only"

    def normalize_path(self, path: str) -> str:  # noqa: D102
        return path

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:  # noqa: D102
        return [self._info(path) for path in paths]

    def open_input_file(self, path: str) -> pa.PythonFile:  # noqa: D102
        return pa.PythonFile(open_object(self.connect(), path, self.max_attempts), mode="r")

    def open_input_stream(self, path: str) -> pa.PythonFile:  # noqa: D102
        return self.open_input_file(path)

    def _info(self, path: str) -> pafs.FileInfo:
        bucket, _, key = path.partition("/")
        client = self.connect()
        if key and not key.endswith("/"):
            try:
                head = _request(client.head_object, Bucket=bucket, Key=key)
            except FileNotFoundError:
                pass
            else:
                return pafs.FileInfo(path, pafs.FileType.File, size=head["ContentLength"])
        prefix = f"{key}/" if key else ""
        page = _request(client.list_objects_v2, Bucket=bucket, Prefix=prefix, MaxKeys=1)
        kind = pafs.FileType.Directory if page["KeyCount"] else pafs.FileType.NotFound
        return pafs.FileInfo(path, kind)

    def _refuse(self, *_: object, **__: object) -> Any:  # noqa: ANN401
        raise OSError("s3://requester@… and keys with // are read-only: choose another output")

    get_file_info_selector = open_output_stream = open_append_stream = _refuse
    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = _refuse


def open_object(client: Any, path: str, max_attempts: int) -> io.RawIOBase:  # noqa: ANN401
    """Open an object as it is now: a read after it was replaced raises an OSError.

    Args:
        client: A boto3 client of S3.
        path: ``bucket/key``.
        max_attempts: How often to request a part whose transfer breaks off.
    """
    return _ObjectFile(client, path, max_attempts)


class _ObjectFile(io.RawIOBase):
    """An S3 object as a seekable file. Each read is one request."""

    def __init__(self, client: Any, path: str, max_attempts: int) -> None:  # noqa: ANN401
        self._client, self._max_attempts = client, max_attempts
        bucket, _, key = path.partition("/")
        self._address = {"Bucket": bucket, "Key": key}
        head = _request(client.head_object, **self._address)
        self._size, self._etag = int(head["ContentLength"]), str(head["ETag"])
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - collections.abc.Buffer needs 3.12
        view = memoryview(buffer)
        end = min(self._position + len(view), self._size)
        if end <= self._position:
            return 0
        content = self._fetch(f"bytes={self._position}-{end - 1}")
        view[: len(content)] = content
        self._position += len(content)
        return len(content)

    def readall(self) -> bytes:
        # By default, Python reads 8 KiB at a time, and each read is a request.
        if self._position >= self._size:
            return b""
        content = self._fetch(f"bytes={self._position}-{self._size - 1}")
        self._position += len(content)
        return content

    def _fetch(self, byte_range: str) -> bytes:
        from botocore.exceptions import HTTPClientError, IncompleteReadError  # noqa: PLC0415

        # boto3 retries a request, but not once the body of the answer has started to arrive.
        for _ in range(self._max_attempts):
            answer = _request(
                self._client.get_object, **self._address, Range=byte_range, IfMatch=self._etag
            )
            # A store that does not know the condition answers it with what is there now.
            if answer["ETag"] != self._etag:
                raise OSError(_REPLACED)
            with contextlib.suppress(HTTPClientError, IncompleteReadError):
                return bytes(answer["Body"].read())
        raise OSError(f"the transfer broke off {self._max_attempts} times")


def _request(
    operation: Callable[..., dict[str, Any]],
    **arguments: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Call an operation of a boto3 client and turn its errors into the matching OSError."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - slow to import

    try:
        return operation(**arguments)
    except BotoCoreError as error:
        raise OSError(str(error)) from error
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _NOT_FOUND_CODES:
            path = f"{arguments['Bucket']}/{arguments.get('Key', '')}"
            raise FileNotFoundError(path) from error
        if code in _DENIED_CODES:
            raise PermissionError("the store denies access to these credentials") from error
        if code in _REPLACED_CODES:
            raise OSError(_REPLACED) from error
        raise OSError(f"the store answered {code}") from error
