"""Tiers of users, by which the older emitters chose how hard to try.

Owns: the four tiers and the class of events that an installation gives each. Never does: decide
what a class is owed: the policy file does.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from delivery.domain.event import CLASS_NAME
from delivery.errors import ConfigError, InvalidEvent


class Tier(enum.StrEnum):
    """What a user pays for."""

    FREE = "free"
    EARLY = "early"
    MID = "mid"
    ENTERPRISE = "enterprise"


PRIORITY = frozenset({Tier.MID, Tier.ENTERPRISE})
"""Tiers of ``is_priority_user``."""
_classes: dict[Tier, str] = {}


def tier_of(value: object) -> Tier:
    """The tier of this name.

    Raises:
        InvalidEvent: there is none; names those that there are.
    """
    if isinstance(value, str):
        for tier in Tier:
            if tier == value.lower():
                return tier
    known = ", ".join(Tier)
    shown = f"{value:.32}" if isinstance(value, str) else type(value).__name__
    raise InvalidEvent(f"no tier {shown!r}; known: {known}", field="tier")


def set_tier_classes(classes: Mapping[str, str]) -> None:
    """Set, once at start, the class of the events of each tier's users.

    Args:
        classes: tier -> a class of the policy file. The policies choose by the type of an event
            for tiers that are left out, as they do for all before the first call.

    Raises:
        InvalidEvent: there is no such tier.
        ConfigError: a class has no valid name.
    """
    read: dict[Tier, str] = {}
    for tier, name in classes.items():
        if CLASS_NAME.fullmatch(str(name)) is None:
            raise ConfigError(f"class {name!r} of tier {tier}: give a class of the policy file")
        read[tier_of(tier)] = str(name)
    _classes.clear()
    _classes.update(read)


def class_of(tier: Tier) -> str | None:
    """The class of this tier's events; ``None``: the policies choose by type."""
    return _classes.get(tier)
