"""Messages that ask the owner of an address whether it may get messages.

Owns: how many of them one address and one user may cause, and what such a message is. Without these
limits a client could aim this service at a stranger.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from delivery.domain.channels import Channel
from delivery.domain.users.contact import Contact

LIMIT_PERIOD = timedelta(days=1)
PER_USER = 3
"""Messages that a user's contact may cause in a period, whatever the addresses are; each address
gets one, whichever users name it."""

MAX_ATTEMPTS = 8
FIRST_RETRY = 30.0
"""Seconds; each further retry waits twice as long."""


@dataclass(frozen=True, slots=True)
class Verification:
    """A message that is to be sent now.

    Attributes:
        address: where it goes; its owner's agreement makes it verified.
        contact: the user's language, and this address alone.
        attempts: that were begun, this one included.
    """

    id: str
    user_id: str
    channel: str
    address: str
    contact: Contact
    attempts: int

    @property
    def retry_in(self) -> float | None:
        """Seconds until the next attempt; ``None`` when this is the last one."""
        if self.attempts >= MAX_ATTEMPTS:
            return None
        return float(FIRST_RETRY * 2 ** (self.attempts - 1))


def contact_of(user: Contact, channel: str, address: str) -> Contact:
    """A contact with one address, in the user's language."""
    return Contact(
        user.user_id,
        email=address if channel == Channel.EMAIL else None,
        phone=address if channel == Channel.SMS else None,
        push=(address,) if channel == Channel.EMERGENCY else (),
        locale=user.locale,
        time_zone=user.time_zone,
    )


def address_key(channel: str, form: str) -> str:
    """The key of an address's limit. A mailbox's tags (``name+tag@host``) share the limit of the
    mailbox, and so does any spelling of its case."""
    if channel == Channel.EMAIL:
        local, _, domain = form.rpartition("@")
        form = f"{local.partition('+')[0] or local}@{domain}".lower()
    return sha256(f"address\n{channel}\n{form}".encode("utf-8", "replace")).hexdigest()


def user_keys(user_id: str) -> list[str]:
    """The keys of a user's limit, one for each message."""
    texts = [f"user\n{number}\n{user_id}" for number in range(PER_USER)]
    return [sha256(text.encode("utf-8", "replace")).hexdigest() for text in texts]
