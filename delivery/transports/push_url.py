"""Reads a user's push URL with the parser of the library that will act on it, and nothing else.

Owns: what a user may say in a URL, judged on what Apprise makes of it, and the last look at the
service that comes out. Never does: send, or look at addresses; ``reach`` does when it connects.

Two parsers read one string in two ways, and the gap between them is where a check is passed. So the
text is parsed once, by Apprise; what it found is checked; the URL is written anew from that; and
the finished service is asked whether it is what was allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode

from delivery.domain.push_target import PARAMETERS, parameter_fault, scheme_of, shape_fault
from delivery.errors import ChannelRejected
from delivery.transports.notify import asset

if TYPE_CHECKING:
    from apprise import NotifyBase

# Constructor arguments by which one plugin or another leaves what a notice is: set by nobody here.
_SET_BY_USERS = (
    "actions",
    "attach",
    "avatar_url",
    "cto",
    "headers",
    "href",
    "icon_url",
    "method",
    "optional",
    "params",
    "payload",
    "retry",
    "rto",
    "store",
    "template",
    "tokens",
    "wait",
)
_EMPTY = ("params", "payload_extras", "template", "attach", "actions", "tags")
# Written by a plugin itself, from the user's own login at the user's own host.
_LOGIN_HEADERS = frozenset({"X-Auth-Token", "X-User-Id"})


def user_target(url: str, schemes: Collection[str]) -> NotifyBase:
    """The service that a user's URL names.

    Raises:
        ChannelRejected: it may not be called, or Apprise cannot read it. The URL, which holds
            secrets, is not repeated.
    """
    fault = shape_fault(url, schemes)
    if fault is not None:
        raise ChannelRejected(fault)
    # Imported late: Apprise loads slowly, and gateways never call it.
    from apprise import Apprise
    from apprise.plugins import url_to_dict

    scheme = scheme_of(url)
    arguments: dict[str, Any] | None = url_to_dict(  # type: ignore[no-untyped-call]
        _anew(url), secure_logging=True
    )
    if not arguments:
        raise ChannelRejected(f"the {scheme} URL is not complete")
    _check_query(arguments)
    for name in _SET_BY_USERS:
        arguments.pop(name, None)
    if "format" not in arguments["qsd"]:
        arguments.pop("format", None)  # some plugins turn markup on for other parameters
    arguments |= {"verify": True, "redirect": False}
    target: NotifyBase | None = Apprise.instantiate(arguments, asset=asset())
    if target is None:
        raise ChannelRejected(f"the {scheme} URL is not complete")
    if (odd := _oddity(target, scheme)) is not None:
        raise ChannelRejected(f"the {scheme} URL sets what users may not set ({odd})")
    return target


def _anew(url: str) -> str:
    """The URL, written from what Apprise reads in it, so that there is one reading only."""
    found = _parsed(url)
    _check_query(found)
    # A user or password is one word to Apprise, and may hold escapes of its own.
    user = "".join(
        f"{mark}{quote(unquote(found[name]), safe='')}"
        for name, mark in (("user", ""), ("password", ":"))
        if found[name] is not None
    )
    port = "" if found["port"] is None else f":{found['port']}"
    query = urlencode(found["qsd"], quote_via=quote)
    path = found["fullpath"] or ""
    written = (
        f"{found['schema']}://{user}{'@' if user else ''}{found['host']}{port}{path}"
        f"{'?' if query else ''}{query}"
    )
    again = _parsed(written)
    if any(again[name] != found[name] for name in ("schema", "host", "port", "fullpath", "qsd")):
        raise ChannelRejected("a push URL must have one reading; escape its odd characters with %")
    return written


def _parsed(url: str) -> dict[str, Any]:
    from apprise.utils.parse import parse_url

    # "/#channel" is how several services write a channel; Apprise replaces it so.
    found: dict[str, Any] | None = parse_url(  # type: ignore[no-untyped-call]
        url.replace("/#", "/%23"), verify_host=False
    )
    if not found:
        raise ChannelRejected("Apprise cannot read the push URL")
    return found


def _check_query(found: Mapping[str, Any]) -> None:
    """Refuse what Apprise, not we, found after the ``?``."""
    if any(found.get(name) for name in ("qsd+", "qsd-", "qsd:")):
        raise ChannelRejected("a push URL may not set headers or fields of its own")
    query: dict[str, str] = found.get("qsd") or {}
    if unknown := sorted(set(query) - PARAMETERS):
        raise ChannelRejected(f"a push URL may not say {unknown[0][:32]!r} after its '?'")
    if fault := parameter_fault(urlencode(query, quote_via=quote)):
        raise ChannelRejected(fault)


def _oddity(target: NotifyBase, scheme: str) -> str | None:
    """What about the finished service is not as it must be."""
    from apprise import NotifyBase, NotifyFormat

    # Some plugins keep the scheme that they will call.
    if target.schema not in (scheme, "https" if scheme.endswith("s") else "http"):
        return "schema"
    wanted = {
        "verify_certificate": True,
        "redirects": False,
        "secure": scheme.endswith("s"),
        "socket_read_timeout": NotifyBase.socket_read_timeout,
        "socket_connect_timeout": NotifyBase.socket_connect_timeout,
        "retry": 0,
        "optional": False,
    }
    for name, value in wanted.items():
        if getattr(target, name) != value:
            return name
    if set(getattr(target, "headers", None) or ()) - _LOGIN_HEADERS:
        return "headers"
    if getattr(target, "method", None) not in (None, "POST"):
        return "method"
    if getattr(target, "_format_override", None) not in (None, NotifyFormat.TEXT):
        return "format"
    return next((name for name in _EMPTY if getattr(target, name, None)), None)
