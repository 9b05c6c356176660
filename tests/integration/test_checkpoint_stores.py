"""Checkpoints leave the database: to a file, a webhook, an S3-shaped store."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from delivery.domain.audit import AuditKeys, Checkpoint, sign
from delivery.errors import ChannelRejected, ChannelUnavailable, ConfigError
from delivery.process.sealing import CheckpointSender, read_checkpoints
from delivery.testing import MemoryLedger
from delivery.transports.checkpoints import S3Store, authorization, make_stores

KEYS = AuditKeys("only-for-tests-the-key-of-the-log-0123456789")
ACCESS, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@dataclass
class Store:
    """A server that keeps what it is sent."""

    server: ThreadingHTTPServer
    status: int = 200
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"


@pytest.fixture
def store() -> Iterator[Store]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            made.requests.append((self.command, self.path, headers, body))
            self.send_response(made.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT

        def log_message(self, *_args: Any) -> None:
            pass

    made = Store(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join(10)
    made.server.server_close()


def checkpoint(number: int = 7) -> Checkpoint:
    return sign(KEYS.current, number, "ab" * 32, datetime.now(UTC))


def test_a_file_gets_a_line_each_and_verifies(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.jsonl"
    (store,) = make_stores([f"file://{path}"])
    store.keep(checkpoint(7))
    store.keep(checkpoint(9))
    assert [one.number for one in read_checkpoints(path)] == [7, 9]
    assert all(one.is_signed for one in read_checkpoints(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (away,) = make_stores([f"file://{tmp_path}/not/there"])
    with pytest.raises(ChannelUnavailable):
        away.keep(checkpoint())


def test_a_webhook_gets_the_signed_document(store: Store) -> None:
    (webhook,) = make_stores([f"http://keeper:word@{store.host}/audit"])
    webhook.keep(checkpoint())
    ((method, path, headers, body),) = store.requests
    assert (method, path) == ("POST", "/audit")
    assert msgspec.json.decode(body, type=Checkpoint).is_signed
    assert base64.b64decode(headers["authorization"].split()[1]) == b"keeper:word"
    assert "word" not in webhook.name
    for status, error in (
        (500, ChannelUnavailable),
        (403, ChannelRejected),
        (302, ChannelRejected),
    ):
        store.status = status
        with pytest.raises(error):
            webhook.keep(checkpoint())


def test_the_signature_is_that_of_amazons_own_example() -> None:
    """Source: Amazon S3 API Reference, "Example: PUT Object"."""
    digest = hashlib.sha256(b"Welcome to Amazon S3.").hexdigest()
    headers = {
        "date": "Fri, 24 May 2013 00:00:00 GMT",
        "host": "examplebucket.s3.amazonaws.com",
        "x-amz-content-sha256": digest,
        "x-amz-date": "20130524T000000Z",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
    }
    made = authorization("PUT", "/test%24file.text", headers, digest, "us-east-1", ACCESS, SECRET)
    assert made == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,"
        "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    )


def test_an_s3_shaped_store_gets_an_object_for_each_row(store: Store) -> None:
    secret = SECRET.replace("/", "%2F")
    url = f"s3://{ACCESS}:{secret}@{store.host}/logs/delivery%20audit?region=eu-central-1&tls=off"
    (s3,) = make_stores([url])
    assert isinstance(s3, S3Store)
    s3.keep(checkpoint(4711))
    ((method, path, headers, body),) = store.requests
    assert (method, path) == ("PUT", "/logs/delivery%20audit/00000000000000004711.json")
    assert headers["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest()
    assert headers["host"] == store.host
    named = ("host", "x-amz-content-sha256", "x-amz-date")
    received = {name: headers[name] for name in named}
    digest = hashlib.sha256(body).hexdigest()
    assert headers["authorization"] == authorization(
        "PUT", path, received, digest, "eu-central-1", ACCESS, SECRET
    )
    assert SECRET not in s3.name + headers["authorization"]


@pytest.mark.parametrize(
    "url",
    [
        "s3://host/bucket",
        "s3://a:b@host/",
        "s3://a:b@host/bucket?acl=public",
        "file://relative",
        "ftp://host/x",
        "https:///path",
        "http://host:port/",
        "nothing",
    ],
)
def test_a_url_of_another_form_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="DELIVERY_AUDIT_CHECKPOINTS") as caught:
        make_stores([url])
    assert url not in str(caught.value)


def test_the_sender_sends_each_head_once_and_again_after_a_failure(
    store: Store, tmp_path: Path
) -> None:
    ledger = MemoryLedger()
    file = tmp_path / "kept.jsonl"
    send = CheckpointSender(ledger, make_stores([f"http://{store.host}/x", f"file://{file}"]))
    send()
    assert store.requests == [], "nothing is sealed yet"
    ledger.audit.append("state", None, "ada", {})
    ledger.audit.seal()
    store.status = 503
    send()
    store.status = 204
    send()
    send()
    assert [json.loads(body)["number"] for *_, body in store.requests] == [2, 2]
    assert [one.number for one in read_checkpoints(file)] == [2]
    ledger.audit.append("state", None, "ada", {})
    ledger.audit.seal()
    send()
    assert [one.number for one in read_checkpoints(file)] == [2, 3]
