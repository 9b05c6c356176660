"""One POST to an application's endpoint, signed as in Standard Webhooks.

Owns: the signature, the check of the address, and what an answer means. Never does: retry, or
follow a redirect.
"""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Callable
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version

import httpx

from delivery.domain.inputs.push_target import is_callable, is_public
from delivery.domain.lifecycle import Outcome
from delivery.domain.webhooks.endpoints import Endpoint
from delivery.domain.webhooks.messages import MAX_ERROR, WebhookAnswer
from delivery.errors import ChannelError, ConfigError, OutcomeUnknown
from delivery.transports.addresses import Resolve, require_public, resolve
from delivery.transports.http import Poster, retry_after
from delivery.transports.text import provider_text

_RESOLVE_SHARE = 0.4
"""Of the timeout, for the name."""
MAX_QUOTED = 200


class WebhookPoster:
    """Posts to one endpoint. Thread-safe.

    Args:
        clock: epoch seconds.
        resolve: looks a name up; the address is checked again at the connect.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Callable[[], float] = time.time,
        resolve: Resolve = resolve,
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._resolve = resolve
        allow_private = endpoint.allow_private
        self._poster = Poster(
            f"webhook {endpoint.name}",
            endpoint.url,
            rule=is_callable if allow_private else is_public,
            # Through a proxy of the environment no address could be checked.
            trust_env=allow_private,
        )

    def post(self, message_id: str, body: bytes, media_type: str, timeout: float) -> WebhookAnswer:
        """Post a message once.

        Args:
            timeout: seconds for all of it.
        """
        deadline = time.monotonic() + timeout
        try:
            if not self._endpoint.allow_private:
                require_public(self._endpoint.host, timeout * _RESOLVE_SHARE, resolve=self._resolve)
            response = self._poster.post(
                "",
                content=body,
                headers=self._headers(message_id, body, media_type),
                timeout=max(0.1, deadline - time.monotonic()),
            )
        except OutcomeUnknown as error:
            return WebhookAnswer(Outcome.UNKNOWN, error=str(error)[:MAX_ERROR])
        except (ChannelError, ConfigError) as error:
            return WebhookAnswer(Outcome.FAILED, error=str(error)[:MAX_ERROR])
        return _answer(response)

    def _headers(self, message_id: str, body: bytes, media_type: str) -> dict[str, str]:
        timestamp = int(self._clock())
        keys = [self._endpoint.secret, self._endpoint.previous]
        return {
            "Content-Type": media_type,
            "User-Agent": f"delivery-ledger/{_version()}",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(
                signature(key, message_id, timestamp, body) for key in keys if key is not None
            ),
        }


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature. Source: Standard Webhooks, "Signature scheme"."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def _answer(response: httpx.Response) -> WebhookAnswer:
    status = response.status_code
    if response.is_success:
        return WebhookAnswer(Outcome.DELIVERED, status)
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    said = provider_text(response.content, MAX_QUOTED)
    error = f"answered {status} {reason}".rstrip() + (f": {said}" if said else "")
    return WebhookAnswer(Outcome.FAILED, status, error[:MAX_ERROR], retry_after(response))


def _version() -> str:
    try:
        return version("delivery-ledger")
    except PackageNotFoundError:
        return "0"
