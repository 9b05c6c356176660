"""Public keys of the token issuer, fetched from its JWKS URL and cached.

Owns: fetching without blocking the loop, the cache, and how often the URL is requested. Never does:
read tokens. Cached keys stay in use while the URL does not answer, up to a maximum age: a key that
was removed meanwhile must not be accepted for ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from delivery.callers.bounded_get import bounded_get
from delivery.domain.inputs.push_target import is_callable
from delivery.errors import ConfigError, InvalidFrame, KeysUnavailable
from delivery.protocol import decode_json

logger = logging.getLogger(__name__)

MAX_AGE = 300.0
"""Seconds after which keys are fetched anew before they verify a token."""
KEEP_FOR = 3_600.0
"""Seconds for which keys are used while the URL does not answer."""
EARLY = 0.8
"""Share of ``MAX_AGE`` after which a task fetches keys, so that no token waits for a fetch."""
MIN_INTERVAL = 30.0  # between two fetches; tokens with unknown key ids cause no more
FIRST_INTERVAL = 2.0  # while no key is known
CURRENT = 1.0  # seconds for which a fetch has the last word about an unknown key id
TIMEOUT = 5.0
MAX_BYTES = 1 << 20
MAX_KEYS = 64
MIN_RSA_BITS = 2_048  # Source: RFC 7518, section 3.3

# Each kind of key is valid for one algorithm. Symmetric keys ("oct") are not in the table: a
# published key must never verify an HMAC.
_KINDS: Mapping[tuple[str, str | None], str] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
    ("OKP", "Ed448"): "EdDSA",
}
ALGORITHMS = ("RS256", "ES256", "EdDSA")


@dataclass(frozen=True, slots=True)
class Key:
    """One public key and the one algorithm it is used with.

    Attributes:
        fingerprint: of the key itself, whatever its id.
    """

    kid: str | None
    algorithm: str
    public: Any
    fingerprint: str


class KeySet:
    """Keys of the issuer, found by id and algorithm.

    Args:
        url: address of the JWKS document.
        keep_for: seconds for which known keys are used while the URL does not answer.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        keep_for: float = KEEP_FOR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not url.startswith(("https://", "http://")):
            raise ConfigError("the JWKS URL must start with https:// (or http:// for tests)")
        self._url = url
        self._keep_for = keep_for
        self._max_age = min(MAX_AGE, keep_for / 2.0)
        self._min_interval = min(MIN_INTERVAL, keep_for / 4.0)
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._watchers: list[Callable[[], None]] = []
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Fetch the keys, and again before they are old, in a task."""
        self._refreshing = asyncio.get_running_loop().create_task(self._keep_fresh())

    def watch(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever keys were removed."""
        self._watchers.append(callback)

    def has(self, fingerprint: str) -> bool:
        """Whether the issuer published this key when the keys were last fetched."""
        return any(key.fingerprint == fingerprint for key in self._keys)

    async def find(self, kid: str | None, algorithm: str) -> list[Key]:
        """Keys that may have signed a token with this header; empty if none.

        Raises:
            KeysUnavailable: no keys are known, or they are too old, and the URL does not answer.
        """
        found = self._matching(kid, algorithm)
        if (self._age >= self._max_age or not found) and (refresh := self._refresh()) is not None:
            # Shielded: a cancelled caller must not cancel the fetch for the others.
            await asyncio.shield(refresh)
            found = self._matching(kid, algorithm)
        if self._age >= self._keep_for:
            raise KeysUnavailable("the token issuer's keys cannot be fetched; try again")
        return found

    @property
    def is_current(self) -> bool:
        """Whether the keys were fetched just now, so that an id they lack is unknown for good."""
        return self._age < CURRENT

    async def close(self) -> None:
        """Stop fetching."""
        tasks = [task for task in (self._task, self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_fresh(self) -> None:
        while True:
            if (refresh := self._refresh()) is not None:
                await asyncio.wait([refresh])
            age = self._age
            is_fresh = age < self._max_age * EARLY
            await asyncio.sleep(self._max_age * EARLY - age if is_fresh else self._min_interval)

    def _matching(self, kid: str | None, algorithm: str) -> list[Key]:
        return [
            key
            for key in self._keys
            if key.algorithm == algorithm and (kid is None or key.kid is None or key.kid == kid)
        ]

    @property
    def _age(self) -> float:
        """Seconds since the keys were fetched."""
        return inf if self._fetched_at is None else self._clock() - self._fetched_at

    def _refresh(self) -> asyncio.Task[None] | None:
        """Start a fetch unless one is under way; ``None`` when it is too soon for another."""
        if self._task is None or self._task.done():
            interval = self._min_interval if self._fetched_at is not None else FIRST_INTERVAL
            if self._asked_at is not None and self._clock() - self._asked_at < interval:
                return None
            self._asked_at = self._clock()
            self._task = asyncio.get_running_loop().create_task(self._load())
        return self._task

    async def _load(self) -> None:
        try:
            keys = parse_keys(await self._fetch())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            logger.warning("JWKS: %s: %s: %s", self._url, type(error).__name__, error)
            return
        removed = {key.fingerprint for key in self._keys} - {key.fingerprint for key in keys}
        self._keys, self._fetched_at = keys, self._clock()
        if removed:
            logger.warning("JWKS: %s: %d keys were removed", self._url, len(removed))
            for callback in self._watchers:
                callback()

    async def _fetch(self) -> Any:
        # The keys of all users come from where the setting says, not from where that leads; it may
        # be private, but not link-local.
        body = await bounded_get(
            self._url,
            is_allowed=is_callable,
            timeout=TIMEOUT,
            max_bytes=MAX_BYTES,
            headers={"Accept": "application/json"},
        )
        return _json(body)


def parse_keys(document: Any) -> tuple[Key, ...]:
    """Usable signing keys of a JWKS document; other keys are skipped.

    Raises:
        ValueError: it is no JWKS document.
    """
    listed = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(listed, list):
        raise ValueError('not a JWKS document: no list "keys"')
    keys = (_key(item) for item in listed[:MAX_KEYS] if isinstance(item, Mapping))
    return tuple(key for key in keys if key is not None)


def _json(body: bytes) -> Any:
    try:
        return decode_json(body)
    except InvalidFrame as error:
        raise ValueError(str(error)) from error


def _key(item: Mapping[str, Any]) -> Key | None:
    algorithm = _algorithm(item)
    if algorithm is None or item.get("use", "sig") != "sig":
        return None
    kid = item.get("kid")
    try:
        public = jwt.PyJWK(dict(item), algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        logger.warning("JWKS: key %r is unusable: %s", kid, type(error).__name__)
        return None
    if isinstance(public, RSAPublicKey) and public.key_size < MIN_RSA_BITS:
        logger.warning("JWKS: key %r is shorter than %d bits", kid, MIN_RSA_BITS)
        return None
    raw = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fingerprint = hashlib.sha256(raw).hexdigest()
    return Key(kid if isinstance(kid, str) else None, algorithm, public, fingerprint)


def _algorithm(item: Mapping[str, Any]) -> str | None:
    kind, curve = item.get("kty"), item.get("crv")
    if not isinstance(kind, str) or not isinstance(curve, str | None):
        return None
    algorithm = _KINDS.get((kind, curve))
    # A PS256 key is an RSA key as well: an ``alg`` of the issuer must match the table's.
    return algorithm if item.get("alg", algorithm) == algorithm else None
