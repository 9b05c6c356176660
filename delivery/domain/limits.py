"""Limits that more than one part holds to, each once."""

from __future__ import annotations

MAX_BODY_BYTES = 16 * 1024 * 1024
"""The body of a request; the proxies in the deployment files let as much through."""
MAX_EVENTS = 1_000
"""Events in one request."""
MAX_SMS_CHARS = 1_600
"""Source: Twilio, error 21617."""
MIN_SECRET_BYTES = 32
"""A key as long as the hash. Source: RFC 7518, section 3.2."""
DEFAULT_TTL = 259_200.0
"""Seconds that an event lives whose policy says nothing else."""
QUEUE_COPY_AGE = DEFAULT_TTL
"""Seconds until the second copy of an event is dropped."""
TOKEN_TTL = 86_400.0
"""Seconds that a token from the command line is good for."""
