"""Objects read through boto3, where pyarrow can't ask as it must: the reader pays, or odd keys."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

_ABSENT = frozenset(("404", "NoSuchKey", "NoSuchBucket"))
_DENIED = frozenset(("403", "AccessDenied"))


class ReadOnlyHandler(pafs.FileSystemHandler):  # type: ignore[misc]
    """What ``pyarrow.fs.PyFileSystem`` asks of a bucket's objects, without any way to write them.

    Its methods are those of ``pyarrow.fs.FileSystemHandler``; paths are ``bucket/key``, and a key
    is any string.

    Args:
        connect: Returns a boto3 client of S3; pickled with the handler.
        attempts: How often an object whose answer was cut short is asked for.
    """

    def __init__(self, connect: Callable[[], Any], attempts: int) -> None:
        self.connect = connect
        self.attempts = attempts

    def get_type_name(self) -> str:  # noqa: D102
        return "s3-read-only"

    def normalize_path(self, path: str) -> str:  # noqa: D102
        return path

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:  # noqa: D102
        return [self._info(path) for path in paths]

    def open_input_file(self, path: str) -> pa.PythonFile:  # noqa: D102
        return pa.PythonFile(_Object(self.connect(), path, self.attempts), mode="r")

    def open_input_stream(self, path: str) -> pa.PythonFile:  # noqa: D102
        return self.open_input_file(path)

    def _info(self, path: str) -> pafs.FileInfo:
        bucket, _, key = path.partition("/")
        client = self.connect()
        if key and not key.endswith("/"):
            try:
                head = _ask(client.head_object, Bucket=bucket, Key=key)
            except FileNotFoundError:
                pass
            else:
                return pafs.FileInfo(path, pafs.FileType.File, size=head["ContentLength"])
        prefix = f"{key}/" if key else ""
        found = _ask(client.list_objects_v2, Bucket=bucket, Prefix=prefix, MaxKeys=1)
        kind = pafs.FileType.Directory if found["KeyCount"] else pafs.FileType.NotFound
        return pafs.FileInfo(path, kind)

    def _refuse(self, *_: object, **__: object) -> Any:  # noqa: ANN401
        raise OSError("this form of s3:// location can only be read: name another for the output")

    get_file_info_selector = open_output_stream = open_append_stream = _refuse
    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = _refuse


class _Object(io.RawIOBase):
    """An object as a file, each read of which is one request."""

    def __init__(self, client: Any, path: str, attempts: int) -> None:  # noqa: ANN401
        self._client, self._attempts = client, attempts
        bucket, _, key = path.partition("/")
        self._named = {"Bucket": bucket, "Key": key}
        self._size = int(_ask(client.head_object, **self._named)["ContentLength"])
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

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - collections.abc.Buffer is newer
        view = memoryview(buffer)
        end = min(self._position + len(view), self._size)
        if end <= self._position:
            return 0
        content = self._fetch(f"bytes={self._position}-{end - 1}")
        view[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _fetch(self, span: str) -> bytes:
        from botocore.exceptions import HTTPClientError, IncompleteReadError  # noqa: PLC0415

        # boto3 repeats requests, but not those whose answer has begun to come.
        for _ in range(self._attempts):
            answer = _ask(self._client.get_object, **self._named, Range=span)
            with contextlib.suppress(HTTPClientError, IncompleteReadError):
                return bytes(answer["Body"].read())
        raise OSError(f"the answer was cut short {self._attempts} times")


def _ask(request: Callable[..., dict[str, Any]], **named: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make a request, and raise what the store refuses as the OSError that it is."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - slow to import

    try:
        return request(**named)
    except BotoCoreError as error:
        raise OSError(str(error)) from error
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _ABSENT:
            raise FileNotFoundError(f"{named['Bucket']}/{named.get('Key', '')}") from error
        if code in _DENIED:
            raise PermissionError("the store refuses it to these credentials") from error
        raise OSError(f"the store answered {code}") from error
