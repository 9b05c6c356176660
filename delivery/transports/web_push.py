"""Push messages to browsers, through ``pywebpush``: encrypted for the device, signed with VAPID.

Owns: the payload, and what a push service's answer means. Never does: look a name up beforehand:
``reach`` checks the address that is connected to; and follow a redirect.
Source: RFC 8030, 8188, 8291 and 8292.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from delivery.domain.inputs.push_target import is_callable, is_public
from delivery.domain.users.web_push import WebPush
from delivery.errors import ChannelError, ConfigError, OutcomeUnknown, needs_extra
from delivery.transports.http import Poster, retry_after
from delivery.transports.text import one_line

if TYPE_CHECKING:
    import httpx

    from delivery.transports.rendering.render import Notice

NEEDED = "push messages to browsers need pywebpush"
TTL = 86_400
"""Seconds for which a push service keeps a message for a device that is away."""
MAX_PAYLOAD = 3_900
"""Bytes before encryption: services take 4,096 after it. Source: RFC 8030, section 7.2."""
MAX_TITLE, MAX_URL = 180, 2_048
_GONE = frozenset({404, 410})
_LATER = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Vapid:
    """By whom the messages are sent.

    Attributes:
        private_key: base64url, see ``delivery.vapid``.
        subject: where the push service can write to: ``mailto:`` or ``https:``.
    """

    private_key: str
    subject: str


@dataclass(frozen=True, slots=True)
class Pushed:
    """A push service's answer.

    Attributes:
        error: why it did not take the message; ``None``: it did.
        is_gone: the subscription ended.
        may_repeat: the same message may be taken later, after ``retry_in`` seconds if it said so.
        answered: whether the service answered at all.
    """

    error: str | None = None
    is_gone: bool = False
    may_repeat: bool = False
    retry_in: float | None = None
    answered: bool = True


NOT_IN_TIME = Pushed("a push service did not answer in time", may_repeat=True, answered=False)


class WebPusher:
    """Sends one notice to browsers. Thread-safe.

    Args:
        vapid: ``None``: this installation sends none.
        allow_private: also call services in private networks, over http (tests, closed networks).
    """

    def __init__(self, vapid: Vapid | None, *, allow_private: bool = False) -> None:
        self._vapid = vapid
        self._rule = is_callable if allow_private else is_public
        self._schemes = ("https", "http") if allow_private else ("https",)
        self.fault: str | None = None
        if vapid is None:
            self.fault = "web push is not set up (DELIVERY_VAPID_PRIVATE_KEY)"
        elif find_spec("pywebpush") is None:
            self.fault = str(needs_extra(NEEDED, "push"))

    def send(
        self, subscriptions: Sequence[WebPush], payload: bytes, topic: str, timeout: float
    ) -> list[Pushed]:
        """Send to each subscription, side by side.

        Args:
            topic: of several messages with the same one, a device that was away gets the last.

        Returns:
            Each one's answer within ``timeout`` seconds.
        """
        answers: queue.Queue[tuple[int, Pushed]] = queue.Queue(len(subscriptions) or 1)

        def send(number: int, one: WebPush) -> None:
            answers.put((number, self._send(one, payload, topic, timeout)))

        for number, one in enumerate(subscriptions):
            name = f"web-push-{number}"
            threading.Thread(target=send, args=(number, one), name=name, daemon=True).start()
        found = [NOT_IN_TIME] * len(subscriptions)
        ends = time.monotonic() + timeout + 0.5
        for _ in subscriptions:
            try:
                number, answer = answers.get(timeout=max(0.0, ends - time.monotonic()))
            except queue.Empty:
                break
            found[number] = answer
        return found

    def _send(self, one: WebPush, payload: bytes, topic: str, timeout: float) -> Pushed:
        # Imported late: it loads slowly, and gateways never send.
        from py_vapid import Vapid02, VapidException
        from pywebpush import WebPushException, webpush

        if self._vapid is None:
            return Pushed(self.fault)
        if urlsplit(one.endpoint).scheme not in self._schemes:
            return Pushed("a subscription's endpoint is not https")
        session = _Session(self._rule)
        try:
            webpush(
                {"endpoint": one.endpoint, "keys": {"p256dh": one.p256dh, "auth": one.auth}},
                payload,
                vapid_private_key=Vapid02.from_raw(self._vapid.private_key.encode()),
                vapid_claims={"sub": self._vapid.subject},
                timeout=timeout,
                ttl=TTL,
                headers={"Urgency": "high", "Topic": topic[:32]},
                requests_session=session,
            )
        except WebPushException as error:
            if session.answer is None:
                return Pushed(f"no push message could be made: {one_line(error, 200)}")
            return _refused(session.answer)
        except ChannelError as error:
            # An unknown outcome is repeated: the topic and the notification's tag make it one.
            text = "no answer" if isinstance(error, OutcomeUnknown) else "cannot be reached"
            return Pushed(f"{one.service}: {text}", may_repeat=True, answered=False)
        except (ConfigError, VapidException, ValueError) as error:
            return Pushed(f"no push message could be made ({type(error).__name__})")
        return Pushed()


class _Session:
    """What ``pywebpush`` takes for a session of ``requests``: one guarded POST."""

    def __init__(self, rule: Any) -> None:
        self._rule = rule
        self.answer: _Answer | None = None

    def post(self, url: str, *, timeout: float, data: bytes, headers: Mapping[str, str]) -> _Answer:
        host = urlsplit(url).hostname or ""
        # Through a proxy of the environment no address could be checked.
        poster = Poster(f"push service {host}", url, rule=self._rule, trust_env=False)
        response = poster.post("", timeout=timeout, content=data, headers=dict(headers))
        # The body is foreign text of no use.
        self.answer = _Answer(response.status_code, response)
        return self.answer


@dataclass(frozen=True, slots=True)
class _Answer:
    """What ``pywebpush`` reads of an answer."""

    status_code: int
    response: httpx.Response
    text: str = ""
    reason: str = ""

    @property
    def headers(self) -> Mapping[str, str]:
        return self.response.headers


def _refused(answer: _Answer) -> Pushed:
    status = answer.status_code
    host = answer.response.request.url.host if answer.response._request else ""
    text = f"the push service{f' {host}' if host else ''} answered {status}"
    if status in _GONE:
        return Pushed(f"{text}: the subscription ended", is_gone=True)
    if status in _LATER or status >= 500:
        return Pushed(text, may_repeat=True, retry_in=retry_after(answer.response))
    return Pushed(text)


def payload_of(notice: Notice, event_id: str) -> bytes:
    """What the service worker shows: at most ``MAX_PAYLOAD`` bytes of JSON."""
    title, summary = one_line(notice.title, MAX_TITLE), notice.body
    url = notice.url if notice.url and len(notice.url) <= MAX_URL else None
    while True:
        found = {"title": title, "summary": summary, "url": url, "id": event_id}
        encoded = msgspec.json.encode({name: value for name, value in found.items() if value})
        if len(encoded) <= MAX_PAYLOAD:
            return encoded
        # The url is at most 2,048 bytes and a title some 720: a summary is what is too long.
        summary = summary[: max(0, len(summary) - max(1, len(encoded) - MAX_PAYLOAD) // 4 - 1)]
