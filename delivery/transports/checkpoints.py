"""Where signed checkpoints of the compliance log are kept: a file, a webhook, an S3-shaped store.

Owns: each of these, and the signature of a request to S3. The targets are the operator's own.
Never does: make a checkpoint.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

import httpx
import msgspec

from delivery.domain.audit import Checkpoint
from delivery.errors import ChannelError, ChannelRejected, ChannelUnavailable, ConfigError

TIMEOUT = 5.0
MAX_STORES = 5
SETTING = "DELIVERY_AUDIT_CHECKPOINTS"
SHAPES = "file:///path, https://host/path or s3://ACCESS:SECRET@host/bucket/prefix?region=…"


class CheckpointStore(Protocol):
    """A place for checkpoints.

    Attributes:
        name: what it is called in logs; holds no secret.
    """

    name: str

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint. Safe to repeat.

        Raises:
            ChannelError: it was not kept.
        """


def make_stores(urls: Sequence[str]) -> list[CheckpointStore]:
    """The stores that ``DELIVERY_AUDIT_CHECKPOINTS`` names.

    Raises:
        ConfigError: a URL has none of the known forms; the value is not shown.
    """
    if len(urls) > MAX_STORES:
        raise ConfigError(f"{SETTING}: at most {MAX_STORES}")
    return [_store(url) for url in urls]


def _store(url: str) -> CheckpointStore:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigError(f"{SETTING}: write {SHAPES}") from None
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return FileStore(Path(unquote(parts.path)))
    if parts.scheme in ("http", "https") and parts.hostname:
        return WebhookStore(url, _place(parts))
    if parts.scheme == "s3":
        return S3Store(_s3_target(parts))
    raise ConfigError(f"{SETTING}: write {SHAPES}")


def _place(parts: SplitResult) -> str:
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


class FileStore:
    """Appends one line per checkpoint; best on a volume that can only be added to."""

    def __init__(self, path: Path) -> None:
        self.name = f"file {path}"
        self._path = path

    def keep(self, checkpoint: Checkpoint) -> None:
        """See ``CheckpointStore``."""
        line = msgspec.json.encode(checkpoint) + b"\n"
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(handle, line)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise ChannelUnavailable(f"{self.name}: {error.strerror}") from error


class WebhookStore:
    """Posts each checkpoint as JSON; it is signed itself. A user and password in the URL are sent
    as basic authentication."""

    def __init__(self, url: str, name: str) -> None:
        self.name = f"webhook {name}"
        self._url = url

    def keep(self, checkpoint: Checkpoint) -> None:
        """See ``CheckpointStore``."""
        headers = {"Content-Type": "application/json"}
        _send(self.name, "POST", self._url, msgspec.json.encode(checkpoint), headers)


@dataclass(frozen=True, slots=True)
class S3Target:
    """A bucket at an S3-shaped service, addressed by path.

    Attributes:
        base: ``https://host[:port]``.
        prefix: before the objects' names; empty or with a slash at its end.
    """

    base: str
    host: str
    bucket: str
    prefix: str
    region: str
    access: str
    secret: str


def _s3_target(parts: SplitResult) -> S3Target:
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    bucket, _, prefix = unquote(parts.path.lstrip("/")).partition("/")
    if not (parts.hostname and parts.username and parts.password and bucket):
        raise ConfigError(f"{SETTING}: s3 needs host, bucket, access key and secret: {SHAPES}")
    if set(query) - {"region", "tls"} or query.get("tls", "on") not in ("on", "off"):
        raise ConfigError(f"{SETTING}: s3 knows ?region=NAME and ?tls=off")
    scheme = "http" if query.get("tls") == "off" else "https"
    host = parts.hostname + (f":{parts.port}" if parts.port else "")
    return S3Target(
        f"{scheme}://{host}",
        host,
        bucket,
        prefix.rstrip("/") + "/" if prefix.strip("/") else "",
        query.get("region", "us-east-1"),
        unquote(parts.username),
        unquote(parts.password),
    )


class S3Store:
    """Puts each checkpoint as an object of its own; best in a bucket with an object lock."""

    def __init__(
        self, target: S3Target, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.name = f"s3 {target.host}/{target.bucket}"
        self._target = target
        self._clock = clock

    def keep(self, checkpoint: Checkpoint) -> None:
        """See ``CheckpointStore``."""
        target, body = self._target, msgspec.json.encode(checkpoint)
        # As S3 reads a path before it signs it: encoded once, slashes kept.
        key = quote(f"{target.prefix}{checkpoint.number:020}.json", safe="/-_.~")
        path = f"/{quote(target.bucket, safe='-_.~')}/{key}"
        digest = hashlib.sha256(body).hexdigest()
        now = self._clock()
        headers = {
            "host": target.host,
            "x-amz-content-sha256": digest,
            "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
        }
        signed = authorization(
            "PUT", path, headers, digest, target.region, target.access, target.secret
        )
        sent = headers | {"Authorization": signed, "Content-Type": "application/json"}
        _send(self.name, "PUT", target.base + path, body, sent)


def authorization(
    method: str,
    path: str,
    headers: Mapping[str, str],
    digest: str,
    region: str,
    access: str,
    secret: str,
) -> str:
    """The ``Authorization`` header of a request to S3 without a query.

    Args:
        path: as sent, escapes included.
        headers: those that are signed, in lower case; ``x-amz-date`` and ``host`` among them.
        digest: SHA-256 of the body, hexadecimal.

    Source: Amazon S3 API Reference, "Signature Calculations for the Authorization Header:
    Transferring Payload in a Single Chunk (AWS Signature Version 4)".
    """
    at = headers["x-amz-date"]
    names = ";".join(sorted(headers))
    lines = [f"{name}:{headers[name].strip()}" for name in sorted(headers)]
    request = "\n".join([method, path, "", *lines, "", names, digest])
    scope = f"{at[:8]}/{region}/s3/aws4_request"
    hashed = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", at, scope, hashed])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return (
        f"AWS4-HMAC-SHA256 Credential={access}/{scope},SignedHeaders={names},Signature={signature}"
    )


def _send(name: str, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> None:
    try:
        with httpx.Client(timeout=TIMEOUT, follow_redirects=False) as client:
            answer = client.request(method, url, content=body, headers=dict(headers))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ChannelUnavailable(f"{name}: {type(error).__name__}") from error
    if answer.status_code >= 500 or answer.status_code == 429:
        raise ChannelUnavailable(f"{name} answers {answer.status_code}")
    if not answer.is_success:
        raise ChannelRejected(f"{name} answers {answer.status_code}")


def keep_in_all(stores: Iterable[CheckpointStore], checkpoint: Checkpoint) -> dict[str, str]:
    """Keep a checkpoint in every store; one that fails keeps no other from it.

    Returns:
        Failed stores by name, with the reason.
    """
    failed = {}
    for store in stores:
        try:
            store.keep(checkpoint)
        except ChannelError as error:
            failed[store.name] = str(error)
    return failed
