"""Unpack compressed tar archives, also those of several streams, as parallel compressors write."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from typing import IO, cast

_SIGNATURE_BYTES = 10

_OPENERS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    rb"\x1f\x8b\x08": lambda packed: cast(IO[bytes], gzip.GzipFile(fileobj=packed)),
    rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)": bz2.open,
    # With its format given, lzma ignores the zeros with which some tools pad a file.
    rb"\xfd7zXZ\0": partial(lzma.LZMAFile, format=lzma.FORMAT_XZ),
    rb"\x5d\0\0\x80": partial(lzma.LZMAFile, format=lzma.FORMAT_ALONE),
}
"""How to open a compressed file, by the bytes that it begins with."""

_BZIP2_DAMAGE = "Invalid data stream"
"""All that an error of bz2 says, which is a plain OSError."""


def unpack(stream: IO[bytes]) -> IO[bytes]:
    """Return what a file unpacks to: itself if it is not compressed with gzip, bzip2 or xz.

    pbzip2, bgzip and ``cat`` put several streams into a file. ``tarfile`` itself reads only the
    first.

    Args:
        stream: The file, which can be peeked into. Reading from the result raises a
            ``tarfile.ReadError`` where the file is damaged or ends early.
    """
    start = cast(io.BufferedReader, stream).peek(_SIGNATURE_BYTES)
    for signature, opener in _OPENERS.items():
        if re.match(signature, start, re.DOTALL):
            return cast(IO[bytes], _Unpacked(opener(stream)))
    return stream


class _Unpacked(io.RawIOBase):
    """An unpacked file whose damage is not mistaken for a failure to read the packed one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except EOFError as error:
            raise tarfile.ReadError("its compressed data ends early") from error
        except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
            raise _damaged(error) from error
        except OSError as error:
            if str(error) != _BZIP2_DAMAGE:
                raise
            raise _damaged(error) from error


def _damaged(error: Exception) -> tarfile.ReadError:
    return tarfile.ReadError(f"its compressed data is damaged ({error})")
