"""S3 buckets: who asks for them, how patiently, and what their refusals mean.

A bucket goes by what stands for it in a location: its name, or ``anonymous@`` or ``requester@``
before it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import pyarrow.fs as pafs

from fer.errors import StoreError
from fer.storage.s3_boto import ReadOnlyHandler

ATTEMPTS = 10
"""How often a request is made before it counts as failed: of requests that fail one in five times,
one in ten million then fails for good. Each attempt waits longer than the one before."""

TIMEOUT_SECONDS = 20.0
"""A request that says nothing for so long is made again."""

ANONYMOUS, REQUESTER = "anonymous@", "requester@"
"""What may stand before a bucket's name: requests that nobody signs, as Ray and pyarrow write it,
or that whoever makes them pays for."""

_DENIED = (
    "these credentials may not list it; check their policy, or name it as s3://anonymous@… if it "
    "is public, as s3://requester@… if whoever reads it pays"
)
_MISTAKES = {
    "NoSuchBucket": "the bucket does not exist; check its name, region and endpoint",
    "404": "the bucket does not exist; check its name, region and endpoint",
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": "the access key is unknown there; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired; fetch new credentials",
    "InvalidToken": "the session token is not valid; fetch new credentials",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
}
_NOT_PUBLIC = "it is not public and no credentials were used; check AWS_ACCESS_KEY_ID"


def parts(location: str) -> tuple[str, str]:
    """Return what stands for the bucket in an s3:// location, and the key."""
    authority, _, key = location.removeprefix("s3://").partition("/")
    return authority, key


class _PatientStore(pafs.S3FileSystem):  # type: ignore[misc]
    """pyarrow's store of a bucket, which else would forget its patience on the way to a worker."""

    authority: str

    def __reduce__(self) -> tuple[Any, ...]:
        return open_bucket, (self.authority,)


def open_bucket(authority: str) -> pafs.S3FileSystem:
    """Open the store of a bucket with more patience than pyarrow's three attempts."""
    environment = os.environ
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if region is None and endpoint is None:
        region = pafs.resolve_s3_region(name(authority))
    store = _PatientStore(
        anonymous=_is_anonymous(authority),
        endpoint_override=endpoint,
        region=region,
        connect_timeout=TIMEOUT_SECONDS,
        request_timeout=TIMEOUT_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )
    store.authority = authority
    return store


@lru_cache(maxsize=64)
def read_only(authority: str) -> pafs.FileSystem:
    """Return a bucket's objects by way of boto3, for what pyarrow can't ask."""
    return pafs.PyFileSystem(ReadOnlyHandler(partial(client, authority), ATTEMPTS))


def name(authority: str) -> str:
    """Return a bucket's own name."""
    return authority.removeprefix(ANONYMOUS).removeprefix(REQUESTER)


def _is_anonymous(authority: str) -> bool:
    return authority.startswith(ANONYMOUS) or not _has_credentials()


@lru_cache(maxsize=1)
def _has_credentials() -> bool:
    from botocore.session import get_session  # noqa: PLC0415 - slow to import

    return get_session().get_credentials() is not None


def check_bucket(authority: str) -> None:
    """Ask for one object's name.

    Raises:
        StoreError: The bucket can't be listed.
    """
    with refusals(authority):
        client(authority).list_objects_v2(Bucket=name(authority), MaxKeys=1)


@contextmanager
def refusals(authority: str) -> Iterator[None]:
    """Raise what boto3 makes of a store's refusal as a StoreError of one sentence."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - slow to import

    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        reason = _MISTAKES.get(code, f"the store answered {code}")
        if reason is _DENIED and _is_anonymous(authority):
            reason = _NOT_PUBLIC
        raise StoreError(f"s3://{authority} can't be used: {reason}.") from error
    except BotoCoreError as error:
        told = str(error).rstrip(".")
        raise StoreError(f"s3://{authority} can't be used: {told}.") from error


def client(authority: str) -> Any:  # noqa: ANN401 - boto3 makes its clients' types at run time
    """Return the boto3 client that asks for a bucket's objects."""
    anonymous = _is_anonymous(authority)
    return _connect(anonymous, pays=authority.startswith(REQUESTER) and not anonymous)


@lru_cache(maxsize=4)
def _connect(anonymous: bool = False, *, pays: bool = False) -> Any:  # noqa: ANN401
    import boto3  # noqa: PLC0415 - slow to import, and needed for s3:// alone
    from botocore import UNSIGNED  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    patient = Config(
        connect_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        signature_version=UNSIGNED if anonymous else None,
    )
    # A session of its own: boto3's default one keeps the first credentials that it sees.
    client = boto3.session.Session().client("s3", config=patient)
    if pays:
        client.meta.events.register("before-call.s3", _promise_to_pay)
    return client


def _promise_to_pay(params: dict[str, Any], **_: object) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"
