"""Tiers of users, and the class of events that an installation gives each of them.

Owns: the four tiers, and how the setting is read. Never does: decide what a class is owed: the
policy file does.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping

from delivery.domain.event import CLASS_NAME

VARIABLE = "DELIVERY_TIER_CLASSES"
_SEPARATOR = re.compile(r"[\s,]+")


class Tier(enum.StrEnum):
    """What a user pays for."""

    FREE = "free"
    EARLY = "early"
    MID = "mid"
    ENTERPRISE = "enterprise"


def find_tier(name: object) -> Tier | None:
    """The tier of this name, in letters of any case."""
    return next((tier for tier in Tier if isinstance(name, str) and tier == name.lower()), None)


def parse_tier_classes(given: str | Mapping[str, object]) -> dict[Tier, str]:
    """Read the setting.

    Args:
        given: ``enterprise=orders, mid=critical``, or a mapping of the same.

    Raises:
        ValueError: there is no such tier, or a class has no valid name; says what to write.
    """
    pairs: Iterable[tuple[str, object]]
    if isinstance(given, str):
        words = [word for word in _SEPARATOR.split(given.strip()) if word]
        pairs = [(name, value) for name, _, value in (word.partition("=") for word in words)]
    else:
        pairs = given.items()
    read: dict[Tier, str] = {}
    for name, value in pairs:
        tier = find_tier(name)
        if tier is None:
            raise ValueError(f"no tier {str(name)[:32]!r}; known: {', '.join(Tier)}")
        if not isinstance(value, str) or CLASS_NAME.fullmatch(value) is None:
            raise ValueError(
                f"class {str(value)[:32]!r} of tier {tier}: give a class of the policy file, as in "
                "enterprise=orders"
            )
        read[tier] = value
    return read
