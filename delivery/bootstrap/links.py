"""Links, the brand and the public key of push messages, made from settings."""

from __future__ import annotations

import secrets

from delivery.config import Settings, secret
from delivery.domain.inputs.origin import origin_of
from delivery.domain.messages.brand import Brand
from delivery.links import LinkSigner
from delivery.vapid import public_key


def make_links(settings: Settings) -> LinkSigner:
    """The signer of links; without a secret no link is mailed, and a random key does."""
    own, previous = settings.link_secrets
    return LinkSigner(own or secrets.token_hex(32), previous, settings.base_url)


def make_brand(settings: Settings) -> Brand:
    """The application, as its users know it; links lead to it and to the listed origins alone."""
    own = origin_of(settings.app_url) if settings.app_url else None
    return Brand(
        name=settings.brand_name or "",
        logo_url=settings.brand_logo_url,
        color=settings.brand_color,
        app_url=settings.app_url,
        origins=frozenset([*settings.link_origins, *([own] if own else [])]),
        footer=settings.mail_footer or "",
    )


def push_public_key(settings: Settings) -> str | None:
    """The key that browsers subscribe with; ``None``: push messages to them are not set up."""
    key = secret(settings.vapid_private_key)
    return None if key is None else public_key(key)
