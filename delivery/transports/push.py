"""The ``emergency`` channel: the user's own push targets, through Apprise.

Owns: which of a user's URLs may be called at all, since users write them and our workers call
them. Never does: count as proof; a push that was taken confirms nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import unquote

from delivery.domain.contact import Contact
from delivery.domain.ports import Message, Taken
from delivery.domain.push_target import SCHEMES, scheme_of, shape_fault
from delivery.errors import ChannelError, ChannelRejected, ChannelUnavailable
from delivery.transports.addresses import Resolve, require_public, resolve
from delivery.transports.notify import notify, open_target
from delivery.transports.render import Renderer

if TYPE_CHECKING:
    from apprise import NotifyBase

_RESOLVE_SHARE = 0.3


class PushChannel:
    """Notifies a user's push targets.

    Args:
        schemes: the Apprise schemes that users may give; ``None`` for ``SCHEMES``.
        allow_private: let targets be on private networks (a trusted installation, or a test).
    """

    name = "emergency"

    def __init__(
        self,
        renderer: Renderer,
        schemes: Iterable[str] | None = None,
        *,
        allow_private: bool = False,
        resolve: Resolve = resolve,
    ) -> None:
        self._renderer = renderer
        self._schemes = frozenset(
            scheme.lower() for scheme in (SCHEMES if schemes is None else schemes)
        )
        self._allow_private = allow_private
        self._resolve = resolve

    def unreachable(self, contact: Contact) -> str | None:
        """Why this contact has no push target, ``None`` if it has one."""
        if not contact.push:
            return "no push target"
        if not any(shape_fault(url, self._schemes) is None for url in contact.push):
            return "no push target that is allowed here"
        return None

    def deliver(self, message: Message, timeout: float) -> Taken:
        """Notify every target; taken if any of them took it.

        Raises:
            ChannelUnavailable: none took it in time; ``ChannelRejected``: none is allowed.
        """
        deadline = time.monotonic() + timeout
        targets, faults, retryable = [], [], False
        share = timeout * _RESOLVE_SHARE / max(1, len(message.contact.push))
        for url in message.contact.push:
            try:
                targets.append(self._target(url, share))
            except ChannelError as error:
                faults.append(str(error))
                retryable = retryable or error.retryable
        if targets:
            notice = self._renderer.push(message)
            taken = notify(targets, notice, max(0.1, deadline - time.monotonic()))
            if taken:
                return Taken(note=f"{taken} of {len(message.contact.push)} targets took it")
            faults.append(f"{len(targets)} target(s) did not take it")
            retryable = True
        text = "; ".join(faults) or "no push target"
        raise ChannelUnavailable(text) if retryable else ChannelRejected(text)

    def _target(self, url: str, timeout: float) -> NotifyBase:
        fault = shape_fault(url, self._schemes)
        if fault is not None:
            raise ChannelRejected(fault)
        target = open_target(url)
        if target is None:
            raise ChannelRejected(f"the {scheme_of(url)} URL is not complete")
        host = _called_host(target)
        if host is not None and not self._allow_private:
            require_public(host, timeout, resolve=self._resolve)
        return target


def _called_host(target: NotifyBase) -> str | None:
    """The host that the URL itself makes us call; ``None`` when the service has a fixed one."""
    templates: tuple[str, ...] = target.templates
    chooses = any("{host}" in template for template in templates)
    if not chooses or getattr(target, "mode", None) == "cloud":
        return None
    if not target.host:
        raise ChannelRejected("the push URL names no host")
    # Services decode escapes at different moments; what they may call is the decoded name.
    return unquote(str(target.host)).strip(".")
