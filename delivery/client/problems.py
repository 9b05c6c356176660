"""From the service's problem documents to this package's errors: one table, at the border.

Source: RFC 9457 (problem details), contract 4.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from delivery.errors import (
    DeliveryError,
    IdConflict,
    InvalidContext,
    InvalidEvent,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    Unauthenticated,
)

_BY_SLUG: dict[str, type[InvalidEvent]] = {
    kind.slug: kind for kind in (InvalidEvent, InvalidContext, PayloadTooLarge, IdConflict)
}
_BY_STATUS: dict[int, type[InvalidEvent]] = {409: IdConflict, 413: PayloadTooLarge}
_SECONDS = re.compile("[0-9]{1,9}")
BUSY = frozenset({429, 503})


def to_error(
    status: int, problem: Mapping[str, Any], *, retry_after: float | None = None
) -> DeliveryError:
    """The error that a problem document means.

    Args:
        status: the response's status, or the ``status`` of a rejected item.
        problem: the document, empty if there was none.
        retry_after: what the response asked for.
    """
    message = str(problem.get("detail") or problem.get("title") or f"the service answered {status}")
    if status in BUSY:
        return Overloaded(message, retry_after=1.0 if retry_after is None else retry_after)
    if status == 401:
        return Unauthenticated(message)
    slug = str(problem.get("type", "")).rsplit("/", 1)[-1]
    kind = _BY_SLUG.get(slug) or _BY_STATUS.get(status)
    if kind is not None:
        field = problem.get("field")
        return kind(message, field=field if isinstance(field, str) else None)
    return RemoteError(message, status=status, problem=dict(problem))


def item_error(problem: object) -> tuple[int, DeliveryError]:
    """Status and error of one rejected event of a batch."""
    document = problem if isinstance(problem, Mapping) else {}
    status = document.get("status")
    if not isinstance(status, int):
        status = 422
    return status, to_error(status, document)


def seconds(header: str | None) -> float | None:
    """``Retry-After`` in seconds; the date form counts as absent. Source: RFC 9110, 10.2.3."""
    if header is None or not _SECONDS.fullmatch(header.strip()):
        return None
    return float(header)
