"""Runs a command of the product on a machine whose wall clock is wrong, by a file's number.

``python skewed_clock.py FILE gateway …``: FILE holds the seconds by which the wall clock is ahead
and may change while the process runs. The monotonic clock is left alone, as a step leaves it.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import ModuleType

import jwt.api_jwt
import uuid_utils

import delivery
from delivery.cli import main
from delivery.errors import MissingExtra

FILE = Path(sys.argv.pop(1))
_time = time.time


def ahead() -> float:
    return float(FILE.read_text())


class Skewed(datetime):
    """What modules of the product call ``datetime``."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(seconds=ahead())


def uuid7() -> uuid_utils.UUID:
    return uuid_utils.uuid7(nanoseconds=int(time.time() * 1e9))


def modules() -> list[ModuleType]:
    """All of the product's, but adapters whose framework is not installed: commands import what
    they need when they run."""
    found: list[ModuleType] = []
    for one in pkgutil.walk_packages(delivery.__path__, "delivery."):
        if not one.name.endswith("__main__"):
            with suppress(MissingExtra):
                found.append(importlib.import_module(one.name))
    return found


def reads_the_clock(module: ModuleType) -> bool:
    source = Path(module.__file__ or "").read_text()
    return "datetime.now(" in source and getattr(module, "datetime", None) is datetime


found = [module for module in modules() if reads_the_clock(module)]
assert found, "the product reads its wall clock somewhere"
for module in [*found, jwt.api_jwt]:
    module.datetime = Skewed  # type: ignore[attr-defined]
time.time = lambda: _time() + ahead()
importlib.import_module("delivery.emitter.validate").uuid7 = uuid7  # type: ignore[attr-defined]
main()
