"""``--notify``: a URL is told how a job ended, and nothing else."""

import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from ray_jobs.config.checks import origin_of

SECRET_VARIABLE = "FER_NOTIFY_SECRET"  # noqa: S105 - a name, not a secret
"""Environment variable that holds the secret by which messages are signed."""

SIGNATURE_HEADER = "X-Hub-Signature-256"
"""Header of the signature, in GitHub's form: ``sha256=`` and the HMAC-SHA256 of the body in hex."""

TIMEOUT_SECONDS = 5.0
"""How long a receiver may take to accept a connection, and then to answer."""

RETRIES = Retry(
    total=2,
    backoff_factor=1.0,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=None,
    raise_on_status=False,
    # A receiver could hold the job's end back for hours.
    respect_retry_after_header=False,
)
"""A message is sent up to three times."""


def send(url: str, ending: Mapping[str, Any]) -> None:
    """Tell a URL how a job ended; print a warning if it does not take the message.

    Args:
        url: An ``http://`` or ``https://`` URL.
        ending: The message, which gets a ``timestamp`` in seconds since 1970.
    """
    body = json.dumps({**ending, "timestamp": int(time.time())}).encode()
    if problem := _post(url, body):
        print(
            f"Warning: --notify {origin_of(url)} was not told how the job ended: {problem}.",
            file=sys.stderr,
            flush=True,
        )


def _post(url: str, body: bytes) -> str | None:
    """Send a message, and return why it was not taken, without what the URL may keep secret."""
    try:
        with _open_session(url) as session:
            answer = session.post(
                url,
                body,
                headers={"Content-Type": "application/json", **_sign(body)},
                timeout=TIMEOUT_SECONDS,
                # The message is meant for this URL. What the answer says is not read.
                allow_redirects=False,
                stream=True,
            )
    except (requests.RequestException, ValueError):
        # Their texts quote the whole URL.
        return f"it can't be reached, or does not answer within {TIMEOUT_SECONDS:g} s"
    except KeyboardInterrupt:
        return "this was interrupted"
    if answer.is_redirect:
        return f"it answered {answer.status_code}, but redirects are not followed"
    return None if 200 <= answer.status_code < 300 else f"it answered {answer.status_code}"


def _open_session(url: str) -> requests.Session:
    session = requests.Session()
    # requests would add a password from ~/.netrc. Proxies and authorities still count.
    session.trust_env = False
    session.proxies = requests.utils.get_environ_proxies(url)
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=RETRIES))
    return session


def _sign(body: bytes) -> dict[str, str]:
    """Return the header with the signature of a message; none without a secret."""
    # A secret read from a file may end in a newline.
    secret = os.environ.get(SECRET_VARIABLE, "").strip()
    if not secret:
        return {}
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {SIGNATURE_HEADER: f"sha256={digest}"}
