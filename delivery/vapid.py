"""VAPID keys: the pair by which push services of browsers know this installation.

Owns: making, reading and showing the key. Never does: sign, or send.
Source: RFC 8292, sections 2 and 3.2.
"""

from __future__ import annotations

import base64
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

_BASE64URL = re.compile(r"[A-Za-z0-9_-]{43}=?")


def new_private_key() -> str:
    """A new private key: 32 bytes in base64url without padding."""
    return _text(ec.generate_private_key(ec.SECP256R1()))


def read_private_key(text: str) -> str:
    """A private key as ``new_private_key`` writes it, given so or as PEM.

    Raises:
        ValueError: it is neither; the text is not repeated.
    """
    text = text.strip()
    try:
        if text.startswith("-----BEGIN"):
            key = serialization.load_pem_private_key(text.encode(), password=None)
            if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1":
                return _text(key)
        elif _BASE64URL.fullmatch(text):
            return _text(_private(_decoded(text)))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        pass  # said below, without the library's words, which may quote the key
    raise ValueError(
        "must be 32 bytes in base64url, or PEM of a key on the curve P-256; "
        "make one with: delivery push keys"
    )


def public_key(private_key: str) -> str:
    """The public key, as ``applicationServerKey`` of a browser takes it: base64url."""
    point = (
        _private(_decoded(private_key))
        .public_key()
        .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    )
    return base64.urlsafe_b64encode(point).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    bare = text.rstrip("=")
    return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))


def _private(raw: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(raw, "big"), ec.SECP256R1())


def _text(key: ec.EllipticCurvePrivateKey) -> str:
    raw = key.private_numbers().private_value.to_bytes(32, "big")
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
