"""Events of the outbox on their way to a gateway: one request for many, an answer for each.

Owns: which answers are final. Only an answer of the service itself is: a proxy's page, a wrong
address or a refused token says nothing about an event, and costs none.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from delivery.errors import ConfigError, Overloaded, Unreachable

TIMEOUT = 30.0
MAX_BYTES = 1_000_000
"""Of one request: proxies take as much by default."""
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_ABOUT_THE_EVENTS = frozenset({400, 409, 413, 422})
_SECONDS = re.compile("[0-9]{1,5}")


class Verdict(enum.Enum):
    """What became of one event."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """It never will be accepted."""
    BUSY = "busy"
    """The service could not take it now."""
    FAILED = "failed"
    """Neither: the service failed over it, or a proxy refused it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict and the text that came with it."""

    verdict: Verdict
    reason: str = ""


class Post:
    """``POST /v1/events`` of one service.

    Args:
        url: of the service.
        token: gives the bearer token of each request, with the scope ``emit``.

    Raises:
        ConfigError: the URL is none.
    """

    def __init__(self, url: str, token: Callable[[], str]) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"DELIVERY_URL must start with http:// or https://, not {url!r}")
        self._url = url.rstrip("/") + "/v1/events"
        self._token = token
        try:
            self._client = httpx.Client(timeout=TIMEOUT)
            self._client.build_request("POST", self._url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"DELIVERY_URL is not a URL: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def send(self, events: Sequence[bytes]) -> list[Answer]:
        """Post encoded events; one answer for each of the first events, up to all of them.

        Raises:
            Unreachable: no gateway answered, or it refused the caller.
            Overloaded: it is to be asked again after ``retry_after`` seconds.
        """
        count, size = 0, 0
        for event in events:
            size += len(event) + 1
            if count and size > MAX_BYTES:
                break
            count += 1
        return self._send(events[:count])

    def _send(self, events: Sequence[bytes]) -> list[Answer]:
        response = self._request(b'{"events":[%b]}' % b",".join(events))
        document = _document(response)
        status = response.status_code
        if status == 202 or isinstance(document.get("rejected"), list):
            return _answers(len(events), document)
        text = str(document.get("detail") or document.get("title") or f"status {status}")[:500]
        is_ours = _is_problem(document)
        if len(events) > 1 and (status in _ABOUT_THE_EVENTS or (status == 500 and is_ours)):
            # One of them spoils the request, or a proxy on the way takes less: find out which.
            return self._send(events[: len(events) // 2])
        if status in _ABOUT_THE_EVENTS:
            verdict = Verdict.REFUSED if is_ours else Verdict.FAILED
        elif status == 500 and is_ours:
            verdict = Verdict.FAILED
        elif status in _BUSY:
            raise Overloaded(f"{self._url}: {text}", retry_after=_retry_after(response))
        else:
            raise Unreachable(f"{self._url} refused the outbox's relay ({status}): {text}")
        return [Answer(verdict, f"{status}: {text}")]

    def _request(self, body: bytes) -> httpx.Response:
        headers = {
            "Authorization": f"Bearer {self._token()}",
            "Content-Type": "application/json",
        }
        try:
            return self._client.post(self._url, content=body, headers=headers)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{self._url} does not answer: {reason}") from error


def _document(response: httpx.Response) -> Mapping[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_problem(document: Mapping[str, Any]) -> bool:
    return str(document.get("type", "")).startswith("/problems/")


def _answers(count: int, document: Mapping[str, Any]) -> list[Answer]:
    answers = [Answer(Verdict.FAILED, "the service gave no answer for it")] * count
    for row in _rows(document, "accepted", count):
        answers[row["index"]] = Answer(Verdict.ACCEPTED)
    for row in _rows(document, "rejected", count):
        problem = row.get("error")
        problem = problem if isinstance(problem, dict) else {}
        status = problem.get("status")
        text = str(problem.get("detail") or problem.get("title") or "refused")[:500]
        answers[row["index"]] = Answer(_verdict(status), f"{status}: {text}")
    return answers


def _verdict(status: object) -> Verdict:
    if status in _ABOUT_THE_EVENTS:
        return Verdict.REFUSED
    return Verdict.BUSY if status in _BUSY - {500} else Verdict.FAILED


def _rows(document: Mapping[str, Any], name: str, count: int) -> list[Mapping[str, Any]]:
    rows = document.get(name)
    return [
        row
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and isinstance(row.get("index"), int) and 0 <= row["index"] < count
    ]


def _retry_after(response: httpx.Response) -> float:
    header = response.headers.get("Retry-After", "").strip()
    return float(header) if _SECONDS.fullmatch(header) else 1.0
