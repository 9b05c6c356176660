"""Requests that messages of Amazon SNS ask for: its certificates and confirmations.

Owns: fetching them within limits of host, size, time and number; a certificate is kept. Never does:
follow a redirect, or fetch anything for a message of another topic.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

import aiohttp

from delivery.callers.bounded_get import bounded_get
from delivery.domain.inputs.push_target import is_public
from delivery.errors import DeliveryError
from delivery.transports.receipts import sns

logger = logging.getLogger(__name__)

TIMEOUT = 5.0
MAX_BYTES = 64 * 1024
MAX_CERTIFICATES = 8
MAX_FETCHES = 10
"""Fetches in ``FETCH_WINDOW`` seconds: a message that is not verified yet may cause one."""
FETCH_WINDOW = 60.0

Fetch = Callable[[str], Awaitable[bytes]]


class CertificateUnavailable(DeliveryError):
    """A message cannot be checked or answered now; SNS repeats it."""


class SnsRequests:
    """Checks messages of one topic, and answers its confirmations.

    Args:
        topic: its ARN.
        fetch: reads a URL.
        clock: monotonic seconds.

    Raises:
        ConfigError: the ARN has another shape.
    """

    def __init__(
        self,
        topic: str,
        *,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = sns.check_topic(topic)
        self._fetch = fetch or partial(
            bounded_get, is_allowed=is_public, timeout=TIMEOUT, max_bytes=MAX_BYTES
        )
        self._clock = clock
        self._certificates: OrderedDict[str, bytes] = OrderedDict()
        self._fetched: deque[float] = deque(maxlen=MAX_FETCHES)
        self._turn = asyncio.Lock()

    async def is_ours(self, message: sns.SnsMessage) -> bool:
        """Whether the message is of the topic and signed by SNS.

        Raises:
            CertificateUnavailable: its certificate cannot be fetched now.
        """
        if message.topic != self._topic or not sns.is_certificate_url(message.certificate_url):
            return False
        certificate = await self._certificate(message.certificate_url)
        return sns.is_signed(message, certificate, datetime.now(UTC))

    async def answer(self, message: sns.SnsMessage) -> None:
        """Confirm a subscription. The message must be verified.

        Raises:
            CertificateUnavailable: SNS cannot be reached now.
        """
        if message.kind == sns.UNSUBSCRIBE:
            logger.warning("callback ses: the topic's subscription was removed")
            return
        if message.url is None or not sns.is_confirm_url(message.url):
            logger.warning("callback ses: the subscription's URL is not one of SNS")
            return
        await self._get(message.url)
        logger.info("callback ses: subscription confirmed")

    async def _certificate(self, url: str) -> bytes:
        if url not in self._certificates:
            async with self._turn:
                if url not in self._certificates:  # else another request fetched it meanwhile
                    self._certificates[url] = await self._get(url)
        found = self._certificates[url]
        self._certificates.move_to_end(url)
        if len(self._certificates) > MAX_CERTIFICATES:
            self._certificates.popitem(last=False)
        return found

    async def _get(self, url: str) -> bytes:
        now = self._clock()
        if len(self._fetched) == MAX_FETCHES and now - self._fetched[0] < FETCH_WINDOW:
            raise CertificateUnavailable("too many requests to SNS in a minute")
        self._fetched.append(now)
        try:
            return await self._fetch(url)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            logger.warning("callback ses: SNS: %s: %s", type(error).__name__, error)
            raise CertificateUnavailable("SNS does not answer now") from error
