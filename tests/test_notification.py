"""--notify: a URL is told how a job ended, signed, and nothing else leaves."""

import hashlib
import hmac
import json
import re
import time
from pathlib import Path

import pytest
from receiver import receiving

from ray_jobs import notification
from ray_jobs.__main__ import main
from ray_jobs.config import LabelConfig, TrainConfig, TuneConfig
from ray_jobs.pipeline.outputs import flags_of

DOCS = Path(__file__).parents[1] / "docs" / "schedule.md"


@pytest.fixture
def receiver(monkeypatch):
    monkeypatch.delenv(notification.SECRET_VARIABLE, raising=False)
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def ended(monkeypatch, capsys, tmp_path):
    """Return a function that runs a job which ends in a given way, and what it printed."""

    def run(url, ending, job="label"):
        def end(_config):
            if isinstance(ending, BaseException):
                raise ending
            return ending

        monkeypatch.setattr("ray_jobs.jobs.run", end)
        required = {"label": ["--images", "a"], "train": ["--dataset", "a"]}[job]
        code = main([job, *required, "--output", str(tmp_path / "b"), "--notify", url])
        return code, capsys.readouterr()

    return run


def verify_as_documented(headers, body, secret):
    """Run the snippet of the docs by which a receiver checks a message."""
    (snippet,) = re.findall(r"```python\n(import hmac.*?)```", DOCS.read_text(), re.DOTALL)
    names = {}
    exec(snippet, names)
    return names["verify"](headers, body, secret)


def test_a_result_is_sent_as_it_is_printed(receiver, ended):
    code, printed = ended(f"{receiver.url}/hook?job=nightly", {"images": 5, "output": "é"})
    assert code == 0
    assert printed.out == 'RESULT {"images": 5, "output": "\\u00e9"}\n'
    assert printed.err == ""
    ((method, path, headers, _),) = receiver.requests
    assert (method, path) == ("POST", "/hook?job=nightly")
    assert headers["Content-Type"] == "application/json"
    assert notification.SIGNATURE_HEADER not in headers
    (message,) = receiver.messages
    assert message.pop("timestamp") == pytest.approx(time.time(), abs=5)
    assert message == {"job": "label", "code": 0, "result": {"images": 5, "output": "é"}}


def test_a_failure_is_sent_as_one_sentence(receiver, capsys, tmp_path):
    output = str(tmp_path / "b")
    run = ["ingest", "--source", str(tmp_path / "none.csv"), "--output", output]
    assert main([*run, "--notify", receiver.url]) == 2
    (message,) = receiver.messages
    assert (message["job"], message["code"]) == ("ingest", 2)
    assert message["error"].startswith(f"{tmp_path}/none.csv does not exist")
    assert capsys.readouterr().err == f"fer: {message['error']}\n"
    assert message.keys() == {"job", "code", "error", "timestamp"}


def test_an_interruption_and_an_unexpected_error_are_sent(receiver, ended):
    assert ended(receiver.url, KeyboardInterrupt(), "train")[0] == 1
    with pytest.raises(ZeroDivisionError):
        ended(receiver.url, ZeroDivisionError("with what a stack holds"))
    interrupted, defect = receiver.messages
    assert interrupted["error"].startswith("interrupted; the output is incomplete")
    assert (interrupted["job"], interrupted["code"]) == ("train", 1)
    assert defect["error"] == "ZeroDivisionError: see the traceback in the log."


def test_a_message_is_signed_as_documented(receiver, ended, monkeypatch):
    monkeypatch.setenv(notification.SECRET_VARIABLE, "key\n")
    ended(receiver.url, {"images": 1})
    ((_, _, headers, body),) = receiver.requests
    digest = hmac.new(b"key", body, hashlib.sha256).hexdigest()
    assert headers["X-Hub-Signature-256"] == f"sha256={digest}"
    assert verify_as_documented(headers, body, "key")
    assert not verify_as_documented(headers, body + b" ", "key")
    assert not verify_as_documented(headers, body, "another")
    assert not verify_as_documented({}, body, "key")


