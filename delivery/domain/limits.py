"""Limits that more than one part applies, each defined once."""

from __future__ import annotations

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Largest body of a request; the proxies in the deployment files have the same limit."""
MAX_EVENTS = 1_000
"""Events in one request."""
MAX_CLOUD_NAME = 255
"""Characters of a CloudEvent's source, and of its id."""
MAX_SMS_CHARS = 1_600
"""Source: Twilio, error 21617."""
MIN_SECRET_BYTES = 32
"""A key as long as the hash. Source: RFC 7518, section 3.2."""
DEFAULT_TTL = 259_200.0
"""Time to live in seconds of an event whose policy sets none."""
QUEUE_COPY_AGE = DEFAULT_TTL
"""Seconds until the second copy of an event is dropped."""
TOKEN_TTL = 86_400.0
"""Lifetime in seconds of a token from the command line."""

MAX_TOKEN_TTL = 366 * 86_400.0
"""Seconds that a token of an identity provider may be valid, unless the settings say otherwise."""
MAX_SECRET_TOKEN_TTL = 100 * MAX_TOKEN_TTL
"""The same for a token that this installation's secret signed; 0.3.0 lowers it to the other."""
