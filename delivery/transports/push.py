"""The ``emergency`` transport: the user's push targets, through Apprise.

Owns: which of a user's URLs may be called, since users write them and our workers call them, and a
breaker for each host. Never does: count as confirmation; a push that a service took confirms
nothing. A failure never counts against the channel's breaker: each target is one user's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from delivery.domain.channels import Channel
from delivery.domain.inputs.push_target import (
    SCHEMES,
    is_callable,
    is_public,
    scheme_of,
    shape_fault,
)
from delivery.domain.stores.users import PushTargets
from delivery.domain.transports import Message, Taken
from delivery.domain.users.contact import Contact
from delivery.errors import ChannelError, ChannelRejected, ChannelUnavailable, needs_extra
from delivery.transports.addresses import Resolve, require_public, resolve
from delivery.transports.host_breakers import HostBreakers
from delivery.transports.notify import NEEDED, Answer, is_installed, notify_each
from delivery.transports.push_url import user_target
from delivery.transports.rendering.render import Notice, Renderer, rendering, told

if TYPE_CHECKING:
    from apprise import NotifyBase

_RESOLVE_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class _Target:
    """A target that is called: its URL, the name of its breaker, its service."""

    url: str
    name: str
    service: NotifyBase


class PushTransport:
    """Notifies a user's push targets.

    Args:
        schemes: the Apprise schemes that users may give; ``None`` for ``SCHEMES``.
        known: which targets are gone; ``None`` to call all and note nothing.
        allow_private: let targets be on private networks (a trusted installation, or a test).
    """

    name = Channel.EMERGENCY

    def __init__(
        self,
        renderer: Renderer,
        schemes: Iterable[str] | None = None,
        *,
        allow_private: bool = False,
        resolve: Resolve = resolve,
        breakers: HostBreakers | None = None,
        known: PushTargets | None = None,
    ) -> None:
        self._renderer = renderer
        self._schemes = frozenset(
            scheme.lower() for scheme in (SCHEMES if schemes is None else schemes)
        )
        self._allow_private = allow_private
        self._resolve = resolve
        self._breakers = breakers or HostBreakers()
        self._known = known
        self._missing = None if is_installed() else str(needs_extra(NEEDED, "push"))

    def unreachable(self, contact: Contact) -> str | None:
        """Why this contact has no push target, ``None`` if it has one."""
        if not contact.push:
            return "no push target"
        if self._missing is not None:
            return self._missing
        if not any(shape_fault(url, self._schemes) is None for url in contact.push):
            return "no push target that is allowed here"
        return None

    def deliver(self, message: Message, timeout: float) -> Taken:
        """Notify every target; one that takes the notice is enough.

        Raises:
            ChannelUnavailable: no target took it in time.
            ChannelRejected: no target is allowed.
        """
        deadline = time.monotonic() + timeout
        with rendering(self.name):
            notice = self._renderer.push(message)
        targets: list[_Target] = []
        faults, retryable = [], False
        share = timeout * _RESOLVE_SHARE / max(1, len(message.contact.push))
        # A host's probe is never an event that failed before.
        is_fresh = message.number <= 1
        gone = self._known.gone(message.contact.push) if self._known else frozenset()
        for url in message.contact.push:
            if url in gone:
                faults.append("a push target is gone")
                continue
            try:
                name, service = self._target(url, share, is_fresh)
                targets.append(_Target(url, name, service))
            except ChannelError as error:
                faults.append(str(error))
                retryable = retryable or error.retryable
        if targets:
            taken = self._notify(targets, notice, max(0.1, deadline - time.monotonic()))
            if taken:
                return Taken(
                    note=f"{taken} of {len(message.contact.push)} targets took it",
                    fault=told(notice.faults),
                )
            faults.append(f"{len(targets)} target(s) did not take it")
            retryable = True
        text = "; ".join(faults) or "no push target"
        raise (ChannelUnavailable(text) if retryable else ChannelRejected(text)).of_no_provider()

    def _notify(self, targets: Sequence[_Target], notice: Notice, timeout: float) -> int:
        # Addresses are checked again at the connect: the name may resolve differently by then.
        rule = is_callable if self._allow_private else is_public
        answers = notify_each([target.service for target in targets], notice, timeout, rule)
        gone: dict[str, str] = {}
        alive: list[str] = []
        for target, answer in zip(targets, answers, strict=True):
            # A host that refuses works: topic and token are this user's.
            self._breakers.report(target.name, answer is not Answer.NONE)
            if answer.is_gone:
                gone[target.url] = answer.value
            elif answer is Answer.TAKEN:
                alive.append(target.url)
        if self._known is not None:
            self._known.report(gone, alive)
        return answers.count(Answer.TAKEN)

    def _target(self, url: str, timeout: float, is_fresh: bool) -> tuple[str, NotifyBase]:
        """The service behind a URL, and the name of its breaker."""
        target = user_target(url, self._schemes)
        host = _called_host(target)
        name = scheme_of(url) if host is None else f"{host}:{target.port or ''}".lower()
        if not self._breakers.allows(name, probe=is_fresh):
            raise ChannelUnavailable("a push target's host is away (its breaker is open)")
        if host is not None and not self._allow_private:
            try:
                require_public(host, timeout, resolve=self._resolve)
            except ChannelUnavailable:
                self._breakers.report(name, False)
                raise
        return name, target


def _called_host(target: NotifyBase) -> str | None:
    """The host that the URL names; ``None`` for a service with a fixed host."""
    templates: tuple[str, ...] = target.templates
    chooses = any("{host}" in template for template in templates)
    if not chooses or getattr(target, "mode", None) == "cloud":
        return None
    if not target.host:
        raise ChannelRejected("the push URL names no host")
    # Plugins decode escapes at different times; the decoded name is what they will call.
    return unquote(str(target.host)).strip(".")
