"""What ``delivery check`` says about classes of an installation's own, and about unlisted types.

Owns: the questions to the ledger and their findings. Never does: change anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from delivery.bootstrap.ledger import SQLITE_FILE, database_url, schema
from delivery.checks.findings import Finding, ok, warn, wrong
from delivery.config import Settings, load_policies
from delivery.domain.event import AUTH_TYPES, EventClass
from delivery.domain.policy import Policies
from delivery.errors import ConfigError, DeliveryError
from delivery.ledger import SqlLedger
from delivery.process.heartbeat import OWN_CLASSES

MAX_TYPES = 20
"""Unlisted types that a finding names."""


def look_at_classes(settings: Settings) -> Finding | None:
    """Whether every process knows the installation's own classes, and names of steps."""
    asked = _policies_and_ledger(settings)
    if asked is None:
        return None
    policies, url = asked
    named = ", ".join((*policies.own, *policies.named_steps))
    if not named:
        return None
    try:
        old = _without_own_classes(url)
    except DeliveryError:
        return None  # the database's own finding says it
    if old:
        return warn(
            "classes",
            f"{named}: not known to {', '.join(old)}, of release 0.1.0",
            "restart these processes with this version before you use these classes and steps",
        )
    return ok("classes", f"{named}: known to every process")


def look_at_tiers(settings: Settings, policies: Policies) -> Finding | None:
    """Whether the policies have the classes that tiers of users are given."""
    given = settings.tier_classes
    for tier, name in given.items():
        if name not in policies.classes:
            known = ", ".join(sorted(policies.classes))
            return wrong(
                "tiers",
                ConfigError(
                    f"DELIVERY_TIER_CLASSES: tier {tier} has the class {name}, which the policies "
                    f"do not have; known: {known}"
                ),
            )
    return ok("tiers", ", ".join(map("=".join, given.items()))) if given else None


def look_at_names(policies: Policies) -> Iterator[Finding]:
    """Names of classes that may be misspelt, and types of sign-ins that are off the log."""
    for name, meant in policies.misspelt.items():
        yield warn(
            "class names",
            f"{name}: did you mean {meant}, about which the file says nothing?",
            f"write [class.{meant}], or choose a name that does not read like it",
        )
    moved = [
        f"{name} ({policies.class_of(name).value})"
        for name in AUTH_TYPES
        if policies.class_of(name) is not EventClass.AUTH
    ]
    if moved:
        yield warn(
            "sign-ins",
            f"not on the compliance log: {', '.join(moved)}",
            "list them in [class.auth], the only class on the log, unless this is what you want",
        )


def look_at_types(settings: Settings) -> Finding | None:
    """Types of recorded events that are ``standard`` because no class lists them."""
    asked = _policies_and_ledger(settings)
    if asked is None:
        return None
    try:
        found = _unlisted(asked[1], asked[0])
    except DeliveryError:
        return None
    if found:
        counts = ", ".join(f"{name} ({count})" for name, count in list(found.items())[:MAX_TYPES])
        more = f" and {len(found) - MAX_TYPES} more" if len(found) > MAX_TYPES else ""
        return warn(
            "types",
            f"in no class, so standard: {counts}{more}, of the newest events",
            "list them in a class of the policies, as standard if that is what they are",
        )
    return ok("types", "a class lists each type of the newest events")


def _policies_and_ledger(settings: Settings) -> tuple[Policies, str] | None:
    """The policies and the ledger's URL; ``None`` where one is not usable, of which other findings
    tell."""
    if settings.database_url is None and not (settings.data_dir / SQLITE_FILE).exists():
        return None
    url = database_url(settings)
    try:
        return (load_policies(settings), url) if schema(url)[0].fits else None
    except DeliveryError:
        return None


def _without_own_classes(url: str) -> tuple[str, ...]:
    """Names of running processes of a release that knows its four classes alone."""
    with closing(SqlLedger(url, pool_size=1)) as ledger:
        return tuple(node.node for node in ledger.nodes.all() if not node.info.get(OWN_CLASSES))


def _unlisted(url: str, policies: Policies) -> dict[str, int]:
    """Types of the newest events that no class lists, and how many events each has."""
    with closing(SqlLedger(url, pool_size=1)) as ledger:
        found = ledger.statistics.latest_types()
    return {name: count for name, count in sorted(found.items()) if name not in policies.by_type}
