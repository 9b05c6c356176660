"""What all older names share: the warning, the source of emitters, the ids of a context.

Owns: what an older caller may hand in, and the errors that say what to hand in instead. Never does:
emit.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from delivery.domain.emission import Emission, Emitters
from delivery.domain.event import check_context_id
from delivery.errors import ConfigError, InvalidContext

IDS = ("user_id", "run_id", "thread_id")
_MISSING = object()
_PACKAGE = os.path.dirname(__file__)
_warned: set[str] = set()


def warn_once(old: str, new: str) -> None:
    """Warn, once in a process and where these names are called from, that a name is a redirect.

    Args:
        old: the older name.
        new: the call to write instead.
    """
    if old in _warned:
        return
    _warned.add(old)
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    text = f"{old} is a redirect; call {new} (docs/coming-from-emitters.md)"
    warnings.warn(text, DeprecationWarning, stacklevel=level)


def forget_warnings() -> None:
    """Let every name warn once more, as in a new process; for tests of applications."""
    _warned.clear()


class Ids(NamedTuple):
    """The ids that address a user and a run."""

    user_id: str
    run_id: str
    thread_id: str | None


def has_ids(context: object) -> bool:
    """Whether a value is meant as a context: a mapping or object with a user's id."""
    return _value(context, "user_id") is not _MISSING


def ids_of(context: object, user_id: object = _MISSING) -> Ids:
    """The ids of an older context.

    Args:
        context: an object or mapping with ``user_id``, ``run_id`` and ``thread_id``; the last one
            may be ``None``.
        user_id: the user that the caller names beside it.

    Raises:
        InvalidContext: an id is missing or malformed, or the context is another user's; names the
            field.
    """
    found = {name: _value(context, name) for name in IDS}
    for name, value in found.items():
        if value is _MISSING:
            what = "None" if context is None else type(context).__name__
            raise InvalidContext(f"{name} is missing in the context ({what})", field=name)
    user = check_context_id("user_id", found["user_id"])
    if user_id is not _MISSING and check_context_id("user_id", user_id) != user:
        raise InvalidContext("user_id is not that of the context", field="user_id")
    run = check_context_id("run_id", found["run_id"])
    thread = found["thread_id"]
    return Ids(user, run, None if thread is None else check_context_id("thread_id", thread))


def _value(context: object, name: str) -> Any:
    if isinstance(context, Mapping):
        return context.get(name, _MISSING)
    return getattr(context, name, _MISSING)


def source_of(name: str, given: Any) -> Emitters:
    """The source of emitters that an older caller calls ``manager`` or ``router``.

    Raises:
        ConfigError: it is none; names what may stand there.
    """
    if inspect.isclass(given) or not callable(getattr(given, "emitter", None)):
        raise _no_source(name, given)
    source: Emitters = given
    return source


def emission_of(name: str, source: Emitters, ids: Ids, performance: bool) -> Emission:
    """The new emitter for these ids.

    Raises:
        ConfigError: the source gave something else, as a blocking connection does.
        Overloaded: the embedded gateway has not started yet.
    """
    made = source.emitter(ids.user_id, ids.run_id, ids.thread_id, performance)
    is_one = callable(getattr(made, "emit_nowait", None)) and inspect.iscoroutinefunction(
        getattr(made, "emit", None)
    )
    if not is_one:
        raise _no_source(name, source)
    return made


def _no_source(name: str, given: object) -> ConfigError:
    what = given.__name__ if inspect.isclass(given) else type(given).__name__
    return ConfigError(
        f"{name} is {what}; give a connection (delivery.connect), an embedded gateway "
        "(delivery.embed), or an adapter whose emitter(...) returns an emitter of one of the two "
        "(docs/coming-from-emitters.md)"
    )
