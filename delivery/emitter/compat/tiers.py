"""Tiers of users, by which the older emitters chose how hard to try.

Owns: the class of events that this process gives each tier. Never does: decide what a class is
owed: the policy file does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from delivery.domain.users.tiers import VARIABLE, Tier, find_tier, parse_tier_classes
from delivery.errors import ConfigError, InvalidEvent

__all__ = ["PRIORITY", "Tier", "class_of", "set_tier_classes", "tier_of"]

PRIORITY = frozenset({Tier.MID, Tier.ENTERPRISE})
"""Tiers of ``is_priority_user``."""
_set: dict[Tier, str] | None = None
_read: tuple[str, dict[Tier, str]] = ("", {})


def tier_of(value: object) -> Tier:
    """The tier of this name.

    Raises:
        InvalidEvent: there is none; names those that there are.
    """
    tier = find_tier(value)
    if tier is None:
        known = ", ".join(Tier)
        shown = f"{value:.32}" if isinstance(value, str) else type(value).__name__
        raise InvalidEvent(f"no tier {shown!r}; known: {known}", field="tier")
    return tier


def set_tier_classes(classes: Mapping[str, str] | None) -> None:
    """Set, once at start, the class of the events of each tier's users, in place of the setting
    ``DELIVERY_TIER_CLASSES``.

    Args:
        classes: tier -> a class of the policy file. The policies choose by the type of an event
            for tiers that are left out, as they do for all where neither is set. ``None`` lets the
            setting count again.

    Raises:
        ConfigError: there is no such tier, or a class has no valid name.
    """
    global _set
    try:
        _set = None if classes is None else parse_tier_classes(classes)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def class_of(tier: Tier) -> str | None:
    """The class of this tier's events; ``None``: the policies choose by type.

    Raises:
        ConfigError: the setting cannot be read; names it.
    """
    return (_setting() if _set is None else _set).get(tier)


def _setting() -> dict[Tier, str]:
    """``DELIVERY_TIER_CLASSES`` of this process, which an application reads by itself: its
    emitters may be connected to a service elsewhere."""
    global _read
    given = os.environ.get(VARIABLE, "")
    if given != _read[0]:
        try:
            _read = given, parse_tier_classes(given)
        except ValueError as error:
            raise ConfigError(f"{VARIABLE}: {error}") from error
    return _read[1]
