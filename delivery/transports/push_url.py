"""Push URLs of users: parsed and checked with Apprise, the library that will call them.

Owns: the rules on a URL as Apprise parses it, and the check of the service that Apprise makes of
it. Never does: send, or check addresses; ``reach`` does at the connect.

Two parsers may read one string differently, and an attacker can use the difference to pass a check.
So Apprise parses the text; the result is checked; the URL is written anew from the result; and the
finished service is checked again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode

from delivery.domain.inputs.push_target import PARAMETERS, parameter_fault, scheme_of, shape_fault
from delivery.errors import ChannelRejected
from delivery.transports.notify import asset

if TYPE_CHECKING:
    from apprise import NotifyBase

# Constructor arguments with which plugins do more than send a notice; never taken from a URL.
_REMOVED_ARGUMENTS = (
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
# Headers that a plugin sets itself, from the user's login at the user's host.
_LOGIN_HEADERS = frozenset({"X-Auth-Token", "X-User-Id"})


def user_target(url: str, schemes: Collection[str]) -> NotifyBase:
    """The service of a user's URL.

    Raises:
        ChannelRejected: it may not be called, or Apprise cannot read it. The error does not quote
            the URL, which holds secrets.
    """
    fault = shape_fault(url, schemes)
    if fault is not None:
        raise ChannelRejected(fault)
    # Imported late: Apprise loads slowly, and gateways never call it.
    from apprise import Apprise
    from apprise.plugins import url_to_dict

    scheme = scheme_of(url)
    arguments: dict[str, Any] | None = url_to_dict(  # type: ignore[no-untyped-call]
        _rewritten(url), secure_logging=True
    )
    if not arguments:
        raise ChannelRejected(f"the {scheme} URL is not complete")
    _check_query(arguments)
    for name in _REMOVED_ARGUMENTS:
        arguments.pop(name, None)
    if "format" not in arguments["qsd"]:
        arguments.pop("format", None)  # some plugins turn markup on for other parameters
    arguments |= {"verify": True, "redirect": False}
    target: NotifyBase | None = Apprise.instantiate(arguments, asset=asset())
    if target is None:
        raise ChannelRejected(f"the {scheme} URL is not complete")
    if (attribute := _forbidden_attribute(target, scheme)) is not None:
        raise ChannelRejected(f"the {scheme} URL sets what users may not set ({attribute})")
    return target


def _rewritten(url: str) -> str:
    """The URL, written anew from Apprise's parse, so that it can be read in one way only."""
    found = _parsed(url)
    _check_query(found)
    # Apprise keeps escapes in user and password.
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
        raise ChannelRejected("a push URL must have one reading; escape special characters with %")
    return written


def _parsed(url: str) -> dict[str, Any]:
    from apprise.utils.parse import parse_url

    # Several services write a channel as "/#channel"; Apprise makes the same replacement.
    found: dict[str, Any] | None = parse_url(  # type: ignore[no-untyped-call]
        url.replace("/#", "/%23"), verify_host=False
    )
    if not found:
        raise ChannelRejected("Apprise cannot read the push URL")
    return found


def _check_query(found: Mapping[str, Any]) -> None:
    """Refuse forbidden parameters in the query as Apprise parsed it."""
    if any(found.get(name) for name in ("qsd+", "qsd-", "qsd:")):
        raise ChannelRejected("a push URL may not set headers or fields of its own")
    query: dict[str, str] = found.get("qsd") or {}
    if unknown := sorted(set(query) - PARAMETERS):
        raise ChannelRejected(f"a push URL may not have {unknown[0][:32]!r} after its '?'")
    if fault := parameter_fault(urlencode(query, quote_via=quote)):
        raise ChannelRejected(fault)


def _forbidden_attribute(target: NotifyBase, scheme: str) -> str | None:
    """The first attribute of the finished service that has a forbidden value, if any."""
    from apprise import NotifyBase, NotifyFormat

    # Some plugins store the scheme that they will call.
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