def test_an_old_message_is_recognized(receiver, ended, monkeypatch):
    monkeypatch.setenv(notification.SECRET_VARIABLE, "key")
    with monkeypatch.context() as patch:
        now = time.time()
        patch.setattr("time.time", lambda: now - 3600)
        ended(receiver.url, {"images": 1})
    ((_, _, headers, body),) = receiver.requests
    assert not verify_as_documented(headers, body, "key")


def test_a_receiver_that_recovers_gets_the_message_again(receiver, ended):
    receiver.answers += [(503, {"Retry-After": "3600"}), (500, {})]
    code, printed = ended(receiver.url, {"images": 1})
    assert (code, printed.err) == (0, "")
    first, *others = [body for _, _, _, body in receiver.requests]
    assert others == [first, first]


@pytest.mark.parametrize(("ending", "code"), [({"images": 1}, 0), (KeyboardInterrupt(), 1)])
def test_a_receiver_that_is_down_changes_no_exit_code(receiver, ended, ending, code):
    receiver.answers += [(500, {})] * 3
    # A password in the URL, and in its path and query, is not printed.
    url = receiver.url.replace("://", "://user:pass-1@") + "/token-2?key=token-3"
    ended_with, printed = ended(url, ending)
    assert ended_with == code
    told = printed.err.splitlines()[0]
    assert (
        told == f"Warning: --notify {receiver.url} was not told how the job ended: it answered 500."
    )
    assert len(receiver.requests) == 3
    assert not re.search(r"pass-1|token-\d", printed.err + printed.out)
    assert printed.out == ("" if code else 'RESULT {"images": 1}\n')


def test_a_receiver_that_is_gone_or_silent(receiver, ended, monkeypatch):
    monkeypatch.setattr(notification, "TIMEOUT_SECONDS", 0.2)
    gone = "http://127.0.0.1:1/token-1"
    receiver.delay_seconds = 1.0
    for url, origin in ((gone, "http://127.0.0.1:1"), (f"{receiver.url}/token-1", receiver.url)):
        code, printed = ended(url, {"images": 1})
        assert code == 0
        assert printed.err == (
            f"Warning: --notify {origin} was not told how the job ended: it can't be reached, or "
            "does not answer within 0.2 s.\n"
        )


def test_redirects_are_not_followed(receiver, ended):
    with receiving() as elsewhere:
        receiver.answers += [(307, {"Location": f"{elsewhere.url}/"})]
        code, printed = ended(receiver.url, {"images": 1})
        assert elsewhere.requests == []
    assert code == 0
    assert printed.err.endswith("it answered 307, but redirects are not followed.\n")
    assert len(receiver.requests) == 1


def test_a_password_of_netrc_is_not_sent(receiver, ended, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password pass\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    ended(receiver.url, {"images": 1})
    ((_, _, headers, _),) = receiver.requests
    assert "Authorization" not in headers
    ended(receiver.url.replace("://", "://user:pass@"), {"images": 1})
    assert receiver.requests[1][2]["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    "url",
    ["ftp://host/token-1", "host/token-1", "https:///token-1", "http://[token-1", "http://a:b"],
)
def test_only_web_addresses_are_taken(url, capsys):
    assert main(["label", "--images", "a", "--output", "b", "--notify", url]) == 2
    assert capsys.readouterr().err == (
        "fer: --notify must be an http:// or https:// URL with a host, such as "
        "https://example.com/fer, but is none.\n"
    )


@pytest.mark.parametrize(
    "config",
    [
        LabelConfig(images="a", output="b", notify="http://user:pass@host"),
        TrainConfig(dataset="a", output="b", notify="http://user:pass@host"),
    ],
)
def test_the_url_is_not_written_down(config):
    assert "notify" not in flags_of(config)
    assert "pass" not in json.dumps(flags_of(config))


def test_trials_do_not_get_the_url():
    from ray_jobs.training.trial import trial_settings

    config = TuneConfig(dataset="a", output="b", notify="http://user:pass@host")
    assert "pass" not in json.dumps(trial_settings(config))
