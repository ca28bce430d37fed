"""Access to S3 buckets: credentials, retries, and error messages.

The functions take a bucket's *authority*, the text between ``s3://`` and the next slash: the name
of the bucket, or ``anonymous@`` or ``requester@`` and then the name.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib import import_module
from types import ModuleType
from typing import Any

import pyarrow.fs as pafs

from fer.errors import StoreError
from fer.storage import s3_boto
from fer.storage.interrupts import run_uninterrupted
from fer.storage.s3_boto import ReadOnlyHandler

MAX_ATTEMPTS = 10
"""Attempts before a request counts as failed. If one attempt in five fails, then one request in ten
million fails all ten. The wait grows from attempt to attempt."""

TIMEOUT_SECONDS = 20.0
"""A request without an answer is retried after this time."""

ANONYMOUS_PREFIX, REQUESTER_PREFIX = "anonymous@", "requester@"
"""Prefixes of a bucket's name. ``anonymous@`` stands for unsigned requests, as in Ray and pyarrow;
``requester@`` for requests that the caller pays for (S3's Requester Pays)."""

_DENIED = (
    "these credentials may not list it; check their policy, or write s3://anonymous@… if the "
    "bucket is public, s3://requester@… if its reader pays"
)
_REASONS = {
    "NoSuchBucket": "the bucket does not exist; check its name, region and endpoint",
    "404": "the bucket does not exist; check its name, region and endpoint",
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": "the store does not know the access key; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired; fetch new credentials",
    "InvalidToken": "the session token is not valid; fetch new credentials",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
}
"""What the error codes of S3 mean for the user (S3's API reference, Error responses)."""

_NOT_PUBLIC = "it is not public and no credentials were used; check AWS_ACCESS_KEY_ID"


def split_location(location: str) -> tuple[str, str]:
    """Split an ``s3://`` location into the bucket's authority and the key."""
    authority, _, key = location.removeprefix("s3://").partition("/")
    return authority, key


class _RetryingFileSystem(pafs.S3FileSystem):  # type: ignore[misc]
    """pyarrow's S3 filesystem that keeps its retry strategy and timeouts when it is pickled."""

    authority: str

    def __reduce__(self) -> tuple[Any, ...]:
        return open_bucket, (self.authority,)


def open_bucket(authority: str) -> pafs.S3FileSystem:
    """Open a bucket for reading and writing, with more than pyarrow's three attempts."""
    environment = os.environ
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if region is None and endpoint is None:
        region = pafs.resolve_s3_region(bucket_name(authority))
    filesystem = _RetryingFileSystem(
        anonymous=_is_anonymous(authority),
        endpoint_override=endpoint,
        region=region,
        connect_timeout=TIMEOUT_SECONDS,
        request_timeout=TIMEOUT_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
    )
    filesystem.authority = authority
    return filesystem


@lru_cache(maxsize=64)
def open_bucket_read_only(authority: str) -> pafs.FileSystem:
    """Open a bucket for reading through boto3, which can do what pyarrow can't."""
    return pafs.PyFileSystem(ReadOnlyHandler(partial(client, authority), MAX_ATTEMPTS))


def open_object(location: str) -> io.RawIOBase:
    """Open an object for several reads, all of them of the same version.

    pyarrow requests each range without a condition, so it would mix an object with its successor.
    """
    authority, key = split_location(location)
    path = f"{bucket_name(authority)}/{key}"
    return s3_boto.open_object(client(authority), path, MAX_ATTEMPTS)


def bucket_name(authority: str) -> str:
    """Return the name of a bucket without an access prefix."""
    return authority.removeprefix(ANONYMOUS_PREFIX).removeprefix(REQUESTER_PREFIX)


def _is_anonymous(authority: str) -> bool:
    return authority.startswith(ANONYMOUS_PREFIX) or not _has_credentials()


@lru_cache(maxsize=1)
def _has_credentials() -> bool:
    return _boto3().Session().get_credentials() is not None


@lru_cache(maxsize=1)
def _boto3() -> ModuleType:
    """Import boto3, which is slow and only needed for ``s3://``.

    An interrupted import would leave a part of the package behind, with which each later import in
    the same process fails.
    """
    return run_uninterrupted(import_module, "boto3")


def check_bucket(authority: str) -> None:
    """Check that a bucket can be listed, by requesting the name of one object.

    Raises:
        StoreError: The bucket cannot be listed.
    """
    with translate_errors(authority):
        client(authority).list_objects_v2(Bucket=bucket_name(authority), MaxKeys=1)


@contextmanager
def translate_errors(authority: str) -> Iterator[None]:
    """Turn boto3's errors into a StoreError of one sentence."""
    _boto3()
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - imported above

    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        reason = _REASONS.get(code, f"the store answered {code}")
        if reason is _DENIED and _is_anonymous(authority):
            reason = _NOT_PUBLIC
        raise StoreError(f"s3://{authority} can't be used: {reason}.") from error
    except BotoCoreError as error:
        message = str(error).rstrip(".")
        raise StoreError(f"s3://{authority} can't be used: {message}.") from error


def client(authority: str) -> Any:  # noqa: ANN401 - boto3 creates its client types at run time
    """Return the boto3 client for a bucket's access mode."""
    anonymous = _is_anonymous(authority)
    is_requester = authority.startswith(REQUESTER_PREFIX)
    return _make_client(anonymous, requester_pays=is_requester and not anonymous)


@lru_cache(maxsize=4)
def _make_client(anonymous: bool = False, *, requester_pays: bool = False) -> Any:  # noqa: ANN401
    boto3 = _boto3()
    from botocore import UNSIGNED  # noqa: PLC0415 - imported above
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        connect_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        signature_version=UNSIGNED if anonymous else None,
    )
    # boto3's default session would keep the first credentials that it finds, so this is a new one.
    client = boto3.session.Session().client("s3", config=config)
    if requester_pays:
        client.meta.events.register("before-call.s3", _add_requester_pays_header)
    return client


def _add_requester_pays_header(params: dict[str, Any], **_: object) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"
