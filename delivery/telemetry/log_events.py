"""Names of log events: what a JSON line is about, whatever its text says in this version.

Owns: the names, in ``log_events.toml`` by the text of the call that logs. A text may change, and
its name stays: the new text stands there with the old name. Never does: log.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

PACKAGE = "delivery"
TABLE = Path(__file__).with_suffix(".toml")
_MAX_WORDS = 6
_PLACE = re.compile(r"%(?:\.?\d+)?[a-zA-Z]|%%", re.ASCII)
_WORD = re.compile(r"[a-z]+", re.ASCII)


@cache
def names() -> dict[str, str]:
    """Names by text."""
    with TABLE.open("rb") as file:
        found: dict[str, str] = tomllib.load(file)
    return found


def name_of(logger: str, text: str) -> str:
    """The event's name: of a line of ours by its text, of a library's the library."""
    package = logger.partition(".")[0]
    if package != PACKAGE:
        return package
    return names().get(text) or derived(text) or PACKAGE


def derived(text: str) -> str:
    """A name made of a text's first words, for one that has none yet."""
    bare = _PLACE.sub(" ", text[:200]).replace("'", "").lower()
    return "_".join(_WORD.findall(bare)[:_MAX_WORDS])
