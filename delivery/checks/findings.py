"""Findings of ``delivery check``: what was looked at, what was found, the mend, the exit code."""

from __future__ import annotations

from dataclasses import dataclass

from delivery.errors import ConfigError

FINDING, CONFIGURATION, UNREACHABLE = 1, 2, 3
"""Exit codes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        level: ``ok``, ``warn`` or ``fail``.
        mend: advice, empty when it is fine.
        code: the exit code it asks for.
    """

    what: str
    level: str
    found: str
    mend: str = ""
    code: int = 0


def ok(what: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(what, "ok", found)


def warn(what: str, found: str, mend: str) -> Finding:
    """It works, but not as it should in production."""
    return Finding(what, "warn", found, mend, FINDING)


def unreachable(what: str, found: str, mend: str) -> Finding:
    """A service does not answer."""
    return Finding(what, "fail", found, mend, UNREACHABLE)


def wrong(what: str, error: ConfigError) -> Finding:
    """A setting must change; its error says how."""
    return Finding(what, "fail", str(error), "see left", CONFIGURATION)
